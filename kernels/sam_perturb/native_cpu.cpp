// sam_perturb on the CPU: one pass; the saved copy is streamed past the cache.
#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 TILE = 1024;

FS_CLONES void ascend(float* __restrict__ x, const float* __restrict__ g, float scale, bool adaptive,
                      fs::i64 count) {
  if (adaptive) {
    for (fs::i64 c = 0; c < count; ++c) x[c] = x[c] + scale * ((x[c] * x[c]) * g[c]);
  } else {
    for (fs::i64 c = 0; c < count; ++c) x[c] = x[c] + scale * g[c];
  }
}

}  // namespace

FS_EXPORT fs::i64 fs_sam_perturb(float* x, fs::i64 x_stride, const float* g, fs::i64 g_stride, float* saved,
                                 fs::i64 saved_stride, const float* rho, fs::i64 rho_step, const float* norm,
                                 fs::i64 agents, fs::i64 columns, fs::i64 adaptive, fs::i64 maximize,
                                 fs::i64 threads) {
  const fs::i64 tiles = (columns + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (fs::i64 t = 0; t < agents * tiles; ++t) {
      const fs::i64 agent = t / tiles, first = t % tiles * TILE;
      const fs::i64 count = columns - first < TILE ? columns - first : TILE;
      float* row = x + agent * x_stride + first;
      float* copy = saved + agent * saved_stride + first;
    for (fs::i64 c = 0; c < count; c += fs::LINE) fs::stream(copy + c, fs::load(row + c));
      if (!std::isfinite(norm[agent])) continue;
      const float scale = rho[agent * rho_step] / (norm[agent] + 1e-12f);
      ascend(row, g + agent * g_stride + first, maximize ? -scale : scale, adaptive, count);
    }
    fs::stream_done();
  }
  return 0;
}
