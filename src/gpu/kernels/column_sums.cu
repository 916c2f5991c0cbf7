// Sums of a matrix over its rows: the gradient of a bias from the gradient of a product's result.
// Two passes, so that the order of additions follows from the shape alone. Sums are f32.
#include "device.h"

template <int W, class H> DEV void load(float (&v)[W], const H* p) {
    if constexpr (W == 4) {
        Four four = load4(p);
        v[0] = four.v[0], v[1] = four.v[1], v[2] = four.v[2], v[3] = four.v[3];
    } else {
        v[0] = to_f32(*p);
    }
}

// dy [rows, width] to partial f32 [chunks, width]. A block takes 32 W columns of a chunk of
// `chunk_rows` rows, a lane W columns, a warp every eighth part of the chunk.
template <class H, int W> DEV void column_sums(const H* dy, float* partial, int rows, int width, int chunk_rows) {
    DYNAMIC_SHARED(float, sums);  // [warps, 32 W]
    const int lane = TID % 32, warp = TID / 32, warps = NTHREADS / 32, own = (chunk_rows + warps - 1) / warps;
    const int column = BY * 32 * W + lane * W;
    int first = BX * chunk_rows + warp * own, end = first + own, limit = BX * chunk_rows + chunk_rows;
    if (limit > rows) limit = rows;
    if (end > limit) end = limit;
    float sum[W] = {};
    if (column < width) {
        const H* from = dy + static_cast<int64_t>(first) * width + column;
#pragma unroll 8
        for (int r = first; r < end; r++, from += width) {
            float v[W];
            load(v, from);
#pragma unroll
            for (int j = 0; j < W; j++) sum[j] += v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < W; j++) sums[warp * 32 * W + lane * W + j] = sum[j];
    sync_block();
    const int c = BY * 32 * W + TID;
    if (TID < 32 * W && c < width) {
        float total = 0.f;
        for (int w = 0; w < warps; w++) total += sums[w * 32 * W + TID];
        partial[static_cast<int64_t>(BX) * width + c] = total;
    }
}

#define COLUMN_SUMS(H, type) \
    KERNEL(256, column_sums_##type, const H* __restrict__ dy, float* __restrict__ partial, int rows, int width, \
           int chunk_rows) { \
        column_sums<H, 4>(dy, partial, rows, width, chunk_rows); \
    } \
    KERNEL(256, column_sums_##type##_any, const H* __restrict__ dy, float* __restrict__ partial, int rows, int width, \
           int chunk_rows) { \
        column_sums<H, 1>(dy, partial, rows, width, chunk_rows); \
    }
COLUMN_SUMS(bf16, bf16)
COLUMN_SUMS(f16, f16)
COLUMN_SUMS(float, f32)

// partial f32 [chunks, width] to db f32 [width]. A block takes 32 columns; each warp adds a run of
// neighbouring chunks in order, then the runs are added in order.
KERNEL(256, column_sums_end, const float* __restrict__ partial, float* __restrict__ db, int chunks, int width) {
    DYNAMIC_SHARED(float, sums);  // [warps, 32]
    const int lane = TID % 32, warp = TID / 32, warps = NTHREADS / 32, own = (chunks + warps - 1) / warps;
    const int c = BX * 32 + lane, first = warp * own, end = first + own < chunks ? first + own : chunks;
    float sum = 0.f;
    if (c < width) {
#pragma unroll 8
        for (int k = first; k < end; k++) sum += partial[static_cast<int64_t>(k) * width + c];
    }
    sums[TID] = sum;
    sync_block();
    if (warp == 0 && c < width) {
        float total = 0.f;
        for (int w = 0; w < warps; w++) total += sums[w * 32 + lane];
        db[c] = total;
    }
}
