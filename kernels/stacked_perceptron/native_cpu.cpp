// Gradients of stacked perceptrons on the CPU: one thread takes one agent from its inputs to its gradients.
#include "../_shared/squares/squares.h"

// sums of products promise a tolerance, not bits: here alone they are fused multiply-adds where there are such
#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace {

using fs::i64;

// beside the error codes that ops share
constexpr i64 BAD_LABEL = 6, BAD_LAYER = 7;

template <i64 WIDTH>
struct VectorOf {
  typedef float type __attribute__((vector_size(WIDTH * sizeof(float)), aligned(4), may_alias));
  typedef std::int32_t index __attribute__((vector_size(WIDTH * sizeof(float))));
};

// rows end where they end: their last elements go one by one
template <>
struct VectorOf<1> {
  typedef float type;
};

template <i64 WIDTH>
using Vector = typename VectorOf<WIDTH>::type;

template <i64 WIDTH>
FS_INLINE Vector<WIDTH>& at(float* place) {
  return *reinterpret_cast<Vector<WIDTH>*>(place);
}

template <i64 WIDTH>
FS_INLINE const Vector<WIDTH>& at(const float* place) {
  return *reinterpret_cast<const Vector<WIDTH>*>(place);
}

// the lower (half 0) or upper halves of a and b, element by element in turn
template <i64 WIDTH, i64 HALF>
FS_INLINE Vector<WIDTH> interleaved(Vector<WIDTH> a, Vector<WIDTH> b) {
#if defined(__clang__)
  Vector<WIDTH> out;
  for (i64 l = 0; l < WIDTH; ++l) out[l] = l % 2 ? b[HALF * WIDTH / 2 + l / 2] : a[HALF * WIDTH / 2 + l / 2];
  return out;
#else
  typename VectorOf<WIDTH>::index order;
  for (i64 l = 0; l < WIDTH; ++l)
    order[l] = static_cast<std::int32_t>(HALF * WIDTH / 2 + l / 2 + l % 2 * WIDTH);
  return __builtin_shuffle(a, b, order);
#endif
}

// a square of WIDTH rows, turned over; interleaving halves of halves does it in log2(WIDTH) rounds
template <i64 WIDTH>
FS_INLINE void turn_square(const float* from, i64 from_stride, float* to, i64 to_stride) {
  Vector<WIDTH> now[WIDTH], next[WIDTH];
#pragma GCC unroll 16
  for (i64 r = 0; r < WIDTH; ++r) now[r] = at<WIDTH>(from + r * from_stride);
#pragma GCC unroll 4
  for (i64 round = 1; round < WIDTH; round *= 2) {
#pragma GCC unroll 8
    for (i64 r = 0; r < WIDTH / 2; ++r) {
      next[2 * r] = interleaved<WIDTH, 0>(now[r], now[r + WIDTH / 2]);
      next[2 * r + 1] = interleaved<WIDTH, 1>(now[r], now[r + WIDTH / 2]);
    }
#pragma GCC unroll 16
    for (i64 r = 0; r < WIDTH; ++r) now[r] = next[r];
  }
#pragma GCC unroll 16
  for (i64 r = 0; r < WIDTH; ++r) at<WIDTH>(to + r * to_stride) = now[r];
}

