// RoIAlign over all levels of a pyramid, on GPUs: a launch forward, a launch a level backward.
//
//   forward   a thread takes some channels of one bin
//   backward  a block takes a tile of cells in one row of one image; it picks the regions that touch the tile, and each
//             thread adds up its channel of them: no atomic operations, nothing to clear, the same at every run
#include "roi_align_cuda.h"

#include "roi_align_geometry.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define KMASKRCNN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  kernel<<<blocks, threads, shared_bytes, stream>>>(__VA_ARGS__)
#define KMASKRCNN_DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

namespace kmaskrcnn {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr int kTile = 8;  // cells that a block of the backward pass adds up, in registers

struct Map {
  void* cells;
  int height, width;
  float stride;
};

// What a kernel is told, by value.
struct Call {
  Map maps[KMASKRCNN_MOST_LEVELS];
  int levels, batch, channels, count;
  const float* boxes;
  const int32_t *images, *level_indices;
  PoolOptions options;
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline void from_float(float value, float* to) { *to = value; }
__device__ inline void from_float(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }
__device__ inline void from_float(float value, __half* to) { *to = __float2half_rn(value); }

// V numbers that are read or written at once.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

__device__ inline bool exists(const Call& call, int region) {
  const int image = call.images[region], level = call.level_indices[region];
  return image >= 0 && image < call.batch && level >= 0 && level < call.levels;
}

// -- forward ----------------------------------------------------------------------------------------------------------

template <class T, int V>
__device__ void add_cell(const T* cell, float weight, float* sums) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(cell);
#pragma unroll
  for (int v = 0; v < V; ++v) sums[v] += weight * to_float(pack.values[v]);
}

template <class T, int V>
__device__ void sum_bin(const Call& call, int region, int i, int j, int channel, float* sums) {
  const Map& map = call.maps[call.level_indices[region]];
  const float* box = call.boxes + 4 * static_cast<int64_t>(region);
  const Samples rows = samples_along(box[1], box[3], map.stride, call.options);
  const Samples columns = samples_along(box[0], box[2], map.stride, call.options);
  const int64_t image_cells = static_cast<int64_t>(map.height) * map.width;
  const T* image = static_cast<const T*>(map.cells) + call.images[region] * image_cells * call.channels + channel;
  for (int a = 0; a < rows.ratio; ++a) {
    int top, bottom, left, right;
    float down, across;
    if (!cells_around(rows, i * rows.ratio + a, map.height, &top, &bottom, &down)) continue;
    const T* upper = image + static_cast<int64_t>(top) * map.width * call.channels;
    const T* lower = image + static_cast<int64_t>(bottom) * map.width * call.channels;
    for (int b = 0; b < columns.ratio; ++b) {
      if (!cells_around(columns, j * columns.ratio + b, map.width, &left, &right, &across)) continue;
      const int64_t l = static_cast<int64_t>(left) * call.channels, r = static_cast<int64_t>(right) * call.channels;
      add_cell<T, V>(upper + l, (1.0f - down) * (1.0f - across), sums);
      add_cell<T, V>(upper + r, (1.0f - down) * across, sums);
      add_cell<T, V>(lower + l, down * (1.0f - across), sums);
      add_cell<T, V>(lower + r, down * across, sums);
    }
  }
  const float samples = static_cast<float>(rows.ratio) * static_cast<float>(columns.ratio);
  for (int v = 0; v < V; ++v) sums[v] /= samples;
}

template <class T, int V>
__global__ void forward(Call call, T* pooled) {
  const int size = call.options.pool_size, packs = call.channels / V;
  const int64_t total = static_cast<int64_t>(call.count) * size * size * packs;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < total; n += step) {
    const int64_t bin = n / packs;
    const int channel = static_cast<int>(n % packs) * V;
    const int region = static_cast<int>(bin / (size * size)), place = static_cast<int>(bin % (size * size));
    float sums[V] = {};
    if (exists(call, region)) sum_bin<T, V>(call, region, place / size, place % size, channel, sums);
    Pack<T, V> pack;
    for (int v = 0; v < V; ++v) from_float(sums[v], &pack.values[v]);
    *reinterpret_cast<Pack<T, V>*>(pooled + bin * call.channels + channel) = pack;
  }
}

// -- backward ---------------------------------------------------------------------------------------------------------

