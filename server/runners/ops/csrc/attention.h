/* Attention of a few rows of one sequence over one kv head: a part of row_ops.h.
 *
 * The rows' queries (all heads that share the kv head) go through the sequence together, CHUNK positions at a time from
 * the first on, so that each page is read once for all of them. Softmax runs along: when a chunk brings a new maximum,
 * what was summed before is scaled down. Every sum has one order, fixed by positions; how many queries share a tile
 * of registers changes nothing. */

enum { CHUNK_PAGES = CHUNK / PAGE };

#if defined(HAS_AVX512)
enum { SCORE_QUERIES = 8, SCORE_PAGES = 2, VALUE_QUERIES = 4, VALUE_LANES = 4 };
#elif defined(HAS_FMA)
enum { SCORE_QUERIES = 4, SCORE_PAGES = 1, VALUE_QUERIES = 2, VALUE_LANES = 2 };
#else
enum { SCORE_QUERIES = 2, SCORE_PAGES = 1, VALUE_QUERIES = 1, VALUE_LANES = 2 };
#endif

/* One chunk of the sequence; pages beyond its last one repeat that one. */
typedef struct {
    const void *keys[CHUNK_PAGES];   /* (head_dim, PAGE) */
    const void *values[CHUNK_PAGES]; /* (PAGE, value_dim) */
    int64_t num_pages;
    int64_t head_dim, value_dim;
} Chunk;

/* The state of the queries, in scratch memory. Row by row, all heads of a row together. */
typedef struct {
    int64_t count;
    float *queries; /* (count, head_dim), scaled */
    float *scores;  /* (count, CHUNK); then the weights of the values */
    float *sums;    /* (count, value_dim) of weighted values */
    float *maxima, *totals, *rescale; /* (count,) */
    int32_t *visible;                 /* (count,) positions of the chunk that a query sees */
} Queries;

INLINE Queries take_queries(const Attention *args, const Block *block, int64_t head, float *scratch, int64_t dtype) {
    const int64_t head_dim = args->pages.head_dim, group = args->num_query_heads / args->pages.num_heads;
    Queries all_of = {.count = block->num_rows * group};
    all_of.scores = scratch; /* first: aligned to vectors */
    all_of.sums = all_of.scores + all_of.count * CHUNK;
    all_of.queries = all_of.sums + all_of.count * args->pages.value_dim;
    all_of.maxima = all_of.queries + all_of.count * head_dim;
    all_of.totals = all_of.maxima + all_of.count;
    all_of.rescale = all_of.totals + all_of.count;
    all_of.visible = (int32_t *)(all_of.rescale + all_of.count);
    for (int64_t q = 0; q < all_of.count; q++) {
        const int64_t row = block->row + q / group, query_head = head * group + q % group;
        const void *from = offset(args->q, (row * args->num_query_heads + query_head) * head_dim, dtype);
        for (int64_t d = 0; d < head_dim; d++) all_of.queries[q * head_dim + d] = args->scale * get(from, d, dtype);
        all_of.maxima[q] = -INFINITY;
        all_of.totals[q] = 0;
    }
    memset(all_of.sums, 0, (size_t)(all_of.count * args->pages.value_dim) * sizeof(float));
    return all_of;
}

/* The chunk from position `start` on. */
INLINE Chunk take_chunk(const Attention *args, Task task, int64_t start, int64_t dtype) {
    const Pages pages = args->pages;
    const int32_t *numbers = args->ragged.page_numbers + task.block->first_page + start / PAGE;
    const int64_t num_pages = (task.block->position + task.block->num_rows - start + PAGE - 1) / PAGE;
    Chunk chunk = {.num_pages = num_pages < CHUNK_PAGES ? num_pages : CHUNK_PAGES,
                   .head_dim = pages.head_dim,
                   .value_dim = pages.value_dim};
    for (int64_t p = 0; p < CHUNK_PAGES; p++) {
        const int64_t at = numbers[p < chunk.num_pages ? p : chunk.num_pages - 1] * pages.num_heads + task.head;
        chunk.keys[p] = offset(pages.keys, at * pages.head_dim * PAGE, dtype);
        chunk.values[p] = offset(pages.values, at * PAGE * pages.value_dim, dtype);
    }
    return chunk;
}

/* Asks for the place of `ahead` that the caller is working on in its own page: spread over the work, the memory's time is
 * hidden behind it. Pages lie wherever there was room, which no hardware foresees. */
