/* From a blend's words to the differences that the correction adds. */
#include <string.h>

#include "rows.h"

static int32_t length_of(const StepsJob *job, int64_t row) {
    return row < job->out_features ? job->words.starts[row + 1] - job->words.starts[row] : 0;
}

/* Rows of one block by ascending length, ties to the lower row. */
static void sort_rows(const StepsJob *job, int64_t first, uint8_t *order) {
    int32_t lengths[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        const int32_t length = length_of(job, first + i);
        int at = i;
        for (; at > 0 && lengths[at - 1] > length; at--) {
            lengths[at] = lengths[at - 1];
            order[at] = order[at - 1];
        }
        lengths[at] = length;
        order[at] = (uint8_t)i;
    }
}

void shira_steps_count(const StepsJob *jobs, int64_t num_jobs, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < num_jobs; i++) {
        const StepsJob *job = &jobs[i];
        int32_t *quad = job->quads;
        int32_t num_steps = 0;
        for (int64_t first = 0; first < job->out_features; first += BLOCK) {
            uint8_t *order = job->order + first;
            sort_rows(job, first, order);
            for (int place = QUAD - 1; place < BLOCK; place += QUAD) {
                *quad++ = num_steps;
                num_steps += length_of(job, first + order[place]);
            }
        }
        *quad = num_steps;
    }
}

static float widened(const void *words, int64_t at, int64_t dtype) {
    float value;
    if (dtype == SHIRA_F32) return ((const float *)words)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)words)[at] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void fill_row(const StepsJob *job, int64_t row, int32_t start, int32_t end, int lane) {
    const int32_t length = length_of(job, row);
    for (int32_t step = start; step < end; step++) {
        const int is_real = step - start < length;
        const int64_t entry = is_real ? job->words.starts[row] + step - start : 0;
        const int64_t column = is_real ? job->words.columns[entry] : 0;
        job->steps[step].columns[lane] = (uint16_t)column;
        job->steps[step].deltas[lane] =
            is_real ? widened(job->words.words, entry, job->dtype) -
                          widened(job->weight, row * job->in_features + column, job->dtype)
                    : 0.0f;
    }
}

void shira_steps_fill(const StepsJob *jobs, int64_t num_jobs, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < num_jobs; i++) {
        const StepsJob *job = &jobs[i];
        const int32_t *quad = job->quads;
        for (int64_t first = 0; first < job->out_features; first += BLOCK)
            for (int place = 0; place < BLOCK; place += QUAD, quad++)
                for (int lane = 0; lane < QUAD; lane++)
                    fill_row(job, first + job->order[first + place + lane], quad[0], quad[1], lane);
    }
}
