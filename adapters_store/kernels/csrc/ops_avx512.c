/* 512-bit vectors where the compiler finds use for them. */
#if defined(__x86_64__)
#if defined(__clang__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")))
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c,prefer-vector-width=512")))
#endif
#define SUFFIX avx512
#define HAS_F16C 1
#include "block_ops.h"
#else
typedef int shira_no_avx512;
#endif
