/* The measured floor that the benchmark compares with. */
#include <string.h>

#include "model.h"

enum { AHEAD = 128 };

static int64_t touch_lines(const Plan *lines, int64_t at, const Visit *next) {
    const Visit *visit = &lines->visits[at];
    const uint16_t *indices = lines->indices + visit->entry;
    const uint16_t *next_indices = next ? lines->indices + next->entry : NULL;
    const int shift = visit->dtype == SHIRA_F32 ? 2 : 1;
    const int next_shift = next && next->dtype == SHIRA_F32 ? 2 : 1;
    char *data = (char *)(uintptr_t)visit->data;
    for (int64_t j = 0; j < visit->count; j++) {
        const int64_t ahead = j + AHEAD;
        if (ahead < visit->count)
            __builtin_prefetch(data + ((int64_t)indices[ahead] << shift), 1, 3);
        else if (next && ahead - visit->count < next->count)
            __builtin_prefetch((char *)(uintptr_t)next->data + ((int64_t)next_indices[ahead - visit->count] << next_shift), 1, 3);
        volatile uint16_t *word = (volatile uint16_t *)(data + ((int64_t)indices[j] << shift));
        *word = *word;
    }
    return visit->count;
}

int64_t shira_floor(Plan lines, Plan plan, const char *words, char *displaced, int64_t num_words_bytes, int threads) {
    enum { TASK = 16 };
    const int64_t num_tasks = (lines.num_visits + TASK - 1) / TASK;
    int64_t num_entries = 0, num_lines = 0, sum = 0;
    for (int64_t at = 0; at < plan.num_visits; at++) num_entries += plan.visits[at].count;
    for (int64_t at = 0; at < lines.num_visits; at++) num_lines += lines.visits[at].count;
    /* The line list was read in place of as many indices; only the rest of them is still to be read. */
    const int64_t rest = num_entries - num_lines;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1) reduction(+ : sum)
    for (int64_t task = 0; task < num_tasks; task++) {
        const int64_t end = (task + 1) * TASK < lines.num_visits ? (task + 1) * TASK : lines.num_visits;
        for (int64_t at = task * TASK; at < end; at++)
            sum += touch_lines(&lines, at, at + 1 < end ? &lines.visits[at + 1] : NULL);
        const int64_t first = num_words_bytes * task / num_tasks, last = num_words_bytes * (task + 1) / num_tasks;
        memcpy(displaced + first, words + first, (size_t)(last - first));
        for (int64_t j = rest * task / num_tasks; j < rest * (task + 1) / num_tasks; j++) sum += plan.indices[j];
    }
    return sum;
}
