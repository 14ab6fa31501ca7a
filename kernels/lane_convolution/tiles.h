// A convolution of one block of samples and its gradients, for one instruction set: included once for each.
//
// Samples are the lanes, so any kernel, stride or padding needs neither shuffles nor masks. Every number is one chain
// of multiply-adds in one order, whatever the width of a register: AVX2 and AVX-512 give the same bits.
// Before it is included: FS_SET (the namespace), FS_WIDTH (floats in a register), FS_REACH (positions, or taps, in a
// tile of OUTPUTS outputs: as many as there are registers for).

namespace FS_SET {

using namespace fs;

typedef float Vector __attribute__((vector_size(4 * FS_WIDTH), aligned(4), may_alias));
typedef std::int32_t Mask __attribute__((vector_size(4 * FS_WIDTH)));
typedef std::uint8_t Codes __attribute__((vector_size(FS_WIDTH), aligned(1), may_alias));

FS_INLINE Vector get(const float* from) { return *reinterpret_cast<const Vector*>(from); }
FS_INLINE void put(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
FS_INLINE Vector all(float value) { return value - Vector{}; }

FS_INLINE Vector multiply_add(Vector a, Vector b, Vector c) {
#if FS_WIDTH == 16
  return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FS_WIDTH == 8
  return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

struct Product {
  const float *x, *weights, *start;  // start[o] is what a sum begins with
  i64 x_step, out_step, out_plane;   // from position to position, from output to output
  float* out;
};

// out[o][p] = start[o] + sum of weights[o] * x[p] along the walk
template <int O, int P>
void product_tile(const Walk& walk, const Product& of) {
  for (i64 half = 0; half < BLOCK; half += FS_WIDTH) {
    Vector sums[O][P];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sums[o][p] = all(of.start[o]);
    for (i64 a = 0; a < walk.count[0]; ++a)
      for (i64 b = 0; b < walk.count[1]; ++b) {
        const float* x = of.x + half + a * walk.x[0] + b * walk.x[1];
        const float* weights = of.weights + a * walk.weights[0] + b * walk.weights[1];
        for (i64 c = 0; c < walk.count[2]; ++c, x += walk.x[2], weights += walk.weights[2]) {
          Vector values[P];
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p) values[p] = get(x + p * of.x_step);
#pragma GCC unroll 8
          for (int o = 0; o < O; ++o) {
            const Vector weight = all(weights[o]);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sums[o][p] = multiply_add(weight, values[p], sums[o][p]);
          }
        }
      }
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) put(of.out + half + o * of.out_plane + p * of.out_step, sums[o][p]);
  }
}

struct Correlation {
  const float *gradient, *x;
  i64 rows, columns;
  i64 gradient_row, gradient_plane, x_row, x_step;
  const i64* taps;  // where in x each tap begins
};

// sums[o][t][lane] = sum over positions of gradient[o] * x[t]
template <int O, int T>
void correlation_tile(const Correlation& of, float* sums_of_lanes) {
  for (i64 half = 0; half < BLOCK; half += FS_WIDTH) {
    Vector sums[O][T] = {};
    const float* from[T];
    for (i64 row = 0; row < of.rows; ++row) {
      const float* gradient = of.gradient + half + row * of.gradient_row;
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) from[t] = of.x + half + row * of.x_row + of.taps[t];
      for (i64 column = 0, at = 0; column < of.columns; ++column, gradient += BLOCK, at += of.x_step) {
        Vector values[O];
#pragma GCC unroll 8
        for (int o = 0; o < O; ++o) values[o] = get(gradient + o * of.gradient_plane);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const Vector x = get(from[t] + at);
#pragma GCC unroll 8
          for (int o = 0; o < O; ++o) sums[o][t] = multiply_add(values[o], x, sums[o][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) put(sums_of_lanes + half + (o * T + t) * BLOCK, sums[o][t]);
  }
}

using ProductTile = void (*)(const Walk&, const Product&);
using CorrelationTile = void (*)(const Correlation&, float*);

template <int O, int... P>
void choose_product(std::integer_sequence<int, P...>, const Walk& walk, const Product& of, i64 positions) {
  static constexpr ProductTile tiles[] = {product_tile<O, P + 1>...};
  tiles[positions - 1](walk, of);
}

template <int O, int... T>
void choose_correlation(std::integer_sequence<int, T...>, const Correlation& of, float* sums, i64 taps) {
  static constexpr CorrelationTile tiles[] = {correlation_tile<O, T + 1>...};
  tiles[taps - 1](of, sums);
}

using Sizes = std::make_integer_sequence<int, FS_REACH>;

inline void product(const Walk& walk, const Product& of, i64 outputs, i64 positions) {
  switch (outputs) {
    case 1: return choose_product<1>(Sizes(), walk, of, positions);
    case 2: return choose_product<2>(Sizes(), walk, of, positions);
    case 3: return choose_product<3>(Sizes(), walk, of, positions);
    default: return choose_product<4>(Sizes(), walk, of, positions);
  }
}

inline void correlation(const Correlation& of, float* sums, i64 outputs, i64 taps) {
  switch (outputs) {
    case 1: return choose_correlation<1>(Sizes(), of, sums, taps);
    case 2: return choose_correlation<2>(Sizes(), of, sums, taps);
    case 3: return choose_correlation<3>(Sizes(), of, sums, taps);
    default: return choose_correlation<4>(Sizes(), of, sums, taps);
  }
}

// the sum of a block's lanes, by halves
inline float folded(float* lanes) {
#pragma GCC unroll 4
  for (i64 half = BLOCK / 2; half; half /= 2)
    for (i64 l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

#if FS_WIDTH == 16
// pairs of numbers `apart` lanes from each other in a and then in b, added
template <int apart>
FS_INLINE Vector paired(Vector a, Vector b) {
  Mask first;
#pragma GCC unroll 16
  for (int l = 0; l < 16; ++l) first[l] = l / apart * 2 * apart + l % apart;
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, first + apart);
}
#endif

// the same sums for many rows of lanes: sums[i] = folded(sums + i * BLOCK); room for whole blocks of rows
inline void fold_rows(float* sums, i64 rows) {
#if FS_WIDTH == 16
  for (i64 row = 0; row < rows; row += BLOCK) {
    Vector v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = get(sums + (row + i) * BLOCK);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) v[i] = paired<8>(v[2 * i], v[2 * i + 1]);
#pragma GCC unroll 8
    for (int i = 0; i < 4; ++i) v[i] = paired<4>(v[2 * i], v[2 * i + 1]);
    put(sums + row, paired<1>(paired<2>(v[0], v[1]), paired<2>(v[2], v[3])));
  }
#else
  for (i64 row = 0; row < rows; ++row) sums[row] = folded(sums + row * BLOCK);
#endif
}

// ReLU and 2 x 2 max-pooling of a row (two rows where it pools) of one output; NaN goes through both
inline void finish_row(const Layer& layer, const float* rows, float* out, std::uint8_t* codes) {
  const i64 below = layer.positions[1] * BLOCK, right = BLOCK;
  for (i64 column = 0; column < layer.result(1); ++column)
    for (i64 half = 0; half < BLOCK; half += FS_WIDTH) {
      const float* from = rows + (layer.pool ? 2 : 1) * column * BLOCK + half;
      Vector best = get(from);
      Mask code = {};
      if (layer.pool) {
        const Vector others[] = {get(from + right), get(from + below), get(from + below + right)};
#pragma GCC unroll 4
        for (int n = 0; n < 3; ++n) {
          const Mask larger = (others[n] > best) | (others[n] != others[n]);
          best = larger ? others[n] : best;
          code = larger ? Mask{} + (n + 1) : code;
        }
      }
      if (layer.relu) {
        const Mask off = best <= Vector{};
        best = off ? Vector{} : best;
        code = off ? Mask{} + NOWHERE : code;
      }
      put(out + column * BLOCK + half, best);
      if (codes) *reinterpret_cast<Codes*>(codes + column * BLOCK + half) = __builtin_convertvector(code, Codes);
    }
}

// one block of samples through the layer; x is padded, `rows` holds two rows of OUTPUTS outputs
inline void forward(const Layer& layer, const float* x, const float* packed, const float* bias, float* rows, float* out,
                    std::uint8_t* codes) {
  const i64 x_row = layer.padded(1) * BLOCK, x_plane = layer.padded(0) * x_row;
  const i64 height = layer.kernel[0], width = layer.kernel[1];
  const Walk walk = {{layer.channels, height, width},
                     {x_plane, layer.dilation[0] * x_row, layer.dilation[1] * BLOCK},
                     {height * width * OUTPUTS, width * OUTPUTS, OUTPUTS}};
  const i64 at_once = layer.pool ? 2 : 1, row_floats = layer.positions[1] * BLOCK;
  const i64 tiles = pieces(layer.outputs, OUTPUTS), spans = pieces(layer.positions[1], FS_REACH);
  const i64 out_row = layer.result(1) * BLOCK, out_plane = layer.result(0) * out_row;
  for (i64 row = 0; row < layer.result(0); ++row)
    for (i64 tile = 0; tile < tiles; ++tile) {
      const i64 first = piece(layer.outputs, tile, tiles), count = piece(layer.outputs, tile + 1, tiles) - first;
      float start[OUTPUTS] = {};
      for (i64 o = 0; o < count && bias; ++o) start[o] = bias[first + o];
      for (i64 line = 0; line < at_once; ++line)
        for (i64 span = 0; span < spans; ++span) {
          const i64 column = piece(layer.positions[1], span, spans);
          const float* from = x + (row * at_once + line) * layer.stride[0] * x_row + column * layer.stride[1] * BLOCK;
          const Product of = {from,  packed + tile * layer.taps() * OUTPUTS,
                              start, layer.stride[1] * BLOCK,
                              BLOCK, at_once * row_floats,
                              rows + line * row_floats + column * BLOCK};
          product(walk, of, count, piece(layer.positions[1], span + 1, spans) - column);
        }
      for (i64 o = 0; o < count; ++o) {
        const i64 to = (first + o) * out_plane + row * out_row;
        finish_row(layer, rows + o * at_once * row_floats, out + to, codes ? codes + to : nullptr);
      }
    }
}

// a block's gradient where the convolution gave its outputs, with zeros beside each row; sums of it for the bias
inline void spread(const Layer& layer, const float* gradient, const std::uint8_t* codes, float* to, float* bias) {
  const i64 at_once = layer.pool ? 2 : 1, row = layer.spread_row();
  const i64 result = layer.result(0) * layer.result(1) * BLOCK;
  for (i64 o = 0; o < layer.outputs; ++o) {
    alignas(64) float lanes[BLOCK];
    for (i64 half = 0; half < BLOCK; half += FS_WIDTH) {
      Vector sum = {};
      const float* from = gradient + o * result + half;
      const std::uint8_t* code = codes + o * result + half;
      for (i64 line = 0; line < layer.result(0); ++line) {
        float* here = to + o * layer.spread_plane() + at_once * line * row + MARGIN * BLOCK + half;
        for (i64 column = 0; column < layer.result(1); ++column, from += BLOCK, code += BLOCK) {
          Vector value = get(from);
          if (codes) {
            const Mask where = __builtin_convertvector(*reinterpret_cast<const Codes*>(code), Mask);
            if (layer.pool) {
              float* window = here + 2 * column * BLOCK;
              put(window, where == 0 ? value : Vector{});
              put(window + BLOCK, where == 1 ? value : Vector{});
              put(window + row, where == 2 ? value : Vector{});
              put(window + row + BLOCK, where == 3 ? value : Vector{});
            }
            value = where == NOWHERE ? Vector{} : value;
          }
          if (!layer.pool) put(here + column * BLOCK, value);
          sum += value;
        }
      }
      put(lanes + half, sum);
    }
    if (bias) bias[o] += folded(lanes);
  }
}

// adds a block's gradient of the weights
inline void weight_gradient(const Layer& layer, const float* spread_gradient, const float* x, float* gradient) {
  const i64 x_row = layer.padded(1) * BLOCK, x_plane = layer.padded(0) * x_row;
  const i64 taps = layer.taps(), tiles = pieces(layer.outputs, OUTPUTS), spans = pieces(taps, FS_REACH);
  alignas(64) float sums[pieces(OUTPUTS * FS_REACH, BLOCK) * BLOCK * BLOCK] = {};
  i64 places[FS_REACH];
  for (i64 tile = 0; tile < tiles; ++tile) {
    const i64 first = piece(layer.outputs, tile, tiles), count = piece(layer.outputs, tile + 1, tiles) - first;
    i64 channel = 0, down = 0, right = 0;
    for (i64 span = 0; span < spans; ++span) {
      const i64 tap = piece(taps, span, spans), many = piece(taps, span + 1, spans) - tap;
      for (i64 t = 0; t < many; ++t) {
        places[t] = channel * x_plane + down * layer.dilation[0] * x_row + right * layer.dilation[1] * BLOCK;
        if (++right == layer.kernel[1]) right = 0, ++down;
        if (down == layer.kernel[0]) down = 0, ++channel;
      }
      const Correlation of = {spread_gradient + first * layer.spread_plane() + MARGIN * BLOCK,
                              x,
                              layer.positions[0],
                              layer.positions[1],
                              layer.spread_row(),
                              layer.spread_plane(),
                              layer.stride[0] * x_row,
                              layer.stride[1] * BLOCK,
                              places};
      correlation(of, sums, count, many);
      fold_rows(sums, count * many);
      for (i64 o = 0; o < count; ++o)
        for (i64 t = 0; t < many; ++t) gradient[(first + o) * taps + tap + t] += sums[o * many + t];
    }
  }
}

// a block's gradient of what went into the layer
inline void input_gradient(const Layer& layer, const float* spread_gradient, const float* packed, float* gradient) {
  const float zeros[OUTPUTS] = {};
  const i64 width = layer.kernel[1], area = layer.kernel[0] * width, row = layer.spread_row();
  const i64 tiles = pieces(layer.channels, OUTPUTS), plane = layer.size[0] * layer.size[1] * BLOCK;
  for (i64 line = 0; line < layer.size[0]; ++line) {
    const Reach down = within(reach(line + layer.padding[0], layer.kernel[0], layer.stride[0], layer.dilation[0]), 0,
                              layer.positions[0] - 1);
    // columns that lie a stride apart share their taps
    for (i64 phase = 0; phase < layer.stride[1] && phase < layer.size[1]; ++phase) {
      const Reach across = reach(phase + layer.padding[1], width, layer.stride[1], layer.dilation[1]);
      const i64 columns = pieces(layer.size[1] - phase, layer.stride[1]), spans = pieces(columns, FS_REACH);
      for (i64 span = 0; span < spans; ++span) {
        const i64 first = piece(columns, span, spans), many = piece(columns, span + 1, spans) - first;
        const Reach taps = within(across, 1 - many - first, layer.positions[1] - 1 - first);
        const Walk walk = {{layer.outputs, down.count, taps.count},
                           {layer.spread_plane(), down.output_step * row, taps.output_step * BLOCK},
                           {area * OUTPUTS, down.tap_step * width * OUTPUTS, taps.tap_step * OUTPUTS}};
        const float* from = spread_gradient + down.output * row + (MARGIN + first + taps.output) * BLOCK;
        for (i64 tile = 0; tile < tiles; ++tile) {
          const i64 channel = piece(layer.channels, tile, tiles);
          const i64 count = piece(layer.channels, tile + 1, tiles) - channel;
          const Product of = {
              from,  packed + (tile * layer.outputs * area + down.tap * width + taps.tap) * OUTPUTS,
              zeros, BLOCK,
              layer.stride[1] * BLOCK, plane,
              gradient + channel * plane + (line * layer.size[1] + phase + first * layer.stride[1]) * BLOCK};
          product(walk, of, count, many);
        }
      }
    }
  }
}

constexpr Steps steps = {FS_WIDTH, forward, spread, weight_gradient, input_gradient};

}  // namespace FS_SET
