// Codes of few bits: packed into bytes and back, as in reference.py. Counts are multiples of 32.
#pragma once

#include "../philox/philox.h"

namespace fs {

using Byte = std::uint8_t;

// packed bytes of agents, whose rows may lie apart
template <typename Any>
struct Packed {
  Any* first;
  i64 stride;
  Any* at(i64 agent, i64 byte) const { return first + agent * stride + byte; }
  explicit operator bool() const { return first != nullptr; }
};
using ByteRows = Packed<const Byte>;
using WrittenBytes = Packed<Byte>;

// packed bytes are read as the wider number whose bytes they are the fields of
typedef std::uint16_t Pair __attribute__((aligned(1), may_alias));
typedef std::uint32_t Four __attribute__((aligned(1), may_alias));
typedef std::uint64_t Eight __attribute__((aligned(1), may_alias));

FS_BYTE_CLONES static void pack_fours(const Byte* __restrict fields, i64 count, Byte* __restrict out) {
  const Pair* pairs = reinterpret_cast<const Pair*>(fields);
  for (i64 n = 0; n < count / 2; ++n)
    out[n] = static_cast<Byte>((pairs[n] & 0x0F) | (pairs[n] >> 4 & 0xF0));
}

FS_BYTE_CLONES static void pack_twos(const Byte* __restrict fields, i64 count, Byte* __restrict out) {
  const Four* fours = reinterpret_cast<const Four*>(fields);
  for (i64 n = 0; n < count / 4; ++n) {
    const std::uint32_t w = fours[n];
    out[n] = static_cast<Byte>((w & 0x03) | (w >> 6 & 0x0C) | (w >> 12 & 0x30) | (w >> 18 & 0xC0));
  }
}

// fields of one bit are 0 or 1
FS_BYTE_CLONES static void pack_ones(const Byte* __restrict fields, i64 count, Byte* __restrict out) {
  const Eight* eights = reinterpret_cast<const Eight*>(fields);
  for (i64 n = 0; n < count / 8; ++n) {
    std::uint64_t w = eights[n];
    w |= w >> 7, w |= w >> 14, w |= w >> 28;
    out[n] = static_cast<Byte>(w);
  }
}

inline void pack(const Byte* fields, i64 count, i64 bits, Byte* out) {
  if (bits == 4) pack_fours(fields, count, out);
  else if (bits == 2) pack_twos(fields, count, out);
  else if (bits == 1) pack_ones(fields, count, out);
}

FS_BYTE_CLONES static void unpack_fours(const Byte* __restrict in, i64 count, Byte* __restrict fields) {
  Pair* pairs = reinterpret_cast<Pair*>(fields);
  for (i64 n = 0; n < count / 2; ++n) {
    const std::uint16_t w = in[n];
    pairs[n] = static_cast<std::uint16_t>((w | w << 4) & 0x0F0F);
  }
}

FS_BYTE_CLONES static void unpack_twos(const Byte* __restrict in, i64 count, Byte* __restrict fields) {
  Four* fours = reinterpret_cast<Four*>(fields);
  for (i64 n = 0; n < count / 4; ++n) {
    const std::uint32_t w = in[n];
    fours[n] = (w | w << 6 | w << 12 | w << 18) & 0x03030303;
  }
}

FS_BYTE_CLONES static void unpack_ones(const Byte* __restrict in, i64 count, Byte* __restrict fields) {
  Eight* eights = reinterpret_cast<Eight*>(fields);
  for (i64 n = 0; n < count / 8; ++n) {
    std::uint64_t w = in[n];
    w = (w | w << 28) & 0x0000000F0000000F, w = (w | w << 14) & 0x0003000300030003;
    eights[n] = (w | w << 7) & 0x0101010101010101;
  }
}

inline void unpack(const Byte* in, i64 count, i64 bits, Byte* fields) {
  if (bits == 4) unpack_fours(in, count, fields);
  else if (bits == 2) unpack_twos(in, count, fields);
  else if (bits == 1) unpack_ones(in, count, fields);
}

}  // namespace fs
