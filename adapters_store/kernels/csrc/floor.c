/* The measured floor that the benchmark compares with. */
#include <string.h>

#include "model.h"

enum { AHEAD = 128 };

/* `zero` is a zero that the compiler does not know of, so the words are really read and written. */
#define DEFINE_TOUCH(name, word_t)                                                                    \
    static void name(const Visit *visit, const uint16_t *indices, word_t zero) {                      \
        word_t *data = (word_t *)(uintptr_t)visit->data;                                              \
        int64_t j = 0;                                                                                \
        for (; j + AHEAD < visit->count; j++) {                                                       \
            __builtin_prefetch(data + indices[j + AHEAD], 1, 3);                                      \
            data[indices[j]] ^= zero;                                                                 \
        }                                                                                             \
        for (; j < visit->count; j++) data[indices[j]] ^= zero;                                       \
    }
DEFINE_TOUCH(touch16, uint16_t)
DEFINE_TOUCH(touch32, uint32_t)

static void prefetch_start(const Plan *lines, const Visit *visit) {
    const uint16_t *indices = lines->indices + visit->entry;
    const int shift = visit->dtype == SHIRA_F32 ? 2 : 1;
    for (int64_t j = 0; j < visit->count && j < AHEAD; j++)
        __builtin_prefetch((const char *)(uintptr_t)visit->data + ((int64_t)indices[j] << shift), 1, 3);
}

static void touch_lines(const Plan *lines, int64_t at, uint16_t zero) {
    const Visit *visit = &lines->visits[at];
    if (visit->dtype == SHIRA_F32)
        touch32(visit, lines->indices + visit->entry, zero);
    else
        touch16(visit, lines->indices + visit->entry, zero);
}

int64_t shira_floor(Plan lines, Plan plan, const char *words, char *displaced, int64_t num_words_bytes, int threads) {
    enum { TASK = 16 };
    const int64_t num_tasks = (lines.num_visits + TASK - 1) / TASK;
    volatile uint16_t unknown = 0;
    const uint16_t zero = unknown;
    int64_t num_entries = 0, num_lines = 0, sum = 0;
    for (int64_t at = 0; at < plan.num_visits; at++) num_entries += plan.visits[at].count;
    for (int64_t at = 0; at < lines.num_visits; at++) num_lines += lines.visits[at].count;
    /* The line list was read in place of as many indices; only the rest of them is still to be read. */
    const int64_t rest = num_entries - num_lines;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1) reduction(+ : sum)
    for (int64_t task = 0; task < num_tasks; task++) {
        const int64_t end = (task + 1) * TASK < lines.num_visits ? (task + 1) * TASK : lines.num_visits;
        prefetch_start(&lines, &lines.visits[task * TASK]);
        for (int64_t at = task * TASK; at < end; at++) {
            if (at + 1 < end) prefetch_start(&lines, &lines.visits[at + 1]);
            touch_lines(&lines, at, zero);
        }
        const int64_t first = num_words_bytes * task / num_tasks, last = num_words_bytes * (task + 1) / num_tasks;
        memcpy(displaced + first, words + first, (size_t)(last - first));
        for (int64_t j = rest * task / num_tasks; j < rest * (task + 1) / num_tasks; j++) sum += plan.indices[j];
    }
    return sum;
}
