// choco_encode on the CPU: parts of rows in parallel; a part's models, draws and codes stay in L1.
#include "../_shared/bfloat16/bfloat16.h"
#include "../_shared/buckets/public_step.h"

namespace {

struct Arguments {
  fs::ConstRows x, saved, g;
  fs::StateRows momentum;
  fs::Rows h;
  fs::StateRows x_hat;
  fs::Table table;
  fs::i64 bits;
  fs::Scalar lr, weight_decay, beta;
  fs::Gate gate;
  fs::i64 kind;
  bool nesterov, maximize, moves;
  float levels;
  fs::Draws draws;
  fs::WrittenBytes codes;
  fs::Rows scales;
  fs::WrittenBytes signs;
};

struct PartEncoder {
  const Arguments& a;
  const fs::Part& part;
  fs::i64 agent, next;  // and the first column of the part after it
  double* squares;  // of the part's buckets, [buckets, agents, 2]: their sum does not depend on the parts
  fs::i64 agents;
  alignas(64) float stepped[fs::MOST_COLUMNS], wide[fs::MOST_COLUMNS], t[fs::MOST_COLUMNS];
  alignas(64) std::uint16_t drawn[fs::MOST_COLUMNS + fs::DRAW_SLACK / 2];
  alignas(64) fs::Byte fields[fs::MOST_COLUMNS], negative[fs::MOST_COLUMNS];

  PartEncoder(const Arguments& arguments, const fs::Part& of_part, fs::i64 of_agent, fs::i64 then, double* sums,
              fs::i64 of_agents)
      : a(arguments), part(of_part), agent(of_agent), next(then), squares(sums), agents(of_agents) {}

  // h, which is written by the way; x without a step
  const float* model() {
    const float* start = (a.saved ? a.saved : a.x).at(agent, part.first);
    if (!a.h) return start;
    float* h = a.h.at(agent, part.first);
    if (!a.gate.opens(agent)) {
      for (fs::i64 c = 0; c < part.columns; c += fs::LINE) fs::stream(h + c, fs::load(start + c));
      return start;
    }
    float* momentum = a.momentum.open(agent, part.first, part.columns, wide);
    fs::local_row(a.kind,
                  {start, a.g.at(agent, part.first), momentum, a.lr.at(agent), a.weight_decay.at(agent),
                   a.beta.at(agent), a.nesterov, a.maximize, stepped, false, start, a.g.at(agent, next)},
                  part.columns);
    if (a.kind == fs::LOCAL)
      a.momentum.close(agent, part.first, part.columns, next, momentum, a.draws, fs::MOMENTUM);
    for (fs::i64 c = 0; c < part.columns; c += fs::LINE) fs::stream(h + c, fs::load(stepped + c));
    return stepped;
  }

  void encode() {
    const float* models = model();
    float* copies = a.x_hat.open(agent, part.first, part.columns, wide);
    fs::draw(a.draws.stream(agent, fs::ROUNDING), part.first, part.columns, drawn);
    const bool is_row = a.bits == 8 && !a.signs;
    fs::Byte* row = a.codes.at(agent, part.first * a.bits / 8);
    fs::Byte* codes = is_row ? row : fields;
    const float* soon = (a.saved ? a.saved : a.x).at(agent, next);
    const float* soon_copies = a.x_hat.soon(agent, next, soon);
    for (fs::i64 n = 0; n < part.buckets; ++n) {
      const fs::Piece p = fs::piece(a.table, part, n);
      const fs::i64 at = p.first - part.first;
      const fs::Level by =
          fs::level(fs::top_of(0, fs::take_difference(models + at, copies + at, p.columns, t)), a.levels);
      *a.scales.at(agent, p.bucket) = by.scale;
      fs::Squares sums;
      for (fs::i64 c = 0; c < p.columns; c += fs::SQUARED_COLUMNS) {
        const fs::i64 left = p.columns - c, count = left < fs::SQUARED_COLUMNS ? left : fs::SQUARED_COLUMNS;
        fs::write_quantized(t + c, drawn + at + c, by, a.levels, count, codes + at + c, a.moves, copies + at + c,
                            {soon_copies + at + c, soon + at + c}, sums);
      }
      if (std::isnan(by.scale)) std::memset(codes + at, 0, static_cast<std::size_t>(p.columns));
      double* both = squares + 2 * (n * agents + agent);
      both[0] = fs::fold_lanes(sums.sent), both[1] = fs::fold_lanes(sums.lost);
    }
    if (a.moves) a.x_hat.close(agent, part.first, part.columns, next, copies, a.draws, fs::COPIES);
    if (a.signs) {
      fs::split_signs(codes, part.columns, negative);
      fs::pack(negative, part.columns, 1, a.signs.at(agent, part.first / 8));
    }
    if (a.bits < 8) fs::pack(codes, part.columns, a.bits, row);
    else if (!is_row) std::memcpy(row, codes, static_cast<std::size_t>(part.columns));
    if (a.h) fs::stream_done();
  }
};

}  // namespace