// to[c, r] = from[r, c]
template <i64 WIDTH>
FS_INLINE void turn(const float* from, i64 from_stride, i64 rows, i64 columns, float* to, i64 to_stride) {
  const i64 whole_rows = rows / WIDTH * WIDTH, whole_columns = columns / WIDTH * WIDTH;
  for (i64 r = 0; r < whole_rows; r += WIDTH)
    for (i64 c = 0; c < whole_columns; c += WIDTH)
      turn_square<WIDTH>(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
  for (i64 r = 0; r < rows; ++r)
    for (i64 c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
      to[c * to_stride + r] = from[r * from_stride + c];
}

// out[m, n] = sum_k a[k a_term + m a_row] b[k, n]: rows of b go by once for every M rows of a
struct Product {
  const float* a;
  i64 a_term, a_row;
  const float* b;
  i64 b_stride;
  float* out;
  i64 out_stride, terms;
};

template <i64 WIDTH, i64 M, i64 N>
FS_INLINE void product_tile(const Product& p, i64 m, i64 n) {
  Vector<WIDTH> total[M][N] = {};
  const float *a = p.a + m * p.a_row, *b = p.b + n;
  for (i64 k = 0; k < p.terms; ++k) {
    Vector<WIDTH> right[N];
#pragma GCC unroll 4
    for (i64 j = 0; j < N; ++j) right[j] = at<WIDTH>(b + k * p.b_stride + j * WIDTH);
#pragma GCC unroll 16
    for (i64 i = 0; i < M; ++i) {
      const float left = a[k * p.a_term + i * p.a_row];
#pragma GCC unroll 4
      for (i64 j = 0; j < N; ++j) total[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (i64 i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (i64 j = 0; j < N; ++j) at<WIDTH>(p.out + (m + i) * p.out_stride + n + j * WIDTH) = total[i][j];
}

template <i64 WIDTH, i64 M, i64 N>
FS_INLINE void product_rows(const Product& p, i64 rows, i64 n) {
  i64 m = 0;
  for (; m + M <= rows; m += M) product_tile<WIDTH, M, N>(p, m, n);
  for (; m + M / 2 <= rows; m += M / 2) product_tile<WIDTH, M / 2, N>(p, m, n);
  for (; m + 2 <= rows; m += 2) product_tile<WIDTH, 2, N>(p, m, n);
  for (; m < rows; ++m) product_tile<WIDTH, 1, N>(p, m, n);
}

// as many rows at once as there are registers for, then fewer
template <i64 WIDTH, i64 TALL, i64 SHORT>
FS_INLINE void product(const Product& p, i64 rows, i64 columns) {
  i64 n = 0;
  for (; n + 3 * WIDTH <= columns; n += 3 * WIDTH) product_rows<WIDTH, SHORT, 3>(p, rows, n);
  for (; n + 2 * WIDTH <= columns; n += 2 * WIDTH) product_rows<WIDTH, TALL, 2>(p, rows, n);
  for (; n + WIDTH <= columns; n += WIDTH) product_rows<WIDTH, TALL, 1>(p, rows, n);
  for (; n + 4 <= columns; n += 4) product_rows<4, TALL, 1>(p, rows, n);
  for (; n < columns; ++n) product_rows<1, TALL, 1>(p, rows, n);
}

// a linear layer: weight [outputs, inputs] and bias (or -1) begin at these columns of a row; ReLU may follow
struct Layer {
  i64 inputs, outputs, weight, bias, relu;
};

struct Job {
  const float* inputs;  // [agents, samples, inputs of the first layer]
  const i64* labels;    // [agents, samples]
  fs::ConstRows models;
  fs::Rows gradients;
  float* losses;  // [agents]
  const Layer* layers;
  i64 count, samples;

  i64 widest() const {
    i64 most = 0;
    for (i64 l = 0; l < count; ++l) {
      most = layers[l].inputs > most ? layers[l].inputs : most;
      most = layers[l].outputs > most ? layers[l].outputs : most;
    }
    return most;
  }
};

// samples that a forward pass takes side by side, two vectors of the widest
constexpr i64 BLOCK = 32;

// floats that one agent needs: what all layers give, and room to work in
i64 scratch(const Job& job) {
  i64 given = 0;
  for (i64 l = 0; l < job.count; ++l) given += job.samples * job.layers[l].outputs;
  const i64 widest = job.widest();
  return given + (2 * BLOCK > job.samples ? 2 * BLOCK : job.samples) * widest;
}

template <i64 WIDTH, i64 TALL, i64 SHORT>
FS_INLINE void forward(const Layer& layer, const float* model, const float* x, float* out, i64 samples,
                       float* work) {
  float *turned = work, *found = work + BLOCK * layer.inputs;
  for (i64 first = 0; first < samples; first += BLOCK) {
    const i64 count = samples - first < BLOCK ? samples - first : BLOCK;
    const i64 columns = (count + WIDTH - 1) / WIDTH * WIDTH;
    if (count < columns) std::memset(turned, 0, static_cast<std::size_t>(BLOCK * layer.inputs) * sizeof(float));
    turn<WIDTH>(x + first * layer.inputs, layer.inputs, count, layer.inputs, turned, BLOCK);
    product<WIDTH, TALL, SHORT>(
        {model + layer.weight, 1, layer.inputs, turned, BLOCK, found, BLOCK, layer.inputs}, layer.outputs, columns);
    for (i64 o = 0; o < layer.outputs; ++o) {
      const float shift = layer.bias < 0 ? 0.0f : model[layer.bias + o];
      float* row = found + o * BLOCK;
      for (i64 r = 0; r < columns; ++r) {
        const float value = row[r] + shift;
        // NaN stays NaN
        row[r] = layer.relu && value <= 0.0f ? 0.0f : value;
      }
    }
    turn<WIDTH>(found, BLOCK, layer.outputs, count, out + first * layer.outputs, layer.outputs);
  }
}

// the mean over samples; logits become gradients
FS_INLINE float cross_entropy(float* logits, const i64* labels, i64 samples, i64 classes) {
  double total = 0.0;
  const float part = 1.0f / static_cast<float>(samples);
  for (i64 r = 0; r < samples; ++r) {
    float* row = logits + r * classes;
    float most = row[0];
    for (i64 c = 1; c < classes; ++c) most = row[c] > most ? row[c] : most;
    const float right = row[labels[r]] - most;
    float sum = 0.0f;
    for (i64 c = 0; c < classes; ++c) sum += row[c] = std::exp(row[c] - most);
    total += std::log(sum) - right;
    const float scale = part / sum;
    for (i64 c = 0; c < classes; ++c) row[c] *= scale;
    row[labels[r]] -= part;
  }
  return static_cast<float>(total / static_cast<double>(samples));
}

template <i64 WIDTH, i64 TALL, i64 SHORT>
FS_INLINE void backward(const Layer& layer, float* gradients, const float* gradient, const float* x,
                        i64 samples) {
  product<WIDTH, TALL, SHORT>({gradient, layer.outputs, 1, x, layer.inputs, gradients + layer.weight,
                               layer.inputs, samples},
                              layer.outputs, layer.inputs);
  if (layer.bias < 0) return;
  float* bias = gradients + layer.bias;
  std::memset(bias, 0, static_cast<std::size_t>(layer.outputs) * sizeof(float));
  for (i64 r = 0; r < samples; ++r)
    for (i64 o = 0; o < layer.outputs; ++o) bias[o] += gradient[r * layer.outputs + o];
}

template <i64 WIDTH, i64 TALL, i64 SHORT>
FS_INLINE void take(const Job& job, i64 agent, float* memory) {
  const i64 samples = job.samples, last = job.count - 1;
  const float* model = job.models.at(agent, 0);
  const float* inputs = job.inputs + agent * samples * job.layers[0].inputs;
  float* gradients = job.gradients.at(agent, 0);
  float* given = memory;
  for (i64 l = 0; l <= last; ++l) given += samples * job.layers[l].outputs;
  float* const work = given;
  const float* x = inputs;
  given = memory;
  for (i64 l = 0; l <= last; ++l) {
    const Layer layer = job.layers[l];
    forward<WIDTH, TALL, SHORT>(layer, model, x, given, samples, work);
    x = given, given += samples * layer.outputs;
  }
  float* gradient = given - samples * job.layers[last].outputs;
  job.losses[agent] =
      cross_entropy(gradient, job.labels + agent * samples, samples, job.layers[last].outputs);
  for (i64 l = last; l >= 0; --l) {
    const Layer layer = job.layers[l];
    float* const before = l ? gradient - samples * layer.inputs : nullptr;
    backward<WIDTH, TALL, SHORT>(layer, gradients, gradient, l ? before : inputs, samples);
    if (!l) return;
    product<WIDTH, TALL, SHORT>({gradient, 1, layer.outputs, model + layer.weight, layer.inputs, work,
                                 layer.inputs, layer.outputs},
                                samples, layer.inputs);
    // what the layer got is not needed any more: its gradient takes its place
    const bool masked = job.layers[l - 1].relu;
    for (i64 e = 0; e < samples * layer.inputs; ++e) before[e] = masked && before[e] <= 0.0f ? 0.0f : work[e];
    gradient = before;
  }
}

using Take = void (*)(const Job&, i64, float*);

void take_plain(const Job& job, i64 agent, float* memory) { take<4, 6, 4>(job, agent, memory); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void take_avx2(const Job& job, i64 agent, float* memory) {
  take<8, 6, 4>(job, agent, memory);
}

__attribute__((target("avx512f"))) void take_avx512(const Job& job, i64 agent, float* memory) {
  take<16, 12, 8>(job, agent, memory);
}
#endif

Take fastest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return take_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return take_avx2;
#endif
  return take_plain;
}

// whether layers take what the ones before give, and lie within the rows
bool fits(const Job& job, i64 features, i64 columns) {
  i64 given = features;
  for (i64 l = 0; l < job.count; ++l) {
    const Layer& of = job.layers[l];
    if (of.inputs != given || of.outputs < 1 || of.outputs > columns) return false;
    if (of.weight < 0 || of.weight > columns - of.inputs * of.outputs) return false;
    if (of.bias < -1 || of.bias > columns - of.outputs) return false;
    given = of.outputs;
  }
  return true;
}

}  // namespace

FS_EXPORT i64 fs_stacked_perceptron(const float* inputs, const i64* labels, const float* models, i64 models_stride,
                                    float* gradients, i64 gradients_stride, float* losses, const i64* layers,
                                    double* squares, i64 agents, i64 samples, i64 features, i64 columns, i64 count,
                                    i64 threads) {
  const Job job{inputs,
                labels,
                {models, models_stride},
                {gradients, gradients_stride},
                losses,
                reinterpret_cast<const Layer*>(layers),
                count,
                samples};
  if (!fits(job, features, columns)) return BAD_LAYER;
  const i64 classes = job.layers[count - 1].outputs;
  for (i64 r = 0; r < agents * samples; ++r)
    if (labels[r] < 0 || labels[r] >= classes) return BAD_LABEL;
  static const Take take_agent = fastest();
  const i64 slices = fs::slices_of(columns);
  return fs::for_each_tile(agents, scratch(job), 0, threads, [&](i64 agent, float* memory, const float**) {
    take_agent(job, agent, memory);
    if (!squares) return;
    // while the row is in the cache that it was written into
    for (i64 s = 0; s < slices; ++s)
      squares[agent * slices + s] =
          fs::slice_sum(job.gradients.at(agent, s * fs::SLICE), nullptr, fs::slice_columns(columns, s));
  });
}
