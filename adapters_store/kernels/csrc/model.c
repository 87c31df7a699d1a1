#include "model.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCKS_PER_TASK = 16 };

static Span span_of(const Plan *plan, int64_t at, const char *words, char *displaced) {
    const Visit *visit = &plan->visits[at];
    Span span;
    span.data = (void *)(uintptr_t)visit->data;
    span.indices = plan->indices + visit->entry;
    span.count = visit->count;
    span.words = words ? words + visit->words_offset : NULL;
    span.displaced = displaced ? displaced + visit->words_offset : NULL;
    span.is_wide = visit->dtype == SHIRA_F32;
    return span;
}

static void pass(void (*op)(const Span *, const Span *), const Plan *plan, const char *words, char *displaced,
                 int threads) {
    const int64_t num_tasks = (plan->num_visits + BLOCKS_PER_TASK - 1) / BLOCKS_PER_TASK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < num_tasks; task++) {
        const int64_t start = task * BLOCKS_PER_TASK;
        const int64_t end = start + BLOCKS_PER_TASK < plan->num_visits ? start + BLOCKS_PER_TASK : plan->num_visits;
        Span span = span_of(plan, start, words, displaced);
        for (int64_t at = start; at < end; at++) {
            const int has_next = at + 1 < end;
            const Span next = has_next ? span_of(plan, at + 1, words, displaced) : span;
            op(&span, has_next ? &next : NULL);
            span = next;
        }
    }
}

void shira_exchange(const Ops *ops, Plan plan, const char *words, char *displaced, int threads) {
    pass(ops->exchange, &plan, words, displaced, threads);
}

void shira_overwrite(const Ops *ops, Plan plan, const char *words, int threads) {
    pass(ops->overwrite, &plan, words, NULL, threads);
}

/* A block of a switch: row of `out`, row of `into`, or -1 where only the other one touches it. */
typedef struct {
    int64_t out;
    int64_t into;
} Pair;

/* Merges the two address-ordered plans; the number of pairs, or -1 when blocks overlap without being the same. */
static int64_t pair_blocks(const Plan *out, const Plan *into, Pair *pairs) {
    int64_t a = 0, b = 0, num_pairs = 0, last_end = 0;
    while (a < out->num_visits || b < into->num_visits) {
        const Visit *left = a < out->num_visits ? &out->visits[a] : NULL;
        const Visit *right = b < into->num_visits ? &into->visits[b] : NULL;
        const Visit *first = left && (!right || left->data <= right->data) ? left : right;
        const int has_left = left && left->data == first->data;
        const int has_right = right && right->data == first->data;
        if (first->data < last_end) return -1;
        if (has_left && has_right && (left->num_bytes != right->num_bytes || left->dtype != right->dtype)) return -1;
        last_end = first->data + first->num_bytes;
        pairs[num_pairs].out = has_left ? a : -1;
        pairs[num_pairs].into = has_right ? b : -1;
        num_pairs++;
        a += has_left;
        b += has_right;
    }
    return num_pairs;
}

Status shira_switch(const Ops *ops, Plan out, const char *out_displaced, Plan into, const char *words,
                    char *displaced, int64_t *journal, int64_t num_weights, int threads) {
    Pair *pairs = malloc((size_t)(out.num_visits + into.num_visits + 1) * sizeof *pairs);
    if (!pairs) return SHIRA_NO_MEMORY;
    const int64_t num_pairs = pair_blocks(&out, &into, pairs);
    if (num_pairs < 0) {
        free(pairs);
        return SHIRA_OVERLAP;
    }
    if (journal) *journal = num_weights;
    const int64_t num_tasks = (num_pairs + BLOCKS_PER_TASK - 1) / BLOCKS_PER_TASK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < num_tasks; task++) {
        const int64_t start = task * BLOCKS_PER_TASK;
        const int64_t end = start + BLOCKS_PER_TASK < num_pairs ? start + BLOCKS_PER_TASK : num_pairs;
        for (int64_t at = start; at < end; at++) {
            const Pair pair = pairs[at];
            Span enter;
            if (pair.into >= 0) enter = span_of(&into, pair.into, words, displaced);
            if (pair.out >= 0) {
                const Span leave = span_of(&out, pair.out, out_displaced, NULL);
                ops->overwrite(&leave, pair.into >= 0 ? &enter : NULL);
            }
            if (pair.into >= 0) {
                Span next;
                const int has_next = at + 1 < end && pairs[at + 1].out >= 0;
                if (has_next) next = span_of(&out, pairs[at + 1].out, out_displaced, NULL);
                ops->exchange(&enter, has_next ? &next : NULL);
            }
        }
    }
    free(pairs);
    return SHIRA_OK;
}

int64_t shira_stage(const Ops *ops, Plan plan, const float *delta, char *words, int threads) {
    int64_t lost = 0;
#pragma omp parallel for schedule(dynamic, BLOCKS_PER_TASK) num_threads(threads) if (threads > 1) reduction(+ : lost)
    for (int64_t at = 0; at < plan.num_visits; at++) {
        const Span span = span_of(&plan, at, NULL, NULL);
        const Visit *visit = &plan.visits[at];
        Span next = span;
        const int has_next = at + 1 < plan.num_visits;
        if (has_next) next = span_of(&plan, at + 1, NULL, NULL);
        lost += ops->stage(&span, has_next ? &next : NULL, visit->dtype, delta + visit->entry,
                           words + visit->words_offset);
    }
    return lost;
}
