// The stochastic quantizer of a row's parts, with or without error feedback; shared by quantize and compress_ef.
#pragma once

#include "buckets.h"
#include "codes.h"

namespace fs {

// a part's draws, fields and sums stay in L1 together
constexpr i64 QUANTIZED_COLUMNS = 4096;
constexpr i64 DRAWN_COLUMNS = 512;

struct Quantizer {
  ConstRows x;
  Rows residual;  // null without error feedback
  Table table;
  i64 agents, columns, bucket, bits, levels, norm;
  Draws draws;
  Byte* codes;
  float* scales;
  Byte* signs;  // null where codes hold the sign
};

FS_CLONES static void add_rows(const float* __restrict a, const float* __restrict b, i64 count, float* __restrict sum) {
  for (i64 c = 0; c < count; ++c) sum[c] = a[c] + b[c];
}

FS_CLONES static double sum_of_squares(const float* x, i64 count) {
  double lanes[LANES] = {0.0};
  for (i64 c = 0; c < count; c += LANES)
    for (i64 l = 0; l < LANES; ++l) {
      const double v = x[c + l];
      lanes[l] += v * v;
    }
  return fold_lanes(lanes);
}

// (r + 1/2) / 2^16, exactly
FS_INLINE float uniform(std::uint16_t draw) { return (static_cast<float>(draw) + 0.5f) * 0x1p-16f; }

// floor(|v| inverse + u), at most `levels`, with the sign of v; a NaN becomes `levels`
FS_INLINE std::int32_t code_of(float v, float inverse, float levels, std::uint16_t draw) {
  const float code = std::fabs(v) * inverse + uniform(draw);
  return static_cast<std::int32_t>(std::copysign(code < levels ? code : levels, v));
}

FS_BYTE_CLONES static void encode_signed(const float* __restrict v, const std::uint16_t* __restrict draws, Level by,
                                         float levels, i64 count, Byte* __restrict fields) {
  for (i64 c = 0; c < count; ++c) fields[c] = static_cast<Byte>(code_of(v[c], by.inverse, levels, draws[c]));
}

FS_BYTE_CLONES static void encode_apart(const float* __restrict v, const std::uint16_t* __restrict draws, Level by,
                                        float levels, i64 count, Byte* __restrict fields, Byte* __restrict negative) {
  for (i64 c = 0; c < count; ++c) {
    const std::int32_t code = code_of(v[c], by.inverse, levels, draws[c]);
    fields[c] = static_cast<Byte>(std::abs(code));
    negative[c] = code < 0;
  }
}

// residual = v - code scale
FS_BYTE_CLONES static void keep_rest(const float* __restrict v, const Byte* __restrict fields,
                                     const Byte* __restrict negative, float scale, i64 count, float* __restrict rest) {
  if (negative) {
    for (i64 c = 0; c < count; ++c) {
      const std::int32_t mask = -negative[c];
      rest[c] = v[c] - static_cast<float>((fields[c] ^ mask) - mask) * scale;
    }
  } else {
    for (i64 c = 0; c < count; ++c)
      rest[c] = v[c] - static_cast<float>(static_cast<std::int8_t>(fields[c])) * scale;
  }
}

// largest magnitude as bits, or sum of squares: both fold over the pieces of a bucket
inline double measure(i64 norm, const float* v, i64 count) {
  return norm ? sum_of_squares(v, count) : static_cast<double>(largest(v, count));
}

inline float top_of(i64 norm, double measured) {
  if (norm) return static_cast<float>(std::sqrt(measured));
  const std::int32_t bits = static_cast<std::int32_t>(measured);
  float top;
  std::memcpy(&top, &bits, sizeof top);
  return top;
}

struct PartEncoder {
  const Quantizer& q;
  i64 agent;
  alignas(64) std::uint16_t draws[QUANTIZED_COLUMNS + DRAW_SLACK / 2];
  alignas(64) float sum[QUANTIZED_COLUMNS];
  alignas(64) Byte fields[QUANTIZED_COLUMNS], negative[QUANTIZED_COLUMNS];

  PartEncoder(const Quantizer& quantizer, i64 of_agent) : q(quantizer), agent(of_agent) {}

  // what is quantized: x, or its sum with the residual
  const float* values(i64 first, i64 count) {
    const float* x = q.x.at(agent, first);
    if (!q.residual) return x;
    add_rows(x, q.residual.at(agent, first), count, sum);
    return sum;
  }

  void encode(const Part& part, double measured) {
    const float levels = static_cast<float>(q.levels);
    Byte* row = q.codes + (agent * q.columns + part.first) * q.bits / 8;
    Byte* codes = q.bits == 8 ? row : fields;
    i64 drawn = 0;
    for (i64 n = 0; n < part.buckets; ++n) {
      const Piece p = piece(q.table, part, n);
      const i64 at = p.first - part.first;
      const float* v = values(p.first, p.columns);
      const Level by = level(top_of(q.norm, is_cut(q.table, part) ? measured : measure(q.norm, v, p.columns)), levels);
      for (; drawn < at + p.columns; drawn += DRAWN_COLUMNS) draw_from(part, drawn);
      if (p.begins) q.scales[agent * q.table.count + p.bucket] = by.scale;
      if (std::isnan(by.scale)) {
        std::memset(codes + at, 0, static_cast<std::size_t>(p.columns));
        std::memset(negative + at, 0, static_cast<std::size_t>(p.columns));
      } else if (q.signs) {
        encode_apart(v, draws + at, by, levels, p.columns, codes + at, negative + at);
      } else {
        encode_signed(v, draws + at, by, levels, p.columns, codes + at);
      }
      if (q.residual)
        keep_rest(v, codes + at, q.signs ? negative + at : nullptr, by.scale, p.columns,
                  q.residual.at(agent, p.first));
    }
    pack(fields, part.columns, q.bits, row);
    if (q.signs) pack(negative, part.columns, 1, q.signs + (agent * q.columns + part.first) / 8);
  }

  void draw_from(const Part& part, i64 column) {
    const i64 left = part.columns - column;
    draw(q.draws.stream(agent, ROUNDING), part.first + column, left < DRAWN_COLUMNS ? left : DRAWN_COLUMNS,
         draws + column);
  }
};

inline i64 quantize_rows(const Quantizer& q, i64 threads) try {
  if (!q.table.valid(q.columns, q.bucket)) return BAD_BUCKETS;
  const std::vector<Part> parts = parts_of(q.table, QUANTIZED_COLUMNS, true);
  const i64 count = static_cast<i64>(parts.size());
  std::vector<double> measured(static_cast<std::size_t>(q.agents * count));
  // buckets larger than a part are measured first, piece by piece
  if (q.bucket > QUANTIZED_COLUMNS) {
    for_parts(q.agents, parts, threads, [&](i64 agent, i64 p) {
      if (!is_cut(q.table, parts[p])) return;
      PartEncoder encoder{q, agent};
      const float* v = encoder.values(parts[p].first, parts[p].columns);
      measured[agent * count + p] = measure(q.norm, v, parts[p].columns);
    });
    fold_pieces(parts, q.agents, measured,
                [&](double a, double b) { return q.norm ? a + b : a < b ? b : a; });
  }
  for_parts(q.agents, parts, threads, [&](i64 agent, i64 p) {
    PartEncoder{q, agent}.encode(parts[p], measured[agent * count + p]);
  });
  return 0;
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}

}  // namespace fs
