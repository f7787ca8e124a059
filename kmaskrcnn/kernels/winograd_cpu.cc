// A thread takes a block of tiles of 4 x 4 outputs, from the input to the output, in memory that its caches hold:
//
//   patches   (36, tiles, C)    6 x 6 inputs around each tile, transformed
//   products  (36, tiles, F)    at each of the 36 points a matrix product with the transformed kernel
//   output                      products transformed back, with bias and ReLU, written once
//
// The kernel's gradient is a sum over all tiles: threads transform a block together, then each takes some points.
#include "winograd_cpu.h"

#include <algorithm>
#include <atomic>

#include "winograd_transforms.h"

namespace kmaskrcnn {
namespace {

// A product of two matrices is made of kRows x kPanel numbers, which are added up in registers.
#if defined(__AVX512F__)
constexpr int kRows = 12, kWide = 2;
#else
constexpr int kRows = 6, kWide = 2;
#endif
constexpr int kPanel = kWide * kLanes;
constexpr int64_t kDepth = 256;  // so many channels of a panel, and of kRows tiles, stay in the first cache
constexpr int64_t kBlock = 48;   // tiles: their patches and products stay in the second and third
// Tables whose rows begin a multiple of 4096 bytes apart would share few places of a cache.
constexpr int64_t kGap = 16;

int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

Lanes all(float number) { return number - Lanes{}; }

// Calls `work` with 0 ... count - 1, shared out among the threads.
template <class Work>
void share_out(int64_t count, const Parallel& parallel, const Work& work) {
  std::atomic<int64_t> next(0);
  parallel([&] {
    for (int64_t i; (i = next++) < count;) work(i);
  });
}

// -- tiles ------------------------------------------------------------------------------------------------------------

// All maps lie side by side, a row of zeros or more between two of them. Small ones, such as regions, share tiles, where
// maps that are no multiple of a tile would each leave tiles half empty; large ones do not, so that a number which is
// not finite stays in its picture. `across` of them lie in a row.
constexpr int64_t kLarge = 32;
int64_t pitch_of(int64_t side) { return side < kLarge ? side + 1 : round_up(side + 1, kTile); }

struct Tiles {
  explicit Tiles(const Convolution& of) {
    for (int64_t width = 1; width <= of.batch; ++width) {
      const int64_t down = (of.batch + width - 1) / width;
      const int64_t high = tiles_of(down, of.height), wide = tiles_of(width, of.width);
      if (across && high * wide >= count) continue;
      across = width, columns = wide, count = high * wide;
    }
  }
  static int64_t tiles_of(int64_t maps, int64_t side) {
    return round_up((maps - 1) * pitch_of(side) + side, kTile) / kTile;
  }
  int64_t across = 0, columns = 0, count = 0;
};

// Cells in a row, along one axis: the map that each lies in, counted along the axis, and its place there. Between two
// maps, and before the first, is none: -1.
struct Line {
  Line(int64_t first, int count, int64_t side) {
    const int64_t pitch = pitch_of(side);
    int64_t m = first / pitch, c = first % pitch;
    for (int i = 0; i < count; ++i) {
      map[i] = c >= 0 && c < side ? m : -1;
      cell[i] = c;
      if (++c == pitch) c = 0, ++m;
    }
  }
  int64_t map[kTile + 2], cell[kTile + 2];
};

// A square of cells, of which some may lie in no map.
struct Square {
  Square(const Convolution& of, const Tiles& tiles, int64_t tile, int rim)
      : y(tile / tiles.columns * kTile - rim, kTile + 2 * rim, of.height),
        x(tile % tiles.columns * kTile - rim, kTile + 2 * rim, of.width),
        across(tiles.across), batch(of.batch), height(of.height), width(of.width) {}
  bool has(int i, int j) const {
    return y.map[i] >= 0 && x.map[j] >= 0 && x.map[j] < across && image(i, j) < batch;
  }
  int64_t cell(int i, int j) const { return (image(i, j) * height + y.cell[i]) * width + x.cell[j]; }
  int64_t image(int i, int j) const { return y.map[i] * across + x.map[j]; }
  Line y, x;
  int64_t across, batch, height, width;
};

// Reads a square of `maps` (..., C), zero outside, and writes its 36 values `stride` numbers apart.
template <class Transform, class T>
void transform_square(const Square& square, const T* maps, int64_t channels, float* to, int64_t stride) {
  constexpr int kSide = Transform::kFrom;
  const T* cells[kSide * kSide];
  for (int i = 0; i < kSide * kSide; ++i) {
    const bool inside = square.has(i / kSide, i % kSide);
    cells[i] = inside ? maps + square.cell(i / kSide, i % kSide) * channels : nullptr;
  }
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes from[kSide * kSide], points[kPoints];
    for (int i = 0; i < kSide * kSide; ++i) from[i] = cells[i] ? load(cells[i] + c) : Lanes{};
    transform<Transform>(from, points);
    for (int i = 0; i < kPoints; ++i) store(to + i * stride + c, points[i]);
  }
}

// Reads 36 values `stride` numbers apart and writes what lies inside of a tile of the output.
template <class T>
void write_tile(const Square& square, const float* products, int64_t stride, const float* bias, bool relu,
                int64_t filters, T* output) {
  const Lanes least = all(relu ? 0.0f : -1.0f / 0.0f);
  for (int64_t f = 0; f < filters; f += kLanes) {
    Lanes points[kPoints], tile[kTile * kTile];
    for (int i = 0; i < kPoints; ++i) points[i] = load(products + i * stride + f);
    transform<OutputTransform>(points, tile);
    for (int i = 0; i < kTile * kTile; ++i) {
      if (!square.has(i / kTile, i % kTile)) continue;
      const Lanes sum = tile[i] + load(bias + f);
      store(output + square.cell(i / kTile, i % kTile) * filters + f, sum < least ? least : sum);
    }
  }
}

// -- the matrix product -----------------------------------------------------------------------------------------------

// sums (kRows, kPanel) += left (kRows, depth) * right (depth, kPanel). An element's place is row * row + depth * step.
inline void multiply(const float* left, int64_t left_row, int64_t left_step, const float* right, int64_t right_step,
                     int64_t depth, bool add, float* sums, int64_t sums_row) {
  Lanes total[kRows][kWide] = {};
  for (int64_t d = 0; d < depth; ++d) {
    Lanes panel[kWide];
    for (int w = 0; w < kWide; ++w) panel[w] = load(right + d * right_step + w * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Lanes number = all(left[r * left_row + d * left_step]);
#pragma GCC unroll 4
      for (int w = 0; w < kWide; ++w) total[r][w] += number * panel[w];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int w = 0; w < kWide; ++w) {
      float* to = sums + r * sums_row + w * kLanes;
      store(to, add ? load(to) + total[r][w] : total[r][w]);
    }
  }
}

// -- tables -----------------------------------------------------------------------------------------------------------

// 36 matrices, one behind the other.
struct Table {
  int64_t rows, columns;
  int64_t stride() const { return rows * columns + kGap; }
  int64_t size() const { return kPoints * stride(); }
};

int64_t panels_of(const Convolution& of) { return round_up(of.filters, kPanel) / kPanel; }

// The transformed kernel, panel after panel, so that a product reads it in its order.
Table kernel_table(const Convolution& of) { return {panels_of(of) * of.channels, kPanel}; }

// So many tiles that every thread gets equally many blocks.
int64_t block_of(const Convolution& of, int threads) {
  const int64_t count = std::max<int64_t>(1, Tiles(of).count);
  const int64_t turns = round_up(count, threads * kBlock) / (threads * kBlock);
  return round_up(round_up(count, turns * threads) / (turns * threads), kRows);
}

struct Block {
  Block(const Convolution& of, int threads)
      : tiles(block_of(of, threads)), patches{tiles, of.channels}, products{tiles, panels_of(of) * kPanel} {}
  int64_t tiles;
  Table patches, products;
  int64_t size() const { return patches.size() + products.size(); }
};

template <class T>
void read_block(const Convolution& of, const Tiles& tiles, int64_t first, int64_t count, const T* input,
                const Table& table, float* patches) {
  for (int64_t t = 0; t < count; ++t) {
    const Square square(of, tiles, first + t, 1);
    transform_square<InputTransform>(square, input, of.channels, patches + t * table.columns, table.stride());
  }
}

// products (rows, F) = patches (rows, C) * kernel (C, F) at one point
void multiply_block(const Convolution& of, int64_t rows, const float* patches, const float* kernel, float* products,
                    int64_t products_row) {
  for (int64_t c = 0; c < of.channels; c += kDepth) {
    const int64_t depth = std::min(kDepth, of.channels - c);
    for (int64_t p = 0; p < panels_of(of); ++p) {
      const float* panel = kernel + (p * of.channels + c) * kPanel;
      for (int64_t t = 0; t < rows; t += kRows) {
        multiply(patches + t * of.channels + c, of.channels, 1, panel, kPanel, depth, c > 0,
                 products + t * products_row + p * kPanel, products_row);
      }
    }
  }
}

}  // namespace

