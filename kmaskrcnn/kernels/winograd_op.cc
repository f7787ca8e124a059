// The operations KmaskrcnnWinograd and KmaskrcnnWinogradKernelGrad, and what TensorFlow needs to call their kernels.
#include <string>

#include "op_resources.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "winograd_cpu.h"

namespace kmaskrcnn {
namespace {

using tensorflow::DT_FLOAT;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("KmaskrcnnWinograd")
    .Input("maps: T")        // (B, H, W, C)
    .Input("kernel: float")  // (3, 3, C, F)
    .Input("bias: float")    // (F,)
    .Output("convolved: T")  // (B, H, W, F)
    .Attr("T: {float, bfloat16, half} = DT_FLOAT")  // graphs from before it was an attribute
    .Attr("relu: bool")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle maps, kernel;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &maps));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &kernel));
      TF_RETURN_IF_ERROR(c->ReplaceDim(maps, 3, c->Dim(kernel, 3), &maps));
      c->set_output(0, maps);
      return absl::OkStatus();
    });

REGISTER_OP("KmaskrcnnWinogradKernelGrad")
    .Input("maps: T")                  // (B, H, W, C)
    .Input("convolved_gradient: T")    // (B, H, W, F)
    .Output("kernel_gradient: float")  // (3, 3, C, F)
    .Attr("T: {float, bfloat16, half} = DT_FLOAT")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle maps, gradient;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &maps));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &gradient));
      c->set_output(0, c->MakeShape({c->MakeDim(3), c->MakeDim(3), c->Dim(maps, 3), c->Dim(gradient, 3)}));
      return absl::OkStatus();
    });

absl::Status refused(const std::string& name, const TensorShape& got, const std::string& accepted) {
  return absl::InvalidArgumentError(name + ": got " + got.DebugString() + ", accepted is " + accepted);
}

// What is to be convolved; `filters` are counted by the last axis of the second input.
absl::Status read_maps(OpKernelContext* c, Convolution* to) {
  const TensorShape &maps = c->input(0).shape(), &other = c->input(1).shape();
  if (maps.dims() != 4) return refused("maps", maps, "(B, H, W, C)");
  if (other.dims() != 4) return refused("kernel or gradient", other, "four axes");
  *to = {maps.dim_size(0), maps.dim_size(1), maps.dim_size(2), maps.dim_size(3), other.dim_size(3)};
  if (!to->channels || !to->filters || to->channels % kChannelStep || to->filters % kChannelStep) {
    return refused("maps", maps, "multiples of " + std::to_string(kChannelStep) + " channels and filters");
  }
  return absl::OkStatus();
}

const float* numbers_of(const Tensor& tensor) { return tensor.flat<float>().data(); }

template <class T>
const typename Own<T>::type* maps_of(const Tensor& tensor) {
  return reinterpret_cast<const typename Own<T>::type*>(tensor.flat<T>().data());
}

absl::Status allocate(OpKernelContext* c, int64_t size, Tensor* tensor, float** numbers) {
  TF_RETURN_IF_ERROR(c->allocate_temp(DT_FLOAT, {size}, tensor));
  ask_for_huge_pages(*tensor);
  *numbers = tensor->flat<float>().data();
  return absl::OkStatus();
}

template <class T>
class WinogradOp : public OpKernel {
 public:
  explicit WinogradOp(OpKernelConstruction* c) : OpKernel(c) { OP_REQUIRES_OK(c, c->GetAttr("relu", &relu_)); }

  void Compute(OpKernelContext* c) override {
    Convolution of;
    OP_REQUIRES_OK(c, read_maps(c, &of));
    const Tensor &kernel = c->input(1), &bias = c->input(2);
    OP_REQUIRES(c, kernel.shape() == TensorShape({3, 3, of.channels, of.filters}),
                refused("kernel", kernel.shape(), "(3, 3, C, F)"));
    OP_REQUIRES(c, bias.shape() == TensorShape({of.filters}), refused("bias", bias.shape(), "(F,)"));
    Tensor *convolved, transformed, scratch;
    OP_REQUIRES_OK(c, c->allocate_output(0, {of.batch, of.height, of.width, of.filters}, &convolved));
    if (!convolved->NumElements()) return;
    ask_for_huge_pages(*convolved);
    const int threads = count_threads(c);
    float *points, *own;
    OP_REQUIRES_OK(c, allocate(c, transformed_kernel_size(of), &transformed, &points));
    OP_REQUIRES_OK(c, allocate(c, forward_scratch_size(of, threads), &scratch, &own));
    transform_kernel(of, numbers_of(kernel), points, threads_of(c));
    auto* output = reinterpret_cast<typename Own<T>::type*>(convolved->flat<T>().data());
    winograd_forward(of, maps_of<T>(c->input(0)), points, numbers_of(bias), relu_, threads, own, output, threads_of(c));
  }

 private:
  bool relu_;
};

template <class T>
class WinogradKernelGradOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    Convolution of;
    OP_REQUIRES_OK(c, read_maps(c, &of));
    const Tensor& upstream = c->input(1);
    OP_REQUIRES(c, upstream.shape() == TensorShape({of.batch, of.height, of.width, of.filters}),
                refused("convolved_gradient", upstream.shape(), "(B, H, W, F)"));
    Tensor *gradient, scratch;
    float* own;
    OP_REQUIRES_OK(c, c->allocate_output(0, {3, 3, of.channels, of.filters}, &gradient));
    OP_REQUIRES_OK(c, allocate(c, kernel_gradient_scratch_size(of), &scratch, &own));
    winograd_kernel_gradient(of, maps_of<T>(c->input(0)), maps_of<T>(upstream), own, gradient->flat<float>().data(),
                             threads_of(c));
  }
};

#define KMASKRCNN_REGISTER(T)                                                                                        \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnWinograd").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),           \
                          WinogradOp<T>);                                                                            \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnWinogradKernelGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          WinogradKernelGradOp<T>);
KMASKRCNN_REGISTER(float)
KMASKRCNN_REGISTER(Eigen::bfloat16)
KMASKRCNN_REGISTER(Eigen::half)
#undef KMASKRCNN_REGISTER

}  // namespace
}  // namespace kmaskrcnn
