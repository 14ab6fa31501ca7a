// A convolution layer on blocks of samples: its sizes, and how a sum walks over its taps.
#pragma once

#include "../_shared/rows/simd.h"

namespace fs {

// samples in a block: `[channels, height, width, BLOCK]`, zeros where there are fewer
constexpr i64 BLOCK = 16;
// outputs of a tile; weights are packed by as many
constexpr i64 OUTPUTS = 4;
// zeros beside the rows of a gradient that is spread out: as far as a tile reaches over
constexpr i64 MARGIN = 6;
// blocks of an agent are summed in at most so many parts, whatever the number of threads
constexpr i64 PARTS = 4;
// a code of an output whose gradient goes nowhere; the others say which of a window's four positions was the largest
constexpr std::uint8_t NOWHERE = 4;

// pairs are (vertical, horizontal)
struct Layer {
  i64 channels, size[2], outputs, kernel[2], stride[2], padding[2], dilation[2];
  i64 relu, pool;  // 1: what follows it
  i64 positions[2] = {positions_of(0), positions_of(1)};  // of the convolution

  i64 positions_of(i64 axis) const {
    return (padded(axis) - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1;
  }
  i64 taps() const { return channels * kernel[0] * kernel[1]; }
  i64 result(i64 axis) const { return pool ? positions[axis] / 2 : positions[axis]; }
  i64 padded(i64 axis) const { return size[axis] + 2 * padding[axis]; }
  i64 x_floats() const { return channels * size[0] * size[1] * BLOCK; }
  i64 padded_floats() const { return channels * padded(0) * padded(1) * BLOCK; }
  bool is_padded() const { return padding[0] || padding[1]; }
  i64 result_floats() const { return outputs * result(0) * result(1) * BLOCK; }
  i64 spread_row() const { return (positions[1] + 2 * MARGIN) * BLOCK; }
  i64 spread_plane() const { return positions[0] * spread_row(); }
};

// three nested loops over the taps of a sum: how often, and how far x and the packed weights move
struct Walk {
  i64 count[3], x[3], weights[3];
};

// the part-th of `parts` nearly equal pieces of `whole` begins here
FS_INLINE i64 piece(i64 whole, i64 part, i64 parts) { return part * whole / parts; }
constexpr i64 pieces(i64 whole, i64 most) { return (whole + most - 1) / most; }

// which taps of one axis reach a position of x: tap + n * tap_step, at output + n * output_step, for 0 <= n < count
struct Reach {
  i64 tap, tap_step, output, output_step, count;
};

inline Reach reach(i64 position, i64 kernel, i64 stride, i64 dilation) {
  i64 a = stride, b = dilation;
  while (b) {
    const i64 rest = a % b;
    a = b, b = rest;
  }
  const i64 step = stride / a;
  for (i64 tap = 0; tap < kernel && tap < step; ++tap)
    if ((position - tap * dilation) % stride == 0)
      return {tap, step, (position - tap * dilation) / stride, -dilation / a, (kernel - tap + step - 1) / step};
  return {0, step, 0, 0, 0};
}

// those of them whose outputs lie in first..last
inline Reach within(Reach r, i64 first, i64 last) {
  while (r.count && r.output > last) r.tap += r.tap_step, r.output += r.output_step, --r.count;
  while (r.count && r.output + (r.count - 1) * r.output_step < first) --r.count;
  return r;
}

}  // namespace fs
