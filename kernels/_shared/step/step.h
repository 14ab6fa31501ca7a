// The arithmetic of one agent's slice, shared by gossip_step, its two halves, mix_neighbors and weighted_sum.
// Every operation rounds once, in the order of reference.py: the bits are part of the contract.
#pragma once

#include "../rows/simd.h"

namespace fs {

enum Momentum : i64 { NONE = 0, LOCAL = 1, QUASI_GLOBAL = 2 };

struct LocalRow {
  const float* start;     // the model to step from
  const float* gradient;
  float* momentum;        // read; written for local momentum; null without momentum
  float lr, weight_decay, beta;
  bool nesterov, maximize;
  float* h;               // start - lr * u
  bool streamed;          // h goes past the cache
  const float *next_start, *next_gradient;  // what will be read soon
};

template <i64 KIND, bool NESTEROV, bool MAXIMIZE>
FS_INLINE void local_row_of(const LocalRow& r, i64 count) {
  for (i64 c = 0; c < count; c += LINE) {
    prefetch(r.next_start + c);
    prefetch(r.next_gradient + c);
    const Line start = load(r.start + c), gradient = load(r.gradient + c);
    const Line g = (MAXIMIZE ? -gradient : gradient) + r.weight_decay * start;
    Line u = g;
    if (KIND != NONE) {
      const Line m = r.beta * load(r.momentum + c) + g;
      if (KIND == LOCAL) store(r.momentum + c, m);
      u = NESTEROV ? g + r.beta * m : m;
    }
    const Line h = start - r.lr * u;
    if (r.streamed) stream(r.h + c, h);
    else store(r.h + c, h);
  }
}

template <i64 KIND>
FS_INLINE void local_row_kind(const LocalRow& r, i64 count) {
  if (r.nesterov) {
    if (r.maximize) local_row_of<KIND, true, true>(r, count);
    else local_row_of<KIND, true, false>(r, count);
  } else {
    if (r.maximize) local_row_of<KIND, false, true>(r, count);
    else local_row_of<KIND, false, false>(r, count);
  }
}

FS_CLONES static void local_row(i64 kind, const LocalRow& by_reference, i64 count) {
  const LocalRow r = by_reference;  // a copy cannot alias what is written
  if (kind == QUASI_GLOBAL) local_row_kind<QUASI_GLOBAL>(r, count);
  else if (kind == LOCAL) local_row_kind<LOCAL>(r, count);
  else local_row_kind<NONE>(r, count);
}

struct MixRow {
  const float* const* rows;  // `width` slices, and their weights
  const float* weights;
  i64 width;
  const float* before;  // quasi-global: the model before the step; null otherwise
  float* momentum;
  float lr, mu;
  float* out;
  bool streamed;      // out goes past the cache
  const float* next;  // what will be read soon
  const float* const* soon = nullptr;  // and so many slices more
  i64 slices = 0;
};

// out = sum_k weights[k] * rows[k], in the list's order;
// momentum = mu * momentum + (1 - mu) * (before - out) / lr
FS_CLONES static void mix_row(const MixRow& by_reference, i64 count) {
  const MixRow m = by_reference;
  const float rest = 1.0f - m.mu;
  for (i64 c = 0; c < count; c += LANES) {
    // an array, not lines: without 64-byte registers GCC spreads a weight over a line through memory, at each use
    alignas(64) float x[LANES];
    for (i64 l = 0; l < LANES; ++l) x[l] = m.weights[0] * m.rows[0][c + l];
    for (i64 k = 1; k < m.width; ++k) {
      // or GCC 12 interleaves two turns of this loop and gives up vectors for it
      asm volatile("");
      const float w = m.weights[k];
      const float* row = m.rows[k] + c;
      for (i64 l = 0; l < LANES; ++l) x[l] = x[l] + w * row[l];
    }
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
    if (m.streamed) {
      stream(m.out + c, load(x));
      stream(m.out + c + LINE, load(x + LINE));
    } else {
      std::memcpy(m.out + c, x, sizeof x);
    }
  }
}

// lists [agents, width] of rows, padded with -1: each agent itself and its neighbors, or any of `rows` rows
struct Lists {
  const std::int32_t* neighbors;
  const float* weights;
  i64 agents, width;
  i64 rows = agents;
  i64 length(i64 agent) const {
    i64 k = 0;
    while (k < width && neighbors[agent * width + k] >= 0) ++k;
    return k;
  }
  // every list starts with a row, and names rows only
  bool valid() const {
    for (i64 i = 0; i < agents; ++i) {
      const i64 n = length(i);
      if (n < 1) return false;
      for (i64 k = 0; k < n; ++k)
        if (neighbors[i * width + k] >= rows) return false;
      for (i64 k = n; k < width; ++k)
        if (neighbors[i * width + k] >= 0) return false;
    }
    return true;
  }
};

// rows behind those of the agents, which agents fetch for the next tile by turns
struct Halo {
  ConstRows rows;
  i64 agents, stacked;
  // slices of one agent at most
  i64 most() const { return (stacked - 1) / agents; }
  i64 share(i64 agent, i64 column, const float** soon) const {
    i64 slices = 0;
    for (i64 r = agent + agents; r < stacked; r += agents) soon[slices++] = rows.at(r, column);
    return slices;
  }
};

// which agents take their local step: those that are active and whose gradient's norm is finite, where anybody says so
struct Gate {
  const float* norm;
  const bool* active;
  bool opens(i64 agent) const { return (!active || active[agent]) && (!norm || std::isfinite(norm[agent])); }
};

}  // namespace fs
