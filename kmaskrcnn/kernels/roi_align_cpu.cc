// Average pooling and bilinear sampling are both weighted sums, and separable: along each axis a region becomes a short
// list of taps (bin, cell, weight), in which samples that fall between the same cells are already added up.
//
//   forward   bin (i, j) = sum over row taps of i and column taps of j: weight * weight * cell    a thread a region
//   backward  cell (y, x) = sum over row taps of y and column taps of x: weight * weight * bin    a thread a row of cells
#include "roi_align_cpu.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>

#include "lanes.h"

namespace kmaskrcnn {
namespace {

struct Tap {
  int32_t bin, cell;
  float weight;
};

constexpr int kBlock = 8 * kLanes;  // channels that are added up in registers

// -- taps -------------------------------------------------------------------------------------------------------------

void add_tap(std::vector<Tap>* taps, size_t bin_start, int bin, int cell, float weight) {
  // A sample shares at most its two cells with the one before.
  const size_t last = taps->size();
  for (size_t i = last; i > bin_start && i + 2 > last; --i) {
    Tap& tap = (*taps)[i - 1];
    if (tap.cell == cell) {
      tap.weight += weight;
      return;
    }
  }
  taps->push_back({bin, cell, weight});
}

// Appends the taps of one region along one axis, bin after bin.
void append_taps(float start, float end, const PoolOptions& options, float stride, int size, std::vector<Tap>* taps) {
  const Samples samples = samples_along(start, end, stride, options);
  const float share = 1.0f / static_cast<float>(samples.ratio);
  for (int bin = 0; bin < options.pool_size; ++bin) {
    const size_t bin_start = taps->size();
    for (int i = 0; i < samples.ratio; ++i) {
      int low, high;
      float fraction;
      if (!cells_around(samples, bin * samples.ratio + i, size, &low, &high, &fraction)) continue;
      add_tap(taps, bin_start, bin, low, (1.0f - fraction) * share);
      if (fraction > 0.0f) add_tap(taps, bin_start, bin, high, fraction * share);
    }
  }
}

// The taps of all regions along one axis: those of region r are [starts[r], starts[r + 1]).
struct Axis {
  std::vector<Tap> taps;
  std::vector<int64_t> starts;
};

template <class T>
Axis taps_along(int axis, const PoolOptions& options, const std::vector<Level<T>>& levels, const Regions& regions) {
  Axis result;
  result.starts.reserve(regions.count + 1);
  result.starts.push_back(0);
  for (int r = 0; r < regions.count; ++r) {
    const Level<T>& level = levels[regions.levels[r]];
    const float* box = regions.boxes + 4 * r;
    append_taps(box[axis], box[axis + 2], options, level.stride, axis ? level.height : level.width, &result.taps);
    result.starts.push_back(result.taps.size());
  }
  return result;
}

void sort_by_cell(Axis* axis) {
  for (size_t r = 0; r + 1 < axis->starts.size(); ++r) {
    const auto begin = axis->taps.begin() + axis->starts[r], end = axis->taps.begin() + axis->starts[r + 1];
    const auto before = [](const Tap& a, const Tap& b) { return a.cell < b.cell; };
    if (!std::is_sorted(begin, end, before)) std::stable_sort(begin, end, before);
  }
}

// -- work for threads -------------------------------------------------------------------------------------------------

// Threads take block after block, so that one with hard blocks takes fewer. `body(begin, end, scratch)`.
template <class Body>
void in_blocks(const Parallel& parallel, int64_t total, int64_t block, size_t scratch_floats, const Body& body) {
  std::atomic<int64_t> next{0};
  parallel([&] {
    std::unique_ptr<float[]> scratch;
    for (int64_t begin; (begin = next.fetch_add(block)) < total;) {
      if (!scratch) scratch.reset(new float[scratch_floats + kLanes]());
      const uintptr_t address = reinterpret_cast<uintptr_t>(scratch.get()), lane_bytes = sizeof(Lanes);
      float* aligned = reinterpret_cast<float*>((address + lane_bytes - 1) / lane_bytes * lane_bytes);
      body(begin, std::min(begin + block, total), aligned);
    }
  });
}

template <class T>
bool can_stream(const T* address, int channels) {
  return reinterpret_cast<uintptr_t>(address) % (sizeof(T) * kLanes) == 0 && channels % kLanes == 0;
}

// -- forward ----------------------------------------------------------------------------------------------------------

template <class T>
struct Term {
  const T* cell;
  float weight;
};

// out[c] = sum of weight * cell[c]
template <class T>
void add_terms(const Term<T>* terms, size_t count, int channels, T* out) {
  int c = 0;
  for (; c + kBlock <= channels; c += kBlock) {
    Lanes sums[8] = {};
    for (size_t t = 0; t < count; ++t) {
      const T* cell = terms[t].cell + c;
      const float weight = terms[t].weight;
#pragma GCC unroll 8
      for (int v = 0; v < 8; ++v) sums[v] += load(cell + v * kLanes) * weight;
    }
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) store(out + c + v * kLanes, sums[v]);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    Lanes sum = {};
    for (size_t t = 0; t < count; ++t) sum += load(terms[t].cell + c) * terms[t].weight;
    store(out + c, sum);
  }
  for (; c < channels; ++c) {
    float sum = 0.0f;
    for (size_t t = 0; t < count; ++t) sum += to_float(terms[t].cell[c]) * terms[t].weight;
    from_float(sum, out + c);
  }
}

const Tap* end_of_bin(const Tap* tap, const Tap* end, int bin) {
  while (tap != end && tap->bin == bin) ++tap;
  return tap;
}

template <class T>
void pool_region(const T* image, int width, int channels, int pool_size, const Tap* rows, const Tap* rows_end,
                 const Tap* first_column, const Tap* columns_end, std::vector<Term<T>>* terms, T* pooled) {
  for (int i = 0; i < pool_size; ++i) {
    const Tap* next_rows = end_of_bin(rows, rows_end, i);
    const Tap* columns = first_column;
    for (int j = 0; j < pool_size; ++j, pooled += channels) {
      const Tap* next_columns = end_of_bin(columns, columns_end, j);
      terms->clear();
      for (const Tap* y = rows; y != next_rows; ++y) {
        for (const Tap* x = columns; x != next_columns; ++x) {
          const int64_t cell = static_cast<int64_t>(y->cell) * width + x->cell;
          terms->push_back({image + cell * channels, y->weight * x->weight});
        }
      }
      add_terms(terms->data(), terms->size(), channels, pooled);
      columns = next_columns;
    }
    rows = next_rows;
  }
}

// Neighbours one after the other: they read the same cells, which are then still in the caches.
std::vector<int> neighbours_together(const Regions& regions) {
  std::vector<std::pair<uint64_t, int>> keys(regions.count);
  for (int r = 0; r < regions.count; ++r) {
    const float* box = regions.boxes + 4 * r;
    const auto tile = [](float edge) {  // of NaN the first: std::max takes its first argument
      return static_cast<uint64_t>(std::min(std::max(0.0f, (edge + 8192.0f) / 64.0f), 1023.0f));
    };
    const uint64_t map = static_cast<uint64_t>(regions.levels[r]) << 24 | (regions.images[r] & 0xffffff);
    keys[r] = {map << 20 | tile(box[1]) << 10 | tile(box[0]), r};
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int> order(regions.count);
  for (int i = 0; i < regions.count; ++i) order[i] = keys[i].second;
  return order;
}

// -- backward ---------------------------------------------------------------------------------------------------------

// The part of a region's row taps that falls into one row of cells.
struct Visit {
  int32_t region;
  int64_t begin, end;
};

// What happens in each row of cells of all levels and images, in the order of the regions.
struct Visits {
  std::vector<Visit> visits;
  std::vector<int64_t> starts;        // of each row
  std::vector<int64_t> level_starts;  // the first row of each level
};

template <class T>
Visits visits_of_rows(const std::vector<Level<T>>& levels, const Regions& regions, int batch, const Axis& rows) {
  Visits result;
  result.level_starts.push_back(0);
  for (const Level<T>& level : levels) {
    result.level_starts.push_back(result.level_starts.back() + static_cast<int64_t>(batch) * level.height);
  }
  result.starts.assign(result.level_starts.back() + 1, 0);
  const auto each = [&](const auto& visit) {
    for (int r = 0; r < regions.count; ++r) {
      const int level = regions.levels[r];
      const int64_t first = result.level_starts[level] + static_cast<int64_t>(regions.images[r]) * levels[level].height;
      for (int64_t begin = rows.starts[r], end; begin < rows.starts[r + 1]; begin = end) {
        const int32_t cell = rows.taps[begin].cell;
        for (end = begin; end < rows.starts[r + 1] && rows.taps[end].cell == cell;) ++end;
        visit(first + cell, Visit{r, begin, end});
      }
    }
  };
  each([&](int64_t row, const Visit&) { ++result.starts[row + 1]; });
  std::partial_sum(result.starts.begin(), result.starts.end(), result.starts.begin());
  result.visits.resize(result.starts.back());
  std::vector<int64_t> next(result.starts.begin(), result.starts.end() - 1);
  each([&](int64_t row, const Visit& visit) { result.visits[next[row]++] = visit; });
  return result;
}

// to[c] += weight * from[c]
template <class T>
inline void add_scaled(const T* from, float weight, int channels, float* to) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) store(to + c, load(to + c) + load(from + c) * weight);
  for (; c < channels; ++c) to[c] += to_float(from[c]) * weight;
}

