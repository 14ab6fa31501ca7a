// Which of many numbers are the largest: collecting those from a bound on, and the exact rank among them.
#pragma once

#include <algorithm>
#include <functional>

#include "../philox/philox.h"

namespace fs {

using Score = std::uint32_t;
typedef std::uint32_t Bits __attribute__((may_alias));

// so few are ranked by the library
constexpr i64 FEW = 4096;
constexpr i64 BINS = 4096;
// elements that are collected at once
constexpr i64 SLACK = 16;

FS_CLONES static void extent(const Score* scores, i64 n, Score& low, Score& high) {
  Score least = scores[0], most = scores[0];
  for (i64 s = 0; s < n; ++s) {
    least = scores[s] < least ? scores[s] : least;
    most = scores[s] > most ? scores[s] : most;
  }
  low = least, high = most;
}

// the count-th largest of n scores, which end up in another order
inline Score rank(Score* scores, i64 n, i64 count) {
  while (n > FEW) {
    Score base, high;
    extent(scores, n, base, high);
    if (high == base) return base;
    int shift = 0;
    while ((high - base) >> shift >= BINS) ++shift;
    std::int32_t bins[BINS] = {0};
    for (i64 s = 0; s < n; ++s) ++bins[(scores[s] - base) >> shift];
    Score bin = BINS - 1;
    for (; count > bins[bin]; --bin) count -= bins[bin];
    i64 left = 0;
    for (i64 s = 0; s < n; ++s) {
      const Score score = scores[s];
      scores[left] = score;
      left += (score - base) >> shift == bin;
    }
    n = left;
  }
  std::nth_element(scores, scores + (count - 1), scores + n, std::greater<Score>());
  return scores[count - 1];
}

// writes the places and scores of elements from `low` on, and up to SLACK more; returns their number
FS_CLONES static i64 collect_any(const Bits* bits, Score mask, Score low, i64 first, i64 elements,
                                 std::int32_t* places, Score* scores) {
  i64 found = 0;
  for (i64 c = 0; c < elements; c += LANES) {
    Score most = 0;
    for (i64 l = 0; l < LANES; ++l) most = std::max<Score>(most, bits[c + l] & mask);
    if (most < low) continue;
    const i64 end = std::min(elements, c + LANES);
    for (i64 n = c; n < end; ++n) {
      const Score score = bits[n] & mask;
      places[found] = static_cast<std::int32_t>(first + n), scores[found] = score;
      found += score >= low;
    }
  }
  return found;
}

#ifdef FS_CLONED
__attribute__((target("avx512f,popcnt"))) inline i64 collect_avx512(const Bits* bits, Score mask, Score low,
                                                                    i64 first, i64 elements,
                                                                    std::int32_t* places, Score* scores) {
  const __m512i every = _mm512_set1_epi32(static_cast<int>(mask)), least = _mm512_set1_epi32(static_cast<int>(low));
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  i64 found = 0;
  for (i64 c = 0; c < elements; c += SLACK) {
    const i64 left = elements - c;
    const __mmask16 inside = static_cast<__mmask16>(left < SLACK ? (1 << left) - 1 : 0xFFFF);
    const __m512i score = _mm512_maskz_and_epi32(0xFFFF, _mm512_loadu_si512(bits + c), every);
    const __m512i place = _mm512_maskz_add_epi32(0xFFFF, lanes, _mm512_set1_epi32(static_cast<int>(first + c)));
    const __mmask16 named = _mm512_mask_cmpge_epu32_mask(inside, score, least);
    _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi32(named, place));
    _mm512_storeu_si512(scores + found, _mm512_maskz_compress_epi32(named, score));
    found += __builtin_popcount(named);
  }
  return found;
}
#endif

inline i64 collect(const Bits* bits, Score mask, Score low, i64 first, i64 elements, std::int32_t* places,
                   Score* scores) {
#ifdef FS_CLONED
  static const bool wide = __builtin_cpu_supports("avx512f");
  if (wide) return collect_avx512(bits, mask, low, first, elements, places, scores);
#endif
  return collect_any(bits, mask, low, first, elements, places, scores);
}

}  // namespace fs
