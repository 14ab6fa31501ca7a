// pull_push on the CPU: one pass in tiles of columns, whose slice of the center stays in L1 for all agents.
#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 TILE = 1024;

// x = center + factor * (x - center)
FS_CLONES void move(float* x, const float* center, float factor, const float* next, fs::i64 count) {
  for (fs::i64 c = 0; c < count; c += fs::LINE) {
    fs::prefetch(next + c);
    const fs::Line middle = fs::load(center + c);
    fs::store(x + c, middle + factor * (fs::load(x + c) - middle));
  }
}

// as clamp does in PyTorch, NaN stays NaN
float factor_of(double squared_distance, float pull, float push) {
  const float distance = static_cast<float>(std::sqrt(squared_distance));
  return (1.0f - pull) + push / (distance < 1e-12f ? 1e-12f : distance);
}

}  // namespace

FS_EXPORT fs::i64 fs_pull_push(float* x, fs::i64 x_stride, const float* center, const double* squared_distance,
                               const float* pull, fs::i64 pull_step, const float* push, fs::i64 push_step,
                               fs::i64 agents, fs::i64 columns, fs::i64 threads) {
  const fs::Rows models{x, x_stride};
  const fs::Scalar pulls{pull, pull_step}, pushes{push, push_step};
  const fs::i64 tiles = (columns + TILE - 1) / TILE, slices = tiles * agents;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 s = 0; s < slices; ++s) {
    const fs::i64 first = s / agents * TILE, agent = s % agents;
    const fs::i64 count = columns - first < TILE ? columns - first : TILE;
    // the next slice, or this one where it would not be as wide
    const fs::i64 after = s + 1 < slices ? s + 1 : s, there = after / agents * TILE;
    const fs::i64 soon = columns - there < count ? s : after;
    move(models.at(agent, first), center + first,
         factor_of(squared_distance[agent], pulls.at(agent), pushes.at(agent)),
         models.at(soon % agents, soon / agents * TILE), count);
  }
  return 0;
}
