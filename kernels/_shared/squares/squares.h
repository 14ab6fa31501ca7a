// Sums of squares of a row's slices, as agent_norm adds them: whoever has a row at hand may add them up there.
#pragma once

#include "../rows/simd.h"

namespace fs {

constexpr i64 SLICE = 8192;

// of |scale| g, count a multiple of LANES; in float64 the product of two float32 numbers is exact, fused or not
FS_CLONES static double slice_sum(const float* g, const float* scale, i64 count) {
  double lanes[LANES] = {0.0};
  if (scale) {
    for (i64 c = 0; c < count; c += LANES)
      for (i64 l = 0; l < LANES; ++l) {
        const double v = g[c + l] * scale[c + l];
        lanes[l] += v * v;
      }
  } else {
    for (i64 c = 0; c < count; c += LANES)
      for (i64 l = 0; l < LANES; ++l) {
        const double v = g[c + l];
        lanes[l] += v * v;
      }
  }
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

inline i64 slices_of(i64 columns) { return (columns + SLICE - 1) / SLICE; }

// columns of slice s
inline i64 slice_columns(i64 columns, i64 s) {
  const i64 rest = columns - s * SLICE;
  return rest < SLICE ? rest : SLICE;
}

// the norm of a row from the sums of its slices
inline float norm_of(const double* sums, i64 slices, const float* gate, i64 agent) {
  double sum = 0.0;
  for (i64 s = 0; s < slices; ++s) sum += sums[s];
  const float result = static_cast<float>(std::sqrt(sum));
  return gate && !std::isfinite(gate[agent]) ? gate[agent] : result;
}

}  // namespace fs
