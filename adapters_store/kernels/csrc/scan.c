#include "model.h"

int64_t shira_scan_indices(const Ops *ops, const int64_t *offsets, const int32_t *limits, const uint16_t *indices,
                           int64_t num_blocks, int threads) {
    int64_t first = INT64_MAX;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(min : first)
    for (int64_t block = 0; block < num_blocks; block++) {
        const int64_t start = offsets[block];
        const int64_t at = ops->scan_order(indices + start, offsets[block + 1] - start, limits[block]);
        if (at >= 0 && start + at < first) first = start + at;
    }
    return first == INT64_MAX ? -1 : first;
}

int64_t shira_scan_values(const Ops *ops, const void *values, int64_t count, int64_t dtype, int threads) {
    enum { SLICE = 1 << 16 };
    const int64_t num_slices = (count + SLICE - 1) / SLICE;
    const int64_t width = dtype == SHIRA_F32 ? 4 : 2;
    int64_t first = INT64_MAX;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(min : first)
    for (int64_t slice = 0; slice < num_slices; slice++) {
        const int64_t start = slice * SLICE;
        const int64_t left = count - start;
        const int64_t at =
            ops->scan_finite((const char *)values + start * width, left < SLICE ? left : SLICE, dtype);
        if (at >= 0 && start + at < first) first = start + at;
    }
    return first == INT64_MAX ? -1 : first;
}