// -- forward ----------------------------------------------------------------------------------------------------------

int64_t transformed_kernel_size(const Convolution& of) { return kernel_table(of).size(); }

int64_t forward_scratch_size(const Convolution& of, int threads) { return threads * Block(of, threads).size(); }

void transform_kernel(const Convolution& of, const float* kernel, float* transformed, const Parallel& parallel) {
  const Table table = kernel_table(of);
  share_out(panels_of(of) * of.channels / kChannelStep, parallel, [&](int64_t part) {
    for (int64_t row = part * kChannelStep; row < (part + 1) * kChannelStep; ++row) {
      const int64_t c = row % of.channels, first = row / of.channels * kPanel;
      float* to = transformed + row * table.columns;
      for (int64_t f = first; f < first + kPanel; f += kLanes, to += kLanes) {
        Lanes taps[kTaps * kTaps] = {}, points[kPoints];
        for (int i = 0; i < kTaps * kTaps && f < of.filters; ++i) {
          taps[i] = load(kernel + (i * of.channels + c) * of.filters + f);
        }
        transform<KernelTransform>(taps, points);
        for (int i = 0; i < kPoints; ++i) store(to + i * table.stride(), points[i]);
      }
    }
  });
}

template <class T>
void winograd_forward(const Convolution& of, const T* input, const float* transformed, const float* bias, bool relu,
                      int threads, float* scratch, T* output, const Parallel& parallel) {
  const Tiles tiles(of);
  const Block block(of, threads);
  const Table patches_of = block.patches, products_of = block.products;
  std::atomic<int64_t> next(0), thread(0);
  parallel([&] {
    float* patches = scratch + thread++ * block.size();
    float* products = patches + patches_of.size();
    for (int64_t first; (first = block.tiles * next++) < tiles.count;) {
      const int64_t count = std::min(block.tiles, tiles.count - first), rows = round_up(count, kRows);
      read_block(of, tiles, first, count, input, patches_of, patches);
      for (int i = 0; i < kPoints; ++i) {
        float* at = patches + i * patches_of.stride();
        std::fill(at + count * of.channels, at + rows * of.channels, 0.0f);
        multiply_block(of, rows, at, transformed + i * kernel_table(of).stride(), products + i * products_of.stride(),
                       products_of.columns);
      }
      for (int64_t t = 0; t < count; ++t) {
        const Square square(of, tiles, first + t, 0);
        write_tile(square, products + t * products_of.columns, products_of.stride(), bias, relu, of.filters, output);
      }
    }
  });
}

