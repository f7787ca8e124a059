// Launchers of RoIAlign on GPUs: plain C, without TensorFlow's headers and without CUDA's, so that Python's ctypes and
// a C++ compiler alone can call them.
#ifndef KMASKRCNN_ROI_ALIGN_CUDA_H_
#define KMASKRCNN_ROI_ALIGN_CUDA_H_

#include <stdint.h>

#define KMASKRCNN_MOST_LEVELS 8

extern "C" {

enum KmaskrcnnNumber { KMASKRCNN_FLOAT32 = 0, KMASKRCNN_BFLOAT16 = 1, KMASKRCNN_FLOAT16 = 2 };

// What both directions are told. Pointers to pointers and sizes lie in the host's memory, all others in the GPU's.
struct KmaskrcnnRoiAlign {
  void* const* cells;    // (L,) maps (B, height, width, C): read forward, written backward
  const int32_t* heights;
  const int32_t* widths;
  const float* strides;
  int32_t levels, batch, channels;
  const float* boxes;            // (N, 4) xyxy pixels
  const int32_t* images;         // (N,)
  const int32_t* level_indices;  // (N,)
  int32_t count;                 // N
  int32_t pool_size, sampling_ratio, aligned;
  int32_t number;  // KmaskrcnnNumber
  void* pooled;    // (N, P, P, C): written forward, read backward
};

// CUDA's error code, 0 if all went well. A region whose image or level does not exist counts as lying outside.
int kmaskrcnn_roi_align_forward(const struct KmaskrcnnRoiAlign* call, void* stream);

// Writes every cell. One block adds up a cell, region after region: the same at every run.
int kmaskrcnn_roi_align_backward(const struct KmaskrcnnRoiAlign* call, void* stream);

}  // extern "C"

#endif  // KMASKRCNN_ROI_ALIGN_CUDA_H_
