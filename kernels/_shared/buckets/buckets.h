// Tables of buckets, how rows are cut into parts along them, and the scales of buckets: the twin of reference.py.
#pragma once

#include <new>
#include <vector>

#include "../rows/simd.h"

namespace fs {

constexpr i64 BAD_BUCKETS = 3;
constexpr i64 BAD_COUNTS = 4;

// 2^-100: reciprocals of what is smaller overflow, or are lost where denormals are
constexpr float TINY = 0x1p-100f;

struct Bucket {
  std::int32_t first, elements;
  // padding included, up to where the next bucket begins
  i64 columns() const { return (static_cast<i64>(elements) + LANES - 1) / LANES * LANES; }
  i64 end() const { return first + columns(); }
};

struct Table {
  const Bucket* buckets;
  i64 count;
  // the buckets cover all columns, one behind the other, with at most `most` elements
  bool valid(i64 columns, i64 most) const {
    i64 end = 0;
    for (i64 b = 0; b < count; ++b) {
      if (buckets[b].first != end || buckets[b].elements < 1 || buckets[b].elements > most) return false;
      end = buckets[b].end();
    }
    return end == columns;
  }
};

// a run of columns: some whole buckets, or a piece of a larger one
struct Part {
  i64 bucket, buckets, first, columns;
};

inline bool is_cut(const Table& table, const Part& part) {
  return part.columns < table.buckets[part.bucket].columns();
}

// parts of at most `width` columns; a larger bucket is cut where that is allowed, and else is a part of its own
inline std::vector<Part> parts_of(const Table& table, i64 width, bool cuts) {
  std::vector<Part> parts;
  for (i64 b = 0; b < table.count; ++b) {
    const i64 first = table.buckets[b].first, columns = table.buckets[b].columns();
    if (!parts.empty() && parts.back().columns + columns <= width && !is_cut(table, parts.back())) {
      parts.back().buckets += 1, parts.back().columns += columns;
      continue;
    }
    const i64 step = cuts ? width : columns;
    for (i64 c = 0; c < columns; c += step)
      parts.push_back({b, 1, first + c, columns - c < step ? columns - c : step});
  }
  return parts;
}

// the columns of one bucket that lie in a part
struct Piece {
  i64 bucket, first, columns;
  bool begins;  // with the bucket
};

inline Piece piece(const Table& table, const Part& part, i64 n) {
  const Bucket& bucket = table.buckets[part.bucket + n];
  if (is_cut(table, part)) return {part.bucket, part.first, part.columns, part.first == bucket.first};
  return {part.bucket + n, bucket.first, bucket.columns(), true};
}

// gives all pieces of a bucket what fold(one, other) makes of their numbers, [agents, parts], in their order
template <typename Fold>
void fold_pieces(const std::vector<Part>& parts, i64 agents, std::vector<double>& numbers, Fold fold) {
  const i64 count = static_cast<i64>(parts.size());
  for (i64 p = 0, end; p < count; p = end) {
    for (end = p + 1; end < count && parts[end].bucket == parts[p].bucket;) ++end;
    for (i64 agent = 0; agent < agents; ++agent) {
      double* of = numbers.data() + agent * count;
      double folded = of[p];
      for (i64 n = p + 1; n < end; ++n) folded = fold(folded, of[n]);
      for (i64 n = p; n < end; ++n) of[n] = folded;
    }
  }
}

// calls body(agent, part's number) for all, in parallel, along the rows
template <typename Body>
void for_parts(i64 agents, const std::vector<Part>& parts, i64 threads, Body body) {
  const i64 count = static_cast<i64>(parts.size());
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 n = 0; n < agents * count; ++n) body(n / count, n % count);
}

// as a whole number, where NaN is larger than infinity and that than all others
FS_INLINE std::int32_t magnitude_bits(float v) {
  std::int32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits & 0x7FFFFFFF;
}

// the largest magnitude as bits
FS_CLONES static std::int32_t largest(const float* x, i64 count) {
  std::int32_t most = 0;
  for (i64 c = 0; c < count; ++c) {
    const std::int32_t bits = magnitude_bits(x[c]);
    most = bits > most ? bits : most;
  }
  return most;
}

// what the elements of a bucket are multiplied by, and what one of their levels is worth
struct Level {
  float inverse, scale;
};

inline Level level(float top, float levels) {
  if (!std::isfinite(top)) return {0.0f, NAN};
  if (top < TINY) return {0.0f, 0.0f};
  return {levels / top, top / levels};
}

}  // namespace fs
