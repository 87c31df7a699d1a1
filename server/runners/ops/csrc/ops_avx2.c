/* 256-bit vectors with fused multiply-add. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma")))
#define SUFFIX avx2
#define VECTOR_BYTES 32
#define HAS_FMA 1
#include "row_ops.h"
#else
typedef int shira_no_avx2;
#endif
