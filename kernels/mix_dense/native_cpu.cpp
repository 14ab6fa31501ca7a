// mix_dense on the CPU: four agents by 32 columns stay in registers; the sum runs over agents in ascending order.
#include "../_shared/rows/simd.h"

namespace {

constexpr fs::i64 BLOCK = 4, LINES = fs::LANES / fs::LINE;

// out[r] = sum_j W[r][j] x[j] for `rows` <= 4 agents and 32 columns
FS_CLONES void product(const float* W, fs::i64 agents, const float* x, fs::i64 x_stride, float* out,
                       fs::i64 out_stride, fs::i64 rows) {
  fs::Line sums[BLOCK][LINES] = {};
  const float* w[BLOCK];
  for (fs::i64 r = 0; r < BLOCK; ++r) w[r] = W + (r < rows ? r : 0) * agents;
  for (fs::i64 j = 0; j < agents; ++j) {
    const float* row = x + j * x_stride;
    for (fs::i64 r = 0; r < BLOCK; ++r) {
      const float weight = w[r][j];
      for (fs::i64 l = 0; l < LINES; ++l) sums[r][l] = sums[r][l] + weight * fs::load(row + l * fs::LINE);
    }
  }
  for (fs::i64 r = 0; r < rows; ++r)
    for (fs::i64 l = 0; l < LINES; ++l) fs::stream(out + r * out_stride + l * fs::LINE, sums[r][l]);
}

}  // namespace

FS_EXPORT fs::i64 fs_mix_dense(const float* x, fs::i64 x_stride, const float* W, float* out, fs::i64 out_stride,
                               fs::i64 agents, fs::i64 columns, fs::i64 threads) {
  const fs::i64 tile = fs::tile_columns(agents, columns);
  return fs::for_tiles(columns, tile, agents * tile, 1, threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64, float* memory, const float**) {
    for (fs::i64 j = 0; j < agents; ++j)
      std::memcpy(memory + j * count, x + j * x_stride + first, static_cast<std::size_t>(count) * sizeof(float));
    for (fs::i64 i = 0; i < agents; i += BLOCK)
      for (fs::i64 c = 0; c < count; c += fs::LANES)
        product(W + i * agents, agents, memory + c, count, out + i * out_stride + first + c, out_stride,
                agents - i < BLOCK ? agents - i : BLOCK);
  });
}
