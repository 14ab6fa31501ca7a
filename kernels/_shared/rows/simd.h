// What the CPU ops share: function clones per instruction set, streaming stores, scratch memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FS_CLONED
#define FS_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), unused))
// for loops over bytes and 16-bit numbers, which AVX-512F alone leaves to narrower registers
#if __GNUC__ >= 12
#define FS_BYTE_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), unused))
#else
#define FS_BYTE_CLONES FS_CLONES
#endif
#else
#define FS_CLONES __attribute__((unused))
#define FS_BYTE_CLONES __attribute__((unused))
#endif

#define FS_EXPORT extern "C" __attribute__((visibility("default")))
#define FS_INLINE inline __attribute__((always_inline))

// lines of floats are passed between inlined functions only, so how a call would pass them does not matter
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace fs {

using i64 = std::int64_t;

// columns come in multiples of this; accumulators have this many lanes whatever the SIMD width
constexpr i64 LANES = 32;

// error codes of the exported functions; 0 is success
constexpr i64 BAD_NEIGHBOR = 1;
constexpr i64 NO_MEMORY = 2;

// a per-agent float argument: one value for all (step 0) or one for each (step 1)
struct Scalar {
  const float* values;
  i64 step;
  float at(i64 agent) const { return values[agent * step]; }
};

// an agent-stacked buffer
struct Rows {
  float* first;
  i64 stride;
  float* at(i64 agent, i64 column) const { return first + agent * stride + column; }
  explicit operator bool() const { return first != nullptr; }
};

struct ConstRows {
  const float* first;
  i64 stride;
  const float* at(i64 agent, i64 column) const { return first + agent * stride + column; }
  explicit operator bool() const { return first != nullptr; }
};

// one cache line of floats; the compiler lowers it to whatever vectors the clone has
constexpr i64 LINE = 16;
typedef float Line __attribute__((vector_size(64), aligned(4), may_alias));

FS_INLINE Line load(const float* from) { return *reinterpret_cast<const Line*>(from); }
FS_INLINE void store(float* to, Line value) { *reinterpret_cast<Line*>(to) = value; }

// into L2: the row of the next tile lies a page or more away, where no hardware prefetcher looks
FS_INLINE void prefetch(const float* soon) { __builtin_prefetch(soon, 0, 2); }

// writes past the cache: a buffer that was not read is not fetched first
FS_INLINE void stream(float* to, Line value) {
#if defined(__x86_64__)
  if (reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    __m128 quarter[4];
    std::memcpy(quarter, &value, sizeof value);
    for (i64 q = 0; q < 4; ++q) _mm_stream_ps(to + 4 * q, quarter[q]);
    return;
  }
#endif
  store(to, value);
}

// orders streaming stores before whatever another thread reads afterwards
FS_INLINE void stream_done() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// the sum of a loop's lanes, by halves
template <typename Number>
FS_INLINE Number fold_lanes(Number* lanes) {
#pragma GCC unroll 5
  for (i64 half = LANES / 2; half; half /= 2)
    for (i64 l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// a thread's tile memory, kept from call to call
struct Tile {
  float* memory = nullptr;
  const float** named = nullptr;
  i64 floats = 0, names = 0;
  ~Tile() { release(); }
  void release() {
    std::free(memory);
    std::free(named);
    memory = nullptr, named = nullptr, floats = names = 0;
  }
  bool reserve(i64 want_floats, i64 want_names) {
    if (want_floats <= floats && want_names <= names) return true;
    want_floats = (want_floats > floats ? want_floats : floats) + LINE;
    want_names = (want_names > names ? want_names : names) + 1;
    release();
    const std::size_t bytes = (static_cast<std::size_t>(want_floats) * sizeof(float) + 4095) / 4096 * 4096;
    memory = static_cast<float*>(std::aligned_alloc(4096, bytes));
    named = static_cast<const float**>(std::malloc(static_cast<std::size_t>(want_names) * sizeof(float*)));
    if (!memory || !named) {
      release();
      return false;
    }
    floats = want_floats, names = want_names;
    return true;
  }
};

// no tile is wider
constexpr i64 TILE_COLUMNS = 1024;

// columns of a tile whose `rows` slices stay in a core's L2 together
inline i64 tile_columns(i64 rows, i64 columns) {
  constexpr i64 BUDGET = 512 * 1024 / static_cast<i64>(sizeof(float));
  i64 width = BUDGET / rows / LANES * LANES;
  if (width > TILE_COLUMNS) width = TILE_COLUMNS;
  if (width < LANES) width = LANES;
  return width < columns ? width : columns;
}

// calls body(tile's number, memory, names) for every tile, in parallel; nothing runs without memory
template <typename Body>
i64 for_each_tile(i64 tiles, i64 floats, i64 names, i64 threads, Body body) {
  bool starved = false;
#pragma omp parallel num_threads(threads)
  {
    static thread_local Tile own;
    if (!own.reserve(floats, names)) {
#pragma omp atomic write
      starved = true;
    }
#pragma omp barrier
    if (!starved) {
#pragma omp for schedule(static)
      for (i64 t = 0; t < tiles; ++t) body(t, own.memory, own.named);
      stream_done();
    }
  }
  return starved ? NO_MEMORY : 0;
}

// calls body(first column, columns, first column of the next tile, memory, names) for every tile
template <typename Body>
i64 for_tiles(i64 columns, i64 tile, i64 floats, i64 names, i64 threads, Body body) {
  return for_each_tile((columns + tile - 1) / tile, floats, names, threads,
                       [&](i64 t, float* memory, const float** named) {
                         const i64 first = t * tile;
                         const i64 rest = columns - first, ahead = rest - tile;
                         const i64 next = ahead >= tile ? first + tile : first;
                         body(first, rest < tile ? rest : tile, next, memory, named);
                       });
}

}  // namespace fs
