// The arithmetic of choco_step and its parts beyond the local step: quantized news of a public copy, and mixing public copies.
// Every operation rounds once, in the order of its reference: the bits are part of the contract.
#pragma once

#include "quantizer.h"
#include "../step/step.h"

namespace fs {

// buckets of a step are no larger, so that the slices of all agents fit a core's L2
constexpr i64 MOST_COLUMNS = 1024;
// squares are summed in float32 within so many columns
constexpr i64 SQUARED_COLUMNS = 512;

// t = model - copy; returns its largest magnitude as bits
FS_CLONES static std::int32_t take_difference(const float* __restrict model, const float* __restrict copy,
                                              i64 count, float* __restrict t) {
  std::int32_t most[LANES] = {0};
  for (i64 c = 0; c < count; c += LANES)
    for (i64 l = 0; l < LANES; ++l) {
      t[c + l] = model[c + l] - copy[c + l];
      const std::int32_t bits = magnitude_bits(t[c + l]);
      most[l] = bits > most[l] ? bits : most[l];
    }
  std::int32_t result = 0;
  for (i64 l = 0; l < LANES; ++l) result = most[l] > result ? most[l] : result;
  return result;
}

// sums of squares of what is to be sent and of what quantization loses
struct Squares {
  double sent[LANES] = {0.0}, lost[LANES] = {0.0};
};

// what the next tile reads first; fetched during arithmetic, as loops that read memory have no requests to spare
struct Soon {
  const float *copy, *start;
};

// copy += Q(t); adds up ||t||^2 and ||Q(t) - t||^2
FS_BYTE_CLONES static void add_quantized(const float* __restrict t, const std::uint16_t* __restrict draws, Level by,
                                         float levels, i64 count, float* __restrict copy, Soon soon,
                                         Squares& squares) {
  float sent[LANES] = {0.0f}, lost[LANES] = {0.0f};
  for (i64 c = 0; c < count; c += LANES) {
    for (i64 l = 0; l < LANES; l += LINE) {
      prefetch(soon.copy + c + l);
      prefetch(soon.start + c + l);
    }
    for (i64 l = 0; l < LANES; ++l) {
      const float v = t[c + l];
      const float value = static_cast<float>(code_of(v, by.inverse, levels, draws[c + l])) * by.scale;
      const float rest = value - v;
      copy[c + l] += value;
      sent[l] += v * v;
      lost[l] += rest * rest;
    }
  }
  for (i64 l = 0; l < LANES; ++l) {
    squares.sent[l] += static_cast<double>(sent[l]);
    squares.lost[l] += static_cast<double>(lost[l]);
  }
}

// the codes of t; adds up ||t||^2 and ||Q(t) - t||^2, and copy += Q(t) where that is asked for
template <bool MOVES>
FS_INLINE void write_quantized_of(const float* __restrict t, const std::uint16_t* __restrict draws, Level by,
                                  float levels, i64 count, std::int32_t* __restrict codes, float* __restrict copy,
                                  Soon soon, Squares& squares) {
  float sent[LANES] = {0.0f}, lost[LANES] = {0.0f};
  for (i64 c = 0; c < count; c += LANES) {
    for (i64 l = 0; l < LANES; l += LINE) {
      prefetch(soon.copy + c + l);
      prefetch(soon.start + c + l);
    }
    for (i64 l = 0; l < LANES; ++l) {
      const float v = t[c + l];
      codes[c + l] = code_of(v, by.inverse, levels, draws[c + l]);
      const float value = static_cast<float>(codes[c + l]) * by.scale;
      const float rest = value - v;
      if (MOVES) copy[c + l] += value;
      sent[l] += v * v;
      lost[l] += rest * rest;
    }
  }
  for (i64 l = 0; l < LANES; ++l) {
    squares.sent[l] += static_cast<double>(sent[l]);
    squares.lost[l] += static_cast<double>(lost[l]);
  }
}

// the same as bytes, in two's complement: apart, as loops over numbers of two widths are slower
FS_BYTE_CLONES static void write_quantized(const float* t, const std::uint16_t* draws, Level by, float levels,
                                           i64 count, Byte* __restrict fields, bool moves, float* copy, Soon soon,
                                           Squares& squares) {
  alignas(64) std::int32_t codes[SQUARED_COLUMNS];
  if (moves) write_quantized_of<true>(t, draws, by, levels, count, codes, copy, soon, squares);
  else write_quantized_of<false>(t, draws, by, levels, count, codes, copy, soon, squares);
  for (i64 c = 0; c < count; ++c) fields[c] = static_cast<Byte>(codes[c]);
}

// fields in two's complement become magnitudes and signs
FS_BYTE_CLONES static void split_signs(Byte* __restrict fields, i64 count, Byte* __restrict negative) {
  for (i64 c = 0; c < count; ++c) {
    negative[c] = fields[c] >> 7;
    fields[c] = static_cast<Byte>((fields[c] ^ -negative[c]) + negative[c]);
  }
}

inline void publish_bucket(const float* model, const std::uint16_t* draws, float levels, i64 count, float* copy,
                           Soon soon, Squares& squares) {
  alignas(64) float t[MOST_COLUMNS];
  const Level by = level(top_of(0, take_difference(model, copy, count, t)), levels);
  for (i64 c = 0; c < count; c += SQUARED_COLUMNS)
    add_quantized(t + c, draws + c, by, levels, count - c < SQUARED_COLUMNS ? count - c : SQUARED_COLUMNS, copy + c,
                  {soon.copy + c, soon.start + c}, squares);
}

struct PublicMix {
  const float* const* copies;  // `width` slices of public copies, and their weights
  const float* weights;
  i64 width;
  const float* own;  // the agent's public copy
  const float* model;  // h
  float gamma;
  const float* before;  // quasi-global: the model before the step; null otherwise
  float* momentum;
  float lr, mu;
  float* out;
  bool streamed;  // out goes past the cache
  float* kept;  // what is mixed, once more; may be h
  const float* next;  // what will be read soon
  const float* const* soon = nullptr;  // and so many slices more
  i64 slices = 0;
};

// out = h + gamma * (sum_k weights[k] * copies[k] - own), in the list's order;
// momentum = mu * momentum + (1 - mu) * (before - out) / lr
FS_CLONES static void mix_public(const PublicMix& by_reference, i64 count) {
  const PublicMix m = by_reference;
  const float rest = 1.0f - m.mu;
  for (i64 c = 0; c < count; c += LANES) {
    alignas(64) float x[LANES];
    for (i64 l = 0; l < LANES; ++l) x[l] = m.weights[0] * m.copies[0][c + l];
    for (i64 k = 1; k < m.width; ++k) {
      // or GCC 12 interleaves two turns of this loop and gives up vectors for it
      asm volatile("");
      const float w = m.weights[k];
      const float* copy = m.copies[k] + c;
      for (i64 l = 0; l < LANES; ++l) x[l] = x[l] + w * copy[l];
    }
    for (i64 l = 0; l < LANES; ++l) x[l] = m.model[c + l] + m.gamma * (x[l] - m.own[c + l]);
    prefetch(m.next + c);
    prefetch(m.next + c + LINE);
    for (i64 k = 0; k < m.slices; ++k) {
      prefetch(m.soon[k] + c);
      prefetch(m.soon[k] + c + LINE);
    }
    if (m.before) {
#pragma GCC ivdep
      for (i64 l = 0; l < LANES; ++l)
        m.momentum[c + l] = m.mu * m.momentum[c + l] + rest * ((m.before[c + l] - x[l]) / m.lr);
    }
    if (m.kept) std::memcpy(m.kept + c, x, sizeof x);
    if (m.streamed) {
      stream(m.out + c, load(x));
      stream(m.out + c + LINE, load(x + LINE));
    } else {
      std::memcpy(m.out + c, x, sizeof x);
    }
  }
}

}  // namespace fs