// Adds a row of bins (P, C), times `scale`, to a row of cells.
template <class T>
void spread_bins(const T* bins, float scale, const Tap* column, const Tap* columns_end, int channels, float* cells) {
  for (; column != columns_end; ++column) {
    const T* bin = bins + static_cast<int64_t>(column->bin) * channels;
    add_scaled(bin, column->weight * scale, channels, cells + static_cast<int64_t>(column->cell) * channels);
  }
}

template <class T>
void add_visit(const Visit& visit, const T* pooled_gradient, int pool_size, int channels, const Axis& rows,
               const Axis& columns, float* bins, float* cells) {
  const int64_t row_floats = static_cast<int64_t>(pool_size) * channels;
  const T* region = pooled_gradient + visit.region * pool_size * row_floats;
  const Tap* column = columns.taps.data() + columns.starts[visit.region];
  const Tap* columns_end = columns.taps.data() + columns.starts[visit.region + 1];
  const Tap* row = rows.taps.data() + visit.begin;
  if (visit.end - visit.begin == 1) {
    spread_bins(region + row->bin * row_floats, row->weight, column, columns_end, channels, cells);
    return;
  }
  // Several rows of bins meet this row of cells: one sum of them is cheaper to spread than each.
  std::fill(bins, bins + row_floats, 0.0f);
  for (int64_t i = 0; i < visit.end - visit.begin; ++i) {
    add_scaled(region + row[i].bin * row_floats, row[i].weight, static_cast<int>(row_floats), bins);
  }
  spread_bins(bins, 1.0f, column, columns_end, channels, cells);
}

