/* Passes over a whole model, in parallel over its blocks. None touches Python; none fails after its first write. */
#ifndef SHIRA_MODEL_H
#define SHIRA_MODEL_H

#include "ops.h"

typedef struct {
    const Visit *visits; /* ascending by address */
    int64_t num_visits;
    const uint16_t *indices;
} Plan;

/* One row per member of a union: `blocks[b]` is the member's block for union block b, or -1. */
typedef struct {
    const int64_t *blocks;
    const int64_t *offsets;
    const uint16_t *indices;
    const void *values;
    int64_t dtype;
    float scale;
} Member;

typedef enum { SHIRA_OK = 0, SHIRA_NO_MEMORY = 1, SHIRA_OVERLAP = 2 } Status;

void shira_exchange(const Ops *ops, Plan plan, const char *words, char *displaced, int threads);
void shira_overwrite(const Ops *ops, Plan plan, const char *words, int threads);
/* Sets *journal to `num_weights` right before the first write (journal may be NULL). SHIRA_OVERLAP: two blocks of
 * the plans share bytes without being the same block. */
Status shira_switch(const Ops *ops, Plan out, const char *out_displaced, Plan into, const char *words,
                    char *displaced, int64_t *journal, int64_t num_weights, int threads);
int64_t shira_stage(const Ops *ops, Plan plan, const float *delta, char *words, int threads);

/* Smallest faulty entry position, or -1. `offsets` must be valid. */
int64_t shira_scan_indices(const Ops *ops, const int64_t *offsets, const int32_t *limits, const uint16_t *indices,
                           int64_t num_blocks, int threads);
int64_t shira_scan_values(const Ops *ops, const void *values, int64_t count, int64_t dtype, int threads);

/* counts[b] = entries of the union in block b. */
void shira_union_count(const Member *members, int64_t num_members, int64_t num_blocks, int64_t *counts, int threads);
/* Fills indices and delta, `offsets` being the running sum of the counts. */
Status shira_union_fill(const Ops *ops, const Member *members, int64_t num_members, int64_t num_blocks,
                        const int64_t *offsets, uint16_t *indices, float *delta, int threads);

#endif
