// The random bits of _shared/philox: Philox4x32-10 (Salmon et al. 2011), its blocks in the lanes of SIMD registers.
// A block's words lie in memory one behind the other: as 16-bit or 32-bit numbers they are its elements' draws.
#pragma once

#include "../rows/simd.h"

#ifdef FS_CLONED
#include <immintrin.h>
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "draws and packed codes are read back from memory in little-endian order"
#endif

namespace fs {

constexpr i64 BLOCK_BYTES = 16;
// what may be written behind the blocks that were asked for
constexpr i64 DRAW_SLACK = 8 * BLOCK_BYTES;

enum Purpose : std::uint32_t { ROUNDING = 0, CHOICE = 1, MOMENTUM = 2, COPIES = 3 };

// the elements that one block serves
constexpr i64 SERVED[] = {8, 4, 8, 8};

struct Stream {
  std::uint32_t key[2], agent, step, purpose;
};

// what all draws of a call are indexed by
struct Draws {
  std::uint64_t seed;
  const i64* step;
  i64 step_step, first_agent;
  Stream stream(i64 agent, Purpose purpose) const {
    return {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
            static_cast<std::uint32_t>(first_agent + agent),
            static_cast<std::uint32_t>(step[agent * step_step]),
            purpose};
  }
};

namespace philox {

namespace plain {
typedef std::uint64_t Vector __attribute__((vector_size(16)));
constexpr Vector PLACES = {0, 1};
constexpr i64 TOGETHER = 2;
FS_INLINE Vector multiply(Vector a, Vector b) {
#if defined(__x86_64__)
  return (Vector)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * b;
#endif
}
FS_INLINE void keep(Vector ab, Vector cd, unsigned char* to) {
  const std::uint64_t words[] = {ab[0], cd[0], ab[1], cd[1]};
  std::memcpy(to, words, sizeof words);
}
#include "rounds.h"
}  // namespace plain

#ifdef FS_CLONED
#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
typedef std::uint64_t Vector __attribute__((vector_size(32)));
// even lanes hold the first half of the blocks, so that interleaving puts them in order
constexpr Vector PLACES = {0, 2, 1, 3};
constexpr i64 TOGETHER = 4;
FS_INLINE Vector multiply(Vector a, Vector b) { return (Vector)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
FS_INLINE void keep(Vector ab, Vector cd, unsigned char* to) {
  __m256i* out = reinterpret_cast<__m256i*>(to);
  _mm256_storeu_si256(out, _mm256_unpacklo_epi64((__m256i)ab, (__m256i)cd));
  _mm256_storeu_si256(out + 1, _mm256_unpackhi_epi64((__m256i)ab, (__m256i)cd));
}
#include "rounds.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f")
namespace avx512 {
typedef std::uint64_t Vector __attribute__((vector_size(64)));
constexpr Vector PLACES = {0, 4, 1, 5, 2, 6, 3, 7};
constexpr i64 TOGETHER = 4;
// the masked forms, as GCC 12 warns of the plain ones' undefined operand
constexpr __mmask8 ALL = 0xFF;
FS_INLINE Vector multiply(Vector a, Vector b) {
  return (Vector)_mm512_maskz_mul_epu32(ALL, (__m512i)a, (__m512i)b);
}
FS_INLINE void keep(Vector ab, Vector cd, unsigned char* to) {
  _mm512_storeu_si512(to, _mm512_maskz_unpacklo_epi64(ALL, (__m512i)ab, (__m512i)cd));
  _mm512_storeu_si512(to + 64, _mm512_maskz_unpackhi_epi64(ALL, (__m512i)ab, (__m512i)cd));
}
#include "rounds.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

}  // namespace philox

// the draws of `columns` elements from column `first`, a multiple of 32; DRAW_SLACK more bytes may be written
inline void draw(const Stream& stream, i64 first, i64 columns, void* out) {
  const i64 served = SERVED[stream.purpose];
  unsigned char* to = static_cast<unsigned char*>(out);
#ifdef FS_CLONED
  static const auto chosen = __builtin_cpu_supports("avx512f") ? philox::avx512::draw
                             : __builtin_cpu_supports("avx2")  ? philox::avx2::draw
                                                               : philox::plain::draw;
  chosen(stream, first / served, columns / served, to);
#else
  philox::plain::draw(stream, first / served, columns / served, to);
#endif
}

}  // namespace fs
