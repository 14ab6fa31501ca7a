// weighted_sum on the CPU: an agent's slices come into L2 while the agent before it is summed, so that rows are read
// once whether lists share them or a stack of their own number is too large for any cache.
#include <utility>

#include "../_shared/step/step.h"

namespace {

constexpr fs::i64 TILE = 1024;

}  // namespace

FS_EXPORT fs::i64 fs_weighted_sum(const float* rows, fs::i64 rows_stride, float* out, fs::i64 out_stride,
                                  const std::int32_t* sources, const float* weights, fs::i64 agents, fs::i64 columns,
                                  fs::i64 stacked, fs::i64 width, fs::i64 threads) {
  const fs::Lists lists{sources, weights, agents, width, stacked};
  if (!lists.valid()) return fs::BAD_NEIGHBOR;
  const fs::ConstRows terms{rows, rows_stride};
  const fs::Rows results{out, out_stride};
  const auto slices = [&](fs::i64 i, fs::i64 first, const float** named) {
    const fs::i64 length = lists.length(i);
    for (fs::i64 k = 0; k < length; ++k) named[k] = terms.at(sources[i * width + k], first);
    return length;
  };
  const fs::i64 tile = TILE < columns ? TILE : columns;
  return fs::for_tiles(columns, tile, 0, 2 * width, threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float*, const float** named) {
    const float** soon = named + width;
    fs::i64 length = slices(0, first, named);
    for (fs::i64 i = 0; i < agents; ++i) {
      const bool last = i + 1 == agents;
      const fs::i64 after = slices(last ? 0 : i + 1, last ? next : first, soon);
      fs::mix_row({named, weights + i * width, length, nullptr, nullptr, 0.0f, 0.0f, results.at(i, first), true,
                   soon[0], soon + 1, after - 1},
                  count);
      std::swap(named, soon), length = after;
    }
  });
}
