// Winograd's transforms F(4x4, 3x3): 4 x 4 outputs of a 3x3 convolution from 6 x 6 inputs, with 36 products, not 144.
//
//   outputs = A^T [ (G kernel G^T) * (B^T inputs B) ] A          * element by element, summed over channels
//
// A convolution along a line is a product of polynomials, here taken at the points 0, a, -a, b, -b and infinity. With
// a = 1 / sqrt(2) and b = sqrt(2) the three matrices' numbers are of like size: that costs less precision than 1 and 2.
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, https://arxiv.org/abs/1509.09308
#ifndef KMASKRCNN_WINOGRAD_TRANSFORMS_H_
#define KMASKRCNN_WINOGRAD_TRANSFORMS_H_

#include "lanes.h"

namespace kmaskrcnn {

constexpr int kTile = 4, kPatch = 6, kTaps = 3;
constexpr int kPoints = kPatch * kPatch;

constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;

// Along a line: B^T, 6 -> 6
struct InputTransform {
  static constexpr int kFrom = kPatch, kTo = kPatch;
  static inline void apply(const Lanes* x, Lanes* y) {
    const Lanes even_a = x[4] - 2.0f * x[2], odd_a = kA * x[3] - kB * x[1];
    const Lanes even_b = x[4] - 0.5f * x[2], odd_b = kB * x[3] - kA * x[1];
    y[0] = x[0] - 2.5f * x[2] + x[4];
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y[5] = x[1] - 2.5f * x[3] + x[5];
  }
};

// A^T: 6 -> 4
struct OutputTransform {
  static constexpr int kFrom = kPatch, kTo = kTile;
  static inline void apply(const Lanes* x, Lanes* y) {
    const Lanes sum_a = x[1] + x[2], difference_a = x[1] - x[2];
    const Lanes sum_b = x[3] + x[4], difference_b = x[3] - x[4];
    y[0] = x[0] + sum_a + sum_b;
    y[1] = kA * difference_a + kB * difference_b;
    y[2] = 0.5f * sum_a + 2.0f * sum_b;
    y[3] = (0.5f * kA) * difference_a + (2.0f * kB) * difference_b + x[5];
  }
};

// A: 4 -> 6
struct OutputGradientTransform {
  static constexpr int kFrom = kTile, kTo = kPatch;
  static inline void apply(const Lanes* x, Lanes* y) {
    const Lanes even_a = x[0] + 0.5f * x[2], odd_a = kA * x[1] + (0.5f * kA) * x[3];
    const Lanes even_b = x[0] + 2.0f * x[2], odd_b = kB * x[1] + (2.0f * kB) * x[3];
    y[0] = x[0];
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y[5] = x[3];
  }
};

// G: 3 -> 6
struct KernelTransform {
  static constexpr int kFrom = kTaps, kTo = kPatch;
  static inline void apply(const Lanes* x, Lanes* y) {
    const Lanes even_a = (-2.0f / 3) * x[0] - (1.0f / 3) * x[2], odd_a = (-2.0f / 3 * kA) * x[1];
    const Lanes even_b = (1.0f / 6) * x[0] + (1.0f / 3) * x[2], odd_b = (1.0f / 6 * kB) * x[1];
    y[0] = x[0];
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y[5] = x[2];
  }
};

// G^T: 6 -> 3
struct KernelGradientTransform {
  static constexpr int kFrom = kPatch, kTo = kTaps;
  static inline void apply(const Lanes* x, Lanes* y) {
    const Lanes sum_a = x[1] + x[2], sum_b = x[3] + x[4];
    y[0] = x[0] - (2.0f / 3) * sum_a + (1.0f / 6) * sum_b;
    y[1] = (-2.0f / 3 * kA) * (x[1] - x[2]) + (1.0f / 6 * kB) * (x[3] - x[4]);
    y[2] = x[5] - (1.0f / 3) * sum_a + (1.0f / 3) * sum_b;
  }
};

// Along both sides: a square of kFrom x kFrom becomes one of kTo x kTo.
template <class Transform>
inline void transform(const Lanes* from, Lanes* to) {
  constexpr int kFrom = Transform::kFrom, kTo = Transform::kTo;
  constexpr int kSide = kFrom > kTo ? kFrom : kTo;
  Lanes columns[kSide * kSide];
  for (int j = 0; j < kFrom; ++j) {
    Lanes x[kSide], y[kSide];
    for (int i = 0; i < kFrom; ++i) x[i] = from[i * kFrom + j];
    Transform::apply(x, y);
    for (int i = 0; i < kTo; ++i) columns[i * kFrom + j] = y[i];
  }
  for (int i = 0; i < kTo; ++i) Transform::apply(columns + i * kFrom, to + i * kTo);
}

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_WINOGRAD_TRANSFORMS_H_
