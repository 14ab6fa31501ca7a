// sam_perturb on the CPU: one pass; what is not read again soon is streamed past the cache.
#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 TILE = 1024;
// models of together more floats do not stay in a cache until their gradients are taken
constexpr fs::i64 CACHED = 4 << 20;

FS_CLONES void ascend(float* __restrict__ x, const float* __restrict__ g, float scale, bool adaptive,
                      fs::i64 count) {
  if (adaptive) {
    for (fs::i64 c = 0; c < count; ++c) x[c] = x[c] + scale * ((x[c] * x[c]) * g[c]);
  } else {
    for (fs::i64 c = 0; c < count; ++c) x[c] = x[c] + scale * g[c];
  }
}

FS_CLONES void ascend_aside(const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ out,
                            float scale, bool adaptive, bool streams, fs::i64 count) {
  for (fs::i64 c = 0; c < count; c += fs::LINE) {
    const fs::Line at = fs::load(x + c), along = fs::load(g + c);
    const fs::Line moved = at + scale * (adaptive ? (at * at) * along : along);
    if (streams)
      fs::stream(out + c, moved);
    else
      fs::store(out + c, moved);
  }
}

FS_INLINE void copy(const float* from, float* to, fs::i64 count) {
  for (fs::i64 c = 0; c < count; c += fs::LINE) fs::stream(to + c, fs::load(from + c));
}

}  // namespace

FS_EXPORT fs::i64 fs_sam_perturb(float* x, fs::i64 x_stride, const float* g, fs::i64 g_stride, float* saved,
                                 fs::i64 saved_stride, const float* rho, fs::i64 rho_step, const float* norm,
                                 fs::i64 adaptive, fs::i64 maximize, fs::i64 aside, fs::i64 agents, fs::i64 columns,
                                 fs::i64 threads) {
  const fs::i64 tiles = (columns + TILE - 1) / TILE;
  const bool streams = agents * columns > CACHED;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (fs::i64 t = 0; t < agents * tiles; ++t) {
      const fs::i64 agent = t / tiles, first = t % tiles * TILE;
      const fs::i64 count = columns - first < TILE ? columns - first : TILE;
      const bool moves = std::isfinite(norm[agent]);
      const float scale = (maximize ? -rho[agent * rho_step] : rho[agent * rho_step]) / (norm[agent] + 1e-12f);
      float* row = x + agent * x_stride + first;
      const float* along = g + agent * g_stride + first;
      float* other = saved + agent * saved_stride + first;
      if (aside && moves) {
        ascend_aside(row, along, other, scale, adaptive, streams, count);
        continue;
      }
      copy(row, other, count);
      if (!aside && moves) ascend(row, along, scale, adaptive, count);
    }
    fs::stream_done();
  }
  return 0;
}
