// What the operations' kernels of both devices are told, and what is refused.
#ifndef KMASKRCNN_ROI_ALIGN_INPUTS_H_
#define KMASKRCNN_ROI_ALIGN_INPUTS_H_

#include <string>
#include <vector>

#include "roi_align_cpu.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace kmaskrcnn {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

struct Attributes {
  PoolOptions options;
  std::vector<float> strides;  // one for each level
};

inline absl::Status read_attributes(OpKernelConstruction* c, Attributes* to) {
  int levels;
  TF_RETURN_IF_ERROR(c->GetAttr("pool_size", &to->options.pool_size));
  TF_RETURN_IF_ERROR(c->GetAttr("sampling_ratio", &to->options.sampling_ratio));
  TF_RETURN_IF_ERROR(c->GetAttr("aligned", &to->options.aligned));
  TF_RETURN_IF_ERROR(c->GetAttr("strides", &to->strides));
  TF_RETURN_IF_ERROR(c->GetAttr("num_levels", &levels));
  if (static_cast<int>(to->strides.size()) == levels) return absl::OkStatus();
  return absl::InvalidArgumentError("strides: accepted is one number for each of the features");
}

// The last three inputs of both operations.
inline absl::Status read_regions(OpKernelContext* c, Regions* regions) {
  const int first = c->num_inputs() - 3;
  const Tensor &rois = c->input(first), &images = c->input(first + 1), &levels = c->input(first + 2);
  if (rois.dims() != 2 || rois.dim_size(1) != 4) {
    return absl::InvalidArgumentError("rois: got " + rois.shape().DebugString() + ", accepted is (N, 4)");
  }
  const TensorShape expected({rois.dim_size(0)});
  if (images.shape() != expected || levels.shape() != expected) {
    return absl::InvalidArgumentError("image_indices, level_indices: accepted is one number for each of the rois");
  }
  *regions = {rois.flat<float>().data(), images.flat<int32_t>().data(), levels.flat<int32_t>().data(),
              static_cast<int>(rois.dim_size(0))};
  return absl::OkStatus();
}

inline absl::Status check_shape(const TensorShape& shape, const TensorShape& first) {
  // A map without cells has none for a region's samples to lie between.
  const bool fits = shape.dims() == 4 && shape.dim_size(0) == first.dim_size(0) && shape.dim_size(1) > 0 &&
                    shape.dim_size(2) > 0 && shape.dim_size(3) == first.dim_size(3);
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError("features: got " + shape.DebugString() + ", accepted is (B, H, W, C) with H and W "
                                    "of 1 or more and the same B and C on all levels");
}

// The given features' shapes as one checked list.
inline absl::Status shapes_of_features(OpKernelContext* c, int count, bool are_tensors, std::vector<TensorShape>* shapes) {
  for (int i = 0; i < count; ++i) {
    TensorShape shape;
    if (are_tensors) {
      shape = c->input(i).shape();
    } else {
      const Tensor& sizes = c->input(1 + i);
      if (sizes.dims() != 1) return absl::InvalidArgumentError("feature_shapes: accepted are vectors");
      TF_RETURN_IF_ERROR(tensorflow::TensorShapeUtils::MakeShape(sizes.vec<int32_t>(), &shape));
    }
    shapes->push_back(shape);
    if (shape.dims() != 4) return check_shape(shape, shape);
    TF_RETURN_IF_ERROR(check_shape(shape, shapes->front()));
  }
  return absl::OkStatus();
}

inline absl::Status check_pooled(const TensorShape& shape, int64_t regions, int64_t size, int64_t channels) {
  if (shape == TensorShape({regions, size, size, channels})) return absl::OkStatus();
  return absl::InvalidArgumentError("pooled_gradient: got " + shape.DebugString() + ", accepted is (N, P, P, C)");
}

}  // namespace kmaskrcnn

#endif  // KMASKRCNN_ROI_ALIGN_INPUTS_H_
