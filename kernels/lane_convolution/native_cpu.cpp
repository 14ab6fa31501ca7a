// Convolutions of stacked agents on blocks of samples: agents and parts of their blocks in parallel.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include <memory>
#include <new>
#include <utility>

#include "layer.h"

namespace {

// one block's part of a layer, by whatever instruction set
struct Steps {
  fs::i64 width;  // floats in a register
  void (*forward)(const fs::Layer&, const float*, const float*, const float*, float*, float*, std::uint8_t*);
  void (*spread)(const fs::Layer&, const float*, const std::uint8_t*, float*, float*);
  void (*weight_gradient)(const fs::Layer&, const float*, const float*, float*);
  void (*input_gradient)(const fs::Layer&, const float*, const float*, float*);
};

#define FS_SET baseline
#define FS_WIDTH 4
#define FS_REACH 2
#include "tiles.h"
#undef FS_SET
#undef FS_WIDTH
#undef FS_REACH

#ifdef FS_CLONED
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define FS_SET avx2
#define FS_WIDTH 8
#define FS_REACH 3
#include "tiles.h"
#undef FS_SET
#undef FS_WIDTH
#undef FS_REACH
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq")
#define FS_SET avx512
#define FS_WIDTH 16
#define FS_REACH 6
#include "tiles.h"
#undef FS_SET
#undef FS_WIDTH
#undef FS_REACH
#pragma GCC pop_options
#endif

// floats of the registers that are used, at most
fs::i64 widest = fs::BLOCK;

const Steps& best_steps() {
#ifdef FS_CLONED
  if (widest >= 16 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return avx512::steps;
  if (widest >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::steps;
#endif
  return baseline::steps;
}

// weights of one agent by tiles of OUTPUTS: `outer` numbers side by side, for each of `inner` in order
template <typename At>
void pack(fs::i64 outer, fs::i64 inner, float* to, At at) {
  const fs::i64 tiles = fs::pieces(outer, fs::OUTPUTS);
  for (fs::i64 tile = 0; tile < tiles; ++tile) {
    const fs::i64 first = fs::piece(outer, tile, tiles), count = fs::piece(outer, tile + 1, tiles) - first;
    for (fs::i64 i = 0; i < inner; ++i, to += fs::OUTPUTS)
      for (fs::i64 o = 0; o < count; ++o) to[o] = at(first + o, i);
  }
}

void pad(const fs::Layer& layer, const float* x, float* to) {
  const fs::i64 row = layer.padded(1) * fs::BLOCK, inner = layer.size[1] * fs::BLOCK;
  to += layer.padding[0] * row + layer.padding[1] * fs::BLOCK;
  for (fs::i64 channel = 0; channel < layer.channels; ++channel, to += layer.padded(0) * row)
    for (fs::i64 line = 0; line < layer.size[0]; ++line, x += inner)
      std::memcpy(to + line * row, x, static_cast<std::size_t>(inner) * sizeof(float));
}

void zero(float* from, fs::i64 floats) { std::memset(from, 0, static_cast<std::size_t>(floats) * sizeof(float)); }

fs::i64 whole_lines(fs::i64 floats) { return fs::pieces(floats, fs::LINE) * fs::LINE; }

fs::i64 packed_floats(fs::i64 outer, fs::i64 inner) {
  return whole_lines(fs::pieces(outer, fs::OUTPUTS) * fs::OUTPUTS * inner);
}

}  // namespace

// floats of the registers that are used from now on: as wide as there are, and at most so many
FS_EXPORT fs::i64 fs_lane_width(fs::i64 most) {
  widest = most;
  return best_steps().width;
}

FS_EXPORT fs::i64 fs_lane_convolution(const float* x, fs::i64 x_stride, const float* weight, fs::i64 weight_stride,
                                      const float* bias, fs::i64 bias_stride, float* out, std::uint8_t* codes,
                                      fs::i64 stride_down, fs::i64 stride_right, fs::i64 padding_down,
                                      fs::i64 padding_right, fs::i64 dilation_down, fs::i64 dilation_right,
                                      fs::i64 relu, fs::i64 pool, fs::i64 agents, fs::i64 blocks, fs::i64 channels,
                                      fs::i64 height, fs::i64 width, fs::i64 outputs, fs::i64 tall, fs::i64 wide,
                                      fs::i64 down, fs::i64 right, fs::i64 threads) {
  const fs::Layer layer{channels,
                        {height, width},
                        outputs,
                        {tall, wide},
                        {stride_down, stride_right},
                        {padding_down, padding_right},
                        {dilation_down, dilation_right},
                        relu,
                        pool};
  const Steps& steps = best_steps();
  const fs::i64 taps = layer.taps(), parts = blocks < fs::PARTS ? blocks : fs::PARTS;
  const fs::i64 packed = packed_floats(layer.outputs, taps);
  const fs::i64 padded = layer.is_padded() ? layer.padded_floats() : 0;
  const fs::i64 rows = 2 * fs::OUTPUTS * layer.positions[1] * fs::BLOCK;
  return fs::for_each_tile(agents * parts, packed + padded + rows, 0, threads, [&](fs::i64 t, float* memory, auto) {
    const fs::i64 agent = t / parts, part = t % parts;
    const float* own = weight + agent * weight_stride;
    float* in_padding = memory + packed;
    pack(layer.outputs, taps, memory, [&](fs::i64 output, fs::i64 tap) { return own[output * taps + tap]; });
    zero(in_padding, padded);
    for (fs::i64 b = fs::piece(blocks, part, parts); b < fs::piece(blocks, part + 1, parts); ++b) {
      const fs::i64 block = agent * blocks + b, to = block * layer.result_floats();
      const float* from = x + agent * x_stride + b * layer.x_floats();
      if (padded) pad(layer, from, in_padding);
      steps.forward(layer, padded ? in_padding : from, memory, bias ? bias + agent * bias_stride : nullptr,
                    in_padding + padded, out + to, codes ? codes + to : nullptr);
    }
  });
}

// null gradients are not wanted
FS_EXPORT fs::i64 fs_lane_convolution_backward(const float* gradient, const std::uint8_t* codes, const float* x,
                                               fs::i64 x_stride, const float* weight, fs::i64 weight_stride,
                                               float* x_gradient, float* weight_gradient,
                                               fs::i64 weight_gradient_stride, float* bias_gradient,
                                               fs::i64 bias_gradient_stride, fs::i64 stride_down,
                                               fs::i64 stride_right, fs::i64 padding_down, fs::i64 padding_right,
                                               fs::i64 dilation_down, fs::i64 dilation_right, fs::i64 relu,
                                               fs::i64 pool, fs::i64 agents, fs::i64 blocks, fs::i64 outputs,
                                               fs::i64 down, fs::i64 right, fs::i64 channels, fs::i64 height,
                                               fs::i64 width, fs::i64 tall, fs::i64 wide, fs::i64 threads) {
  const fs::Layer layer{channels,
                        {height, width},
                        outputs,
                        {tall, wide},
                        {stride_down, stride_right},
                        {padding_down, padding_right},
                        {dilation_down, dilation_right},
                        relu,
                        pool};
  const Steps& steps = best_steps();
  const fs::i64 taps = layer.taps(), area = layer.kernel[0] * layer.kernel[1];
  const fs::i64 parts = blocks < fs::PARTS ? blocks : fs::PARTS, sums = layer.outputs * (taps + 1);
  const fs::i64 packed = x_gradient ? packed_floats(layer.channels, layer.outputs * area) : 0;
  const fs::i64 padded = layer.is_padded() && weight_gradient ? layer.padded_floats() : 0;
  const fs::i64 spread = layer.outputs * layer.spread_plane();
  // sums of each part, [agents, parts, outputs * (taps + 1)]
  const std::unique_ptr<float[]> partial(new (std::nothrow) float[agents * parts * sums]);
  if (!partial) return fs::NO_MEMORY;
  const fs::i64 status = fs::for_each_tile(
      agents * parts, packed + padded + spread, 0, threads, [&](fs::i64 t, float* memory, auto) {
        const fs::i64 agent = t / parts, part = t % parts;
        const float* own = weight + agent * weight_stride;
        float *in_padding = memory + packed, *spread_out = in_padding + padded;
        float *its_weights = partial.get() + t * sums, *its_bias = its_weights + layer.outputs * taps;
        if (x_gradient)
          pack(layer.channels, layer.outputs * area, memory, [&](fs::i64 channel, fs::i64 i) {
            return own[i / area * taps + channel * area + i % area];
          });
        zero(in_padding, padded + spread);
        zero(its_weights, sums);
        for (fs::i64 b = fs::piece(blocks, part, parts); b < fs::piece(blocks, part + 1, parts); ++b) {
          const fs::i64 block = agent * blocks + b, at = block * layer.result_floats();
          const float* from = x + agent * x_stride + b * layer.x_floats();
          steps.spread(layer, gradient + at, codes ? codes + at : nullptr, spread_out, its_bias);
          if (weight_gradient) {
            if (padded) pad(layer, from, in_padding);
            steps.weight_gradient(layer, spread_out, padded ? in_padding : from, its_weights);
          }
          if (x_gradient) steps.input_gradient(layer, spread_out, memory, x_gradient + block * layer.x_floats());
        }
      });
  if (status) return status;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 agent = 0; agent < agents; ++agent) {
    const float* first = partial.get() + agent * parts * sums;
    const auto add_up = [&](fs::i64 from, fs::i64 count, float* to) {
      for (fs::i64 i = 0; i < count; ++i) {
        float sum = parts ? first[from + i] : 0.0f;
        for (fs::i64 part = 1; part < parts; ++part) sum += first[part * sums + from + i];
        to[i] = sum;
      }
    };
    if (weight_gradient) add_up(0, layer.outputs * taps, weight_gradient + agent * weight_gradient_stride);
    if (bias_gradient) add_up(layer.outputs * taps, layer.outputs, bias_gradient + agent * bias_gradient_stride);
  }
  return 0;
}