INLINE void prefetch(const void *ahead, int64_t at, int64_t dtype) { __builtin_prefetch(offset(ahead, at, dtype), 0, 2); }

/* ---- scores ----------------------------------------------------------------------------------------------------- */

/* scores of `num` (a constant) queries from `first` on with SCORE_PAGES pages from `page` on. */
INLINE void score_tile(const Chunk *chunk, const Chunk *ahead, Queries all_of, int64_t first, int num, int64_t page, int64_t dtype) {
    const float *queries = all_of.queries + first * chunk->head_dim;
    Lanes score[SCORE_QUERIES][SCORE_PAGES];
    for (int q = 0; q < num; q++)
        for (int p = 0; p < SCORE_PAGES; p++) score[q][p] = all(0);
    for (int64_t d = 0; d < chunk->head_dim; d++) {
        Lanes keys[SCORE_PAGES];
        _Pragma("GCC unroll 2") for (int p = 0; p < SCORE_PAGES; p++) {
            keys[p] = load(chunk->keys[page + p], d * PAGE, dtype);
            prefetch(ahead->keys[page + p], d * PAGE, dtype);
        }
        _Pragma("GCC unroll 8") for (int q = 0; q < num; q++) {
            const Lanes query = all(queries[q * chunk->head_dim + d]);
            _Pragma("GCC unroll 2") for (int p = 0; p < SCORE_PAGES; p++)
                score[q][p] = fused(query, keys[p], score[q][p]);
        }
    }
    for (int q = 0; q < num; q++)
        for (int p = 0; p < SCORE_PAGES; p++)
            store(all_of.scores, (first + q) * CHUNK + (page + p) * PAGE, SHIRA_F32, score[q][p]);
}

