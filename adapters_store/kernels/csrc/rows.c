#include "rows.h"

static void rows_of_weight(const RowsJob *job, const uint16_t *indices) {
    const int64_t first = job->offsets[0];
    int64_t row = 0;
    int64_t row_start = 0; /* flat position of the row's first element */
    job->starts[0] = 0;
    for (int64_t block = 0; block < job->num_blocks; block++)
        for (int64_t j = job->offsets[block]; j < job->offsets[block + 1]; j++) {
            const int64_t position = block * SHIRA_BLOCK_ELEMENTS + indices[j];
            for (; position >= row_start + job->in_features; row_start += job->in_features)
                job->starts[++row] = (int32_t)(j - first);
            job->columns[j - first] = (uint16_t)(position - row_start);
        }
    while (row < job->out_features) job->starts[++row] = (int32_t)(job->offsets[job->num_blocks] - first);
}

void shira_rows(const RowsJob *jobs, int64_t num_jobs, const uint16_t *indices, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < num_jobs; i++) rows_of_weight(&jobs[i], indices);
}

/* Columns of one row. */
typedef struct {
    const uint16_t *columns;
    int64_t at;
    int64_t end;
} Cursor;

static Cursor cursor_of(const RowWords *rows, int64_t row) {
    const Cursor none = {NULL, 0, 0};
    if (!rows->starts) return none;
    const Cursor cursor = {rows->columns, rows->starts[row], rows->starts[row + 1]};
    return cursor;
}

void shira_merge_count(const MergeJob *jobs, int64_t num_jobs, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < num_jobs; i++) {
        const MergeJob *job = &jobs[i];
        int32_t count = 0;
        job->starts[0] = 0;
        for (int64_t row = 0; row < job->out_features; row++) {
            Cursor own = cursor_of(&job->own, row);
            Cursor other = cursor_of(&job->other, row);
            for (; own.at < own.end && other.at < other.end; count++) {
                const int32_t own_column = own.columns[own.at];
                const int32_t other_column = other.columns[other.at];
                own.at += own_column <= other_column;
                other.at += other_column <= own_column;
            }
            count += (int32_t)(own.end - own.at + other.end - other.at);
            job->starts[row + 1] = count;
        }
    }
}

#define DEFINE_MERGE(merge, word_t)                                                                             \
    static void merge(const MergeJob *job) {                                                                    \
        const word_t *own_words = job->own.words;                                                               \
        const word_t *other_words = job->other.words;                                                           \
        uint16_t *columns = job->columns;                                                                       \
        word_t *words = job->words;                                                                             \
        for (int64_t row = 0; row < job->out_features; row++) {                                                 \
            Cursor own = cursor_of(&job->own, row);                                                             \
            Cursor other = cursor_of(&job->other, row);                                                         \
            for (; own.at < own.end && other.at < other.end; columns++, words++) {                              \
                const uint16_t own_column = own.columns[own.at];                                                \
                const uint16_t other_column = other.columns[other.at];                                          \
                const int is_own = own_column <= other_column;                                                  \
                *columns = is_own ? own_column : other_column;                                                  \
                *words = is_own ? own_words[own.at] : other_words[other.at];                                    \
                own.at += is_own;                                                                               \
                other.at += other_column <= own_column;                                                         \
            }                                                                                                   \
            for (; own.at < own.end; own.at++) *columns++ = own.columns[own.at], *words++ = own_words[own.at];  \
            for (; other.at < other.end; other.at++)                                                            \
                *columns++ = other.columns[other.at], *words++ = other_words[other.at];                         \
        }                                                                                                       \
    }
DEFINE_MERGE(merge16, uint16_t)
DEFINE_MERGE(merge32, uint32_t)

void shira_merge_fill(const MergeJob *jobs, int64_t num_jobs, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < num_jobs; i++) {
        if (jobs[i].is_wide)
            merge32(&jobs[i]);
        else
            merge16(&jobs[i]);
    }
}
