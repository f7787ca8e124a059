// 3x3 convolution of stride 1 with a rim of zeros, by Winograd's algorithm, on CPUs, without TensorFlow's headers.
//
// Channels and filters are multiples of kChannelStep. Maps are float, bfloat16 or float16; kernels, biases and all that is
// added up are float.
#ifndef KMASKRCNN_WINOGRAD_CPU_H_
#define KMASKRCNN_WINOGRAD_CPU_H_

#include <cstdint>

#include "numbers.h"
#include "parallel.h"

namespace kmaskrcnn {

constexpr int64_t kChannelStep = 16;

// From maps (B, H, W, C) to maps (B, H, W, F).
struct Convolution {
  int64_t batch, height, width, channels, filters;
};

// What the passes need beside inputs and outputs, in numbers.
int64_t transformed_kernel_size(const Convolution& of);
int64_t forward_scratch_size(const Convolution& of, int threads);
int64_t kernel_gradient_scratch_size(const Convolution& of);

// kernel (3, 3, C, F) to its values at 36 points, which the forward pass reads.
void transform_kernel(const Convolution& of, const float* kernel, float* transformed, const Parallel& parallel);

// output = input * kernel + bias (F,), without what is negative if `relu`.
template <class T>
void winograd_forward(const Convolution& of, const T* input, const float* transformed, const float* bias, bool relu,
                      int threads, float* scratch, T* output, const Parallel& parallel);

// kernel_gradient (3, 3, C, F) from the input and the gradient of the output; the same at every run.
template <class T>
void winograd_kernel_gradient(const Convolution& of, const T* input, const T* output_gradient, float* scratch,
                              float* kernel_gradient, const Parallel& parallel);

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_WINOGRAD_CPU_H_
