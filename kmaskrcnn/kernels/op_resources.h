// The threads, the memory and the numbers that an operation on the CPU takes from TensorFlow.
#ifndef KMASKRCNN_OP_RESOURCES_H_
#define KMASKRCNN_OP_RESOURCES_H_

#include "numbers.h"
#include "parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kmaskrcnn {

// What the kernels, which know nothing of TensorFlow, call its formats.
template <class T> struct Own;
template <> struct Own<float> { using type = float; };
template <> struct Own<Eigen::bfloat16> { using type = bfloat16; };
template <> struct Own<Eigen::half> { using type = float16; };

// Tens of megabytes of fresh memory: the system clears and maps 2 MB at a time instead of 4 KB.
inline void ask_for_huge_pages(const tensorflow::Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.tensor_data().data());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t end = (begin + tensor.TotalBytes()) / kPage * kPage;
  if (end > first + 4 * kPage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

inline int count_threads(tensorflow::OpKernelContext* c) {
  return c->device()->tensorflow_cpu_worker_threads()->num_threads;
}

inline Parallel threads_of(tensorflow::OpKernelContext* c) {
  const auto* threads = c->device()->tensorflow_cpu_worker_threads();
  return [threads](const std::function<void()>& work) {
    constexpr int64_t kCost = 10000000;  // so high that every thread gets its turn
    tensorflow::Shard(threads->num_threads, threads->workers, threads->num_threads, kCost,
                      [&work](int64_t, int64_t) { work(); });
  };
}

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_OP_RESOURCES_H_
