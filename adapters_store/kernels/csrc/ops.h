/* What one call of a kernel walks over, and the per-block operations that each instruction set provides. */
#ifndef SHIRA_OPS_H
#define SHIRA_OPS_H

#include <stddef.h>
#include <stdint.h>

enum { SHIRA_F32 = 0, SHIRA_BF16 = 1, SHIRA_F16 = 2 };
enum { SHIRA_SCALAR = 0, SHIRA_AVX2 = 1, SHIRA_AVX512 = 2, SHIRA_NUM_ISAS = 3 };
enum { SHIRA_BLOCK_ELEMENTS = 65536 };

/* One block with entries: a row of the int64 table that Bound builds, rows ascending by `data`. */
typedef struct {
    int64_t data;         /* address of the block's first element */
    int64_t num_bytes;    /* of the block in the weight */
    int64_t entry;        /* its first entry in the index set */
    int64_t count;        /* its entries, at least one */
    int64_t words_offset; /* byte offset of its words in a words buffer */
    int64_t dtype;        /* SHIRA_F32, SHIRA_BF16 or SHIRA_F16 */
} Visit;

/* The same block with its pointers resolved. `words` is read, `displaced` is written. */
typedef struct {
    void *data;
    const uint16_t *indices;
    int64_t count;
    const void *words;
    void *displaced;
    int64_t is_wide; /* 4-byte words instead of 2-byte ones */
} Span;

typedef struct {
    /* `next` is only prefetched and may be NULL. */
    void (*exchange)(const Span *span, const Span *next);
    void (*overwrite)(const Span *span, const Span *next);
    /* words[j] = round(fp32(data[indices[j]]) + delta[j]); returns how many finite words became non-finite. */
    int64_t (*stage)(const Span *span, const Span *next, int64_t dtype, const float *delta, void *words);
    /* First entry that is not below `limit` or not above its predecessor; -1: none. */
    int64_t (*scan_order)(const uint16_t *indices, int64_t count, int64_t limit);
    int64_t (*scan_finite)(const void *values, int64_t count, int64_t dtype);
    /* products[j] = scale * fp32(values[j]), rounded once. */
    void (*scale)(const void *values, int64_t count, int64_t dtype, float scale, float *products);
} Ops;

/* NULL when this machine cannot run that instruction set. */
const Ops *shira_ops(int isa);

extern const Ops shira_ops_scalar;
#if defined(__x86_64__)
extern const Ops shira_ops_avx2;
extern const Ops shira_ops_avx512;
#endif

#endif