// -- the kernel's gradient --------------------------------------------------------------------------------------------

namespace {

// Rows and panels that are not full read into the gap behind each row.
struct GradientBlock {
  explicit GradientBlock(const Convolution& of)
      : tiles(std::min(most_tiles(of), Tiles(of).count)), patches{tiles, of.channels + kGap},
        gradients{tiles, of.filters + kGap},
        sums{round_up(of.channels, kRows), panels_of(of) * kPanel} {}
  static int64_t most_tiles(const Convolution& of) {
    constexpr int64_t kNumbers = 2 << 20;  // of patches and gradients: 8 MB
    return std::max<int64_t>(24, kNumbers / (kPoints * (of.channels + of.filters)));
  }
  int64_t size() const { return patches.size() + gradients.size() + sums.size(); }
  int64_t tiles;
  Table patches, gradients, sums;
};

// A thread's share of sums (C, F) += patches (tiles, C)^T * gradients (tiles, F) at one point: kStrip channels.
constexpr int64_t kStrip = 8 * kRows;

void add_strip(const GradientBlock& block, int64_t first, int64_t count, bool add,
               const float* patches, const float* gradients, float* sums) {
  const int64_t last = std::min(first + kStrip, block.sums.rows);
  for (int64_t f = 0; f < block.sums.columns; f += kPanel) {
    for (int64_t c = first; c < last; c += kRows) {
      multiply(patches + c, 1, block.patches.columns, gradients + f, block.gradients.columns, count, add,
               sums + c * block.sums.columns + f, block.sums.columns);
    }
  }
}

// At the channel `c`, from 36 points to 9 taps.
void write_taps(const Convolution& of, const Table& table, int64_t c, const float* sums, float* kernel_gradient) {
  for (int64_t f = 0; f < of.filters; f += kLanes) {
    Lanes points[kPoints], taps[kTaps * kTaps];
    for (int i = 0; i < kPoints; ++i) points[i] = load(sums + i * table.stride() + c * table.columns + f);
    transform<KernelGradientTransform>(points, taps);
    for (int i = 0; i < kTaps * kTaps; ++i) store(kernel_gradient + (i * of.channels + c) * of.filters + f, taps[i]);
  }
}

}  // namespace

