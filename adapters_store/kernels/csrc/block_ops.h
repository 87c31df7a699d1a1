/* The per-block operations, compiled once per instruction set: the including file defines TARGET (a function
 * attribute), SUFFIX, and HAS_F16C / HAS_AVX512 where they hold. Results are the same bit for bit in every variant. */
#include <string.h>

#include "ops.h"

#if defined(HAS_F16C)
#include <immintrin.h>
#endif

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(op) JOIN(op, SUFFIX)
#define FN(type) TARGET static type

enum { AHEAD = 128 /* entries between a prefetch and its use */, CHUNK = 256 };

static inline __attribute__((always_inline)) uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline __attribute__((always_inline)) float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- moving words -------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) const char *ahead_of(const Span *span, int64_t entry) {
    return (const char *)span->data + ((int64_t)span->indices[entry] << (span->is_wide ? 2 : 1));
}

/* Defines a pass over one block: the body runs for every entry j; the lines of the entry AHEAD of it, in this
 * block or the next one, are on their way into the cache for writing. */
#define DEFINE_PASS(op, word_t, BODY)                                                            \
    TARGET static void NAME(op)(const Span *span, const Span *next) {                            \
        word_t *data = span->data;                                                               \
        const uint16_t *indices = span->indices;                                                 \
        const word_t *words = span->words;                                                       \
        word_t *displaced = span->displaced;                                                     \
        const int64_t count = span->count;                                                       \
        const int64_t next_count = next ? next->count : 0;                                       \
        int64_t j = 0;                                                                           \
        (void)displaced;                                                                         \
        for (; j + AHEAD < count; j++) {                                                         \
            __builtin_prefetch(data + indices[j + AHEAD], 1, 3);                                 \
            BODY                                                                                 \
        }                                                                                        \
        for (; j < count; j++) {                                                                 \
            const int64_t beyond = j + AHEAD - count;                                            \
            if (beyond >= 0 && beyond < next_count) __builtin_prefetch(ahead_of(next, beyond), 1, 3); \
            BODY                                                                                 \
        }                                                                                        \
    }

#define EXCHANGE_ENTRY             \
    {                              \
        const uint32_t at = indices[j]; \
        displaced[j] = data[at];   \
        data[at] = words[j];       \
    }
#define OVERWRITE_ENTRY { data[indices[j]] = words[j]; }

DEFINE_PASS(exchange16, uint16_t, EXCHANGE_ENTRY)
DEFINE_PASS(exchange32, uint32_t, EXCHANGE_ENTRY)
DEFINE_PASS(overwrite16, uint16_t, OVERWRITE_ENTRY)
DEFINE_PASS(overwrite32, uint32_t, OVERWRITE_ENTRY)

FN(void) NAME(exchange)(const Span *span, const Span *next) {
    if (span->is_wide)
        NAME(exchange32)(span, next);
    else
        NAME(exchange16)(span, next);
}

FN(void) NAME(overwrite)(const Span *span, const Span *next) {
    if (span->is_wide)
        NAME(overwrite32)(span, next);
    else
        NAME(overwrite16)(span, next);
}

/* ---- rounding: nearest, ties to even; every NaN becomes the dtype's positive quiet NaN ------------------------- */

static inline __attribute__((always_inline)) uint32_t is_nan(uint32_t bits) {
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

static inline __attribute__((always_inline)) uint16_t round_bf16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(is_nan(bits) ? 0x7fc0u : rounded);
}

static inline __attribute__((always_inline)) float widen_bf16(uint16_t word) { return float_of((uint32_t)word << 16); }

static inline __attribute__((always_inline)) float widen_f16(uint16_t word) {
    const uint32_t magnitude = (uint32_t)(word & 0x7fffu);
    const uint32_t sign = (uint32_t)(word & 0x8000u) << 16;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t special = (magnitude << 13) | 0x7f800000u;
    const uint32_t tiny = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    const uint32_t bits = magnitude >= 0x7c00u ? special : magnitude < 0x400u ? tiny : normal;
    return float_of(bits | sign);
}

