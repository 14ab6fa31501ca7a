// gossip_step on the CPU: tiles of columns hold the slices of all agents in L2, so each buffer is read once.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/step/step.h"

namespace {

struct Arguments {
  fs::Rows x;
  fs::ConstRows saved, g;
  fs::StateRows momentum;
  fs::Lists lists;
  fs::Scalar lr, weight_decay, beta, mu;
  fs::Gate gate;
  fs::i64 kind;
  bool nesterov, maximize;
  fs::Draws draws;
  const float* start(fs::i64 agent, fs::i64 column) const {
    return saved ? saved.at(agent, column) : x.at(agent, column);
  }
};

void step_tile(const Arguments& a, fs::i64 first, fs::i64 count, fs::i64 next, float* h,
               const float** named) {
  const fs::i64 agents = a.lists.agents;
  alignas(64) float wide[fs::WIDE_COLUMNS];
  for (fs::i64 i = 0; i < agents; ++i) {
    const float* start = a.start(i, first);
    float* target = h + i * count;
    if (!a.gate.opens(i)) {
      std::memcpy(target, start, static_cast<std::size_t>(count) * sizeof(float));
      continue;
    }
    float* momentum = a.momentum.open(i, first, count, wide);
    fs::local_row(a.kind,
                  {start, a.g.at(i, first), momentum, a.lr.at(i), a.weight_decay.at(i), a.beta.at(i),
                   a.nesterov, a.maximize, target, false, a.start(i, next), a.g.at(i, next)},
                  count);
    if (a.kind == fs::LOCAL) a.momentum.close(i, first, count, next, momentum, a.draws, fs::MOMENTUM);
  }
  for (fs::i64 i = 0; i < agents; ++i) {
    const fs::i64 length = a.lists.length(i), list = i * a.lists.width;
    for (fs::i64 k = 0; k < length; ++k) named[k] = h + a.lists.neighbors[list + k] * count;
    const bool moves = a.kind == fs::QUASI_GLOBAL && a.lr.at(i) != 0.0f && a.gate.opens(i);
    float* momentum = moves ? a.momentum.open(i, first, count, wide) : nullptr;
    fs::mix_row({named, a.lists.weights + list, length, moves ? a.start(i, first) : nullptr, momentum,
                 a.lr.at(i), a.mu.at(i), a.x.at(i, first), static_cast<bool>(a.saved),
                 a.momentum.soon(i, next, h)},
                count);
    if (moves) a.momentum.close(i, first, count, next, momentum, a.draws, fs::MOMENTUM);
  }
}

}  // namespace

FS_EXPORT fs::i64 fs_gossip_step(float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride, const float* g,
                                 fs::i64 g_stride, void* momentum, fs::i64 momentum_stride, fs::i64 momentum_is_half,
                                 const std::int32_t* neighbors, const float* weights, const float* lr,
                                 fs::i64 lr_step, const float* weight_decay, fs::i64 weight_decay_step,
                                 const float* beta, fs::i64 beta_step, const float* mu, fs::i64 mu_step,
                                 const float* norm, fs::i64 kind, fs::i64 nesterov, fs::i64 maximize, fs::i64 seed,
                                 const fs::i64* step, fs::i64 step_step, fs::i64 first_agent, const bool* active,
                                 fs::i64 agents, fs::i64 columns, fs::i64 width, fs::i64 threads) {
  const Arguments a{{x, x_stride},
                    {saved, saved_stride},
                    {g, g_stride},
                    {momentum, momentum_stride, momentum_is_half != 0},
                    {neighbors, weights, agents, width},
                    {lr, lr_step},
                    {weight_decay, weight_decay_step},
                    {beta, beta_step},
                    {mu, mu_step},
                    {norm, active},
                    kind,
                    nesterov != 0,
                    maximize != 0,
                    {static_cast<std::uint64_t>(seed), step, step_step, first_agent}};
  if (!a.lists.valid()) return fs::BAD_NEIGHBOR;
  const fs::i64 tile = fs::tile_columns((saved ? 5 : 4) * agents, columns);
  return fs::for_tiles(columns, tile, agents * tile, width, threads,
                       [&](fs::i64 first, fs::i64 count, fs::i64 next, float* h, const float** named) {
                         step_tile(a, first, count, next, h, named);
                       });
}
