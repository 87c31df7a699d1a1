/* Sixteen floats at a time in whatever vectors the including file's instruction set has (VECTOR_BYTES). */
#include <math.h>
#include <string.h>

#include "ops.h"

#if defined(HAS_FMA)
#include <immintrin.h>
#endif

#define INLINE TARGET static inline __attribute__((always_inline))

enum { LANES = 16, PARTS = LANES * 4 / VECTOR_BYTES };

typedef float Part __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t IntPart __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t BitPart __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t HalfPart __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef struct {
    Part part[PARTS];
} Lanes;

#define EACH_PART _Pragma("GCC unroll 4") for (int i = 0; i < PARTS; i++)

#define DEFINE_BINARY(name, EXPRESSION)            \
    INLINE Lanes name(Lanes x, Lanes y) {          \
        Lanes result;                              \
        EACH_PART {                                \
            const Part a = x.part[i], b = y.part[i]; \
            result.part[i] = EXPRESSION;           \
        }                                          \
        return result;                             \
    }

INLINE Part choose(IntPart mask, Part a, Part b) { return (Part)((mask & (IntPart)a) | (~mask & (IntPart)b)); }

DEFINE_BINARY(add, a + b)
DEFINE_BINARY(subtract, a - b)
DEFINE_BINARY(multiply, a *b)
DEFINE_BINARY(divide, a / b)
DEFINE_BINARY(larger, choose(a > b, a, b))      /* b where one is NaN */
DEFINE_BINARY(at_least, choose(a < b, b, a))    /* a where one is NaN */
DEFINE_BINARY(at_most, choose(a > b, b, a))     /* a where one is NaN */

INLINE Lanes all(float value) {
    Lanes result;
    EACH_PART result.part[i] = value - (Part){0};
    return result;
}

/* x * y + z, rounded once where the machine can. */
INLINE Lanes fused(Lanes x, Lanes y, Lanes z) {
    Lanes result;
    EACH_PART {
#if defined(HAS_AVX512)
        result.part[i] = (Part)_mm512_fmadd_ps((__m512)x.part[i], (__m512)y.part[i], (__m512)z.part[i]);
#elif defined(HAS_FMA)
        result.part[i] = (Part)_mm256_fmadd_ps((__m256)x.part[i], (__m256)y.part[i], (__m256)z.part[i]);
#else
        result.part[i] = x.part[i] * y.part[i] + z.part[i];
#endif
    }
    return result;
}

/* The first `count` lanes of x, `other` in the rest. */
INLINE Lanes first_lanes(Lanes x, int count, float other) {
    static const int32_t numbers[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Lanes result;
    EACH_PART {
        IntPart number;
        memcpy(&number, (const char *)numbers + i * sizeof number, sizeof number);
        result.part[i] = choose(number < count - (IntPart){0}, x.part[i], other - (Part){0});
    }
    return result;
}

/* ---- across lanes, in an order that never changes --------------------------------------------------------------- */

#define DEFINE_FOLD(name, EXPRESSION)                        \
    INLINE float name(Lanes x) {                             \
        float lane[LANES];                                   \
        memcpy(lane, &x, sizeof lane);                       \
        for (int width = LANES / 2; width > 0; width /= 2)   \
            for (int i = 0; i < width; i++) {                \
                const float a = lane[i], b = lane[i + width]; \
                lane[i] = EXPRESSION;                        \
            }                                                \
        return lane[0];                                      \
    }
DEFINE_FOLD(sum_of, a + b)
DEFINE_FOLD(largest_of, a > b ? a : b)

/* ---- memory: float32 or bfloat16 -------------------------------------------------------------------------------- */

INLINE float widened(uint16_t narrow) {
    const uint32_t bits = (uint32_t)narrow << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Nearest, ties to even; every NaN becomes the quiet one. */
INLINE uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INLINE float get(const void *data, int64_t at, int64_t dtype) {
    return dtype == SHIRA_F32 ? ((const float *)data)[at] : widened(((const uint16_t *)data)[at]);
}

INLINE void put(void *data, int64_t at, int64_t dtype, float value) {
    if (dtype == SHIRA_F32)
        ((float *)data)[at] = value;
    else
        ((uint16_t *)data)[at] = narrowed(value);
}

INLINE void *offset(const void *data, int64_t elements, int64_t dtype) {
    return (char *)(uintptr_t)data + elements * (dtype == SHIRA_F32 ? 4 : 2);
}

INLINE Lanes load(const void *data, int64_t at, int64_t dtype) {
    Lanes result;
    if (dtype == SHIRA_F32) {
        memcpy(&result, (const float *)data + at, sizeof result);
        return result;
    }
    EACH_PART {
        HalfPart narrow;
        memcpy(&narrow, (const uint16_t *)data + at + i * (LANES / PARTS), sizeof narrow);
        result.part[i] = (Part)(__builtin_convertvector(narrow, BitPart) << 16);
    }
    return result;
}

INLINE void store(void *data, int64_t at, int64_t dtype, Lanes x) {
    if (dtype == SHIRA_F32) {
        memcpy((float *)data + at, &x, sizeof x);
        return;
    }
    EACH_PART {
        const BitPart bits = (BitPart)x.part[i];
        const BitPart rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const BitPart is_nan = (BitPart)((bits & 0x7fffffffu) > 0x7f800000u);
        const HalfPart narrow = __builtin_convertvector((is_nan & 0x7fc0u) | (~is_nan & rounded), HalfPart);
        memcpy((uint16_t *)data + at + i * (LANES / PARTS), &narrow, sizeof narrow);
    }
}

/* The same for the last few of a row: `count` below LANES, zero in the rest. */
INLINE Lanes load_some(const void *data, int64_t at, int64_t count, int64_t dtype) {
    float lane[LANES] = {0};
    Lanes result;
    for (int64_t i = 0; i < count; i++) lane[i] = get(data, at + i, dtype);
    memcpy(&result, lane, sizeof result);
    return result;
}

INLINE void store_some(void *data, int64_t at, int64_t count, int64_t dtype, Lanes x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof lane);
    for (int64_t i = 0; i < count; i++) put(data, at + i, dtype, lane[i]);
}

/* ---- exp -------------------------------------------------------------------------------------------------------- */

/* 2^n e^r with n the nearest integer to x / ln 2: |r| <= ln(2) / 2, where Taylor's polynomial of degree 7 is within
 * 1e-8. exp(0) is exactly 1. Below -87 as at -87, above 88 as at 88: no overflow, no denormals. */
INLINE Lanes exponential(Lanes x) {
    static const float inverse_factorials[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
    const float to_integer = 12582912.f; /* 1.5 * 2^23: adding it rounds to an integer, found in the low bits */
    x = at_most(at_least(x, all(-87.f)), all(88.f));
    const Lanes shifted = fused(x, all(1.44269504f), all(to_integer));
    const Lanes n = subtract(shifted, all(to_integer));
    Lanes r = fused(n, all(-0.693359375f), x); /* ln 2 in two parts, the first exact in few bits */
    r = fused(n, all(2.12194440e-4f), r);
    Lanes power = all(inverse_factorials[0]);
    for (int i = 1; i < 8; i++) power = fused(power, r, all(inverse_factorials[i]));
    EACH_PART {
        const BitPart exponent = ((BitPart)shifted.part[i] - 0x4b400000u + 127u) << 23;
        power.part[i] *= (Part)exponent;
    }
    return power;
}
