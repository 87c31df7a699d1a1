/* Sixteen floats in one register. `Steps`: what a panel holds for one step, or the same four bytes of W in every lane. */
#include <immintrin.h>

typedef __m512 Lanes;
typedef __mmask16 LaneMask;
typedef __m512i Steps;

#define LANES_FN TARGET static inline __attribute__((always_inline))

LANES_FN Lanes lanes_zero(void) { return _mm512_setzero_ps(); }
LANES_FN Lanes lanes_set(float value) { return _mm512_set1_ps(value); }
LANES_FN Lanes lanes_load(const float *at) { return _mm512_load_ps(at); }
LANES_FN void lanes_store(float *at, Lanes lanes) { _mm512_store_ps(at, lanes); }
LANES_FN Lanes lanes_fma(Lanes a, Lanes b, Lanes sum) { return _mm512_fmadd_ps(a, b, sum); }
LANES_FN LaneMask lanes_mask(uint32_t bits) { return (LaneMask)bits; }
LANES_FN Lanes lanes_choose(LaneMask mask, Lanes yes, Lanes no) { return _mm512_mask_mov_ps(no, mask, yes); }

/* The first or second of the bfloat16 pair in each lane. */
LANES_FN Lanes lanes_widen(const uint32_t *pairs, int64_t is_second) {
    const __m128i shift = _mm_cvtsi64_si128(is_second ? 0 : 16);
    const __m512i high = _mm512_sll_epi32(_mm512_load_si512(pairs), shift);
    return _mm512_castsi512_ps(_mm512_and_si512(high, _mm512_set1_epi32((int)0xffff0000u)));
}

LANES_FN Steps steps_load(const uint32_t *at) { return _mm512_load_si512(at); }
LANES_FN Steps steps_set(const char *at, int is_bf16) {
    int word;
    (void)is_bf16;
    memcpy(&word, at, sizeof word);
    return _mm512_set1_epi32(word);
}
LANES_FN Steps steps_set_last(const char *at) {
    uint16_t word;
    memcpy(&word, at, sizeof word);
    return _mm512_set1_epi32(word);
}
LANES_FN Lanes steps_dot(Steps x, Steps w, Lanes sum, int is_bf16) {
#if HAS_LINEAR_BF16
    if (is_bf16) return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
#else
    (void)is_bf16; /* never asked for */
#endif
    return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), sum);
}
