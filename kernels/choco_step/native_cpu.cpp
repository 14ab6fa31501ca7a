// choco_step on the CPU: tiles of whole buckets hold the slices of all agents in L2, so each buffer is read once.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/buckets/public_step.h"

namespace {

struct Arguments {
  fs::Rows x;
  fs::ConstRows saved, g;
  fs::StateRows momentum, x_hat;
  fs::Lists lists;
  fs::Table table;
  fs::Scalar lr, weight_decay, beta, mu, gamma;
  fs::Gate gate;
  fs::i64 kind;
  bool nesterov, maximize, mix_first;
  float levels;
  fs::Draws draws;
  const float* start(fs::i64 agent, fs::i64 column) const {
    return saved ? saved.at(agent, column) : x.at(agent, column);
  }
};

struct Tile {
  const Arguments& a;
  const fs::Part& part;
  fs::i64 next;  // first column of the tile after it
  float* models;  // [agents, columns of the part]: h, or x where mixing comes first
  float* copies;  // the same, public copies in float32; null where they are kept so
  const float** named;
  double* squares;  // of the part's buckets, [buckets, agents, 2]: their sum does not depend on the tiles

  float* model(fs::i64 i) const { return models + i * part.columns; }
  float* copy(fs::i64 i) const { return copies ? copies + i * part.columns : a.x_hat.floats(i, part.first); }

  void step(fs::i64 i) const {
    const float* start = a.start(i, part.first);
    if (!a.gate.opens(i)) {
      std::memcpy(model(i), start, static_cast<std::size_t>(part.columns) * sizeof(float));
      return;
    }
    alignas(64) float wide[fs::WIDE_COLUMNS];
    float* momentum = a.momentum.open(i, part.first, part.columns, wide);
    fs::local_row(a.kind,
                  {start, a.g.at(i, part.first), momentum, a.lr.at(i), a.weight_decay.at(i), a.beta.at(i),
                   a.nesterov, a.maximize, model(i), false, model(i), model(i)},
                  part.columns);
    if (a.kind == fs::LOCAL)
      a.momentum.close(i, part.first, part.columns, next, momentum, a.draws, fs::MOMENTUM);
  }

  void publish(fs::i64 i) const {
    alignas(64) std::uint16_t draws[fs::MOST_COLUMNS + fs::DRAW_SLACK / 2];
    const fs::Stream stream = a.draws.stream(i, fs::ROUNDING);
    for (fs::i64 c = 0; c < part.columns; c += fs::DRAWN_TOGETHER) {
      const fs::i64 left = part.columns - c;
      const fs::i64 count = left < fs::DRAWN_TOGETHER ? left : fs::DRAWN_TOGETHER;
      for (fs::i64 l = 0; l < count; l += fs::LINE) fs::prefetch(a.g.at(i, next) + c + l);
      fs::draw(stream, part.first + c, count, draws + c);
    }
    for (fs::i64 n = 0; n < part.buckets; ++n) {
      fs::Squares sums;
      const fs::Piece p = fs::piece(a.table, part, n);
      const fs::i64 at = p.first - part.first;
      const float* start = a.start(i, next);
      fs::publish_bucket(model(i) + at, draws + at, a.levels, p.columns, copy(i) + at,
                         {a.x_hat.soon(i, next, start) + at, start + at}, sums);
      double* both = squares + 2 * (n * a.lists.agents + i);
      both[0] = fs::fold_lanes(sums.sent), both[1] = fs::fold_lanes(sums.lost);
    }
    a.x_hat.close(i, part.first, part.columns, next, copy(i), a.draws, fs::COPIES);
  }

  void mix(fs::i64 i) const {
    const fs::i64 length = a.lists.length(i), list = i * a.lists.width;
    for (fs::i64 k = 0; k < length; ++k) named[k] = copy(a.lists.neighbors[list + k]);
    const bool moves = a.kind == fs::QUASI_GLOBAL && a.lr.at(i) != 0.0f && a.gate.opens(i);
    alignas(64) float wide[fs::WIDE_COLUMNS];
    float* momentum = moves ? a.momentum.open(i, part.first, part.columns, wide) : nullptr;
    fs::mix_public({named, a.lists.weights + list, length, copy(i), model(i), a.gamma.at(i),
                    moves ? a.start(i, part.first) : nullptr, momentum, a.lr.at(i), a.mu.at(i),
                    a.x.at(i, part.first), static_cast<bool>(a.saved), a.mix_first ? model(i) : nullptr,
                    a.momentum.soon(i, next, models)},
                   part.columns);
    if (moves) a.momentum.close(i, part.first, part.columns, next, momentum, a.draws, fs::MOMENTUM);
  }

