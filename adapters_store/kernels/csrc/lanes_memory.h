/* What is not worth an instruction set's own words: Lanes by way of memory. Needs lanes_load and lanes_store. */
#include <string.h>

LANES_FN Lanes lanes_load_halves(const char *at, int count) {
    float lanes[LANES] __attribute__((aligned(64))) = {0};
    memcpy(lanes, at, (size_t)count * 2);
    return lanes_load(lanes);
}

LANES_FN Lanes lanes_load_some(const char *at, int count, int is_bf16) {
    float lanes[LANES] __attribute__((aligned(64))) = {0};
    for (int i = 0; i < count; i++) {
        uint32_t bits = 0;
        if (is_bf16)
            memcpy((char *)&bits + 2, at + i * 2, 2);
        else
            memcpy(&bits, at + i * 4, 4);
        memcpy(&lanes[i], &bits, sizeof bits);
    }
    return lanes_load(lanes);
}

/* Rounds to nearest, ties to even. */
LANES_FN void lanes_store_some(char *at, Lanes sums, int count, int is_bf16) {
    float lanes[LANES] __attribute__((aligned(64)));
    lanes_store(lanes, sums);
    if (!is_bf16) {
        memcpy(at, lanes, (size_t)count * 4);
        return;
    }
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &lanes[i], sizeof bits);
        const uint32_t is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        const uint16_t narrow = (uint16_t)(is_nan ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        memcpy(at + i * 2, &narrow, sizeof narrow);
    }
}

LANES_FN void lanes_transpose(Lanes rows[LANES]) {
    float before[LANES][LANES] __attribute__((aligned(64)));
    float after[LANES][LANES] __attribute__((aligned(64)));
    for (int i = 0; i < LANES; i++) lanes_store(before[i], rows[i]);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) after[j][i] = before[i][j];
    for (int i = 0; i < LANES; i++) rows[i] = lanes_load(after[i]);
}
