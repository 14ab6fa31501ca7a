// local_step on the CPU: one agent's slice at a time, the result streamed past the cache.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/step/step.h"

FS_EXPORT fs::i64 fs_local_step(const float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride,
                                const float* g, fs::i64 g_stride, void* momentum, fs::i64 momentum_stride,
                                fs::i64 momentum_is_half, float* h, fs::i64 h_stride, const float* lr,
                                fs::i64 lr_step, const float* weight_decay, fs::i64 weight_decay_step,
                                const float* beta, fs::i64 beta_step, const float* norm, fs::i64 kind,
                                fs::i64 nesterov, fs::i64 maximize, fs::i64 seed, const fs::i64* step,
                                fs::i64 step_step, fs::i64 first_agent, const bool* active, fs::i64 agents,
                                fs::i64 columns, fs::i64 threads) {
  const fs::ConstRows starts = saved ? fs::ConstRows{saved, saved_stride} : fs::ConstRows{x, x_stride};
  const fs::ConstRows gradients{g, g_stride};
  const fs::Rows sent{h, h_stride};
  const fs::StateRows moments{momentum, momentum_stride, momentum_is_half != 0};
  const fs::Draws draws{static_cast<std::uint64_t>(seed), step, step_step, first_agent};
  const fs::Gate gate{norm, active};
  const fs::Scalar rate{lr, lr_step}, decay{weight_decay, weight_decay_step}, betas{beta, beta_step};
  return fs::for_tiles(columns, fs::WIDE_COLUMNS, 0, 0, threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float*, const float**) {
    alignas(64) float wide[fs::WIDE_COLUMNS];
    for (fs::i64 i = 0; i < agents; ++i) {
      const float* start = starts.at(i, first);
      float* to = sent.at(i, first);
      if (!gate.opens(i)) {
        for (fs::i64 c = 0; c < count; c += fs::LINE) fs::stream(to + c, fs::load(start + c));
        continue;
      }
      float* moment = moments.open(i, first, count, wide);
      fs::local_row(kind,
                    {start, gradients.at(i, first), moment, rate.at(i), decay.at(i), betas.at(i),
                     nesterov != 0, maximize != 0, to, true, starts.at(i, next), gradients.at(i, next)},
                    count);
      if (kind == fs::LOCAL) moments.close(i, first, count, next, moment, draws, fs::MOMENTUM);
    }
  });
}
