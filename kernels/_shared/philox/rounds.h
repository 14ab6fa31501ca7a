// Philox4x32-10 for as many blocks as fit: philox.h compiles this once for each instruction set, in a namespace with
// Vector, one 64-bit lane a block, and multiply(), of the lanes' low halves. High halves hold what nobody reads.

constexpr i64 WIDTH = sizeof(Vector) / sizeof(std::uint64_t);

FS_INLINE Vector spread(std::uint32_t value) { return Vector{} + static_cast<std::uint64_t>(value); }

template <i64 VECTORS>
FS_INLINE void draw_blocks(const Stream& s, i64 block, unsigned char* out) {
  Vector a[VECTORS], b[VECTORS], c[VECTORS], d[VECTORS];
  for (i64 n = 0; n < VECTORS; ++n) {
    a[n] = PLACES + static_cast<std::uint64_t>(block + n * WIDTH);
    b[n] = spread(s.agent), c[n] = spread(s.step), d[n] = spread(s.purpose);
  }
  const Vector by_first = spread(0xD2511F53u), by_second = spread(0xCD9E8D57u);
  std::uint32_t k0 = s.key[0], k1 = s.key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
    for (i64 n = 0; n < VECTORS; ++n) {
      const Vector first = multiply(a[n], by_first), second = multiply(c[n], by_second);
      a[n] = (second >> 32) ^ b[n] ^ spread(k0), b[n] = second;
      c[n] = (first >> 32) ^ d[n] ^ spread(k1), d[n] = first;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  const Vector low = spread(0xFFFFFFFFu);
  for (i64 n = 0; n < VECTORS; ++n)
    keep((a[n] & low) | (b[n] << 32), (c[n] & low) | (d[n] << 32), out + n * WIDTH * BLOCK_BYTES);
}

static void draw(const Stream& by_reference, i64 block, i64 blocks, unsigned char* out) {
  const Stream s = by_reference;
  constexpr i64 MANY = TOGETHER * WIDTH;
  for (; blocks >= MANY; blocks -= MANY, block += MANY, out += MANY * BLOCK_BYTES)
    draw_blocks<TOGETHER>(s, block, out);
  for (; blocks > 0; blocks -= WIDTH, block += WIDTH, out += WIDTH * BLOCK_BYTES)
    draw_blocks<1>(s, block, out);
}
