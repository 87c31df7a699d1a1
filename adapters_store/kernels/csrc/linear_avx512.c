/* 512-bit vectors; bfloat16 is only corrected, not multiplied. */
#if defined(__x86_64__)
#include <string.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define SUFFIX avx512
#define STRIP 12
#define STRIP_PANELS 2
#define HAS_LINEAR_F32 1
#define HAS_LINEAR_BF16 0
#include "linear.h"

#include "lanes_avx512.h"
#include "linear_ops.h"
#else
typedef int shira_no_linear_avx512;
#endif
