// consensus on the CPU: a tile's mean, then the distances of all agents' slices to it while they are in L2.
#include <vector>

#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 TILE = 1024;

FS_CLONES void add_row(const float* __restrict__ row, const float* next, fs::i64 count, double* __restrict__ sum) {
  for (fs::i64 c = 0; c < count; c += fs::LANES) {
    fs::prefetch(next + c);
    fs::prefetch(next + c + fs::LINE);
    for (fs::i64 l = 0; l < fs::LANES; ++l) sum[c + l] += row[c + l];
  }
}

FS_CLONES void divide(const double* __restrict__ sum, double agents, fs::i64 count, float* __restrict__ mean) {
  for (fs::i64 c = 0; c < count; ++c) mean[c] = static_cast<float>(sum[c] / agents);
}

FS_CLONES double squared_distance_of(const float* row, const float* mean, fs::i64 count) {
  double lanes[fs::LANES] = {0.0};
  for (fs::i64 c = 0; c < count; c += fs::LANES)
    for (fs::i64 l = 0; l < fs::LANES; ++l) {
      const double d = static_cast<double>(row[c + l]) - static_cast<double>(mean[c + l]);
      lanes[l] += d * d;
    }
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

FS_EXPORT fs::i64 fs_consensus(const float* x, fs::i64 x_stride, float* mean, double* squared_distance,
                               fs::i64 agents, fs::i64 columns, fs::i64 threads) {
  // partial sums per block of tiles, added in order: the result does not depend on the number of threads
  const fs::i64 block = 16 * TILE, blocks = (columns + block - 1) / block;
  std::vector<double> partial;
  try {
    partial.assign(static_cast<std::size_t>(blocks * agents), 0.0);
  } catch (const std::bad_alloc&) {
    return fs::NO_MEMORY;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 b = 0; b < blocks; ++b) {
    const fs::i64 end = (b + 1) * block < columns ? (b + 1) * block : columns;
    for (fs::i64 first = b * block; first < end; first += TILE) {
      const fs::i64 count = end - first < TILE ? end - first : TILE;
      double sum[TILE] = {0.0};
      for (fs::i64 i = 0; i < agents; ++i) {
        const float* row = x + i * x_stride + first;
        add_row(row, i + 1 < agents ? row + x_stride : row, count, sum);
      }
      divide(sum, static_cast<double>(agents), count, mean + first);
      for (fs::i64 i = 0; i < agents; ++i)
        partial[b * agents + i] += squared_distance_of(x + i * x_stride + first, mean + first, count);
    }
  }
  for (fs::i64 i = 0; i < agents; ++i) {
    double sum = 0.0;
    for (fs::i64 b = 0; b < blocks; ++b) sum += partial[b * agents + i];
    squared_distance[i] = sum;
  }
  return 0;
}
