/* 512-bit vectors with dot products of bfloat16 pairs. */
#if defined(__x86_64__)
#include <string.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,avx512bf16")))
#define SUFFIX avx512bf16
#define STRIP 12
#define STRIP_PANELS 2
#define HAS_LINEAR_F32 1
#define HAS_LINEAR_BF16 1
#include "linear.h"

#include "lanes_avx512.h"
#include "linear_ops.h"
#else
typedef int shira_no_linear_avx512bf16;
#endif
