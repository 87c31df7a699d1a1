/* Sixteen floats in two registers; bfloat16 is only corrected, not multiplied. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "linear.h"

#define TARGET __attribute__((target("avx2,fma")))
#define SUFFIX avx2
#define STRIP 6
#define STRIP_PANELS 1
#define HAS_LINEAR_F32 1
#define HAS_LINEAR_BF16 0
#define LANES_FN TARGET static inline __attribute__((always_inline))

typedef struct {
    __m256 low;
    __m256 high;
} Lanes;
typedef Lanes LaneMask;
typedef Lanes Steps;

LANES_FN Lanes lanes_of(__m256 low, __m256 high) {
    const Lanes lanes = {low, high};
    return lanes;
}
LANES_FN Lanes lanes_zero(void) { return lanes_of(_mm256_setzero_ps(), _mm256_setzero_ps()); }
LANES_FN Lanes lanes_set(float value) { return lanes_of(_mm256_set1_ps(value), _mm256_set1_ps(value)); }
LANES_FN Lanes lanes_load(const float *at) { return lanes_of(_mm256_load_ps(at), _mm256_load_ps(at + 8)); }
LANES_FN void lanes_store(float *at, Lanes lanes) {
    _mm256_store_ps(at, lanes.low);
    _mm256_store_ps(at + 8, lanes.high);
}
LANES_FN Lanes lanes_fma(Lanes a, Lanes b, Lanes sum) {
    return lanes_of(_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high));
}
LANES_FN Lanes lanes_add(Lanes a, Lanes b) {
    return lanes_of(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}
LANES_FN __m256 half_mask(uint32_t bits) {
    const __m256i one = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), one), one));
}
LANES_FN LaneMask lanes_mask(uint32_t bits) { return lanes_of(half_mask(bits), half_mask(bits >> 8)); }
LANES_FN Lanes lanes_choose(LaneMask mask, Lanes yes, Lanes no) {
    return lanes_of(_mm256_blendv_ps(no.low, yes.low, mask.low), _mm256_blendv_ps(no.high, yes.high, mask.high));
}

LANES_FN __m256 widen_half(const uint32_t *pairs, __m128i shift) {
    const __m256i high = _mm256_sll_epi32(_mm256_load_si256((const __m256i *)pairs), shift);
    return _mm256_castsi256_ps(_mm256_and_si256(high, _mm256_set1_epi32((int)0xffff0000u)));
}
LANES_FN Lanes lanes_widen(const uint32_t *pairs, int64_t is_second) {
    const __m128i shift = _mm_cvtsi64_si128(is_second ? 0 : 16);
    return lanes_of(widen_half(pairs, shift), widen_half(pairs + 8, shift));
}

LANES_FN Steps steps_load(const uint32_t *at) { return lanes_load((const float *)(const void *)at); }
LANES_FN Steps steps_set(const char *at, int is_bf16) {
    float value;
    (void)is_bf16;
    memcpy(&value, at, sizeof value);
    return lanes_set(value);
}
LANES_FN Steps steps_set_last(const char *at) { return steps_set(at, 1); }
LANES_FN Lanes steps_dot(Steps x, Steps w, Lanes sum, int is_bf16) {
    (void)is_bf16;
    return lanes_fma(x, w, sum);
}

#include "lanes_memory.h"
#include "linear_ops.h"
#else
typedef int shira_no_linear_avx2;
#endif
