/* The sum of several sparse deltas on the union of their supports, block by block in a dense scratch. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { BITMAP_WORDS = SHIRA_BLOCK_ELEMENTS / 64, CHUNK = 256 };

void shira_union_count(const Member *members, int64_t num_members, int64_t num_blocks, int64_t *counts, int threads) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < num_blocks; block++) {
        uint64_t bitmap[BITMAP_WORDS];
        int64_t count = 0;
        memset(bitmap, 0, sizeof bitmap);
        for (int64_t m = 0; m < num_members; m++) {
            const Member *member = &members[m];
            const int64_t own = member->blocks[block];
            if (own < 0) continue;
            for (int64_t j = member->offsets[own]; j < member->offsets[own + 1]; j++)
                bitmap[member->indices[j] >> 6] |= 1ull << (member->indices[j] & 63);
        }
        for (int64_t w = 0; w < BITMAP_WORDS; w++) count += __builtin_popcountll(bitmap[w]);
        counts[block] = count;
    }
}

static void accumulate(const Ops *ops, const Member *member, int64_t own, uint64_t *bitmap, float *scratch) {
    const int64_t width = member->dtype == SHIRA_F32 ? 4 : 2;
    const int64_t end = member->offsets[own + 1];
    float products[CHUNK];
    for (int64_t start = member->offsets[own]; start < end; start += CHUNK) {
        const int64_t count = end - start < CHUNK ? end - start : CHUNK;
        ops->scale((const char *)member->values + start * width, count, member->dtype, member->scale, products);
        for (int64_t j = 0; j < count; j++) {
            const uint32_t at = member->indices[start + j];
            const uint64_t bit = 1ull << (at & 63);
            scratch[at] = bitmap[at >> 6] & bit ? scratch[at] + products[j] : products[j];
            bitmap[at >> 6] |= bit;
        }
    }
}

Status shira_union_fill(const Ops *ops, const Member *members, int64_t num_members, int64_t num_blocks,
                        const int64_t *offsets, uint16_t *indices, float *delta, int threads) {
    const size_t scratch_bytes = SHIRA_BLOCK_ELEMENTS * sizeof(float);
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *scratch = malloc(scratch_bytes);
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t block = 0; block < num_blocks; block++) {
            uint64_t bitmap[BITMAP_WORDS];
            int64_t at = offsets[block];
            if (!scratch || at == offsets[block + 1]) continue;
            memset(bitmap, 0, sizeof bitmap);
            for (int64_t m = 0; m < num_members; m++)
                if (members[m].blocks[block] >= 0)
                    accumulate(ops, &members[m], members[m].blocks[block], bitmap, scratch);
            for (int64_t w = 0; w < BITMAP_WORDS; w++)
                for (uint64_t bits = bitmap[w]; bits; bits &= bits - 1, at++) {
                    const uint32_t index = (uint32_t)(w * 64 + __builtin_ctzll(bits));
                    indices[at] = (uint16_t)index;
                    delta[at] = scratch[index];
                }
        }
        free(scratch);
    }
    return failed ? SHIRA_NO_MEMORY : SHIRA_OK;
}
