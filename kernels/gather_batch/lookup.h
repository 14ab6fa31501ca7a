// Levels of pixels to floats by a table of 256 for each channel.
#pragma once

#include <memory>
#include <new>

#include "../_shared/rows/simd.h"

#ifdef FS_CLONED
#include <immintrin.h>
#endif

namespace fs {

using Byte = unsigned char;

constexpr i64 LEVELS = 256;
// by permutations
constexpr i64 AT_ONCE = 64;

// AVX-512's byte permutations look 64 levels up at once, a byte of the float after the other: twice as fast as loads
class Lookup {
 public:
  Lookup(const float* table, i64 channels) : table_(table) {
#ifdef FS_CLONED
    static const bool wide = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw");
    if (wide && channels) cut(channels);
#endif
  }

  void operator()(i64 channel, const Byte* __restrict from, i64 count, float* __restrict to) const {
#ifdef FS_CLONED
    if (bytes_ && count >= AT_ONCE) return by_bytes(bytes_.get() + channel * 4 * LEVELS, from, count, to);
#endif
    const float* values = table_ + channel * LEVELS;
    for (i64 x = 0; x < count; ++x) to[x] = values[from[x]];
  }

 private:
  const float* table_;
#ifdef FS_CLONED
  std::unique_ptr<Byte[]> bytes_;

  // the lowest bytes of a channel's values, then the next ones
  void cut(i64 channels) {
    bytes_.reset(new (std::nothrow) Byte[static_cast<std::size_t>(channels * 4 * LEVELS)]);
    if (!bytes_) return;
    for (i64 c = 0; c < channels; ++c)
      for (i64 v = 0; v < LEVELS; ++v) {
        std::uint32_t bits;
        std::memcpy(&bits, table_ + c * LEVELS + v, sizeof bits);
        for (i64 b = 0; b < 4; ++b) bytes_[(c * 4 + b) * LEVELS + v] = static_cast<Byte>(bits >> (8 * b));
      }
  }

  __attribute__((target("avx512f,avx512bw,avx512vbmi"))) static void by_bytes(const Byte* bytes, const Byte* from,
                                                                             i64 count, float* to) {
    __m512i parts[4][4];
    for (i64 b = 0; b < 4; ++b)
      for (i64 k = 0; k < 4; ++k) parts[b][k] = _mm512_loadu_si512(bytes + b * LEVELS + k * AT_ONCE);
    // unpacking works in quarters of a register: each gets four levels of every quarter of what is stored
    const __m512i quads = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    for (i64 x = 0; x < count; x += AT_ONCE) {
      // the last ones lie over those before
      const i64 at = x + AT_ONCE <= count ? x : count - AT_ONCE;
      const __m512i level = _mm512_maskz_permutexvar_epi32(0xFFFF, quads, _mm512_loadu_si512(from + at));
      const __mmask64 high = _mm512_movepi8_mask(level);
      __m512i part[4];
#pragma GCC unroll 4
      for (i64 b = 0; b < 4; ++b)
        part[b] = _mm512_mask_blend_epi8(high, _mm512_permutex2var_epi8(parts[b][0], level, parts[b][1]),
                                         _mm512_permutex2var_epi8(parts[b][2], level, parts[b][3]));
      const __m512i low[2] = {_mm512_unpacklo_epi8(part[0], part[1]), _mm512_unpackhi_epi8(part[0], part[1])};
      const __m512i top[2] = {_mm512_unpacklo_epi8(part[2], part[3]), _mm512_unpackhi_epi8(part[2], part[3])};
#pragma GCC unroll 2
      for (i64 half = 0; half < 2; ++half) {
        float* out = to + at + 2 * LINE * half;
        _mm512_storeu_si512(out, _mm512_unpacklo_epi16(low[half], top[half]));
        _mm512_storeu_si512(out + LINE, _mm512_unpackhi_epi16(low[half], top[half]));
      }
    }
  }
#endif
};

}  // namespace fs
