// agent_norm on the CPU: slices of every row in parallel, partial sums added in slice order.
#include <cmath>
#include <vector>

#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 SLICE = 8192;

FS_CLONES double slice_sum(const float* g, const float* scale, fs::i64 count) {
  double lanes[fs::LANES] = {0.0};
  if (scale) {
    for (fs::i64 c = 0; c < count; c += fs::LANES)
      for (fs::i64 l = 0; l < fs::LANES; ++l) {
        const double v = g[c + l] * scale[c + l];
        lanes[l] += v * v;
      }
  } else {
    for (fs::i64 c = 0; c < count; c += fs::LANES)
      for (fs::i64 l = 0; l < fs::LANES; ++l) {
        const double v = g[c + l];
        lanes[l] += v * v;
      }
  }
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

FS_EXPORT fs::i64 fs_agent_norm(const float* g, fs::i64 g_stride, const float* scale, fs::i64 scale_stride,
                                const float* gate, float* norm, std::int32_t* skipped, fs::i64 agents,
                                fs::i64 columns, fs::i64 threads) {
  const fs::i64 slices = (columns + SLICE - 1) / SLICE;
  std::vector<double> partial;
  try {
    partial.resize(static_cast<std::size_t>(agents * slices));
  } catch (const std::bad_alloc&) {
    return fs::NO_MEMORY;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 p = 0; p < agents * slices; ++p) {
    const fs::i64 agent = p / slices, first = p % slices * SLICE;
    const fs::i64 count = columns - first < SLICE ? columns - first : SLICE;
    partial[p] = slice_sum(g + agent * g_stride + first,
                           scale ? scale + agent * scale_stride + first : nullptr, count);
  }
  for (fs::i64 agent = 0; agent < agents; ++agent) {
    double sum = 0.0;
    for (fs::i64 s = 0; s < slices; ++s) sum += partial[agent * slices + s];
    float result = static_cast<float>(std::sqrt(sum));
    if (gate && !std::isfinite(gate[agent])) result = gate[agent];
    norm[agent] = result;
    skipped[agent] += !std::isfinite(result);
  }
  return 0;
}
