// RoIAlign over all levels of a pyramid, on CPUs, without TensorFlow's headers.
#ifndef KMASKRCNN_ROI_ALIGN_CPU_H_
#define KMASKRCNN_ROI_ALIGN_CPU_H_

#include <cstdint>
#include <vector>

#include "numbers.h"
#include "parallel.h"
#include "roi_align_geometry.h"

namespace kmaskrcnn {

// One level of the pyramid: (B, height, width, C).
template <class T>
struct Level {
  T* cells;  // const T in the forward pass
  int height, width;
  float stride;
};

// The regions, and where they lie.
struct Regions {
  const float* boxes;     // (N, 4) xyxy pixels
  const int32_t* images;  // (N,) 0 ... B - 1
  const int32_t* levels;  // (N,) 0 ... L - 1
  int count;              // N
};

// pooled (N, P, P, C)
template <class T>
void roi_align_forward(const PoolOptions& options, const std::vector<Level<const T>>& levels, const Regions& regions,
                       int channels, T* pooled, const Parallel& parallel);

// Writes every cell of `gradients`. A cell's sum is added up by one thread, region after region: the same at every run.
template <class T>
void roi_align_backward(const PoolOptions& options, const T* pooled_gradient, const Regions& regions, int batch,
                        int channels, const std::vector<Level<T>>& gradients, const Parallel& parallel);

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_ROI_ALIGN_CPU_H_