// Whether any sample of a region can touch cells first ... last along an axis.
__device__ bool reaches(float start, float end, const Map& map, int size, const PoolOptions& options, int first,
                        int last) {
  const Samples samples = samples_along(start, end, map.stride, options);
  const float one = samples.first, other = samples.first + samples.step * (options.pool_size * samples.ratio - 1);
  const float low = fminf(one, other), high = fmaxf(one, other);
  // A sample outside takes the value of the map's edge.
  const float from = first == 0 ? -1.0f : static_cast<float>(first - 1);
  const float to = last + 1 >= size ? static_cast<float>(size) : static_cast<float>(last + 1);
  return high >= from && low <= to;
}

// The weight of `cell` in `bin`, along an axis.
__device__ float weight_in_bin(const Samples& samples, int bin, int cell, int size) {
  float weight = 0.0f;
  for (int i = 0; i < samples.ratio; ++i) {
    int low, high;
    float fraction;
    if (!cells_around(samples, bin * samples.ratio + i, size, &low, &high, &fraction)) continue;
    if (low == cell) weight += 1.0f - fraction;
    if (high == cell) weight += fraction;
  }
  return weight / static_cast<float>(samples.ratio);
}

// Adds what region r gives to a tile of cells, for one channel of each thread.
template <class T>
__device__ void add_region(const Call& call, const T* pooled, int r, const float* row_weights,
                           const float* column_weights, int channel, float* sums) {
  const int size = call.options.pool_size;
  for (int i = 0; i < size; ++i) {
    if (row_weights[i] == 0.0f) continue;
    for (int j = 0; j < size; ++j) {
      const float* weights = column_weights + j * kTile;
      bool any = false;
#pragma unroll
      for (int k = 0; k < kTile; ++k) any |= weights[k] != 0.0f;
      if (!any) continue;
      const int64_t bin = (static_cast<int64_t>(r) * size + i) * size + j;
      const float value = row_weights[i] * to_float(pooled[bin * call.channels + channel]);
#pragma unroll
      for (int k = 0; k < kTile; ++k) sums[k] += weights[k] * value;
    }
  }
}

// Blocks: (tiles of all rows of all images, parts of the channels).
template <class T>
__global__ void backward(Call call, int level, const T* pooled) {
  KMASKRCNN_DYNAMIC_SHARED(weights);  // rows (P,), columns (P, kTile)
  __shared__ uint32_t touching[kThreads / kWarp];
  const Map& map = call.maps[level];
  const int size = call.options.pool_size, thread = static_cast<int>(threadIdx.x);
  const int tiles = (map.width + kTile - 1) / kTile, row = static_cast<int>(blockIdx.x) / tiles;
  const int first = static_cast<int>(blockIdx.x) % tiles * kTile;
  const int image = row / map.height, y = row % map.height;
  const int channel = static_cast<int>(blockIdx.y) * kThreads + thread;
  float sums[kTile] = {};
  for (int begin = 0; begin < call.count; begin += kThreads) {
    const int mine = begin + thread;
    bool touches = mine < call.count && exists(call, mine) && call.images[mine] == image &&
                   call.level_indices[mine] == level;
    if (touches) {
      const float* box = call.boxes + 4 * static_cast<int64_t>(mine);
      touches = reaches(box[1], box[3], map, map.height, call.options, y, y) &&
                reaches(box[0], box[2], map, map.width, call.options, first, first + kTile - 1);
    }
    const uint32_t votes = __ballot_sync(0xffffffffu, touches);
    if (thread % kWarp == 0) touching[thread / kWarp] = votes;
    __syncthreads();
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      for (uint32_t left = touching[warp]; left != 0; left &= left - 1) {
        const int r = begin + warp * kWarp + __ffs(static_cast<int>(left)) - 1;
        const float* box = call.boxes + 4 * static_cast<int64_t>(r);
        const Samples rows = samples_along(box[1], box[3], map.stride, call.options);
        const Samples columns = samples_along(box[0], box[2], map.stride, call.options);
        for (int n = thread; n < size * (1 + kTile); n += kThreads) {
          const int place = n - size;
          weights[n] = place < 0 ? weight_in_bin(rows, n, y, map.height)
                                 : weight_in_bin(columns, place / kTile, first + place % kTile, map.width);
        }
        __syncthreads();
        if (channel < call.channels) add_region(call, pooled, r, weights, weights + size, channel, sums);
        __syncthreads();
      }
    }
    __syncthreads();
  }
  if (channel >= call.channels) return;
  T* cells = static_cast<T*>(map.cells) + static_cast<int64_t>(row) * map.width * call.channels + channel;
  for (int k = 0; k < kTile && first + k < map.width; ++k) {
    from_float(sums[k], cells + static_cast<int64_t>(first + k) * call.channels);
  }
}

