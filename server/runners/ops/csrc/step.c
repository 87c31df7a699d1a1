#include "step.h"

#include <stdlib.h>

#if defined(_OPENMP)
#include <omp.h>
#define THREAD_NUMBER omp_get_thread_num()
#else
#define THREAD_NUMBER 0
#endif

enum { WORTH_A_THREAD = 8192 /* elements: below, waking a thread takes longer than the work */ };

void shira_add_norm(const Ops *ops, const AddNorm *args, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (args->num_rows * args->width > WORTH_A_THREAD)
    for (int64_t row = 0; row < args->num_rows; row++) ops->add_norm(args, row);
}

void shira_rope_and_store(const Ops *ops, const Rope *args, int threads) {
    const int64_t width = (args->num_query_heads + 2 * args->pages.num_heads) * args->pages.head_dim;
#pragma omp parallel for schedule(static) num_threads(threads) if (args->ragged.num_blocks * width > WORTH_A_THREAD)
    for (int64_t b = 0; b < args->ragged.num_blocks; b++) ops->rope_and_store(args, &args->ragged.blocks[b]);
}

/* The last blocks of a long prompt take longest: they go first. */
static Task task_of(const Attention *args, int64_t number) {
    const int64_t last = args->ragged.num_blocks - 1, num_heads = args->pages.num_heads;
    const Task task = {.block = &args->ragged.blocks[last - number / num_heads], .head = number % num_heads};
    return task;
}

int shira_attend(const Ops *ops, const Attention *args, int threads) {
    const Ragged ragged = args->ragged;
    int64_t most_rows = 0;
    for (int64_t b = 0; b < ragged.num_blocks; b++)
        if (ragged.blocks[b].num_rows > most_rows) most_rows = ragged.blocks[b].num_rows;
    /* whole lines, so that no two threads write to one and the memory is aligned to vectors */
    const int64_t floats = (attention_scratch_floats(args, most_rows) + 15) / 16 * 16;
    float *scratch = aligned_alloc(64, (size_t)(floats * threads) * sizeof(float));
    if (!scratch) return 0;
    const int64_t num_tasks = ragged.num_blocks * args->pages.num_heads;
    const int64_t at_once = num_tasks / (threads * 8) + 1; /* neighbours: the next one's pages are on their way */
#pragma omp parallel num_threads(threads) if (num_tasks > 1)
    {
        float *mine = scratch + floats * THREAD_NUMBER;
#pragma omp for schedule(dynamic, at_once)
        for (int64_t number = 0; number < num_tasks; number++) {
            const int64_t next = number + 1 < num_tasks ? number + 1 : number;
            ops->attend(args, task_of(args, number), task_of(args, next), mine);
        }
    }
    free(scratch);
    return 1;
}

void shira_gate(const Ops *ops, const Gate *args, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (args->num_rows * args->width > WORTH_A_THREAD)
    for (int64_t row = 0; row < args->num_rows; row++) ops->gate(args, row);
}
