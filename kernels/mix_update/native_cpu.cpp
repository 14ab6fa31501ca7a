// mix_update on the CPU: tiles of columns keep the slices of all agents and of h in L2, so h is read once.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/step/step.h"

FS_EXPORT fs::i64 fs_mix_update(float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride, const float* h,
                                fs::i64 h_stride, void* momentum, fs::i64 momentum_stride, fs::i64 momentum_is_half,
                                const std::int32_t* neighbors, const float* weights, const float* lr, fs::i64 lr_step,
                                const float* mu, fs::i64 mu_step, const float* norm, fs::i64 seed,
                                const fs::i64* step, fs::i64 step_step, fs::i64 first_agent, const bool* active,
                                fs::i64 agents, fs::i64 columns, fs::i64 stacked, fs::i64 width, fs::i64 threads) {
  const fs::Lists lists{neighbors, weights, agents, width, stacked};
  if (!lists.valid()) return fs::BAD_NEIGHBOR;
  const fs::Rows models{x, x_stride};
  const fs::StateRows moments{momentum, momentum_stride, momentum_is_half != 0};
  const fs::Draws draws{static_cast<std::uint64_t>(seed), step, step_step, first_agent};
  const fs::ConstRows starts{saved, saved_stride}, sent{h, h_stride};
  const fs::Gate gate{norm, active};
  const fs::Scalar rate{lr, lr_step}, mus{mu, mu_step};
  const fs::i64 tile = fs::tile_columns(2 * agents + stacked, columns);
  const fs::Halo halo{sent, agents, stacked};
  return fs::for_tiles(columns, tile, 0, width + halo.most(), threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float*, const float** named) {
    alignas(64) float wide[fs::WIDE_COLUMNS];
    for (fs::i64 i = 0; i < agents; ++i) {
      const fs::i64 length = lists.length(i), list = i * width;
      for (fs::i64 k = 0; k < length; ++k) named[k] = sent.at(neighbors[list + k], first);
      float* row = models.at(i, first);
      const float* before = nullptr;
      if (momentum && rate.at(i) != 0.0f && gate.opens(i))
        before = starts ? starts.at(i, first) : row;
      float* moment = before ? moments.open(i, first, count, wide) : nullptr;
      fs::mix_row({named, weights + list, length, before, moment, rate.at(i), mus.at(i), row,
                   saved || !momentum, sent.at(i, next), named + width, halo.share(i, next, named + width)},
                  count);
      if (before) moments.close(i, first, count, next, moment, draws, fs::MOMENTUM);
    }
  });
}
