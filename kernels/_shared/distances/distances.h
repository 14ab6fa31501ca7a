// Squared distances of rows to one row, in one order whoever adds them up: tiles within blocks, then blocks.
#pragma once

#include <vector>

#include "../rows/simd.h"

namespace fs {

constexpr i64 TILE = 1024;
// columns of a block, whose sums one thread adds up
constexpr i64 BLOCK = 16 * TILE;

// of a tile
FS_CLONES static double squared_distance_of(const float* row, const float* mean, i64 count) {
  double lanes[LANES] = {0.0};
  for (i64 c = 0; c < count; c += LANES)
    for (i64 l = 0; l < LANES; ++l) {
      const double d = static_cast<double>(row[c + l]) - static_cast<double>(mean[c + l]);
      lanes[l] += d * d;
    }
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// calls before(first, count) for each tile, then adds the rows' distances to mean there: neither the number of threads
// nor that of rows changes a row's bits
template <typename Before>
i64 add_distances(const float* x, i64 x_stride, const float* mean, double* squared_distance, i64 agents, i64 columns,
                  i64 threads, Before before) {
  const i64 blocks = (columns + BLOCK - 1) / BLOCK;
  std::vector<double> partial;
  try {
    partial.assign(static_cast<std::size_t>(blocks * agents), 0.0);
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 b = 0; b < blocks; ++b) {
    const i64 end = (b + 1) * BLOCK < columns ? (b + 1) * BLOCK : columns;
    for (i64 first = b * BLOCK; first < end; first += TILE) {
      const i64 count = end - first < TILE ? end - first : TILE;
      before(first, count);
      for (i64 i = 0; i < agents; ++i)
        partial[b * agents + i] += squared_distance_of(x + i * x_stride + first, mean + first, count);
    }
  }
  for (i64 i = 0; i < agents; ++i) {
    double sum = 0.0;
    for (i64 b = 0; b < blocks; ++b) sum += partial[b * agents + i];
    squared_distance[i] = sum;
  }
  return 0;
}

}  // namespace fs