  void run() const {
    const fs::i64 agents = a.lists.agents;
    if (copies)
      for (fs::i64 i = 0; i < agents; ++i) a.x_hat.open(i, part.first, part.columns, copy(i));
    for (fs::i64 i = 0; i < agents; ++i) {
      step(i);
      a.mix_first ? mix(i) : publish(i);
    }
    for (fs::i64 i = 0; i < agents; ++i) a.mix_first ? publish(i) : mix(i);
  }
};

}  // namespace

FS_EXPORT fs::i64 fs_choco_step(float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride, const float* g,
                                fs::i64 g_stride, void* momentum, fs::i64 momentum_stride, fs::i64 momentum_is_half,
                                void* x_hat, fs::i64 x_hat_stride, fs::i64 x_hat_is_half,
                                const std::int32_t* neighbors, const float* weights, const fs::Bucket* buckets,
                                fs::i64 bucket, const float* lr, fs::i64 lr_step, const float* weight_decay,
                                fs::i64 weight_decay_step, const float* beta, fs::i64 beta_step, const float* mu,
                                fs::i64 mu_step, const float* gamma, fs::i64 gamma_step, const float* norm,
                                fs::i64 kind, fs::i64 nesterov, fs::i64 maximize, fs::i64 mix_first, fs::i64 levels,
                                fs::i64 seed, const fs::i64* step, fs::i64 step_step, fs::i64 first_agent,
                                double* squares, const bool* active, fs::i64 agents, fs::i64 columns, fs::i64 width,
                                fs::i64 count, fs::i64 threads) try {
  const Arguments a{{x, x_stride},
                    {saved, saved_stride},
                    {g, g_stride},
                    {momentum, momentum_stride, momentum_is_half != 0},
                    {x_hat, x_hat_stride, x_hat_is_half != 0},
                    {neighbors, weights, agents, width},
                    {buckets, count},
                    {lr, lr_step},
                    {weight_decay, weight_decay_step},
                    {beta, beta_step},
                    {mu, mu_step},
                    {gamma, gamma_step},
                    {norm, active},
                    kind,
                    nesterov != 0,
                    maximize != 0,
                    mix_first != 0,
                    static_cast<float>(levels),
                    {static_cast<std::uint64_t>(seed), step, step_step, first_agent}};
  if (!a.lists.valid()) return fs::BAD_NEIGHBOR;
  if (!a.table.valid(columns, bucket)) return fs::BAD_BUCKETS;
  const std::vector<fs::Part> parts =
      fs::parts_of(a.table, fs::tile_columns((saved ? 6 : 5) * agents, columns), false);
  const fs::i64 tiles = static_cast<fs::i64>(parts.size());
  std::vector<double> partial(static_cast<std::size_t>(count * agents * 2));
  const fs::i64 status = fs::for_each_tile(
      tiles, (x_hat_is_half ? 2 : 1) * agents * fs::MOST_COLUMNS, width, threads,
      [&](fs::i64 t, float* models, const float** named) {
        const fs::Part& part = parts[t];
        const fs::i64 after = part.first + part.columns;
        const fs::i64 next = after + part.columns <= columns ? after : part.first;
        float* copies = x_hat_is_half ? models + agents * part.columns : nullptr;
        Tile{a, part, next, models, copies, named, partial.data() + part.bucket * agents * 2}.run();
      });
  if (status) return status;
  for (fs::i64 n = 0; n < agents * 2; ++n) {
    squares[n] = 0.0;
    for (fs::i64 b = 0; b < count; ++b) squares[n] += partial[b * agents * 2 + n];
  }
  return 0;
} catch (const std::bad_alloc&) {
  return fs::NO_MEMORY;
}
