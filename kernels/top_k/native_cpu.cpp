// top_k on the CPU: a sample tells which scores can be among the largest; only those are collected and ranked.
#include <memory>

#include "../_shared/buckets/buckets.h"
#include "../_shared/buckets/ranking.h"

namespace {

using fs::i64;
using fs::Bits;
using fs::Score;

// elements that are scored together, and as many make a sample
constexpr i64 CHUNK = 4096;

struct Arguments {
  fs::ConstRows x;
  fs::Table table;
  const std::int32_t* counts;
  bool random;
  fs::Draws draws;
  i64 agents, kept;
  std::int32_t* indices;
  float* values;
  // a float's magnitude is ranked as an integer, where NaN is above infinity
  Score mask() const { return random ? 0xFFFFFFFFu : 0x7FFFFFFFu; }
};

// a thread's memory: the places in a tensor that may be kept, their scores, and a copy that is put in another order
struct Scratch {
  std::unique_ptr<std::int32_t[]> places;
  std::unique_ptr<Score[]> scores, ranked;
  explicit Scratch(i64 most)
      : places(new std::int32_t[most + fs::SLACK]), scores(new Score[most + fs::SLACK]), ranked(new Score[most]) {}
};

struct Selection {
  const Arguments& a;
  i64 agent, tensor;
  Scratch& memory;
  alignas(64) Bits drawn[CHUNK + fs::DRAW_SLACK / 4];

  Selection(const Arguments& arguments, i64 of_agent, i64 of_tensor, Scratch& own)
      : a(arguments), agent(of_agent), tensor(of_tensor), memory(own) {}

  const Bits* bits(i64 column, i64 columns) {
    if (!a.random) return reinterpret_cast<const Bits*>(a.x.at(agent, column));
    fs::draw(a.draws.stream(agent, fs::CHOICE), column, columns, drawn);
    return drawn;
  }

  // a score that, as a sample says, somewhat more than `count` elements reach
  Score bound(const fs::Bucket& bucket, i64 count) {
    const i64 step = bucket.elements / CHUNK;
    if (step < 2) return 0;
    const Bits* from = bits(bucket.first, CHUNK);
    for (i64 n = 0; n < CHUNK; ++n) memory.ranked[n] = from[a.random ? n : n * step] & a.mask();
    const double expected = static_cast<double>(count) * CHUNK / bucket.elements;
    const i64 place = static_cast<i64>(expected + 4.0 * std::sqrt(expected)) + 4;
    return place < CHUNK ? fs::rank(memory.ranked.get(), CHUNK, place) : 0;
  }

  i64 collect_all(const fs::Bucket& bucket, Score low) {
    i64 found = 0;
    for (i64 c = 0; c < bucket.columns(); c += CHUNK) {
      const i64 columns = std::min(CHUNK, bucket.columns() - c), elements = std::min(CHUNK, bucket.elements - c);
      found += fs::collect(bits(bucket.first + c, columns), a.mask(), low, bucket.first + c, elements,
                           memory.places.get() + found, memory.scores.get() + found);
    }
    return found;
  }

  void write(std::int32_t* indices, float* values) {
    const fs::Bucket& bucket = a.table.buckets[tensor];
    const i64 count = a.counts[tensor];
    i64 found = collect_all(bucket, bound(bucket, count));
    if (found < count) found = collect_all(bucket, 0);
    std::copy_n(memory.scores.get(), found, memory.ranked.get());
    const Score last = fs::rank(memory.ranked.get(), found, count);
    i64 equal = count;
    for (i64 n = 0; n < found; ++n) equal -= memory.scores[n] > last;
    for (i64 n = 0, kept = 0; kept < count; ++n) {
      const Score score = memory.scores[n];
      indices[kept] = memory.places[n];
      values[kept] = *a.x.at(agent, memory.places[n]);
      // of equal scores the lower column wins
      kept += score > last || (score == last && equal > 0);
      equal -= score == last;
    }
  }
};

}  // namespace

FS_EXPORT i64 fs_top_k(const float* x, i64 x_stride, const fs::Bucket* buckets, const std::int32_t* counts,
                       i64 random, i64 seed, const i64* step, i64 step_step, i64 first_agent, std::int32_t* indices,
                       float* values, i64 agents, i64 columns, i64 count, i64 kept, i64 threads) try {
  const Arguments a{{x, x_stride},
                    {buckets, count},
                    counts,
                    random != 0,
                    {static_cast<std::uint64_t>(seed), step, step_step, first_agent},
                    agents,
                    kept,
                    indices,
                    values};
  if (!a.table.valid(columns, columns)) return fs::BAD_BUCKETS;
  std::vector<i64> begins;
  i64 sum = 0, most = CHUNK;
  for (i64 t = 0; t < count; ++t) {
    if (counts[t] < 1 || counts[t] > buckets[t].elements) return fs::BAD_COUNTS;
    begins.push_back(sum);
    sum += counts[t];
    most = std::max<i64>(most, buckets[t].elements);
  }
  if (sum != kept) return fs::BAD_COUNTS;
  std::vector<Scratch> scratch;
  for (i64 n = 0; n < threads; ++n) scratch.emplace_back(most);
  i64 taken = 0;
#pragma omp parallel num_threads(threads)
  {
    i64 own;
#pragma omp atomic capture
    own = taken++;
#pragma omp for schedule(dynamic)
    for (i64 n = 0; n < agents * count; ++n) {
      const i64 agent = n / count, tensor = n % count, at = agent * kept + begins[tensor];
      Selection{a, agent, tensor, scratch[own]}.write(indices + at, values + at);
    }
  }
  return 0;
} catch (const std::bad_alloc&) {
  return fs::NO_MEMORY;
}