// Writes a row of cells and leaves zeros in `from` for the next row.
template <class T>
void store_and_clear(float* from, int64_t count, bool streams, T* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if (streams) {
      stream(to + i, load(from + i));
    } else {
      store(to + i, load(from + i));
    }
    store(from + i, Lanes{});
  }
  for (; i < count; ++i) {
    from_float(from[i], to + i);
    from[i] = 0.0f;
  }
}

}  // namespace

template <class T>
void roi_align_forward(const PoolOptions& options, const std::vector<Level<const T>>& levels, const Regions& regions,
                       int channels, T* pooled, const Parallel& parallel) {
  const Axis rows = taps_along(1, options, levels, regions), columns = taps_along(0, options, levels, regions);
  const std::vector<int> order = neighbours_together(regions);
  const int64_t floats = static_cast<int64_t>(options.pool_size) * options.pool_size * channels;
  in_blocks(parallel, regions.count, 4, 0, [&](int64_t begin, int64_t end, float*) {
    std::vector<Term<T>> terms;
    for (int64_t i = begin; i < end; ++i) {
      const int r = order[i];
      const Level<const T>& level = levels[regions.levels[r]];
      const T* image = level.cells + static_cast<int64_t>(regions.images[r]) * level.height * level.width * channels;
      pool_region(image, level.width, channels, options.pool_size, rows.taps.data() + rows.starts[r],
                  rows.taps.data() + rows.starts[r + 1], columns.taps.data() + columns.starts[r],
                  columns.taps.data() + columns.starts[r + 1], &terms, pooled + r * floats);
    }
  });
}

template <class T>
void roi_align_backward(const PoolOptions& options, const T* pooled_gradient, const Regions& regions, int batch,
                        int channels, const std::vector<Level<T>>& gradients, const Parallel& parallel) {
  Axis rows = taps_along(1, options, gradients, regions), columns = taps_along(0, options, gradients, regions);
  sort_by_cell(&rows);
  sort_by_cell(&columns);
  const Visits visits = visits_of_rows(gradients, regions, batch, rows);
  int64_t widest = 0;
  for (const Level<T>& level : gradients) widest = std::max<int64_t>(widest, level.width);
  const int64_t row_floats = (widest * channels + kLanes - 1) / kLanes * kLanes;
  const size_t scratch = row_floats + static_cast<int64_t>(options.pool_size) * channels;
  in_blocks(parallel, visits.level_starts.back(), 1, scratch, [&](int64_t begin, int64_t end, float* cells) {
    for (int64_t row = begin; row < end; ++row) {
      const auto after = std::upper_bound(visits.level_starts.begin(), visits.level_starts.end(), row);
      const int64_t number = after - visits.level_starts.begin() - 1;
      const Level<T>& level = gradients[number];
      for (int64_t v = visits.starts[row]; v < visits.starts[row + 1]; ++v) {
        add_visit(visits.visits[v], pooled_gradient, options.pool_size, channels, rows, columns, cells + row_floats,
                  cells);
      }
      const int64_t count = static_cast<int64_t>(level.width) * channels;
      T* to = level.cells + (row - visits.level_starts[number]) * count;
      store_and_clear(cells, count, can_stream(to, channels), to);
    }
    end_of_stream();
  });
}

#define KMASKRCNN_INSTANTIATE(T)                                                                                  \
  template void roi_align_forward<T>(const PoolOptions&, const std::vector<Level<const T>>&, const Regions&, int, \
                                     T*, const Parallel&);                                                        \
  template void roi_align_backward<T>(const PoolOptions&, const T*, const Regions&, int, int,                     \
                                      const std::vector<Level<T>>&, const Parallel&);
KMASKRCNN_INSTANTIATE(float)
KMASKRCNN_INSTANTIATE(bfloat16)
KMASKRCNN_INSTANTIATE(float16)
#undef KMASKRCNN_INSTANTIATE

}  // namespace kmaskrcnn