int64_t kernel_gradient_scratch_size(const Convolution& of) { return GradientBlock(of).size(); }

template <class T>
void winograd_kernel_gradient(const Convolution& of, const T* input, const T* output_gradient, float* scratch,
                              float* kernel_gradient, const Parallel& parallel) {
  const Tiles tiles(of);
  const GradientBlock block(of);
  float *patches = scratch, *gradients = patches + block.patches.size(), *sums = gradients + block.gradients.size();
  const int64_t strips = round_up(block.sums.rows, kStrip) / kStrip;
  for (int64_t first = 0; first < tiles.count; first += block.tiles) {
    const int64_t count = std::min(block.tiles, tiles.count - first);
    share_out(count, parallel, [&](int64_t t) {
      transform_square<InputTransform>(Square(of, tiles, first + t, 1), input, of.channels,
                                       patches + t * block.patches.columns, block.patches.stride());
      transform_square<OutputGradientTransform>(Square(of, tiles, first + t, 0), output_gradient, of.filters,
                                                gradients + t * block.gradients.columns, block.gradients.stride());
    });
    share_out(kPoints * strips, parallel, [&](int64_t part) {
      const int64_t i = part / strips;
      add_strip(block, part % strips * kStrip, count, first > 0, patches + i * block.patches.stride(),
                gradients + i * block.gradients.stride(), sums + i * block.sums.stride());
    });
  }
  if (!tiles.count) std::fill_n(sums, block.sums.size(), 0.0f);
  share_out(of.channels, parallel, [&](int64_t c) { write_taps(of, block.sums, c, sums, kernel_gradient); });
}

#define KMASKRCNN_INSTANTIATE(T)                                                                                  \
  template void winograd_forward<T>(const Convolution&, const T*, const float*, const float*, bool, int, float*, \
                                    T*, const Parallel&);                                                        \
  template void winograd_kernel_gradient<T>(const Convolution&, const T*, const T*, float*, float*, const Parallel&);
KMASKRCNN_INSTANTIATE(float)
KMASKRCNN_INSTANTIATE(bfloat16)
KMASKRCNN_INSTANTIATE(float16)
#undef KMASKRCNN_INSTANTIATE

}  // namespace kmaskrcnn
