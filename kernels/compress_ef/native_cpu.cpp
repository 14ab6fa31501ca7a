// compress_ef on the CPU: the quantizer of a row's parts, with x + residual in L1.
#include "../_shared/buckets/quantizer.h"

FS_EXPORT fs::i64 fs_compress_ef(const float* x, fs::i64 x_stride, float* residual, fs::i64 residual_stride,
                                 const fs::Bucket* buckets, fs::i64 bucket, fs::i64 bits, fs::i64 levels,
                                 fs::i64 norm, fs::i64 seed, const fs::i64* step, fs::i64 step_step,
                                 fs::i64 first_agent, fs::Byte* codes, float* scales, fs::Byte* signs, fs::i64 agents,
                                 fs::i64 columns, fs::i64 count, fs::i64 threads) {
  return fs::quantize_rows({{x, x_stride},
                            {residual, residual_stride},
                            {buckets, count},
                            agents,
                            columns,
                            bucket,
                            bits,
                            levels,
                            norm,
                            {static_cast<std::uint64_t>(seed), step, step_step, first_agent},
                            codes,
                            scales,
                            signs},
                           threads);
}
