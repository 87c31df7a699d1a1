/* 512-bit vectors: sixteen lanes in one. */
#if defined(__x86_64__)
#if defined(__clang__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")))
#endif
#define SUFFIX avx512
#define VECTOR_BYTES 64
#define HAS_FMA 1
#define HAS_AVX512 1
#include "row_ops.h"
#else
typedef int shira_no_avx512;
#endif
