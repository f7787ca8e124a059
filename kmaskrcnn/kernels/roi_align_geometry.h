// Where RoIAlign samples, along one axis: the same on CPU and GPU (kmaskrcnn/layers/roi_align.py has the formulas).
#ifndef KMASKRCNN_ROI_ALIGN_GEOMETRY_H_
#define KMASKRCNN_ROI_ALIGN_GEOMETRY_H_

#include <math.h>

#ifdef __CUDACC__
#define KMASKRCNN_BOTH __host__ __device__ inline
#else
#define KMASKRCNN_BOTH inline
#endif

namespace kmaskrcnn {

constexpr int kMostSamples = 32767;  // a bin along one axis; a region that asks for more is no region of a picture

struct PoolOptions {
  int pool_size;       // P
  int sampling_ratio;  // samples a bin along an axis, 0: as many as it has cells
  bool aligned;        // pixel centres lie at half coordinates
};

// Samples of one region along one axis, in cells of its level.
struct Samples {
  float first, step;
  int ratio;  // samples a bin
};

KMASKRCNN_BOTH Samples samples_along(float start, float end, float stride, const PoolOptions& options) {
  float extent = (end - start) / stride;
  if (!options.aligned && !(extent >= 1.0f)) extent = 1.0f;  // the first version's least
  Samples samples;
  samples.ratio = options.sampling_ratio;
  if (samples.ratio == 0) {
    const float cells = ceilf(extent / options.pool_size);
    // Written so that NaN ends at 1.
    samples.ratio = cells > 1.0f ? (cells < kMostSamples ? static_cast<int>(cells) : kMostSamples) : 1;
  }
  samples.step = extent / static_cast<float>(options.pool_size * samples.ratio);
  samples.first = start / stride - (options.aligned ? 0.5f : 0.0f) + 0.5f * samples.step;
  return samples;
}

// The two cells that a sample lies between. False where it lies more than a cell outside, and counts as 0.
KMASKRCNN_BOTH bool cells_around(const Samples& samples, int number, int size, int* low, int* high, float* fraction) {
  float position = samples.first + samples.step * static_cast<float>(number);
  if (!(position >= -1.0f && position <= static_cast<float>(size))) return false;  // NaN too
  const float last = static_cast<float>(size - 1);
  position = position < 0.0f ? 0.0f : (position > last ? last : position);
  *low = static_cast<int>(position);
  *high = *low + 1 < size ? *low + 1 : *low;
  *fraction = position - static_cast<float>(*low);
  return true;
}

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_ROI_ALIGN_GEOMETRY_H_