static inline __attribute__((always_inline)) uint16_t round_f16(float value) {
    const uint32_t all = bits_of(value);
    const uint32_t sign = (all >> 16) & 0x8000u;
    const uint32_t bits = all & 0x7fffffffu;
    /* Below 2^-14 the result is subnormal: adding 0.5 leaves it, rounded, in the low bits of the sum. */
    const uint32_t tiny = bits_of(float_of(bits < 0x38800000u ? bits : 0u) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    const uint32_t finite = bits < 0x38800000u ? tiny : normal;
    const uint32_t rounded = bits >= 0x477ff000u ? 0x7c00u : finite;
    return (uint16_t)(is_nan(all) ? 0x7e00u : (rounded | sign));
}

/* ---- staging: `current` holds the words gathered from the weight ---------------------------------------------- */

FN(int64_t) NAME(stage_f32)(const uint32_t *current, const float *delta, int64_t count, uint32_t *words) {
    int32_t lost = 0;
    for (int64_t j = 0; j < count; j++) {
        const uint32_t bits = bits_of(float_of(current[j]) + delta[j]);
        words[j] = is_nan(bits) ? 0x7fc00000u : bits;
        lost += ((bits & 0x7f800000u) == 0x7f800000u) & ((current[j] & 0x7f800000u) != 0x7f800000u);
    }
    return lost;
}

FN(int64_t) NAME(stage_bf16)(const uint16_t *current, const float *delta, int64_t count, uint16_t *words) {
    int32_t lost = 0;
    for (int64_t j = 0; j < count; j++) {
        words[j] = round_bf16(widen_bf16(current[j]) + delta[j]);
        lost += ((words[j] & 0x7f80u) == 0x7f80u) & ((current[j] & 0x7f80u) != 0x7f80u);
    }
    return lost;
}

FN(int64_t) NAME(stage_f16)(const uint16_t *current, const float *delta, int64_t count, uint16_t *words) {
    int32_t lost = 0;
    int64_t j = 0;
#if defined(HAS_F16C)
    for (; j + 8 <= count; j += 8) {
        const __m128i half = _mm_loadu_si128((const __m128i *)(current + j));
        const __m256 sum = _mm256_add_ps(_mm256_cvtph_ps(half), _mm256_loadu_ps(delta + j));
        const __m256i nans = _mm256_castps_si256(_mm256_cmp_ps(sum, sum, _CMP_UNORD_Q));
        const __m128i nan16 = _mm_packs_epi32(_mm256_castsi256_si128(nans), _mm256_extracti128_si256(nans, 1));
        const __m128i rounded = _mm256_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(words + j), _mm_blendv_epi8(rounded, _mm_set1_epi16(0x7e00), nan16));
    }
#endif
    for (; j < count; j++) words[j] = round_f16(widen_f16(current[j]) + delta[j]);
    for (j = 0; j < count; j++)
        lost += ((words[j] & 0x7c00u) == 0x7c00u) & ((current[j] & 0x7c00u) != 0x7c00u);
    return lost;
}

/* Defines a gather of `count` words from entry `start` on, with the next entries' lines on their way. */
#define DEFINE_GATHER(op, word_t)                                                                                 \
    TARGET static void NAME(op)(const Span *span, const Span *next, int64_t start, int64_t count, word_t *out) {  \
        const word_t *data = span->data;                                                                          \
        const uint16_t *indices = span->indices;                                                                  \
        const int64_t next_count = next ? next->count : 0;                                                        \
        for (int64_t j = start; j < start + count; j++) {                                                         \
            const int64_t beyond = j + AHEAD - span->count;                                                       \
            if (beyond < 0)                                                                                       \
                __builtin_prefetch(data + indices[j + AHEAD], 0, 3);                                              \
            else if (beyond < next_count)                                                                         \
                __builtin_prefetch(ahead_of(next, beyond), 0, 3);                                                 \
            out[j - start] = data[indices[j]];                                                                    \
        }                                                                                                         \
    }
