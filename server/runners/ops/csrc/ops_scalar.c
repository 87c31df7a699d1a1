/* The portable variant: 16-byte vectors, which the compiler breaks up where there are none. */
#define TARGET
#define SUFFIX scalar
#define VECTOR_BYTES 16
#include "row_ops.h"

const Ops *shira_decoder_ops(int isa) {
    if (isa == SHIRA_SCALAR) return &shira_decoder_ops_scalar;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == SHIRA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &shira_decoder_ops_avx2;
    if (isa == SHIRA_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
        return &shira_decoder_ops_avx512;
#endif
    return NULL;
}
