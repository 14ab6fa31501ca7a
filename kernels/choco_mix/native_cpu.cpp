// choco_mix on the CPU: tiles of columns keep the slices of all agents and of all copies in L2, so copies are read once.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/buckets/public_step.h"

FS_EXPORT fs::i64 fs_choco_mix(float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride, const float* h,
                               fs::i64 h_stride, void* momentum, fs::i64 momentum_stride, fs::i64 momentum_is_half,
                               const void* x_hat, fs::i64 x_hat_stride, fs::i64 x_hat_is_half,
                               const std::int32_t* neighbors, const float* weights, const float* lr, fs::i64 lr_step,
                               const float* mu, fs::i64 mu_step, const float* gamma, fs::i64 gamma_step,
                               const float* norm, fs::i64 seed, const fs::i64* step, fs::i64 step_step,
                               fs::i64 first_agent, const bool* active, fs::i64 agents, fs::i64 columns,
                               fs::i64 stacked, fs::i64 width, fs::i64 threads) {
  const fs::Lists lists{neighbors, weights, agents, width, stacked};
  if (!lists.valid()) return fs::BAD_NEIGHBOR;
  const fs::Rows models{x, x_stride};
  const fs::ConstRows starts{saved, saved_stride}, stepped{h, h_stride};
  const fs::StateRows moments{momentum, momentum_stride, momentum_is_half != 0};
  // it is read alone
  const fs::StateRows copies{const_cast<void*>(x_hat), x_hat_stride, x_hat_is_half != 0};
  const fs::Draws draws{static_cast<std::uint64_t>(seed), step, step_step, first_agent};
  const fs::Gate gate{norm, active};
  const fs::Scalar rate{lr, lr_step}, mus{mu, mu_step}, gammas{gamma, gamma_step};
  const fs::i64 tile = fs::tile_columns(3 * agents + stacked, columns);
  const fs::i64 soon = (stacked + agents - 1) / agents;
  return fs::for_tiles(columns, tile, x_hat_is_half ? stacked * tile : 0, width + soon, threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float* memory, const float** named) {
    alignas(64) float wide[fs::WIDE_COLUMNS];
    const auto copy = [&](fs::i64 row) -> const float* {
      return x_hat_is_half ? memory + row * count : copies.floats(row, first);
    };
    if (x_hat_is_half)
      for (fs::i64 row = 0; row < stacked; ++row) copies.open(row, first, count, memory + row * count);
    for (fs::i64 i = 0; i < agents; ++i) {
      const fs::i64 length = lists.length(i), list = i * width;
      for (fs::i64 k = 0; k < length; ++k) named[k] = copy(neighbors[list + k]);
      // agents fetch the copies of the next tile by turns
      fs::i64 slices = 0;
      for (fs::i64 row = i; row < stacked && !x_hat_is_half; row += agents)
        named[width + slices++] = copies.floats(row, next);
      float* row = models.at(i, first);
      const float* before = nullptr;
      if (momentum && rate.at(i) != 0.0f && gate.opens(i)) before = starts ? starts.at(i, first) : row;
      float* moment = before ? moments.open(i, first, count, wide) : nullptr;
      fs::mix_public({named, weights + list, length, copy(i), stepped.at(i, first), gammas.at(i), before, moment,
                      rate.at(i), mus.at(i), row, saved || !momentum, nullptr, stepped.at(i, next), named + width,
                      slices},
                     count);
      if (before) moments.close(i, first, count, next, moment, draws, fs::MOMENTUM);
    }
  });
}
