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

enum { BLOCK = 48 /* rows of W at a time */, QUAD = 4 /* rows of W corrected side by side */ };
enum { QUADS = BLOCK / QUAD };

/* One entry of each of four rows. */
typedef struct {
    float deltas[QUAD];
    uint16_t columns[QUAD];
} Step;

/* The differences target - W of a weight as the correction reads them: the rows of each block by ascending number of
 * entries, four at a time, past a row's last one with difference 0.
 * `quads` is NULL where the weight is not touched. */
typedef struct {
    const int32_t *quads; /* first step of each quad, one more than there are */
    const uint8_t *order; /* for each place of a block, its row counted from the block's first */
    const Step *steps;
} RowSteps;

/* What a group has for one weight: `words` to be patched in, `steps` to be added. */
typedef struct {
    RowWords words;
    RowSteps steps;
} Targets;

typedef struct {
    RowWords words;
    const void *weight; /* (out_features, in_features) */
    int64_t out_features;
    int64_t in_features;
    int64_t dtype; /* SHIRA_F32 or SHIRA_BF16 */
    int32_t *quads;
    uint8_t *order;
    Step *steps;
} StepsJob;

void shira_rows(const RowsJob *jobs, int64_t num_jobs, const uint16_t *indices, int threads);
/* Fills the jobs' starts; the last one of each is the number of its entries. */
void shira_merge_count(const MergeJob *jobs, int64_t num_jobs, int threads);
/* Fills columns and words, the starts being filled. */
void shira_merge_fill(const MergeJob *jobs, int64_t num_jobs, int threads);
/* Fills quads and order; the last of the quads is the number of steps. */
void shira_steps_count(const StepsJob *jobs, int64_t num_jobs, int threads);
/* Fills the steps, the others being filled. */
void shira_steps_fill(const StepsJob *jobs, int64_t num_jobs, int threads);

#endif
