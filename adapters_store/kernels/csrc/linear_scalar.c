/* The portable variant, for corrections alone: what the compiler makes of plain C. */
#include <string.h>

#include "linear.h"

#define TARGET
#define SUFFIX scalar
#define STRIP 3
#define STRIP_PANELS 1
#define HAS_LINEAR_F32 0
#define HAS_LINEAR_BF16 0
#define LANES_FN static inline __attribute__((always_inline))

typedef struct {
    float of[LANES];
} Lanes;
typedef uint32_t LaneMask;
typedef Lanes Steps;

LANES_FN Lanes lanes_set(float value) {
    Lanes lanes;
    for (int i = 0; i < LANES; i++) lanes.of[i] = value;
    return lanes;
}
LANES_FN Lanes lanes_zero(void) { return lanes_set(0.0f); }
LANES_FN Lanes lanes_load(const float *at) {
    Lanes lanes;
    memcpy(&lanes, at, sizeof lanes);
    return lanes;
}
LANES_FN void lanes_store(float *at, Lanes lanes) { memcpy(at, &lanes, sizeof lanes); }
LANES_FN Lanes lanes_fma(Lanes a, Lanes b, Lanes sum) {
    for (int i = 0; i < LANES; i++) sum.of[i] += a.of[i] * b.of[i];
    return sum;
}
LANES_FN Lanes lanes_add(Lanes a, Lanes b) {
    for (int i = 0; i < LANES; i++) a.of[i] += b.of[i];
    return a;
}
LANES_FN LaneMask lanes_mask(uint32_t bits) { return bits; }
LANES_FN Lanes lanes_choose(LaneMask mask, Lanes yes, Lanes no) {
    for (int i = 0; i < LANES; i++) no.of[i] = mask >> i & 1 ? yes.of[i] : no.of[i];
    return no;
}
LANES_FN Lanes lanes_widen(const uint32_t *pairs, int64_t is_second) {
    uint32_t bits[LANES];
    for (int i = 0; i < LANES; i++) bits[i] = is_second ? pairs[i] & 0xffff0000u : pairs[i] << 16;
    return lanes_load((const float *)(const void *)bits);
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
