// consensus on the CPU: a tile's mean, then the distances of all agents' slices to it while they are in L2.
#include "../_shared/distances/distances.h"

namespace {

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

}  // namespace

FS_EXPORT fs::i64 fs_consensus(const float* x, fs::i64 x_stride, float* mean, double* squared_distance,
                               fs::i64 agents, fs::i64 columns, fs::i64 threads) {
  const auto average = [&](fs::i64 first, fs::i64 count) {
    double sum[fs::TILE] = {0.0};
    for (fs::i64 i = 0; i < agents; ++i) {
      const float* row = x + i * x_stride + first;
      add_row(row, i + 1 < agents ? row + x_stride : row, count, sum);
    }
    divide(sum, static_cast<double>(agents), count, mean + first);
  };
  return fs::add_distances(x, x_stride, mean, squared_distance, agents, columns, threads, average);
}