DEFINE_GATHER(gather16, uint16_t)
DEFINE_GATHER(gather32, uint32_t)

FN(int64_t) NAME(stage)(const Span *span, const Span *next, int64_t dtype, const float *delta, void *words) {
    union {
        uint16_t narrow[CHUNK];
        uint32_t wide[CHUNK];
    } current;
    int64_t lost = 0;
    for (int64_t start = 0; start < span->count; start += CHUNK) {
        const int64_t left = span->count - start;
        const int64_t count = left < CHUNK ? left : CHUNK;
        if (dtype == SHIRA_F32) {
            NAME(gather32)(span, next, start, count, current.wide);
            lost += NAME(stage_f32)(current.wide, delta + start, count, (uint32_t *)words + start);
            continue;
        }
        NAME(gather16)(span, next, start, count, current.narrow);
        if (dtype == SHIRA_BF16)
            lost += NAME(stage_bf16)(current.narrow, delta + start, count, (uint16_t *)words + start);
        else
            lost += NAME(stage_f16)(current.narrow, delta + start, count, (uint16_t *)words + start);
    }
    return lost;
}

/* ---- scans ---------------------------------------------------------------------------------------------------- */

FN(int64_t) NAME(scan_order)(const uint16_t *indices, int64_t count, int64_t limit) {
    uint16_t bad = 0;
    for (int64_t j = 1; j < count; j++) bad |= (uint16_t)(indices[j] <= indices[j - 1]);
    if (count == 0 || (!bad && indices[count - 1] < limit)) return -1;
    for (int64_t j = 0; j < count; j++)
        if (indices[j] >= limit || (j > 0 && indices[j] <= indices[j - 1])) return j;
    return -1;
}

#define DEFINE_SCAN(op, word_t, mask)                                          \
    TARGET static int64_t NAME(op)(const word_t *values, int64_t count) {      \
        for (int64_t start = 0; start < count; start += CHUNK) {               \
            const int64_t end = start + CHUNK < count ? start + CHUNK : count; \
            word_t bad = 0;                                                    \
            for (int64_t j = start; j < end; j++) bad |= (word_t)((values[j] & (mask)) == (mask)); \
            for (int64_t j = start; bad && j < end; j++)                       \
                if ((values[j] & (mask)) == (mask)) return j;                  \
        }                                                                      \
        return -1;                                                             \
    }
DEFINE_SCAN(scan_f32, uint32_t, 0x7f800000u)
DEFINE_SCAN(scan_bf16, uint16_t, 0x7f80u)
DEFINE_SCAN(scan_f16, uint16_t, 0x7c00u)

FN(int64_t) NAME(scan_finite)(const void *values, int64_t count, int64_t dtype) {
    if (dtype == SHIRA_F32) return NAME(scan_f32)(values, count);
    return dtype == SHIRA_BF16 ? NAME(scan_bf16)(values, count) : NAME(scan_f16)(values, count);
}

/* ---- scaled values --------------------------------------------------------------------------------------------- */

FN(void) NAME(scale)(const void *values, int64_t count, int64_t dtype, float scale, float *products) {
    const uint16_t *narrow = values;
    int64_t j = 0;
    if (dtype == SHIRA_F32) {
        for (; j < count; j++) products[j] = scale * ((const float *)values)[j];
    } else if (dtype == SHIRA_BF16) {
        for (; j < count; j++) products[j] = scale * widen_bf16(narrow[j]);
    } else {
        for (; j < count; j++) products[j] = scale * widen_f16(narrow[j]);
    }
}

const Ops JOIN(shira_ops, SUFFIX) = {
    .exchange = NAME(exchange),
    .overwrite = NAME(overwrite),
    .stage = NAME(stage),
    .scan_order = NAME(scan_order),
    .scan_finite = NAME(scan_finite),
    .scale = NAME(scale),
};
