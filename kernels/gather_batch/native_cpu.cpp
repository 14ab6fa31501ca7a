// gather_batch on the CPU: a sample is looked up and moved while the next one comes into L2 from wherever it lies.
#include <algorithm>

#include "lookup.h"

namespace {

using fs::i64;

// beside the codes of simd.h
constexpr i64 BAD_INDEX = 5;

struct Shape {
  i64 channels, height, width;
  i64 plane() const { return height * width; }
};

// where a pixel of the crop comes from
struct Move {
  i64 down, right;
  bool flip;
  explicit operator bool() const { return down || right || flip; }
};

template <typename Number>
FS_INLINE void prefetch_plane(const Number* plane, i64 count) {
  constexpr i64 LINE_BYTES = 64;
  const char* bytes = reinterpret_cast<const char*>(plane);
  for (i64 b = 0; b < count * static_cast<i64>(sizeof(Number)); b += LINE_BYTES) __builtin_prefetch(bytes + b, 0, 2);
}

FS_CLONES void reverse(const float* __restrict from, i64 count, float* __restrict to) {
  for (i64 x = 0; x < count; ++x) to[x] = from[count - 1 - x];
}

FS_CLONES void forward(const float* __restrict from, i64 count, float* __restrict to) {
  for (i64 x = 0; x < count; ++x) to[x] = from[x];
}

// a plane from `from`, before and behind which a row of anything may be read
void move_plane(const float* from, Shape shape, Move move, float fill, float* to) {
  const i64 width = shape.width;
  const i64 out_left = std::min(std::max<i64>(0, -move.right), width);
  const i64 out_right = std::min(std::max<i64>(0, move.right), width);
  const i64 before = move.flip ? out_right : out_left, behind = move.flip ? out_left : out_right;
  for (i64 y = 0; y < shape.height; ++y, to += width) {
    const i64 source = y + move.down;
    if (source < 0 || source >= shape.height || before + behind >= width) {
      std::fill(to, to + width, fill);
      continue;
    }
    const float* row = from + source * width + move.right;
    move.flip ? reverse(row, width, to) : forward(row, width, to);
    for (i64 x = 0; x < before; ++x) to[x] = fill;
    for (i64 x = width - behind; x < width; ++x) to[x] = fill;
  }
}

}  // namespace

FS_EXPORT i64 fs_gather_batch(const void* samples, const i64* indices, float* out, const float* table,
                              const float* fill, const std::int16_t* offsets, const bool* flips, i64 stored,
                              i64 channels, i64 height, i64 width, i64 agents, i64 batch, i64 threads) {
  const i64 count = agents * batch;
  for (i64 n = 0; n < count; ++n)
    if (indices[n] < 0 || indices[n] >= stored) return BAD_INDEX;
  // bytes where there is a table of what they stand for
  const auto* levels = table ? static_cast<const fs::Byte*>(samples) : nullptr;
  const auto* numbers = static_cast<const float*>(samples);
  const Shape shape{channels, height, width};
  const i64 plane = shape.plane();
  const fs::Lookup lookup(table, table ? channels : 0);
  const auto copy = [&](i64 sample, i64 channel, float* to) {
    const i64 at = (sample * channels + channel) * plane;
    if (levels) return lookup(channel, levels + at, plane, to);
    std::memcpy(to, numbers + at, static_cast<std::size_t>(plane) * sizeof(float));
  };
  const i64 scratch = fill ? plane + 2 * width : 0;
  return fs::for_each_tile(count, scratch, 0, threads, [&](i64 n, float* memory, const float**) {
    const i64 soon = indices[n + 1 < count ? n + 1 : n];
    const Move move = fill ? Move{offsets[2 * n], offsets[2 * n + 1], flips[n]} : Move{0, 0, false};
    for (i64 c = 0; c < channels; ++c) {
      const i64 ahead = (soon * channels + c) * plane;
      levels ? prefetch_plane(levels + ahead, plane) : prefetch_plane(numbers + ahead, plane);
      float* to = out + (n * channels + c) * plane;
      if (!move) {
        copy(indices[n], c, to);
        continue;
      }
      copy(indices[n], c, memory + width);
      move_plane(memory + width, shape, move, fill[c], to);
    }
  });
}
