/* Cuts a product into panels of x and blocks of W, and shares the blocks among threads. */
#include "linear.h"
#include "pool.h"

#include <stdlib.h>

enum { ALIGNMENT = 64 };

static int64_t num_blocks_of(const Weight *weight) { return (weight->out_features + BLOCK - 1) / BLOCK; }

/* Neighbouring groups share panels unless one of them is patched. Returns the number of panels. */
static int64_t cut_panels(const Product *product, Panel *panels) {
    int64_t num_panels = 0;
    for (int64_t g = 0; g < product->num_groups;) {
        const int is_patched = product->groups[g].is_patched != 0;
        const int64_t group = is_patched ? g : -1;
        int64_t start = product->groups[g].start;
        while (++g < product->num_groups && !is_patched && !product->groups[g].is_patched) continue;
        for (const int64_t stop = product->groups[g - 1].stop; start < stop; start += LANES) {
            const Panel panel = {NULL, NULL, start, start + LANES < stop ? start + LANES : stop, group};
            panels[num_panels++] = panel;
        }
    }
    return num_panels;
}

static int is_corrected(const Product *product, const Panel *panel) {
    if (panel->group >= 0) return 0;
    for (int64_t g = 0; g < product->num_groups; g++) {
        if (product->groups[g].start >= panel->stop || product->groups[g].stop <= panel->start) continue;
        for (int64_t number = 0; number < product->num_weights; number++)
            if (product->targets[g * product->num_weights + number].steps.quads) return 1;
    }
    return 0;
}

typedef struct {
    const LinearOps *ops;
    const Product *product;
    Panel *panels;
    int64_t num_panels;
    uint32_t *packed; /* one panel after the other */
    float *wide;
    char *scratch; /* for each thread */
    int64_t scratch_bytes;
} Run;

static void pack_panel(void *context, int64_t p, int thread) {
    const Run *run = context;
    Panel *panel = &run->panels[p];
    uint32_t *packed = run->packed + p * steps_of(run->product) * LANES;
    float *wide = run->wide + p * run->product->in_features * LANES;
    (void)thread;
    panel->x = packed;
    run->ops->pack(run->product, panel, packed);
    if (!is_corrected(run->product, panel)) return;
    panel->wide_x = wide;
    run->ops->widen(run->product, panel, wide);
}

static void multiply_block(void *context, int64_t block, int thread) {
    const Run *run = context;
    int64_t number = 0;
    while (block >= num_blocks_of(&run->product->weights[number]))
        block -= num_blocks_of(&run->product->weights[number++]);
    run->ops->block(run->product, run->panels, run->num_panels, number, block * BLOCK,
                    run->scratch + thread * run->scratch_bytes);
}

static int64_t rounded_up(int64_t num_bytes) { return (num_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

Status shira_linear(const LinearOps *ops, const Product *product, int threads) {
    const int64_t num_rows = product->num_groups ? product->groups[product->num_groups - 1].stop : 0;
    const int64_t max_panels = num_rows / LANES + product->num_groups;
    const int64_t width = product->dtype == SHIRA_F32 ? 4 : 2;
    const int64_t scratch_bytes = rounded_up(BLOCK * product->in_features * width);
    const int64_t panels_bytes = rounded_up(max_panels * (int64_t)sizeof(Panel));
    const int64_t packed_bytes = max_panels * steps_of(product) * LANES * (int64_t)sizeof(uint32_t);
    const int64_t wide_bytes = max_panels * product->in_features * LANES * (int64_t)sizeof(float);
    const int64_t num_bytes = panels_bytes + packed_bytes + wide_bytes + scratch_bytes * threads;
    if (num_rows == 0) return SHIRA_OK;
    char *memory = aligned_alloc(ALIGNMENT, (size_t)num_bytes);
    if (!memory) return SHIRA_NO_MEMORY;
    char *packed = memory + panels_bytes;
    char *wide = packed + packed_bytes;
    Run run = {ops, product, (Panel *)(void *)memory, 0, (uint32_t *)(void *)packed, (float *)(void *)wide,
               wide + wide_bytes, scratch_bytes};
    run.num_panels = cut_panels(product, run.panels);
    int64_t num_blocks = 0;
    for (int64_t number = 0; number < product->num_weights; number++)
        num_blocks += num_blocks_of(&product->weights[number]);
    shira_pool_run(pack_panel, &run, run.num_panels, run.num_panels > 4 ? threads : 1);
    shira_pool_run(multiply_block, &run, num_blocks, threads);
    free(memory);
    return SHIRA_OK;
}

const LinearOps *shira_linear_ops(int isa) {
    if (!shira_ops(isa)) return NULL;
#if defined(__x86_64__)
    const int has_fma = __builtin_cpu_supports("fma");
    if (isa == SHIRA_AVX512)
        return __builtin_cpu_supports("avx512bf16") ? &shira_linear_avx512bf16 : &shira_linear_avx512;
    if (isa == SHIRA_AVX2 && has_fma) return &shira_linear_avx2;
#endif
    return &shira_linear_scalar;
}
