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

/* ---- the plain product ---------------------------------------------------------------------------------------- */

/* STRIP rows of W from `w` on times `num_panels` panels; rows and panels of the tile are apart as in TILE. */
INLINE void multiply_strip(const char *w, const Panel *panels, const int num_panels, int64_t in_features,
                           const int is_bf16, const char *ahead, float *tile) {
    const int64_t row_bytes = in_features * (is_bf16 ? 2 : 4);
    const int64_t num_steps = is_bf16 ? in_features / 2 : in_features;
    const char *bases[STRIP / 3]; /* of every third row: few enough for registers, as x86 can add a stride or two */
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

/* A strip of W times one or two panels. */
INLINE void multiply(const char *w, const Panel *panels, int num_panels, int64_t in_features, const int is_bf16,
                     float *tile) {
    const char *ahead = w + STRIP * in_features * (is_bf16 ? 2 : 4);
    if (STRIP_PANELS == 2 && num_panels == 2)
        multiply_strip(w, panels, STRIP_PANELS, in_features, is_bf16, ahead, tile);
    else
        for (int p = 0; p < num_panels; p++)
            multiply_strip(w, panels + p, 1, in_features, is_bf16, ahead, tile + p * LANES);
}

/* ---- a group's own words -------------------------------------------------------------------------------------- */

/* The lanes of a panel that belong to a group. */
INLINE uint32_t lanes_shared(const Group *group, const Panel *panel) {
    const int64_t start = group->start > panel->start ? group->start - panel->start : 0;
    const int64_t stop = (group->stop < panel->stop ? group->stop : panel->stop) - panel->start;
    return stop > start ? (1u << stop) - (1u << start) : 0;
}

/* Adds (target - W) x to the lanes of one group, in a block of rows. */
INLINE void correct(const RowSteps *own, int64_t block, const float *wide_x, LaneMask mask, float *tile) {
    const uint8_t *order = own->order + block * BLOCK;
    const int32_t *quads = own->quads + block * QUADS;
    for (int quad = 0; quad < QUADS; quad++, order += QUAD) {
        Lanes sums[QUAD];
        if (quads[quad] == quads[quad + 1]) continue;
#pragma GCC unroll 4
        for (int i = 0; i < QUAD; i++) sums[i] = lanes_load(tile + order[i] * TILE_PANELS * LANES);
        for (const Step *step = own->steps + quads[quad]; step < own->steps + quads[quad + 1]; step++) {
#pragma GCC unroll 4
            for (int i = 0; i < QUAD; i++) {
                const Lanes x = lanes_load(wide_x + (int64_t)step->columns[i] * LANES);
                sums[i] = lanes_choose(mask, lanes_fma(x, lanes_set(step->deltas[i]), sums[i]), sums[i]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < QUAD; i++) lanes_store(tile + order[i] * TILE_PANELS * LANES, sums[i]);
    }
}

INLINE void correct_panel(const Product *product, int64_t number, int64_t block, const Panel *panel, float *tile) {
    for (int64_t g = 0; g < product->num_groups; g++) {
        const RowSteps *own = &product->targets[g * product->num_weights + number].steps;
        const uint32_t lanes = lanes_shared(&product->groups[g], panel);
        if (lanes && own->quads) correct(own, block, panel->wide_x, lanes_mask(lanes), tile);
    }
}

/* What the groups have for a block is on its way into the cache while the plain product is computed: a part of the
 * groups with each strip, or the fetches would hold up those of W. */
INLINE void fetch_steps(const Product *product, int64_t number, int64_t block, int strip) {
    for (int64_t g = strip; g < product->num_groups; g += BLOCK / STRIP) {
        const RowSteps *own = &product->targets[g * product->num_weights + number].steps;
        if (!own->quads) continue;
        const char *steps = (const char *)(own->steps + own->quads[block * QUADS]);
        const char *end = (const char *)(own->steps + own->quads[(block + 1) * QUADS]);
        __builtin_prefetch(own->quads + (block + 2) * QUADS, 0, 3);
        __builtin_prefetch(own->order + (block + 1) * BLOCK, 0, 3);
        for (; steps < end; steps += 64) __builtin_prefetch(steps, 0, 3);
    }
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

INLINE void finish_rows(const Product *product, int64_t number, int64_t row, int num_rows, const Panel *panel,
                        const float *tile, const int is_bf16, const int is_bf16_out) {
    const Weight *weight = &product->weights[number];
    const int width = is_bf16_out ? 2 : 4;
    const char *bias = (const char *)weight->bias + row * (is_bf16 ? 2 : 4);
    const Lanes biases = weight->bias ? lanes_load_some(bias, num_rows, is_bf16) : lanes_zero();
    Lanes sums[LANES]; /* a row of W each, then a row of x each */
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) sums[r] = r < num_rows ? lanes_load(tile + r * TILE_PANELS * LANES) : lanes_zero();
    lanes_transpose(sums);
    for (int64_t x_row = panel->start; x_row < panel->stop; x_row++) {
        char *out = (char *)product->y[number] + (x_row * weight->out_features + row) * width;
        const Lanes before = product->is_correction ? lanes_load_some(out, num_rows, is_bf16_out) : biases;
        lanes_store_some(out, lanes_add(sums[x_row - panel->start], before), num_rows, is_bf16_out);
    }
}

INLINE void finish(const Product *product, int64_t number, int64_t row, int num_rows, const Panel *panel,
                   const float *tile, const int is_bf16) {
    for (int r = 0; r < num_rows; r += LANES) {
        const int count = num_rows - r < LANES ? num_rows - r : LANES;
        const float *sums = tile + r * TILE_PANELS * LANES;
        if (is_bf16 && product->out_dtype == SHIRA_BF16)
            finish_rows(product, number, row + r, count, panel, sums, is_bf16, 1);
        else
            finish_rows(product, number, row + r, count, panel, sums, is_bf16, 0);
    }
}

/* ---- one block ------------------------------------------------------------------------------------------------ */

/* A copy of some rows with the words of one group, if any, and zeros up to a whole strip. */
INLINE const char *copied(const Product *product, const Weight *weight, const RowWords *own, int64_t row, int num_rows,
                          int width, char *scratch) {
    const int64_t row_bytes = product->in_features * width;
    const int num_missing = (STRIP - num_rows % STRIP) % STRIP;
    memcpy(scratch, (const char *)weight->weight + row * row_bytes, (size_t)(num_rows * row_bytes));
    memset(scratch + num_rows * row_bytes, 0, (size_t)(num_missing * row_bytes));
    if (own) patch(scratch, own, row, num_rows, product->in_features, width);
    return scratch;
}

/* The number of panels from here on that share W's words and fit a tile. */
INLINE int panels_together(const Panel *panels, int64_t num_panels) {
    return num_panels > 1 && panels[0].group == panels[1].group ? 2 : 1;
}

/* Panels with corrections: the whole block at once. */
INLINE void correct_block(const Product *product, const Panel *panels, int64_t num_panels, int64_t number, int64_t row,
                          int num_rows, const char *w, const int is_bf16) {
    const int64_t row_bytes = product->in_features * (is_bf16 ? 2 : 4);
    float tile[TILE] __attribute__((aligned(64)));
    int count;
    for (int64_t p = 0; p < num_panels; p += count) {
        count = panels_together(panels + p, num_panels - p);
        if (!panels[p].wide_x && !panels[p + count - 1].wide_x) continue;
        if (product->is_correction) memset(tile, 0, sizeof tile);
        for (int r = 0; r < num_rows; r += STRIP) {
            fetch_steps(product, number, row / BLOCK, r / STRIP);
            if (!product->is_correction)
                multiply(w + r * row_bytes, panels + p, count, product->in_features, is_bf16,
                         tile + r * TILE_PANELS * LANES);
        }
        for (int i = 0; i < count; i++) {
            const Panel *panel = &panels[p + i];
            if (panel->wide_x) correct_panel(product, number, row / BLOCK, panel, tile + i * LANES);
            if (panel->wide_x || !product->is_correction)
                finish(product, number, row, num_rows, panel, tile + i * LANES, is_bf16);
        }
    }
}

/* The other panels: a strip at a time, which stays in the nearest cache for all of them. */
INLINE void multiply_block(const Product *product, const Panel *panels, int64_t num_panels, int64_t number, int64_t row,
                           int num_rows, const int is_bf16, char *scratch) {
    const Weight *weight = &product->weights[number];
    const int width = is_bf16 ? 2 : 4;
    float tile[STRIP * TILE_PANELS * LANES] __attribute__((aligned(64)));
    for (int r = 0; r < num_rows; r += STRIP) {
        const int strip_rows = num_rows - r < STRIP ? num_rows - r : STRIP;
        int64_t in_scratch = -2; /* the group whose words the copy of the rows holds; -1: nobody's */
        int count;
        for (int64_t p = 0; p < num_panels; p += count) {
            const int64_t group = panels[p].group;
            const char *w = (const char *)weight->weight + (row + r) * product->in_features * width;
            count = panels_together(panels + p, num_panels - p);
            if (panels[p].wide_x || panels[p + count - 1].wide_x) continue;
            if (group >= 0 || strip_rows < STRIP) {
                const RowWords *own = group < 0 ? NULL : &product->targets[group * product->num_weights + number].words;
                if (in_scratch != group) copied(product, weight, own, row + r, strip_rows, width, scratch);
                in_scratch = group;
                w = scratch;
            }
            multiply(w, panels + p, count, product->in_features, is_bf16, tile);
            for (int i = 0; i < count; i++)
                finish(product, number, row + r, strip_rows, &panels[p + i], tile + i * LANES, is_bf16);
        }
    }
}

INLINE void block_of(const Product *product, const Panel *panels, int64_t num_panels, int64_t number, int64_t row,
                     char *scratch, const int is_bf16) {
    const Weight *weight = &product->weights[number];
    const int width = is_bf16 ? 2 : 4;
    const int64_t left = weight->out_features - row;
    const int num_rows = left < BLOCK ? (int)left : BLOCK;
    const char *w = (const char *)weight->weight + row * product->in_features * width;
    if (num_rows % STRIP && !product->is_correction)
        w = copied(product, weight, NULL, row, num_rows, width, scratch);
    correct_block(product, panels, num_panels, number, row, num_rows, w, is_bf16);
    if (!product->is_correction)
        multiply_block(product, panels, num_panels, number, row, num_rows, is_bf16, scratch);
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

/* float32 of the same rows, a column at a time. */
TARGET static void NAME(widen)(const Product *product, const Panel *panel, float *wide) {
    for (int64_t column = 0; column < product->in_features; column++) {
        const Lanes x = product->dtype == SHIRA_BF16
                            ? lanes_widen(panel->x + column / 2 * LANES, column % 2)
                            : lanes_load((const float *)(const void *)(panel->x + column * LANES));
        lanes_store(wide + column * LANES, x);
    }
}

const LinearOps JOIN(shira_linear, SUFFIX) = {
    .pack = NAME(pack),
    .widen = NAME(widen),
    .block = NAME(block),
    .has_linear_f32 = HAS_LINEAR_F32,
    .has_linear_bf16 = HAS_LINEAR_BF16,
};
