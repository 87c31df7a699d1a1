/* 256-bit vectors and hardware fp16 conversion. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,f16c")))
#define SUFFIX avx2
#define HAS_F16C 1
#include "block_ops.h"
#else
typedef int shira_no_avx2;
#endif