// -- launchers --------------------------------------------------------------------------------------------------------

Call describe(const KmaskrcnnRoiAlign& given) {
  Call call = {};
  for (int i = 0; i < given.levels; ++i) {
    call.maps[i] = {given.cells[i], given.heights[i], given.widths[i], given.strides[i]};
  }
  call.levels = given.levels;
  call.batch = given.batch;
  call.channels = given.channels;
  call.count = given.count;
  call.boxes = given.boxes;
  call.images = given.images;
  call.level_indices = given.level_indices;
  call.options = {given.pool_size, given.sampling_ratio, given.aligned != 0};
  return call;
}

template <class T, int V>
void launch_forward(const Call& call, void* pooled, cudaStream_t stream) {
  const int64_t bins = static_cast<int64_t>(call.count) * call.options.pool_size * call.options.pool_size;
  const int64_t threads = bins * (call.channels / V), blocks = (threads + kThreads - 1) / kThreads;
  if (blocks == 0) return;
  const unsigned int grid = static_cast<unsigned int>(blocks < 1 << 30 ? blocks : 1 << 30);
  auto kernel = forward<T, V>;
  KMASKRCNN_LAUNCH(kernel, dim3(grid), dim3(kThreads), 0, stream, call, static_cast<T*>(pooled));
}

template <class T>
int run_forward(const KmaskrcnnRoiAlign& given, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T) > 4 ? 4 : 16 / sizeof(T);
  const Call call = describe(given);
  if (call.channels % kPack == 0) {
    launch_forward<T, kPack>(call, given.pooled, stream);
  } else {
    launch_forward<T, 1>(call, given.pooled, stream);
  }
  return cudaGetLastError();
}

template <class T>
int run_backward(const KmaskrcnnRoiAlign& given, cudaStream_t stream) {
  const Call call = describe(given);
  const size_t shared_bytes = sizeof(float) * call.options.pool_size * (1 + kTile);
  for (int level = 0; level < call.levels; ++level) {
    const Map& map = call.maps[level];
    const int64_t tiles = (map.width + kTile - 1) / kTile, blocks = tiles * map.height * call.batch;
    const unsigned int parts = (call.channels + kThreads - 1) / kThreads;
    if (blocks > 0x7fffffff) return cudaErrorInvalidValue;  // a grid's limit
    if (blocks == 0 || parts == 0) continue;
    auto kernel = backward<T>;
    KMASKRCNN_LAUNCH(kernel, dim3(static_cast<unsigned int>(blocks), parts), dim3(kThreads), shared_bytes, stream, call,
                     level, static_cast<const T*>(given.pooled));
  }
  return cudaGetLastError();
}

bool is_known(const KmaskrcnnRoiAlign& given) {
  return given.levels >= 1 && given.levels <= KMASKRCNN_MOST_LEVELS && given.number >= 0 && given.number <= 2;
}

}  // namespace
}  // namespace kmaskrcnn

extern "C" int kmaskrcnn_roi_align_forward(const KmaskrcnnRoiAlign* call, void* stream) {
  using namespace kmaskrcnn;
  if (!is_known(*call)) return cudaErrorInvalidValue;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (call->number == KMASKRCNN_BFLOAT16) return run_forward<__nv_bfloat16>(*call, on);
  if (call->number == KMASKRCNN_FLOAT16) return run_forward<__half>(*call, on);
  return run_forward<float>(*call, on);
}

extern "C" int kmaskrcnn_roi_align_backward(const KmaskrcnnRoiAlign* call, void* stream) {
  using namespace kmaskrcnn;
  if (!is_known(*call)) return cudaErrorInvalidValue;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (call->number == KMASKRCNN_BFLOAT16) return run_backward<__nv_bfloat16>(*call, on);
  if (call->number == KMASKRCNN_FLOAT16) return run_backward<__half>(*call, on);
  return run_backward<float>(*call, on);
}
