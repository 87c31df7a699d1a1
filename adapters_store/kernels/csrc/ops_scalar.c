/* The portable variant: what the compiler makes of plain C. */
#define TARGET
#define SUFFIX scalar
#include "block_ops.h"

const Ops *shira_ops(int isa) {
    if (isa == SHIRA_SCALAR) return &shira_ops_scalar;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == SHIRA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        return &shira_ops_avx2;
    if (isa == SHIRA_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("f16c"))
        return &shira_ops_avx512;
#endif
    return NULL;
}
