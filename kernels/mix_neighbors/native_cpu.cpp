// mix_neighbors on the CPU: tiles of columns keep the slices of x and out in L2, so x is read once.
#include "../_shared/step/step.h"

FS_EXPORT fs::i64 fs_mix_neighbors(const float* x, fs::i64 x_stride, float* out, fs::i64 out_stride,
                                   const std::int32_t* neighbors, const float* weights, fs::i64 agents,
                                   fs::i64 columns, fs::i64 stacked, fs::i64 width, fs::i64 threads) {
  const fs::Lists lists{neighbors, weights, agents, width, stacked};
  if (!lists.valid()) return fs::BAD_NEIGHBOR;
  const fs::ConstRows models{x, x_stride};
  const fs::Rows results{out, out_stride};
  const fs::i64 tile = fs::tile_columns(agents + stacked, columns);
  const fs::Halo halo{models, agents, stacked};
  return fs::for_tiles(columns, tile, 0, width + halo.most(), threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float*, const float** named) {
    for (fs::i64 i = 0; i < agents; ++i) {
      const fs::i64 length = lists.length(i), list = i * width;
      for (fs::i64 k = 0; k < length; ++k) named[k] = models.at(neighbors[list + k], first);
      fs::mix_row({named, weights + list, length, nullptr, nullptr, 0.0f, 0.0f, results.at(i, first), true,
                   models.at(i, next), named + width, halo.share(i, next, named + width)},
                  count);
    }
  });
}
