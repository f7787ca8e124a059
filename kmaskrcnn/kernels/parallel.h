// How the kernels are given threads.
#ifndef KMASKRCNN_PARALLEL_H_
#define KMASKRCNN_PARALLEL_H_

#include <functional>

namespace kmaskrcnn {

// Runs `work` in several threads at once and returns when all have ended.
using Parallel = std::function<void(const std::function<void()>& work)>;

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_PARALLEL_H_
