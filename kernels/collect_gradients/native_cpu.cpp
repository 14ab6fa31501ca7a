// collect_gradients on the CPU: a slice of a row is squared while it is in the cache that it was copied into.
#include "../_shared/squares/squares.h"

FS_EXPORT fs::i64 fs_collect_gradients(const float* const* parts, const fs::i64* starts, const fs::i64* counts,
                                       const fs::i64* strides, fs::i64 number, float* g, fs::i64 g_stride,
                                       double* squares, fs::i64 agents, fs::i64 columns, fs::i64 threads) {
  const fs::i64 slices = fs::slices_of(columns);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 p = 0; p < agents * slices; ++p) {
    const fs::i64 agent = p / slices, first = p % slices * fs::SLICE;
    const fs::i64 width = fs::slice_columns(columns, p % slices), end = first + width;
    float* row = g + agent * g_stride;
    for (fs::i64 k = 0; k < number; ++k) {
      const fs::i64 from = starts[k] < first ? first : starts[k];
      const fs::i64 to = starts[k] + counts[k] > end ? end : starts[k] + counts[k];
      if (from >= to) continue;
      std::memcpy(row + from, parts[k] + agent * strides[k] + from - starts[k],
                  static_cast<std::size_t>(to - from) * sizeof(float));
    }
    if (squares) squares[p] = fs::slice_sum(row + first, nullptr, width);
  }
  return 0;
}
