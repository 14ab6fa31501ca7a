// dequantize_add on the CPU: parts of rows in parallel, their codes unpacked in L1.
#include "../_shared/buckets/buckets.h"
#include "../_shared/buckets/codes.h"

namespace {

constexpr fs::i64 COLUMNS = 4096;

struct Arguments {
  fs::ByteRows codes;
  fs::ConstRows scales;
  fs::ByteRows signs;
  fs::Table table;
  fs::i64 bits;
  fs::Scalar weight;
  fs::Rows out;
};

// x with its sign turned where negative is 1
FS_INLINE float turned(float x, fs::Byte negative) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits ^= static_cast<std::uint32_t>(negative) << 31;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// fields in two's complement; `half` is the weight of their highest bit
FS_BYTE_CLONES void add_signed(const fs::Byte* __restrict fields, std::int32_t half, float scale, float weight,
                               fs::i64 count, float* __restrict out) {
  for (fs::i64 c = 0; c < count; ++c)
    out[c] = out[c] + weight * (static_cast<float>((fields[c] ^ half) - half) * scale);
}

FS_BYTE_CLONES void add_apart(const fs::Byte* __restrict fields, const fs::Byte* __restrict negative, float scale,
                              float weight, fs::i64 count, float* __restrict out) {
  for (fs::i64 c = 0; c < count; ++c)
    out[c] = out[c] + weight * turned(static_cast<float>(fields[c]) * scale, negative[c]);
}

FS_BYTE_CLONES void add_signs(const fs::Byte* __restrict negative, float scale, float weight, fs::i64 count,
                              float* __restrict out) {
  for (fs::i64 c = 0; c < count; ++c) out[c] = out[c] + weight * turned(scale, negative[c]);
}

void add_part(const Arguments& a, const fs::Part& part, fs::i64 agent) {
  alignas(64) fs::Byte unpacked[COLUMNS], negative[COLUMNS];
  const fs::Byte* fields = unpacked;
  if (a.bits == 8) fields = a.codes.at(agent, part.first);
  else if (a.codes) fs::unpack(a.codes.at(agent, part.first * a.bits / 8), part.columns, a.bits, unpacked);
  if (a.signs) fs::unpack(a.signs.at(agent, part.first / 8), part.columns, 1, negative);
  for (fs::i64 n = 0; n < part.buckets; ++n) {
    const fs::Piece p = fs::piece(a.table, part, n);
    const float scale = *a.scales.at(agent, p.bucket), weight = a.weight.at(agent);
    const fs::i64 c = p.first - part.first;
    // padding is left as it is
    const fs::i64 end = a.table.buckets[p.bucket].first + a.table.buckets[p.bucket].elements;
    const fs::i64 count = end - p.first < p.columns ? end - p.first : p.columns;
    float* out = a.out.at(agent, p.first);
    if (!a.codes) add_signs(negative + c, scale, weight, count, out);
    else if (a.signs) add_apart(fields + c, negative + c, scale, weight, count, out);
    else add_signed(fields + c, 1 << (a.bits - 1), scale, weight, count, out);
  }
}

}  // namespace

FS_EXPORT fs::i64 fs_dequantize_add(const fs::Byte* codes, fs::i64 codes_stride, const float* scales,
                                    fs::i64 scales_stride, const fs::Byte* signs, fs::i64 signs_stride,
                                    const fs::Bucket* buckets, fs::i64 bucket, fs::i64 bits, const float* weight,
                                    fs::i64 weight_step, float* out, fs::i64 out_stride, fs::i64 agents,
                                    fs::i64 columns, fs::i64 count, fs::i64 threads) try {
  const Arguments a{{codes, codes_stride}, {scales, scales_stride}, {signs, signs_stride}, {buckets, count}, bits,
                    {weight, weight_step}, {out, out_stride}};
  if (!a.table.valid(columns, bucket)) return fs::BAD_BUCKETS;
  const std::vector<fs::Part> parts = fs::parts_of(a.table, COLUMNS, true);
  fs::for_parts(agents, parts, threads, [&](fs::i64 agent, fs::i64 p) { add_part(a, parts[p], agent); });
  return 0;
} catch (const std::bad_alloc&) {
  return fs::NO_MEMORY;
}
