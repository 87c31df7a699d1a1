/* One block of a product, compiled once per instruction set. The including file defines TARGET, SUFFIX, the vectors of
 * 16 floats (Lanes, LaneMask and the functions lanes_*), and STRIP and STRIP_PANELS: how many rows of W and panels of x
 * are summed in registers at a time. Every sum runs over the columns in their order, whatever else is summed beside it.
 */
#include <string.h>

#include "linear.h"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(op) JOIN(op, SUFFIX)
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE uint32_t load_word(const void *at, int is_bf16) {
    uint32_t word = 0;
    if (is_bf16) {
        uint16_t narrow;
        memcpy(&narrow, at, sizeof narrow);
        return (uint32_t)narrow << 16;
    }
    memcpy(&word, at, sizeof word);
    return word;
}

INLINE float load_float(const void *at, int is_bf16) {
    const uint32_t bits = load_word(at, is_bf16);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- the plain product ---------------------------------------------------------------------------------------- */

/* STRIP rows of W from `w` on times `num_panels` panels; rows and panels of the tile are apart as in TILE. */
INLINE void multiply_strip(const char *w, const Panel *panels, const int num_panels, int64_t in_features,
                           const int is_bf16, const char *ahead, float *tile) {
    const int64_t row_bytes = in_features * (is_bf16 ? 2 : 4);
    const int64_t num_steps = is_bf16 ? in_features / 2 : in_features;
    const char *bases[STRIP / 3]; /* of every third row: few enough to stay in registers, as x86 can add a stride or two */
    const char *x[STRIP_PANELS];
    Lanes sums[STRIP][STRIP_PANELS];
#pragma GCC unroll 12
    for (int r = 0; r < STRIP; r++)
#pragma GCC unroll 2
        for (int p = 0; p < num_panels; p++) sums[r][p] = lanes_zero();
#pragma GCC unroll 4
    for (int b = 0; b < STRIP / 3; b++) bases[b] = w + 3 * b * row_bytes;
#pragma GCC unroll 2
    for (int p = 0; p < num_panels; p++) x[p] = (const char *)panels[p].x;
    for (int64_t step = 0; step < num_steps; step++) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += 64;
        Steps own[STRIP_PANELS];
#pragma GCC unroll 2
        for (int p = 0; p < num_panels; p++) own[p] = steps_load((const uint32_t *)(const void *)x[p]), x[p] += 64;
#pragma GCC unroll 12
        for (int r = 0; r < STRIP; r++) {
            const Steps step_of_w = steps_set(bases[r / 3] + r % 3 * row_bytes, is_bf16);
#pragma GCC unroll 2
            for (int p = 0; p < num_panels; p++) sums[r][p] = steps_dot(own[p], step_of_w, sums[r][p], is_bf16);
        }
#pragma GCC unroll 4
        for (int b = 0; b < STRIP / 3; b++) {
            bases[b] += 4;
            __asm__("" : "+r"(bases[b]));
        }
    }
    if (is_bf16 && in_features % 2) {
#pragma GCC unroll 12
        for (int r = 0; r < STRIP; r++) {
            const Steps step_of_w = steps_set_last(w + r * row_bytes + num_steps * 4);
#pragma GCC unroll 2
            for (int p = 0; p < num_panels; p++)
                sums[r][p] = steps_dot(steps_load(panels[p].x + num_steps * LANES), step_of_w, sums[r][p], is_bf16);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < STRIP; r++)
#pragma GCC unroll 2
        for (int p = 0; p < num_panels; p++) lanes_store(tile + (r * TILE_PANELS + p) * LANES, sums[r][p]);
}

/* BLOCK rows of W times one or two panels. */
INLINE void multiply(const char *w, const Panel *panels, int num_panels, int64_t in_features, const int is_bf16,
                     float *tile) {
    const int64_t row_bytes = in_features * (is_bf16 ? 2 : 4);
    for (int r = 0; r < BLOCK; r += STRIP) {
        const char *strip = w + r * row_bytes;
        const char *ahead = strip + BLOCK * row_bytes;
        float *out = tile + r * TILE_PANELS * LANES;
        if (STRIP_PANELS == 2 && num_panels == 2)
            multiply_strip(strip, panels, STRIP_PANELS, in_features, is_bf16, ahead, out);
        else
            for (int p = 0; p < num_panels; p++)
                multiply_strip(strip, panels + p, 1, in_features, is_bf16, ahead, out + p * LANES);
    }
}

/* ---- a group's own words -------------------------------------------------------------------------------------- */

/* Adds (target - W) x to the lanes of one group. `w` is row `row` of the weight. */
INLINE void correct(const char *w, const RowWords *own, int64_t row, int num_rows, const Panel *panel, LaneMask mask,
                    int64_t in_features, const int is_bf16, float *tile) {
    const int width = is_bf16 ? 2 : 4;
    for (int r = 0; r < num_rows; r++) {
        const char *row_of_w = w + r * in_features * width;
        float *out = tile + r * TILE_PANELS * LANES;
        Lanes sum = lanes_load(out);
        for (int64_t j = own->starts[row + r]; j < own->starts[row + r + 1]; j++) {
            const int64_t column = own->columns[j];
            const float target = load_float((const char *)own->words + j * width, is_bf16);
            const float delta = target - load_float(row_of_w + column * width, is_bf16);
            const Lanes x = is_bf16 ? lanes_widen(panel->x + column / 2 * LANES, column % 2)
                                    : lanes_load((const float *)(const void *)panel->x + column * LANES);
            sum = lanes_choose(mask, lanes_fma(x, lanes_set(delta), sum), sum);
        }
        lanes_store(out, sum);
    }
}

INLINE uint32_t lanes_shared(const Group *group, const Panel *panel) {
    const int64_t start = group->start > panel->start ? group->start - panel->start : 0;
    const int64_t stop = (group->stop < panel->stop ? group->stop : panel->stop) - panel->start;
    return stop > start ? (1u << stop) - (1u << start) : 0;
}

/* Whether any lane of the panel had something to add. */
INLINE int correct_panel(const Product *product, const char *w, int64_t number, int64_t row, int num_rows,
                         const Panel *panel, const int is_bf16, float *tile) {
    int is_touched = 0;
    for (int64_t g = 0; g < product->num_groups; g++) {
        const RowWords *own = &product->words[g * product->num_weights + number];
        const uint32_t lanes = lanes_shared(&product->groups[g], panel);
        if (!lanes || !own->starts) continue;
        correct(w, own, row, num_rows, panel, lanes_mask(lanes), product->in_features, is_bf16, tile);
        is_touched = 1;
    }
    return is_touched;
}

/* Writes a group's words into a copy of the rows. */
INLINE void patch(char *copy, const RowWords *own, int64_t row, int num_rows, int64_t in_features, int width) {
    if (!own->starts) return;
    for (int r = 0; r < num_rows; r++)
        for (int64_t j = own->starts[row + r]; j < own->starts[row + r + 1]; j++)
            memcpy(copy + (r * in_features + own->columns[j]) * width, (const char *)own->words + j * width,
                   (size_t)width);
}

/* ---- from sums to y ------------------------------------------------------------------------------------------- */

INLINE void finish(const Product *product, int64_t number, int64_t row, int num_rows, const Panel *panel,
                   const float *tile, const int is_bf16, const int is_bf16_out) {
    const Weight *weight = &product->weights[number];
    const int width = is_bf16_out ? 2 : 4;
    const char *bias = (const char *)weight->bias + row * (is_bf16 ? 2 : 4);
    const Lanes biases = weight->bias ? lanes_load_some(bias, num_rows, is_bf16) : lanes_zero();
    Lanes sums[LANES]; /* a row of W each, then a row of x each */
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
        sums[r] = r < BLOCK ? lanes_load(tile + r * TILE_PANELS * LANES) : lanes_zero();
    lanes_transpose(sums);
    for (int64_t x_row = panel->start; x_row < panel->stop; x_row++) {
        char *out = (char *)product->y[number] + (x_row * weight->out_features + row) * width;
        const Lanes before = product->is_correction ? lanes_load_some(out, num_rows, is_bf16_out) : biases;
        lanes_store_some(out, lanes_add(sums[x_row - panel->start], before), num_rows, is_bf16_out);
    }
}

/* ---- one block ------------------------------------------------------------------------------------------------ */

INLINE void block_of(const Product *product, const Panel *panels, int64_t num_panels, int64_t number, int64_t row,
                     char *scratch, const int is_bf16) {
    const Weight *weight = &product->weights[number];
    const int width = is_bf16 ? 2 : 4;
    const int64_t row_bytes = product->in_features * width;
    const int64_t left = weight->out_features - row;
    const int num_rows = left < BLOCK ? (int)left : BLOCK;
    const char *plain = (const char *)weight->weight + row * row_bytes;
    int64_t in_scratch = -2; /* the group whose words the copy of the rows holds; -1: nobody's */
    float tile[TILE] __attribute__((aligned(64)));
    for (int64_t p = 0; p < num_panels;) {
        const int64_t group = panels[p].group;
        const int count = p + 1 < num_panels && panels[p + 1].group == group ? 2 : 1;
        const char *w = plain;
        if (group >= 0 || num_rows < BLOCK) {
            if (in_scratch != group) {
                memcpy(scratch, plain, (size_t)(num_rows * row_bytes));
                memset(scratch + num_rows * row_bytes, 0, (size_t)((BLOCK - num_rows) * row_bytes));
                if (group >= 0)
                    patch(scratch, &product->words[group * product->num_weights + number], row, num_rows,
                          product->in_features, width);
                in_scratch = group;
            }
            w = scratch;
        }
        if (product->is_correction)
            memset(tile, 0, sizeof tile);
        else
            multiply(w, panels + p, count, product->in_features, is_bf16, tile);
        for (int own = 0; own < count; own++, p++) {
            float *sums = tile + own * LANES;
            const int is_touched =
                group < 0 && correct_panel(product, plain, number, row, num_rows, &panels[p], is_bf16, sums);
            if (product->is_correction && !is_touched) continue;
            if (is_bf16 && product->out_dtype == SHIRA_BF16)
                finish(product, number, row, num_rows, &panels[p], sums, is_bf16, 1);
            else
                finish(product, number, row, num_rows, &panels[p], sums, is_bf16, 0);
        }
    }
}

TARGET static void NAME(block)(const Product *product, const Panel *panels, int64_t num_panels, int64_t number,
                               int64_t row, void *scratch) {
    if (product->dtype == SHIRA_BF16)
        block_of(product, panels, num_panels, number, row, scratch, 1);
    else
        block_of(product, panels, num_panels, number, row, scratch, 0);
}

/* Sixteen steps of sixteen rows at a time. */
TARGET static void NAME(pack)(const Product *product, const Panel *panel, uint32_t *packed) {
    const int64_t row_bytes = product->in_features * (product->dtype == SHIRA_BF16 ? 2 : 4);
    const int64_t num_rows = panel->stop - panel->start;
    const char *x = (const char *)product->x + panel->start * row_bytes;
    const int64_t num_steps = steps_of(product);
    for (int64_t step = 0; step < num_steps; step += LANES) {
        const int64_t left = row_bytes - step * 4;
        const int num_halves = left < 4 * LANES ? (int)(left / 2) : 2 * LANES;
        Lanes steps[LANES]; /* a row of x each, then a step each */
        for (int64_t r = 0; r < LANES; r++)
            steps[r] = r < num_rows ? lanes_load_halves(x + r * row_bytes + step * 4, num_halves) : lanes_zero();
        lanes_transpose(steps);
        for (int64_t r = 0; r < LANES && step + r < num_steps; r++)
            lanes_store((float *)(void *)(packed + (step + r) * LANES), steps[r]);
    }
}

const LinearOps JOIN(shira_linear, SUFFIX) = {
    .pack = NAME(pack),
    .block = NAME(block),
    .has_linear_f32 = HAS_LINEAR_F32,
    .has_linear_bf16 = HAS_LINEAR_BF16,
};
