// EvoNorm-S0 with a hard gate on blocks of samples: a line holds one number of 16 samples.
#include <cmath>
#include <memory>
#include <new>

#include "../_shared/rows/simd.h"

namespace {

using fs::i64;
using fs::Line;

// sums that grow side by side: additions need not wait for each other, and each is of fewer numbers
constexpr i64 SUMS = 4;

struct Block {
  i64 channels, groups, positions;
  float eps;
};

FS_INLINE Line all(float value) { return value - Line{}; }
FS_INLINE Line clamped(Line v, float most) {
  v = v > 0.0f ? v : Line{};
  return v < most ? v : all(most);
}
// x * relu6(x + 3) / 6 and its derivative, at the two kinks as torch has it
FS_INLINE Line gated(Line x) { return x * clamped(x + 3.0f, 6.0f) / 6.0f; }
FS_INLINE Line slope(Line x) { return x <= -3.0f ? Line{} : x < 3.0f ? x / 3.0f + 0.5f : all(1.0f); }

FS_INLINE Line root(Line v) {
#pragma GCC unroll 16
  for (i64 l = 0; l < fs::LINE; ++l) v[l] = std::sqrt(v[l]);
  return v;
}

FS_INLINE Line added(const Line* sums) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

// mean and inverse deviation of every group, and the outputs
FS_CLONES void forward(const Block& of, const float* x, const float* weight, const float* bias, float* out,
                       float* means, float* inverses) {
  const i64 channels = of.channels / of.groups, numbers = channels * of.positions;
  for (i64 group = 0; group < of.groups; ++group, x += numbers * fs::LINE, out += numbers * fs::LINE) {
    Line sums[SUMS] = {}, squares[SUMS] = {};
    for (i64 i = 0; i < numbers; ++i) sums[i % SUMS] += fs::load(x + i * fs::LINE);
    const Line mean = added(sums) / static_cast<float>(numbers);
    for (i64 i = 0; i < numbers; ++i) {
      const Line apart = fs::load(x + i * fs::LINE) - mean;
      squares[i % SUMS] += apart * apart;
    }
    const Line inverse = 1.0f / root(added(squares) / static_cast<float>(numbers) + of.eps);
    fs::store(means + group * fs::LINE, mean);
    fs::store(inverses + group * fs::LINE, inverse);
    for (i64 channel = 0; channel < channels; ++channel) {
      const float shift = bias[group * channels + channel];
      const Line scale = inverse * weight[group * channels + channel];
      const i64 end = (channel + 1) * of.positions;
      for (i64 i = channel * of.positions; i < end; ++i)
        fs::store(out + i * fs::LINE, gated(fs::load(x + i * fs::LINE)) * scale + shift);
    }
  }
}

// a block's gradients; sums holds those of weight and bias, `channels` of each
FS_CLONES void backward(const Block& of, const float* gradient, const float* x, const float* weight,
                        const float* means, const float* inverses, float* x_gradient, float* sums) {
  const i64 channels = of.channels / of.groups, numbers = channels * of.positions, floats = numbers * fs::LINE;
  for (i64 group = 0; group < of.groups; ++group, x += floats, gradient += floats, x_gradient += floats) {
    const Line mean = fs::load(means + group * fs::LINE), inverse = fs::load(inverses + group * fs::LINE);
    Line of_inverse = {};
    for (i64 channel = 0; channel < channels; ++channel) {
      Line products[SUMS] = {}, plain[SUMS] = {};
      for (i64 i = 0; i < of.positions; ++i) {
        const i64 at = (channel * of.positions + i) * fs::LINE;
        const Line g = fs::load(gradient + at);
        products[i % SUMS] += g * gated(fs::load(x + at));
        plain[i % SUMS] += g;
      }
      const Line product = added(products);
      const i64 number = group * channels + channel;
      of_inverse += product * weight[number];
      float lanes[2][fs::LINE];
      fs::store(lanes[0], product * inverse);
      fs::store(lanes[1], added(plain));
      for (i64 half = fs::LINE / 2; half; half /= 2)
        for (i64 l = 0; l < half; ++l) lanes[0][l] += lanes[0][l + half], lanes[1][l] += lanes[1][l + half];
      sums[number] = lanes[0][0];
      sums[of.channels + number] = lanes[1][0];
    }
    // through the variance
    const Line pull = of_inverse * inverse * inverse * inverse / -static_cast<float>(numbers);
    for (i64 channel = 0; channel < channels; ++channel) {
      const Line scale = inverse * weight[group * channels + channel];
      for (i64 i = 0; i < of.positions; ++i) {
        const i64 at = (channel * of.positions + i) * fs::LINE;
        const Line v = fs::load(x + at);
        fs::store(x_gradient + at, fs::load(gradient + at) * scale * slope(v) + pull * (v - mean));
      }
    }
  }
}

}  // namespace

FS_EXPORT i64 fs_lane_evonorm(const float* x, const float* weight, i64 weight_stride, const float* bias,
                              i64 bias_stride, i64 groups, double eps, float* out, float* means, float* inverses,
                              i64 agents, i64 blocks, i64 channels, i64 height, i64 width, i64 threads) {
  const i64 positions = height * width;
  const Block of = {channels, groups, positions, static_cast<float>(eps)};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 b = 0; b < agents * blocks; ++b) {
    const i64 agent = b / blocks, at = b * channels * positions * fs::LINE, stat = b * groups * fs::LINE;
    forward(of, x + at, weight + agent * weight_stride, bias + agent * bias_stride, out + at, means + stat,
            inverses + stat);
  }
  return 0;
}

// null gradients are not wanted
FS_EXPORT i64 fs_lane_evonorm_backward(const float* gradient, const float* x, const float* weight, i64 weight_stride,
                                       const float* means, const float* inverses, float* x_gradient,
                                       float* weight_gradient, i64 weight_gradient_stride, float* bias_gradient,
                                       i64 bias_gradient_stride, i64 agents, i64 blocks, i64 channels, i64 height,
                                       i64 width, i64 groups, i64 threads) {
  const i64 positions = height * width;
  const Block of = {channels, groups, positions, 0.0f};
  // sums of each block, [agents, blocks, 2, channels]
  const std::unique_ptr<float[]> partial(new (std::nothrow) float[agents * blocks * 2 * channels]);
  if (!partial) return fs::NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 b = 0; b < agents * blocks; ++b) {
    const i64 at = b * channels * positions * fs::LINE, stat = b * groups * fs::LINE;
    backward(of, gradient + at, x + at, weight + b / blocks * weight_stride, means + stat, inverses + stat,
             x_gradient + at, partial.get() + b * 2 * channels);
  }
  for (i64 agent = 0; agent < agents; ++agent)
    for (i64 channel = 0; channel < 2 * channels; ++channel) {
      const bool is_bias = channel >= channels;
      float* to = is_bias ? bias_gradient : weight_gradient;
      if (!to) continue;
      float sum = 0.0f;
      for (i64 b = 0; b < blocks; ++b) sum += partial[(agent * blocks + b) * 2 * channels + channel];
      to[agent * (is_bias ? bias_gradient_stride : weight_gradient_stride) + channel % channels] = sum;
    }
  return 0;
}
