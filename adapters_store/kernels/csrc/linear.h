/* Products whose rows run with different blends: y = x W^T + bias, each row of x with its own words in W. */
#ifndef SHIRA_LINEAR_H
#define SHIRA_LINEAR_H

#include "model.h"
#include "rows.h"

enum { LANES = 16 /* rows of x side by side: a panel */ };
enum { TILE_PANELS = 2, TILE = BLOCK * TILE_PANELS * LANES /* float sums: [row of W][panel][row of x] */ };

typedef struct {
    const void *weight; /* (out_features, in_features) */
    const void *bias;   /* (out_features,) in the weight's dtype, or NULL */
    int64_t out_features;
} Weight;

typedef struct {
    int64_t start; /* rows of x */
    int64_t stop;
    int64_t is_patched;
} Group;

typedef struct {
    const void *x; /* (rows, in_features) */
    int64_t in_features;
    int64_t dtype;     /* of x, weights, biases and words: SHIRA_F32 or SHIRA_BF16 */
    int64_t out_dtype; /* of y: `dtype` or SHIRA_F32 */
    const Weight *weights;
    int64_t num_weights;
    const Group *groups; /* from row 0 on without a gap */
    int64_t num_groups;
    const Targets *targets; /* [group][weight] */
    void *const *y;        /* for each weight (rows, out_features) */
    int is_correction;     /* y holds x W^T already and is added to */
} Product;

/* At most 16 rows of x that run with the same words in W, packed: [step][row] of float32, or of pairs of bfloat16. */
typedef struct {
    const uint32_t *x;
    const float *wide_x; /* [column][row] where some group is corrected, else NULL */
    int64_t start; /* rows of x; lanes past `stop` are zero */
    int64_t stop;
    int64_t group; /* whose words are patched into W; -1: none's */
} Panel;

static inline int64_t steps_of(const Product *product) {
    return product->dtype == SHIRA_BF16 ? (product->in_features + 1) / 2 : product->in_features;
}

typedef struct {
    void (*pack)(const Product *product, const Panel *panel, uint32_t *packed);
    void (*widen)(const Product *product, const Panel *panel, float *wide);
    /* Rows `row`.. of weight `number`, at most BLOCK of them, for all panels. `scratch` holds BLOCK rows of W. */
    void (*block)(const Product *product, const Panel *panels, int64_t num_panels, int64_t number, int64_t row,
                  void *scratch);
    int has_linear_f32;
    int has_linear_bf16;
} LinearOps;

/* NULL when this machine cannot run that instruction set. */
const LinearOps *shira_linear_ops(int isa);
Status shira_linear(const LinearOps *ops, const Product *product, int threads);

extern const LinearOps shira_linear_scalar;
#if defined(__x86_64__)
extern const LinearOps shira_linear_avx2;
extern const LinearOps shira_linear_avx512;
extern const LinearOps shira_linear_avx512bf16;
#endif

#endif
