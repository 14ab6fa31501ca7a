// collect_gradients on the CPU: a slice of a row is squared while it is in the cache that it was copied into.
#include "../_shared/squares/squares.h"

FS_EXPORT fs::i64 fs_collect_gradients(float* g, fs::i64 g_stride, const float* const* parts,
                                       const fs::i64* parts_strides, const fs::i64* parts_elements,
                                       fs::i64 parts_count, const fs::i64* starts, double* squares, fs::i64 agents,
                                       fs::i64 columns, fs::i64 threads) {
  const fs::i64 slices = fs::slices_of(columns);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (fs::i64 p = 0; p < agents * slices; ++p) {
    const fs::i64 agent = p / slices, first = p % slices * fs::SLICE;
    const fs::i64 width = fs::slice_columns(columns, p % slices), end = first + width;
    float* row = g + agent * g_stride;
    for (fs::i64 k = 0; k < parts_count; ++k) {
      const fs::i64 from = starts[k] < first ? first : starts[k];
      const fs::i64 to = starts[k] + parts_elements[k] > end ? end : starts[k] + parts_elements[k];
      if (from >= to) continue;
      std::memcpy(row + from, parts[k] + agent * parts_strides[k] + from - starts[k],
                  static_cast<std::size_t>(to - from) * sizeof(float));
    }
    if (squares) squares[p] = fs::slice_sum(row + first, nullptr, width);
  }
  return 0;
}
