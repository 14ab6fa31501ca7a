// sign on the CPU: one pass over the parts of rows, then the sums of each bucket's pieces in their order.
#include "../_shared/buckets/buckets.h"
#include "../_shared/buckets/codes.h"

namespace {

constexpr fs::i64 COLUMNS = 4096;

// marks with 1 what is negative; returns the sum of magnitudes
FS_BYTE_CLONES double mark_and_sum(const float* __restrict x, fs::i64 count, fs::Byte* __restrict negative) {
  double lanes[fs::LANES] = {0.0};
  for (fs::i64 c = 0; c < count; c += fs::LANES) {
    for (fs::i64 l = 0; l < fs::LANES; ++l) negative[c + l] = x[c + l] < 0.0f;
    for (fs::i64 l = 0; l < fs::LANES; ++l) lanes[l] += static_cast<double>(std::fabs(x[c + l]));
  }
  return fs::fold_lanes(lanes);
}

struct Arguments {
  fs::ConstRows x;
  fs::Table table;
  fs::i64 agents, columns;
  fs::Byte* signs;
  float* scales;
  float& scale(fs::i64 agent, fs::i64 bucket) const { return scales[agent * table.count + bucket]; }
  float mean(double sum, fs::i64 bucket) const {
    return static_cast<float>(sum / table.buckets[bucket].elements);
  }
};

// writes the signs of a part and the scales of its whole buckets; returns the sum of its last
double sign_part(const Arguments& a, const fs::Part& part, fs::i64 agent) {
  alignas(64) fs::Byte negative[COLUMNS];
  double sum = 0.0;
  for (fs::i64 n = 0; n < part.buckets; ++n) {
    const fs::Piece p = fs::piece(a.table, part, n);
    sum = mark_and_sum(a.x.at(agent, p.first), p.columns, negative + p.first - part.first);
    if (!fs::is_cut(a.table, part)) a.scale(agent, p.bucket) = a.mean(sum, p.bucket);
  }
  fs::pack(negative, part.columns, 1, a.signs + (agent * a.columns + part.first) / 8);
  return sum;
}

}  // namespace

FS_EXPORT fs::i64 fs_sign(const float* x, fs::i64 x_stride, const fs::Bucket* buckets, fs::i64 bucket,
                          fs::Byte* signs, float* scales, fs::i64 agents, fs::i64 columns, fs::i64 count,
                          fs::i64 threads) try {
  const Arguments a{{x, x_stride}, {buckets, count}, agents, columns, signs, scales};
  if (!a.table.valid(columns, bucket)) return fs::BAD_BUCKETS;
  const std::vector<fs::Part> parts = fs::parts_of(a.table, COLUMNS, true);
  const fs::i64 pieces = static_cast<fs::i64>(parts.size());
  std::vector<double> sums(static_cast<std::size_t>(agents * pieces));
  fs::for_parts(agents, parts, threads, [&](fs::i64 agent, fs::i64 p) {
    sums[agent * pieces + p] = sign_part(a, parts[p], agent);
  });
  fs::fold_pieces(parts, agents, sums, [](double one, double other) { return one + other; });
  for (fs::i64 p = 0; p < pieces; ++p)
    if (fs::is_cut(a.table, parts[p]))
      for (fs::i64 agent = 0; agent < agents; ++agent)
        a.scale(agent, parts[p].bucket) = a.mean(sums[agent * pieces + p], parts[p].bucket);
  return 0;
} catch (const std::bad_alloc&) {
  return fs::NO_MEMORY;
}
