// The operations KmaskrcnnRoiAlign and KmaskrcnnRoiAlignGrad, and what TensorFlow needs to call their CPU kernels.
#include <vector>

#include "op_resources.h"
#include "roi_align_cpu.h"
#include "roi_align_inputs.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace kmaskrcnn {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("KmaskrcnnRoiAlign")
    .Input("features: num_levels * T")  // (B, H, W, C)
    .Input("rois: float")               // (N, 4) xyxy pixels
    .Input("image_indices: int32")      // (N,)
    .Input("level_indices: int32")      // (N,) places among the features
    .Output("pooled: T")                // (N, P, P, C)
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_levels: int >= 1")
    .Attr("strides: list(float)")
    .Attr("pool_size: int >= 1")
    .Attr("sampling_ratio: int >= 0")
    .Attr("aligned: bool")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle feature, rois;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &feature));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 3), 2, &rois));
      int size;
      TF_RETURN_IF_ERROR(c->GetAttr("pool_size", &size));
      c->set_output(0, c->MakeShape({c->Dim(rois, 0), c->MakeDim(size), c->MakeDim(size), c->Dim(feature, 3)}));
      return absl::OkStatus();
    });

REGISTER_OP("KmaskrcnnRoiAlignGrad")
    .Input("pooled_gradient: T")                  // (N, P, P, C)
    .Input("feature_shapes: num_levels * int32")  // (4,)
    .Input("rois: float")
    .Input("image_indices: int32")
    .Input("level_indices: int32")
    .Output("feature_gradients: num_levels * T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_levels: int >= 1")
    .Attr("strides: list(float)")
    .Attr("pool_size: int >= 1")
    .Attr("sampling_ratio: int >= 0")
    .Attr("aligned: bool")
    .SetShapeFn([](InferenceContext* c) {
      for (int i = 0; i < c->num_outputs(); ++i) {
        ShapeHandle shape;
        TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(1 + i, &shape));
        c->set_output(i, shape);
      }
      return absl::OkStatus();
    });

// -- kernels ----------------------------------------------------------------------------------------------------------

absl::Status check_indices(const Regions& regions, int64_t images, int64_t levels) {
  for (int r = 0; r < regions.count; ++r) {
    if (regions.images[r] < 0 || regions.images[r] >= images) {
      return absl::InvalidArgumentError("image_indices: got " + std::to_string(regions.images[r]) +
                                        ", accepted is less than " + std::to_string(images));
    }
    if (regions.levels[r] < 0 || regions.levels[r] >= levels) {
      return absl::InvalidArgumentError("level_indices: got " + std::to_string(regions.levels[r]) +
                                        ", accepted is less than " + std::to_string(levels));
    }
  }
  return absl::OkStatus();
}

template <class T>
class RoiAlignOp : public OpKernel {
 public:
  explicit RoiAlignOp(OpKernelConstruction* c) : OpKernel(c) { OP_REQUIRES_OK(c, read_attributes(c, &attributes_)); }

  void Compute(OpKernelContext* c) override {
    using Number = typename Own<T>::type;
    const int count = attributes_.strides.size(), size = attributes_.options.pool_size;
    std::vector<TensorShape> shapes;
    Regions regions;
    OP_REQUIRES_OK(c, shapes_of_features(c, count, true, &shapes));
    OP_REQUIRES_OK(c, read_regions(c, &regions));
    OP_REQUIRES_OK(c, check_indices(regions, shapes[0].dim_size(0), count));
    const int channels = shapes[0].dim_size(3);
    Tensor* pooled;
    OP_REQUIRES_OK(c, c->allocate_output(0, {regions.count, size, size, channels}, &pooled));
    ask_for_huge_pages(*pooled);
    std::vector<Level<const Number>> levels;
    for (int i = 0; i < count; ++i) {
      levels.push_back({reinterpret_cast<const Number*>(c->input(i).tensor_data().data()),
                        static_cast<int>(shapes[i].dim_size(1)), static_cast<int>(shapes[i].dim_size(2)),
                        attributes_.strides[i]});
    }
    roi_align_forward(attributes_.options, levels, regions, channels,
                      reinterpret_cast<Number*>(pooled->flat<T>().data()), threads_of(c));
  }

 private:
  Attributes attributes_;
};

template <class T>
class RoiAlignGradOp : public OpKernel {
 public:
  explicit RoiAlignGradOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, read_attributes(c, &attributes_));
  }

  void Compute(OpKernelContext* c) override {
    using Number = typename Own<T>::type;
    const int count = attributes_.strides.size();
    std::vector<TensorShape> shapes;
    Regions regions;
    OP_REQUIRES_OK(c, shapes_of_features(c, count, false, &shapes));
    OP_REQUIRES_OK(c, read_regions(c, &regions));
    OP_REQUIRES_OK(c, check_indices(regions, shapes[0].dim_size(0), count));
    const int channels = shapes[0].dim_size(3);
    const Tensor& pooled = c->input(0);
    OP_REQUIRES_OK(c, check_pooled(pooled.shape(), regions.count, attributes_.options.pool_size, channels));
    std::vector<Level<Number>> levels;
    for (int i = 0; i < count; ++i) {
      Tensor* gradient;
      OP_REQUIRES_OK(c, c->allocate_output(i, shapes[i], &gradient));
      ask_for_huge_pages(*gradient);
      levels.push_back({reinterpret_cast<Number*>(gradient->flat<T>().data()), static_cast<int>(shapes[i].dim_size(1)),
                        static_cast<int>(shapes[i].dim_size(2)), attributes_.strides[i]});
    }
    roi_align_backward(attributes_.options, reinterpret_cast<const Number*>(pooled.tensor_data().data()), regions,
                       static_cast<int>(shapes[0].dim_size(0)), channels, levels, threads_of(c));
  }

 private:
  Attributes attributes_;
};

#define KMASKRCNN_REGISTER(T)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnRoiAlign").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          RoiAlignOp<T>);                                                                          \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnRoiAlignGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          RoiAlignGradOp<T>);
KMASKRCNN_REGISTER(float)
KMASKRCNN_REGISTER(Eigen::bfloat16)
KMASKRCNN_REGISTER(Eigen::half)
#undef KMASKRCNN_REGISTER

}  // namespace
}  // namespace kmaskrcnn
