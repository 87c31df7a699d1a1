/* A blend's target words row by row of each weight. */
#ifndef SHIRA_ROWS_H
#define SHIRA_ROWS_H

#include "ops.h"

/* A weight's share of a row layout, with its words where there are any: entries of row r are starts[r]..starts[r + 1].
 * `starts` is NULL where the weight is not touched. */
typedef struct {
    const int32_t *starts;
    const uint16_t *columns;
    const void *words;
} RowWords;

/* One weight of a bound index set, and where its rows go. */
typedef struct {
    const int64_t *offsets; /* of the weight's blocks, one more than there are */
    int64_t num_blocks;
    int64_t out_features;
    int64_t in_features;
    int32_t *starts;
    uint16_t *columns;
} RowsJob;

/* One weight of a union: `own` wins over `other`. */
typedef struct {
    RowWords own;
    RowWords other;
    int64_t out_features;
    int64_t is_wide; /* 4-byte words instead of 2-byte ones */
    int32_t *starts;
    uint16_t *columns;
    void *words;
} MergeJob;

void shira_rows(const RowsJob *jobs, int64_t num_jobs, const uint16_t *indices, int threads);
/* Fills the jobs' starts; the last one of each is the number of its entries. */
void shira_merge_count(const MergeJob *jobs, int64_t num_jobs, int threads);
/* Fills columns and words, the starts being filled. */
void shira_merge_fill(const MergeJob *jobs, int64_t num_jobs, int threads);

#endif
