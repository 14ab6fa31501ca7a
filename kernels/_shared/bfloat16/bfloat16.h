// State kept as float32 or bfloat16, as in _shared/bfloat16: slices of a tile are widened, and rounded back, in the cache.
#pragma once

#include "../philox/philox.h"

namespace fs {

// slices that are widened are no longer
constexpr i64 WIDE_COLUMNS = TILE_COLUMNS;
// columns whose draws fill the registers
constexpr i64 DRAWN_TOGETHER = 256;

FS_CLONES static void widen(const std::uint16_t* __restrict from, i64 count, float* __restrict to) {
  for (i64 c = 0; c < count; ++c) {
    const std::uint32_t bits = static_cast<std::uint32_t>(from[c]) << 16;
    std::memcpy(to + c, &bits, sizeof bits);
  }
}

FS_INLINE std::uint32_t rounded(std::uint32_t bits, std::uint16_t draw) {
  const bool special = (bits & 0x7F800000u) == 0x7F800000u;
  const std::uint32_t quiet = bits & 0x7FFFFFu ? 0x40u : 0u;
  return special ? bits >> 16 | quiet : (bits + draw) >> 16;
}

// `wide` becomes what was written; `soon` is prefetched
FS_BYTE_CLONES static void narrow(float* __restrict wide, const std::uint16_t* __restrict draws, i64 count,
                                  std::uint16_t* __restrict to, const std::uint16_t* soon) {
  for (i64 c = 0; c < count; c += LANES) {
    prefetch(reinterpret_cast<const float*>(soon + c));
    for (i64 l = c; l < c + LANES; ++l) {
      std::uint32_t bits;
      std::memcpy(&bits, wide + l, sizeof bits);
      const std::uint32_t high = rounded(bits, draws[l]);
      to[l] = static_cast<std::uint16_t>(high);
      bits = high << 16;
      std::memcpy(wide + l, &bits, sizeof bits);
    }
  }
}

// an agent-stacked buffer of state
struct StateRows {
  void* first;
  i64 stride;
  bool is_half;  // bfloat16
  explicit operator bool() const { return first != nullptr; }
  float* floats(i64 agent, i64 column) const { return static_cast<float*>(first) + agent * stride + column; }
  std::uint16_t* halves(i64 agent, i64 column) const {
    return static_cast<std::uint16_t*>(first) + agent * stride + column;
  }
  // a slice to prefetch as float32; `otherwise` where `close` sees to that, or nothing is kept
  const float* soon(i64 agent, i64 column, const float* otherwise) const {
    return first && !is_half ? floats(agent, column) : otherwise;
  }
  // a slice in float32: itself, or `scratch` with its values; null where there is no state
  float* open(i64 agent, i64 column, i64 count, float* scratch) const {
    if (!first) return nullptr;
    if (!is_half) return floats(agent, column);
    widen(halves(agent, column), count, scratch);
    return scratch;
  }
  // writes a slice that `open` gave, which becomes what was written; `next` is the column that is wanted soon
  void close(i64 agent, i64 column, i64 count, i64 next, float* slice, const Draws& draws, Purpose purpose) const {
    if (!is_half) return;
    alignas(64) std::uint16_t drawn[DRAWN_TOGETHER + DRAW_SLACK / 2];
    const Stream stream = draws.stream(agent, purpose);
    for (i64 c = 0; c < count; c += DRAWN_TOGETHER) {
      const i64 part = count - c < DRAWN_TOGETHER ? count - c : DRAWN_TOGETHER;
      draw(stream, column + c, part, drawn);
      narrow(slice + c, drawn, part, halves(agent, column + c), halves(agent, next + c));
    }
  }
};

}  // namespace fs
