/* What each operation works on, and the per-row functions that every instruction set provides. */
#ifndef SHIRA_DECODER_OPS_H
#define SHIRA_DECODER_OPS_H

#include <stdint.h>

enum { SHIRA_F32 = 0, SHIRA_BF16 = 1 };
enum { SHIRA_SCALAR = 0, SHIRA_AVX2 = 1, SHIRA_AVX512 = 2, SHIRA_NUM_ISAS = 3 };
enum { PAGE = 16 /* positions */, MAX_HEAD_DIM = 256 };

/* Consecutive rows of one sequence, as Ragged.blocks has them. */
typedef struct {
    int32_t row;
    int32_t num_rows;
    int32_t position;   /* of the first row */
    int32_t first_page; /* where the sequence's pages begin among the page numbers */
} Block;

typedef struct {
    const Block *blocks;
    int64_t num_blocks;
    const int32_t *page_numbers;
} Ragged;

/* The KV memory of one layer, as LayerPages. */
typedef struct {
    void *keys;   /* (pages, num_heads, head_dim, PAGE) */
    void *values; /* (pages, num_heads, PAGE, value_dim) */
    int64_t num_heads;
    int64_t head_dim;
    int64_t value_dim; /* a multiple of 16 */
} Pages;

typedef struct {
    int64_t dtype;
    void *x;            /* (rows, width): the sum */
    void *update;       /* (rows, width): its norm afterwards */
    const void *weight; /* (width,) */
    int64_t num_rows;
    int64_t width;
    float eps;
} AddNorm;

typedef struct {
    int64_t dtype;
    void *q; /* (rows, num_query_heads, head_dim), turned in place */
    const void *k, *v; /* (rows, num_heads, head_dim) */
    int64_t num_query_heads;
    const void *q_norm, *k_norm; /* (head_dim,) or NULL */
    float q_eps, k_eps;
    const float *turns; /* (positions, 2, head_dim / 2): cosines, sines */
    Ragged ragged;
    Pages pages;
} Rope;

typedef struct {
    int64_t dtype;
    void *q; /* (rows, num_query_heads, head_dim): the result afterwards */
    int64_t num_query_heads;
    float scale;
    Ragged ragged;
    Pages pages;
} Attention;

typedef struct {
    int64_t dtype;
    void *gate; /* (rows, width): the result afterwards */
    const void *up;
    int64_t num_rows;
    int64_t width;
} Gate;

/* One block's rows over one kv head. */
typedef struct {
    const Block *block;
    int64_t head;
} Task;

typedef struct {
    void (*add_norm)(const AddNorm *args, int64_t row);
    void (*rope_and_store)(const Rope *args, const Block *block);
    /* Of `next` only pages are asked for ahead of time; `scratch` has attention_scratch_floats(args). */
    void (*attend)(const Attention *args, Task task, Task next, float *scratch);
    void (*gate)(const Gate *args, int64_t row);
} Ops;

/* NULL when this machine cannot run that instruction set. */
const Ops *shira_decoder_ops(int isa);

extern const Ops shira_decoder_ops_scalar;
#if defined(__x86_64__)
extern const Ops shira_decoder_ops_avx2;
extern const Ops shira_decoder_ops_avx512;
#endif

enum { CHUNK = 64 /* positions whose scores are kept at a time */ };

/* Queries, scores, weighted values, and per query its maximum, sum, rescaling and number of positions. */
static inline int64_t attention_scratch_floats(const Attention *args, int64_t num_rows) {
    const int64_t queries = num_rows * (args->num_query_heads / args->pages.num_heads);
    return queries * (args->pages.head_dim + CHUNK + args->pages.value_dim + 4) + 64;
}

#endif
