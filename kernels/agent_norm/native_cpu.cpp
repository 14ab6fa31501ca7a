// agent_norm on the CPU: slices of every row in parallel, partial sums added in slice order.
#include <vector>

#include "../_shared/squares/squares.h"

FS_EXPORT fs::i64 fs_agent_norm(const float* g, fs::i64 g_stride, const float* scale, fs::i64 scale_stride,
                                const float* gate, float* norm, std::int32_t* skipped, fs::i64 agents,
                                fs::i64 columns, fs::i64 threads) {
  const fs::i64 slices = fs::slices_of(columns);
  std::vector<double> partial;
  try {
    partial.resize(static_cast<std::size_t>(agents * slices));
  } catch (const std::bad_alloc&) {
    return fs::NO_MEMORY;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 p = 0; p < agents * slices; ++p) {
    const fs::i64 agent = p / slices, first = p % slices * fs::SLICE;
    partial[p] = fs::slice_sum(g + agent * g_stride + first,
                               scale ? scale + agent * scale_stride + first : nullptr,
                               fs::slice_columns(columns, p % slices));
  }
  for (fs::i64 agent = 0; agent < agents; ++agent) {
    norm[agent] = fs::norm_of(partial.data() + agent * slices, slices, gate, agent);
    skipped[agent] += !std::isfinite(norm[agent]);
  }
  return 0;
}
