/* Sixteen floats in one register. `Steps`: a panel's share of one step, or the same four bytes of W in every lane. */
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

LANES_FN Lanes lanes_add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }

/* The first `count` 16-bit halves from `at` on, zeros after them. */
LANES_FN Lanes lanes_load_halves(const char *at, int count) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((__mmask32)((1ull << count) - 1), at));
}

/* The first `count` numbers from `at` on, zeros after them. */
LANES_FN Lanes lanes_load_some(const char *at, int count, int is_bf16) {
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (!is_bf16) return _mm512_maskz_loadu_ps(mask, at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16));
}

/* Rounded to nearest, ties to even. */
LANES_FN __m256i lanes_narrow(Lanes lanes) {
    const __m512i bits = _mm512_castps_si512(lanes);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(lanes, lanes, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), is_nan, _mm512_set1_epi32(0x7fc0)));
}

LANES_FN void lanes_store_some(char *at, Lanes lanes, int count, int is_bf16) {
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (!is_bf16) {
        _mm512_mask_storeu_ps(at, mask, lanes);
        return;
    }
    const __m256i words = lanes_narrow(lanes);
    if (count == LANES) { /* a masked store of words is slow */
        _mm256_storeu_si256((__m256i *)(void *)at, words);
    } else if (count == 12) {
        _mm_storeu_si128((__m128i *)(void *)at, _mm256_castsi256_si128(words));
        _mm_storel_epi64((__m128i *)(void *)(at + 16), _mm256_extracti128_si256(words, 1));
    } else {
        _mm256_mask_storeu_epi16(at, mask, words);
    }
}

/* Lane j of register i becomes lane i of register j. */
LANES_FN void lanes_transpose(Lanes rows[LANES]) {
    __m512 pairs[LANES];
    __m512 quads[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* now whole quarters of registers */
        const __m512 low = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0x88);
        const __m512 high = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0xdd);
        const __m512 low2 = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0x88);
        const __m512 high2 = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0xdd);
        rows[i] = _mm512_shuffle_f32x4(low, low2, 0x88);
        rows[i + 4] = _mm512_shuffle_f32x4(high, high2, 0x88);
        rows[i + 8] = _mm512_shuffle_f32x4(low, low2, 0xdd);
        rows[i + 12] = _mm512_shuffle_f32x4(high, high2, 0xdd);
    }
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