INLINE void score(const Chunk *chunk, const Chunk *ahead, Queries all_of, int64_t dtype) {
    for (int64_t page = 0; page < chunk->num_pages; page += SCORE_PAGES)
        for (int64_t first = 0; first < all_of.count; first += SCORE_QUERIES) {
            const int64_t left = all_of.count - first;
            switch (left < SCORE_QUERIES ? left : SCORE_QUERIES) {
#define CASE(num)                                                                     \
    case num:                                                                         \
        if (num <= SCORE_QUERIES) score_tile(chunk, ahead, all_of, first, num, page, dtype); \
        break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
            }
        }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* Turns one query's scores of the chunk into weights relative to the largest score so far. */
INLINE void weigh(Queries all_of, int64_t q, int visible) {
    float *scores = all_of.scores + q * CHUNK;
    Lanes largest = all(-INFINITY);
    for (int at = 0; at < visible; at += LANES)
        largest = larger(first_lanes(load(scores, at, SHIRA_F32), visible - at, -INFINITY), largest);
    const float before = all_of.maxima[q], here = largest_of(largest), maximum = here > before ? here : before;
    Lanes total = all(0);
    for (int at = 0; at < visible; at += LANES) {
        const Lanes weight = exponential(subtract(load(scores, at, SHIRA_F32), all(maximum)));
        const Lanes seen = first_lanes(weight, visible - at, 0);
        store(scores, at, SHIRA_F32, seen);
        total = add(total, seen);
    }
    float rescale[LANES];
    store(rescale, 0, SHIRA_F32, exponential(all(before - maximum))); /* exactly 1 where the maximum stays */
    all_of.maxima[q] = maximum;
    all_of.rescale[q] = rescale[0];
    all_of.totals[q] = all_of.totals[q] * rescale[0] + sum_of(total);
}

/* ---- weighted values -------------------------------------------------------------------------------------------- */

INLINE void add_values(const Chunk *chunk, Queries all_of, int64_t q, int64_t at, int lanes, int position, int64_t dtype,
                       Lanes *sums) {
    const void *values = chunk->values[position / PAGE];
    const Lanes weight = all(all_of.scores[q * CHUNK + position]);
    _Pragma("GCC unroll 4") for (int c = 0; c < lanes; c++)
        sums[c] = fused(weight, load(values, (position % PAGE) * chunk->value_dim + at + c * LANES, dtype), sums[c]);
}

/* For `num` queries from `first` on and `lanes` vectors of the head from `at` on, both constants. */
INLINE void value_tile(const Chunk *chunk, const Chunk *ahead, Queries all_of, int64_t first, int num, int64_t at, int lanes,
                       int64_t dtype) {
    Lanes sums[VALUE_QUERIES][VALUE_LANES];
    int common = CHUNK; /* positions that all queries of the tile see */
    for (int q = 0; q < num; q++) {
        if (all_of.visible[first + q] < common) common = all_of.visible[first + q];
        for (int c = 0; c < lanes; c++)
            sums[q][c] = multiply(all(all_of.rescale[first + q]),
                                  load(all_of.sums, (first + q) * chunk->value_dim + at + c * LANES, SHIRA_F32));
    }
    for (int position = 0; position < common; position++) {
        _Pragma("GCC unroll 4") for (int c = 0; c < lanes; c++)
            prefetch(ahead->values[position / PAGE], (position % PAGE) * chunk->value_dim + at + c * LANES, dtype);
        _Pragma("GCC unroll 4") for (int q = 0; q < num; q++)
            add_values(chunk, all_of, first + q, at, lanes, position, dtype, sums[q]);
    }
    _Pragma("GCC unroll 4") for (int q = 0; q < num; q++)
        for (int position = common; position < all_of.visible[first + q]; position++)
            add_values(chunk, all_of, first + q, at, lanes, position, dtype, sums[q]);
    for (int q = 0; q < num; q++)
        for (int c = 0; c < lanes; c++)
            store(all_of.sums, (first + q) * chunk->value_dim + at + c * LANES, SHIRA_F32, sums[q][c]);
}

INLINE void add_weighted_values(const Chunk *chunk, const Chunk *ahead, Queries all_of, int64_t dtype) {
    for (int64_t first = 0; first < all_of.count; first += VALUE_QUERIES) {
        const int64_t left = all_of.count - first;
        int64_t at = 0;
#define TILES(num, lanes)                                                            \
    if (num <= VALUE_QUERIES && lanes <= VALUE_LANES)                                \
        for (; at + lanes * LANES <= chunk->value_dim; at += lanes * LANES)          \
            value_tile(chunk, ahead, all_of, first, num, at, lanes, dtype);
        switch (left < VALUE_QUERIES ? left : VALUE_QUERIES) {
#define CASE(num)                              \
    case num:                                  \
        TILES(num, 4) TILES(num, 2) TILES(num, 1) \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
#undef TILES
        }
    }
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

INLINE void put_results(const Attention *args, const Block *block, int64_t head, Queries all_of, int64_t dtype) {
    const int64_t head_dim = args->pages.head_dim, group = args->num_query_heads / args->pages.num_heads;
    for (int64_t q = 0; q < all_of.count; q++) {
        const int64_t row = block->row + q / group, query_head = head * group + q % group;
        void *out = offset(args->q, (row * args->num_query_heads + query_head) * head_dim, dtype);
        const float *sums = all_of.sums + q * args->pages.value_dim;
        for (int64_t d = 0; d < head_dim; d++) put(out, d, dtype, sums[d] / all_of.totals[q]);
    }
}

INLINE void attend_task(const Attention *args, Task task, Task next, float *scratch, int64_t dtype) {
    const Block *block = task.block;
    const int64_t group = args->num_query_heads / args->pages.num_heads, end = block->position + block->num_rows;
    Queries all_of = take_queries(args, block, task.head, scratch, dtype);
    Chunk chunk = take_chunk(args, task, 0, dtype);
    for (int64_t start = 0; start < end; start += CHUNK) {
        const int is_last = start + CHUNK >= end;
        const Chunk ahead = is_last ? take_chunk(args, next, 0, dtype) : take_chunk(args, task, start + CHUNK, dtype);
        score(&chunk, &ahead, all_of, dtype);
        for (int64_t q = 0; q < all_of.count; q++) {
            const int64_t seen = block->position + q / group + 1 - start;
            all_of.visible[q] = (int32_t)(seen < 0 ? 0 : seen > CHUNK ? CHUNK : seen);
            all_of.rescale[q] = 1;
            if (all_of.visible[q]) weigh(all_of, q, all_of.visible[q]);
        }
        add_weighted_values(&chunk, &ahead, all_of, dtype);
        chunk = ahead;
    }
    put_results(args, block, task.head, all_of, dtype);
}

TARGET static void NAME(attend)(const Attention *args, Task task, Task next, float *scratch) {
    BY_DTYPE(args->dtype, attend_task(args, task, next, scratch, DTYPE))
}