FS_EXPORT fs::i64 fs_choco_encode(const float* x, fs::i64 x_stride, const float* saved, fs::i64 saved_stride,
                                  const float* g, fs::i64 g_stride, void* momentum, fs::i64 momentum_stride,
                                  fs::i64 momentum_is_half, float* h, fs::i64 h_stride, void* x_hat,
                                  fs::i64 x_hat_stride, fs::i64 x_hat_is_half, const fs::Bucket* buckets,
                                  fs::i64 bucket, fs::i64 bits, const float* lr, fs::i64 lr_step,
                                  const float* weight_decay, fs::i64 weight_decay_step, const float* beta,
                                  fs::i64 beta_step, const float* norm, fs::i64 kind, fs::i64 nesterov,
                                  fs::i64 maximize, fs::i64 moves, fs::i64 levels, fs::i64 seed,
                                  const fs::i64* step, fs::i64 step_step, fs::i64 first_agent, fs::Byte* codes,
                                  fs::i64 codes_stride, float* scales, fs::i64 scales_stride, fs::Byte* signs,
                                  fs::i64 signs_stride, double* squares, const bool* active, fs::i64 agents,
                                  fs::i64 columns, fs::i64 count, fs::i64 threads) try {
  const Arguments a{{x, x_stride},
                    {saved, saved_stride},
                    {g, g_stride},
                    {momentum, momentum_stride, momentum_is_half != 0},
                    {h, h_stride},
                    {x_hat, x_hat_stride, x_hat_is_half != 0},
                    {buckets, count},
                    bits,
                    {lr, lr_step},
                    {weight_decay, weight_decay_step},
                    {beta, beta_step},
                    {norm, active},
                    kind,
                    nesterov != 0,
                    maximize != 0,
                    moves != 0,
                    static_cast<float>(levels),
                    {static_cast<std::uint64_t>(seed), step, step_step, first_agent},
                    {codes, codes_stride},
                    {scales, scales_stride},
                    {signs, signs_stride}};
  if (!a.table.valid(columns, bucket)) return fs::BAD_BUCKETS;
  const std::vector<fs::Part> parts = fs::parts_of(a.table, fs::MOST_COLUMNS, false);
  std::vector<double> partial(static_cast<std::size_t>(count * agents * 2));
  fs::for_parts(agents, parts, threads, [&](fs::i64 agent, fs::i64 p) {
    const fs::Part& part = parts[p];
    const fs::i64 after = part.first + part.columns;
    const fs::i64 next = after + part.columns <= columns ? after : part.first;
    PartEncoder{a, part, agent, next, partial.data() + part.bucket * agents * 2, agents}.encode();
  });
  for (fs::i64 n = 0; n < agents * 2; ++n) {
    squares[n] = 0.0;
    for (fs::i64 b = 0; b < count; ++b) squares[n] += partial[b * agents * 2 + n];
  }
  return 0;
} catch (const std::bad_alloc&) {
  return fs::NO_MEMORY;
}
