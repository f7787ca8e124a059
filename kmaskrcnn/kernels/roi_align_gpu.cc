// What TensorFlow needs to call the GPU kernels. nvcc cannot read TensorFlow's headers, a C++ compiler can.
#include "roi_align_cuda.h"
#include "roi_align_inputs.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace kmaskrcnn {
namespace {

template <class T> constexpr int32_t kNumber = KMASKRCNN_FLOAT32;
template <> constexpr int32_t kNumber<Eigen::bfloat16> = KMASKRCNN_BFLOAT16;
template <> constexpr int32_t kNumber<Eigen::half> = KMASKRCNN_FLOAT16;

// Collects what a launcher is told, and launches.
class Launch {
 public:
  Launch(const Attributes& attributes, const Regions& regions, const std::vector<TensorShape>& shapes, int32_t number)
      : attributes_(attributes), shapes_(shapes) {
    call_.levels = static_cast<int32_t>(shapes.size());
    call_.batch = static_cast<int32_t>(shapes[0].dim_size(0));
    call_.channels = static_cast<int32_t>(shapes[0].dim_size(3));
    call_.boxes = regions.boxes;
    call_.images = regions.images;
    call_.level_indices = regions.levels;
    call_.count = regions.count;
    call_.pool_size = attributes.options.pool_size;
    call_.sampling_ratio = attributes.options.sampling_ratio;
    call_.aligned = attributes.options.aligned;
    call_.number = number;
  }

  void add_map(const Tensor& map, int level) {
    cells_.push_back(const_cast<char*>(map.tensor_data().data()));
    heights_.push_back(static_cast<int32_t>(shapes_[level].dim_size(1)));
    widths_.push_back(static_cast<int32_t>(shapes_[level].dim_size(2)));
  }

  absl::Status run(OpKernelContext* c, const Tensor& pooled, decltype(kmaskrcnn_roi_align_forward)* launcher) {
    call_.cells = cells_.data();
    call_.heights = heights_.data();
    call_.widths = widths_.data();
    call_.strides = attributes_.strides.data();
    call_.pooled = const_cast<char*>(pooled.tensor_data().data());
    const int error = launcher(&call_, c->op_device_context()->stream()->platform_specific_handle().stream);
    if (error == 0) return absl::OkStatus();
    return absl::InternalError("RoIAlign: CUDA refuses the launch with error " + std::to_string(error));
  }

 private:
  KmaskrcnnRoiAlign call_ = {};
  const Attributes& attributes_;
  const std::vector<TensorShape>& shapes_;
  std::vector<void*> cells_;
  std::vector<int32_t> heights_, widths_;
};

template <class T>
class RoiAlignGpuOp : public OpKernel {
 public:
  explicit RoiAlignGpuOp(OpKernelConstruction* c) : OpKernel(c) { OP_REQUIRES_OK(c, read_attributes(c, &attributes_)); }

  void Compute(OpKernelContext* c) override {
    const int count = attributes_.strides.size(), size = attributes_.options.pool_size;
    std::vector<TensorShape> shapes;
    Regions regions;
    OP_REQUIRES_OK(c, shapes_of_features(c, count, true, &shapes));
    OP_REQUIRES_OK(c, read_regions(c, &regions));
    Tensor* pooled;
    OP_REQUIRES_OK(c, c->allocate_output(0, {regions.count, size, size, shapes[0].dim_size(3)}, &pooled));
    Launch launch(attributes_, regions, shapes, kNumber<T>);
    for (int i = 0; i < count; ++i) launch.add_map(c->input(i), i);
    OP_REQUIRES_OK(c, launch.run(c, *pooled, kmaskrcnn_roi_align_forward));
  }

 private:
  Attributes attributes_;
};

template <class T>
class RoiAlignGradGpuOp : public OpKernel {
 public:
  explicit RoiAlignGradGpuOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, read_attributes(c, &attributes_));
  }

  void Compute(OpKernelContext* c) override {
    const int count = attributes_.strides.size();
    std::vector<TensorShape> shapes;
    Regions regions;
    OP_REQUIRES_OK(c, shapes_of_features(c, count, false, &shapes));
    OP_REQUIRES_OK(c, read_regions(c, &regions));
    const Tensor& pooled = c->input(0);
    OP_REQUIRES_OK(
        c, check_pooled(pooled.shape(), regions.count, attributes_.options.pool_size, shapes[0].dim_size(3)));
    Launch launch(attributes_, regions, shapes, kNumber<T>);
    for (int i = 0; i < count; ++i) {
      Tensor* gradient;
      OP_REQUIRES_OK(c, c->allocate_output(i, shapes[i], &gradient));
      launch.add_map(*gradient, i);
    }
    OP_REQUIRES_OK(c, launch.run(c, pooled, kmaskrcnn_roi_align_backward));
  }

 private:
  Attributes attributes_;
};

#define KMASKRCNN_REGISTER(T)                                                                              \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnRoiAlign").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
                          RoiAlignGpuOp<T>);                                                               \
  REGISTER_KERNEL_BUILDER(Name("KmaskrcnnRoiAlignGrad")                                                    \
                              .Device(tensorflow::DEVICE_GPU)                                              \
                              .HostMemory("feature_shapes")                                                \
                              .TypeConstraint<T>("T"),                                                     \
                          RoiAlignGradGpuOp<T>);
KMASKRCNN_REGISTER(float)
KMASKRCNN_REGISTER(Eigen::bfloat16)
KMASKRCNN_REGISTER(Eigen::half)
#undef KMASKRCNN_REGISTER

}  // namespace
}  // namespace kmaskrcnn
