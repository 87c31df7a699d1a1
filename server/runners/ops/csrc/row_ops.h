/* The per-row operations, compiled once per instruction set: the including file defines TARGET (a function attribute),
 * SUFFIX, VECTOR_BYTES, and HAS_FMA / HAS_AVX512 where they hold. */
#include "lanes.h"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(op) JOIN(op, SUFFIX)

/* Runs the call once with a constant dtype, so that the compiler makes two functions of it. */
#define BY_DTYPE(dtype, CALL)       \
    if ((dtype) == SHIRA_F32) {     \
        enum { DTYPE = SHIRA_F32 }; \
        CALL;                       \
    } else {                        \
        enum { DTYPE = SHIRA_BF16 }; \
        CALL;                       \
    }

/* ---- norms ------------------------------------------------------------------------------------------------------ */

INLINE float inverse_rms(Lanes squares, int64_t width, float eps) {
    return 1.f / sqrtf(sum_of(squares) / (float)width + eps);
}

INLINE void add_norm_row(const AddNorm *args, int64_t row, int64_t dtype) {
    const int64_t width = args->width, whole = width / LANES * LANES, rest = width - whole;
    void *x = offset(args->x, row * width, dtype);
    void *update = offset(args->update, row * width, dtype);
    Lanes squares = all(0);
    for (int64_t at = 0; at < whole; at += LANES) {
        store(x, at, dtype, add(load(x, at, dtype), load(update, at, dtype)));
        const Lanes sum = load(x, at, dtype); /* rounded */
        squares = fused(sum, sum, squares);
    }
    if (rest) {
        store_some(x, whole, rest, dtype, add(load_some(x, whole, rest, dtype), load_some(update, whole, rest, dtype)));
        const Lanes sum = load_some(x, whole, rest, dtype);
        squares = fused(sum, sum, squares);
    }
    const Lanes factor = all(inverse_rms(squares, width, args->eps));
    for (int64_t at = 0; at < whole; at += LANES)
        store(update, at, dtype, multiply(multiply(load(x, at, dtype), factor), load(args->weight, at, dtype)));
    if (rest) {
        const Lanes normed = multiply(load_some(x, whole, rest, dtype), factor);
        store_some(update, whole, rest, dtype, multiply(normed, load_some(args->weight, whole, rest, dtype)));
    }
}

TARGET static void NAME(add_norm)(const AddNorm *args, int64_t row) {
    BY_DTYPE(args->dtype, add_norm_row(args, row, DTYPE))
}

/* ---- rotary positions and the KV store -------------------------------------------------------------------------- */

/* turned[d] = the head at x, normed if there is a norm, its halves turned against each other. */
INLINE void turn_head(const void *x, const void *norm, float eps, const float *turn, int64_t head_dim, float *turned,
                      int64_t dtype) {
    const int64_t half = head_dim / 2;
    const float *cosines = turn, *sines = turn + half;
    float head[MAX_HEAD_DIM] __attribute__((aligned(64)));
    for (int64_t d = 0; d < head_dim; d++) head[d] = get(x, d, dtype);
    if (norm) {
        Lanes squares = all(0);
        for (int64_t d = 0; d < head_dim; d += LANES) {
            const int64_t count = head_dim - d < LANES ? head_dim - d : LANES;
            const Lanes some = count < LANES ? load_some(head, d, count, SHIRA_F32) : load(head, d, SHIRA_F32);
            squares = fused(some, some, squares);
        }
        const float factor = inverse_rms(squares, head_dim, eps);
        for (int64_t d = 0; d < head_dim; d++) head[d] = head[d] * factor * get(norm, d, dtype);
    }
    for (int64_t d = 0; d < half; d++) {
        turned[d] = head[d] * cosines[d] - head[d + half] * sines[d];
        turned[d + half] = head[d + half] * cosines[d] + head[d] * sines[d];
    }
}

INLINE void rope_and_store_row(const Rope *args, int64_t row, int64_t position, int64_t page, int64_t dtype) {
    const Pages pages = args->pages;
    const int64_t head_dim = pages.head_dim, slot = position % PAGE;
    const float *turn = args->turns + position * head_dim;
    float turned[MAX_HEAD_DIM] __attribute__((aligned(64)));
    for (int64_t head = 0; head < args->num_query_heads; head++) {
        void *q = offset(args->q, (row * args->num_query_heads + head) * head_dim, dtype);
        turn_head(q, args->q_norm, args->q_eps, turn, head_dim, turned, dtype);
        for (int64_t d = 0; d < head_dim; d++) put(q, d, dtype, turned[d]);
    }
    for (int64_t head = 0; head < pages.num_heads; head++) {
        const int64_t from = (row * pages.num_heads + head) * head_dim, to = page * pages.num_heads + head;
        void *keys = offset(pages.keys, to * head_dim * PAGE, dtype);
        void *values = offset(pages.values, (to * PAGE + slot) * pages.value_dim, dtype);
        turn_head(offset(args->k, from, dtype), args->k_norm, args->k_eps, turn, head_dim, turned, dtype);
        for (int64_t d = 0; d < head_dim; d++) put(keys, d * PAGE + slot, dtype, turned[d]);
        memcpy(values, offset(args->v, from, dtype), (size_t)(head_dim * (dtype == SHIRA_F32 ? 4 : 2)));
    }
}

TARGET static void NAME(rope_and_store)(const Rope *args, const Block *block) {
    const int32_t *pages = args->ragged.page_numbers + block->first_page;
    for (int64_t i = 0; i < block->num_rows; i++) {
        const int64_t position = block->position + i;
        BY_DTYPE(args->dtype, rope_and_store_row(args, block->row + i, position, pages[position / PAGE], DTYPE))
    }
}

/* ---- gated silu ------------------------------------------------------------------------------------------------- */

INLINE Lanes gated(Lanes gate, Lanes up) {
    const Lanes silu = divide(gate, add(all(1), exponential(subtract(all(0), gate))));
    return multiply(silu, up);
}

INLINE void gate_row(const Gate *args, int64_t row, int64_t dtype) {
    const int64_t start = row * args->width, end = start + args->width;
    int64_t at = start;
    for (; at + LANES <= end; at += LANES)
        store(args->gate, at, dtype, gated(load(args->gate, at, dtype), load(args->up, at, dtype)));
    if (at < end) {
        const Lanes gate = load_some(args->gate, at, end - at, dtype), up = load_some(args->up, at, end - at, dtype);
        store_some(args->gate, at, end - at, dtype, gated(gate, up));
    }
}

TARGET static void NAME(gate)(const Gate *args, int64_t row) {
    BY_DTYPE(args->dtype, gate_row(args, row, DTYPE))
}

#include "attention.h"

const Ops JOIN(shira_decoder_ops, SUFFIX) = {
    .add_norm = NAME(add_norm),
    .rope_and_store = NAME(rope_and_store),
    .attend = NAME(attend),
    .gate = NAME(gate),
};
