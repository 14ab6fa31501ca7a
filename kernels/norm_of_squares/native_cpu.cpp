// norm_of_squares on the CPU: a handful of numbers, on one thread.
#include "../_shared/squares/squares.h"

FS_EXPORT fs::i64 fs_norm_of_squares(const double* squares, const float* gate, float* norm, std::int32_t* skipped,
                                     fs::i64 agents, fs::i64 slices, fs::i64 threads) {
  for (fs::i64 agent = 0; agent < agents; ++agent) {
    norm[agent] = fs::norm_of(squares + agent * slices, slices, gate, agent);
    skipped[agent] += !std::isfinite(norm[agent]);
  }
  return 0;
}
