#include "step.h"

#include <stdlib.h>

enum { WORTH_A_THREAD = 8192 /* elements: below, waking a thread takes longer than the work */ };

static void one_after_another(TaskOf *task, void *context, int64_t count, int threads) {
    (void)threads;
    for (int64_t index = 0; index < count; index++) task(context, index, 0);
}

static RunTasks *run_tasks = one_after_another;

void shira_use_pool(RunTasks *run) { run_tasks = run; }

/* `count` items of `width` elements each, in runs long enough to be worth a thread. */
typedef struct {
    const Ops *ops;
    const void *args;
    int64_t count;
    int64_t at_once;
} Run;

static void run_items(const Ops *ops, const void *args, int64_t count, int64_t width, int threads, TaskOf *task) {
    const int64_t at_once = WORTH_A_THREAD / (2 * (width + 1)) + 1;
    Run run = {.ops = ops, .args = args, .count = count, .at_once = at_once};
    run_tasks(task, &run, (count + at_once - 1) / at_once, threads);
}

#define EACH_OF_RUN(item)                                               \
    const Run *run = context;                                           \
    const int64_t start = index * run->at_once;                         \
    const int64_t end = start + run->at_once < run->count ? start + run->at_once : run->count; \
    (void)thread;                                                       \
    for (int64_t item = start; item < end; item++)

static void add_norm_rows(void *context, int64_t index, int thread) {
    EACH_OF_RUN(row) run->ops->add_norm(run->args, row);
}

static void rope_blocks(void *context, int64_t index, int thread) {
    EACH_OF_RUN(b) run->ops->rope_and_store(run->args, &((const Rope *)run->args)->ragged.blocks[b]);
}

static void gate_rows(void *context, int64_t index, int thread) {
    EACH_OF_RUN(row) run->ops->gate(run->args, row);
}

void shira_add_norm(const Ops *ops, const AddNorm *args, int threads) {
    run_items(ops, args, args->num_rows, args->width, threads, add_norm_rows);
}

void shira_rope_and_store(const Ops *ops, const Rope *args, int threads) {
    const int64_t width = (args->num_query_heads + 2 * args->pages.num_heads) * args->pages.head_dim;
    run_items(ops, args, args->ragged.num_blocks, width, threads, rope_blocks);
}

void shira_gate(const Ops *ops, const Gate *args, int threads) {
    run_items(ops, args, args->num_rows, args->width, threads, gate_rows);
}

typedef struct {
    const Ops *ops;
    const Attention *args;
    int64_t num_tasks;
    int64_t at_once; /* neighbours: the next one's pages are on their way */
    float *scratch;
    int64_t scratch_floats; /* of each thread */
} Attending;

/* The last blocks of a long prompt take longest: they go first. */
static Task task_of(const Attention *args, int64_t number) {
    const int64_t last = args->ragged.num_blocks - 1, num_heads = args->pages.num_heads;
    const Task task = {.block = &args->ragged.blocks[last - number / num_heads], .head = number % num_heads};
    return task;
}

static void attend_some(void *context, int64_t index, int thread) {
    const Attending *all = context;
    const int64_t start = index * all->at_once;
    const int64_t end = start + all->at_once < all->num_tasks ? start + all->at_once : all->num_tasks;
    for (int64_t number = start; number < end; number++) {
        const int64_t next = number + 1 < all->num_tasks ? number + 1 : number;
        float *mine = all->scratch + all->scratch_floats * thread;
        all->ops->attend(all->args, task_of(all->args, number), task_of(all->args, next), mine);
    }
}

int shira_attend(const Ops *ops, const Attention *args, int threads) {
    const Ragged ragged = args->ragged;
    int64_t most_rows = 0;
    for (int64_t b = 0; b < ragged.num_blocks; b++)
        if (ragged.blocks[b].num_rows > most_rows) most_rows = ragged.blocks[b].num_rows;
    const int64_t num_tasks = ragged.num_blocks * args->pages.num_heads;
    Attending all = {.ops = ops,
                     .args = args,
                     .num_tasks = num_tasks,
                     .at_once = num_tasks / (threads * 8) + 1,
                     /* whole lines, so that no two threads write to one and the memory is aligned to vectors */
                     .scratch_floats = (attention_scratch_floats(args, most_rows) + 15) / 16 * 16};
    all.scratch = aligned_alloc(64, (size_t)(all.scratch_floats * threads) * sizeof(float));
    if (!all.scratch) return 0;
    run_tasks(attend_some, &all, (num_tasks + all.at_once - 1) / all.at_once, threads);
    free(all.scratch);
    return 1;
}
