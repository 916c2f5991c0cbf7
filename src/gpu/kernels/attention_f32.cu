// Attention in f32 by tiles, for heads of 64 and 72 numbers: what attention.cu computes, with its
// arguments. Multiply-adds, because tensor cores would round to TF32.
//
// A block of 256 threads takes 64 queries (or, for the gradients of k and v, 64 keys) of a head, and
// goes over the others by tiles of 64. A thread has 4 rows, 16 apart, and every 16th column. Its
// shares of a 64 x 64 matrix pass to the others through shared memory.
#include "device.h"

constexpr int TILE = 64, THREADS = 256, SHARES_PITCH = TILE + 4;
// Numbers from a row of a tile to the next: rows that are read together lie in different banks.
template <int D> constexpr int PITCH = D + 4;
template <int D> constexpr int TILE_SIZE = TILE * PITCH<D>;
// Columns of a thread in a matrix of D columns.
template <int D> constexpr int COLUMNS = (D + 15) / 16;

DEV int row() { return TID / 16; }
DEV int column() { return TID % 16; }

// Starts the copy of 64 rows of D numbers into a tile. Rows from `rows` on become zeros and are not
// read.
template <int D> DEV void load_tile(float* tile, const float* from, int stride, int rows) {
    #pragma unroll 1
    for (int c = TID; c < TILE * (D / 4); c += THREADS) {
        const int r = c / (D / 4), at = c % (D / 4) * 4;
        if (r < rows) copy16_async(tile + r * PITCH<D> + at, from + static_cast<int64_t>(r) * stride + at);
        else *reinterpret_cast<Vec4*>(tile + r * PITCH<D> + at) = Vec4{0, 0, 0, 0};
    }
}

// sums [64 x 64] = a b^T over D, for tiles a and b.
template <int D> DEV void multiply_rows(float (&sums)[4][4], const float* a, const float* b) {
    a += row() * PITCH<D>;
    b += column() * PITCH<D>;
    #pragma unroll
    for (int i = 0; i < 4; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.f;
    #pragma unroll 1
    for (int k = 0; k < D; k += 4) {
        Four x[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) x[i] = load4(a + i * 16 * PITCH<D> + k);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const Four y = load4(b + j * 16 * PITCH<D> + k);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                #pragma unroll
                for (int c = 0; c < 4; c++) sums[i][j] += x[i].v[c] * y.v[c];
            }
        }
    }
}

// For other threads, after a barrier.
DEV void share(float* shares, const float (&values)[4][4]) {
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        #pragma unroll
        for (int j = 0; j < 4; j++) shares[(row() + 16 * i) * SHARES_PITCH + column() + 16 * j] = values[i][j];
    }
}

// sums [64 x D] += shares t, for a tile t.
template <int D> DEV void multiply_tile(float (&sums)[4][COLUMNS<D>], const float* shares, const float* t) {
    shares += row() * SHARES_PITCH;
    #pragma unroll 1
    for (int k = 0; k < TILE; k += 4) {
        Four x[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) x[i] = load4(shares + i * 16 * SHARES_PITCH + k);
        #pragma unroll
        for (int c = 0; c < 4; c++) {
            #pragma unroll
            for (int j = 0; j < COLUMNS<D>; j++) {
                const int at = column() + 16 * j;
                const float y = D % 16 == 0 || at < D ? t[(k + c) * PITCH<D> + at] : 0.f;
                #pragma unroll
                for (int i = 0; i < 4; i++) sums[i][j] += x[i].v[c] * y;
            }
        }
    }
}

// Stores the first `rows` rows of a result, each times its factor.
template <int D>
DEV void store_rows(float* to, const float (&sums)[4][COLUMNS<D>], const float (&factors)[4], int stride, int rows) {
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = row() + 16 * i;
        if (r >= rows) continue;
        #pragma unroll
        for (int j = 0; j < COLUMNS<D>; j++) {
            const int at = column() + 16 * j;
            if (at < D) to[static_cast<int64_t>(r) * stride + at] = sums[i][j] * factors[i];
        }
    }
}

// The largest or the sum over the 16 threads of a row, in each of them.
DEV float row_max(float x) {
    #pragma unroll
    for (int mask = 8; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}
DEV float row_sum(float x) {
    #pragma unroll
    for (int mask = 8; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

// out and log_sums (unless null) of 64 queries. Shared: tiles of q, k, v; shares.
template <int D>
DEV void forward(const float* qkv, float* out, float* log_sums, int tokens, int heads, float scale_log2) {
    DYNAMIC_SHARED(float, shared);
    float *q = shared, *k = q + TILE_SIZE<D>, *v = k + TILE_SIZE<D>, *shares = v + TILE_SIZE<D>;
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, stride = 3 * heads * D, rows = tokens - first;
    const float* queries = qkv + static_cast<int64_t>(sample) * tokens * stride + head * D;
    const float *keys = queries + heads * D, *values = keys + heads * D;
    load_tile<D>(q, queries + static_cast<int64_t>(first) * stride, stride, rows);
    load_tile<D>(k, keys, stride, tokens);
    commit_copies();
    float sums[4][COLUMNS<D>] = {}, top[4], below[4] = {};
    #pragma unroll
    for (int i = 0; i < 4; i++) top[i] = -INFINITY;
    for (int at = 0; at < tokens; at += TILE) {
        wait_for_copies<0>();
        sync_block();
        load_tile<D>(v, values + static_cast<int64_t>(at) * stride, stride, tokens - at);
        commit_copies();
        float p[4][4];
        multiply_rows<D>(p, q, k);
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            // A tile has a key at least, so the maximum is finite.
            float most = top[i];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                p[i][j] = at + column() + 16 * j < tokens ? p[i][j] * scale_log2 : -INFINITY;
                most = fmaxf(most, p[i][j]);
            }
            most = row_max(most);
            const float fix = exp2_fast(top[i] - most);
            top[i] = most;
            below[i] *= fix;
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                p[i][j] = exp2_fast(p[i][j] - most);
                below[i] += p[i][j];
            }
            #pragma unroll
            for (int j = 0; j < COLUMNS<D>; j++) sums[i][j] *= fix;
        }
        share(shares, p);
        wait_for_copies<0>();
        sync_block();
        if (at + TILE < tokens) {
            load_tile<D>(k, keys + static_cast<int64_t>(at + TILE) * stride, stride, tokens - at - TILE);
            commit_copies();
        }
        multiply_tile<D>(sums, shares, v);
    }
    float factors[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        below[i] = row_sum(below[i]);
        factors[i] = 1.f / below[i];
        if (log_sums && column() == 0 && row() + 16 * i < rows)
            log_sums[static_cast<int64_t>(BY) * tokens + first + row() + 16 * i] = top[i] + log2f(below[i]);
    }
    const int64_t start = static_cast<int64_t>(sample) * tokens + first;
    store_rows<D>(out + (start * heads + head) * D, sums, factors, heads * D, rows);
}

// dk and dv of 64 keys, as attention.cu has them. Shared: tiles of k, v, q, dout; shares; log_sums and
// delta of 64 queries.
template <int D>
DEV void keys_backward(const float* qkv, const float* dout, const float* log_sums, const float* delta, float* dqkv,
                       int tokens, int heads, float scale_log2, float scale) {
    DYNAMIC_SHARED(float, shared);
    float *k = shared, *v = k + TILE_SIZE<D>, *q = v + TILE_SIZE<D>, *o = q + TILE_SIZE<D>;
    float *shares = o + TILE_SIZE<D>, *of_queries = shares + TILE * SHARES_PITCH;
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, stride = 3 * heads * D, rows = tokens - first;
    const int64_t start = static_cast<int64_t>(sample) * tokens;
    const float *queries = qkv + start * stride + head * D, *own = queries + static_cast<int64_t>(first) * stride;
    const float* douts = dout + (start * heads + head) * D;
    load_tile<D>(k, own + heads * D, stride, rows);
    load_tile<D>(v, own + 2 * heads * D, stride, rows);
    float dk[4][COLUMNS<D>] = {}, dv[4][COLUMNS<D>] = {};
    for (int at = 0; at < tokens; at += TILE) {
        // Every thread has left the tiles and shares of the round before.
        sync_block();
        load_tile<D>(q, queries + static_cast<int64_t>(at) * stride, stride, tokens - at);
        load_tile<D>(o, douts + static_cast<int64_t>(at) * heads * D, heads * D, tokens - at);
        commit_copies();
        if (TID < 2 * TILE) {
            // Queries beyond the last: their log-sum is taken for infinite, so p is zero.
            const bool of_sums = TID < TILE;
            const int query = at + TID % TILE;
            const float* from = (of_sums ? log_sums : delta) + static_cast<int64_t>(BY) * tokens;
            of_queries[TID] = query < tokens ? from[query] : of_sums ? INFINITY : 0.f;
        }
        wait_for_copies<0>();
        sync_block();
        float p[4][4], ds[4][4];
        multiply_rows<D>(p, k, q);
        multiply_rows<D>(ds, v, o);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const int c = column() + 16 * j;
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                p[i][j] = exp2_fast(p[i][j] * scale_log2 - of_queries[c]);
                ds[i][j] = p[i][j] * (ds[i][j] - of_queries[TILE + c]);
            }
        }
        share(shares, p);
        sync_block();
        multiply_tile<D>(dv, shares, o);
        sync_block();
        share(shares, ds);
        sync_block();
        multiply_tile<D>(dk, shares, q);
    }
    const float scales[4] = {scale, scale, scale, scale}, ones[4] = {1.f, 1.f, 1.f, 1.f};
    float* to = dqkv + (start + first) * stride + head * D;
    store_rows<D>(to + heads * D, dk, scales, stride, rows);
    store_rows<D>(to + 2 * heads * D, dv, ones, stride, rows);
}

// dq of 64 queries. Shared: tiles of q, dout, k, v; shares.
template <int D>
DEV void queries_backward(const float* qkv, const float* dout, const float* log_sums, const float* delta, float* dqkv,
                          int tokens, int heads, float scale_log2, float scale) {
    DYNAMIC_SHARED(float, shared);
    float *q = shared, *o = q + TILE_SIZE<D>, *k = o + TILE_SIZE<D>, *v = k + TILE_SIZE<D>;
    float* shares = v + TILE_SIZE<D>;
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, stride = 3 * heads * D, rows = tokens - first;
    const int64_t start = static_cast<int64_t>(sample) * tokens;
    const float *queries = qkv + start * stride + head * D, *keys = queries + heads * D, *values = keys + heads * D;
    load_tile<D>(q, queries + static_cast<int64_t>(first) * stride, stride, rows);
    load_tile<D>(o, dout + ((start + first) * heads + head) * D, heads * D, rows);
    float dq[4][COLUMNS<D>] = {}, log_sum[4], d[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int query = first + row() + 16 * i;
        const int64_t at = static_cast<int64_t>(BY) * tokens + query;
        log_sum[i] = query < tokens ? log_sums[at] : 0.f;
        d[i] = query < tokens ? delta[at] : 0.f;
    }
    for (int at = 0; at < tokens; at += TILE) {
        sync_block();
        load_tile<D>(k, keys + static_cast<int64_t>(at) * stride, stride, tokens - at);
        load_tile<D>(v, values + static_cast<int64_t>(at) * stride, stride, tokens - at);
        commit_copies();
        wait_for_copies<0>();
        sync_block();
        float p[4][4], ds[4][4];
        multiply_rows<D>(p, q, k);
        multiply_rows<D>(ds, o, v);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const bool is_key = at + column() + 16 * j < tokens;
            #pragma unroll
            for (int i = 0; i < 4; i++)
                ds[i][j] = is_key ? exp2_fast(p[i][j] * scale_log2 - log_sum[i]) * (ds[i][j] - d[i]) : 0.f;
        }
        share(shares, ds);
        sync_block();
        multiply_tile<D>(dq, shares, k);
    }
    const float scales[4] = {scale, scale, scale, scale};
    store_rows<D>(dqkv + (start + first) * stride + head * D, dq, scales, stride, rows);
}

#define ATTENTION(D) \
    KERNEL(256, attention_forward_f32_##D, const float* qkv, float* out, float* log_sums, int tokens, int heads, \
           float scale_log2) { \
        forward<D>(qkv, out, log_sums, tokens, heads, scale_log2); \
    } \
    KERNEL(256, attention_dkdv_f32_##D, const float* qkv, const float* dout, const float* log_sums, \
           const float* delta, float* dqkv, int tokens, int heads, float scale_log2, float scale) { \
        keys_backward<D>(qkv, dout, log_sums, delta, dqkv, tokens, heads, scale_log2, scale); \
    } \
    KERNEL(256, attention_dq_f32_##D, const float* qkv, const float* dout, const float* log_sums, \
           const float* delta, float* dqkv, int tokens, int heads, float scale_log2, float scale) { \
        queries_backward<D>(qkv, dout, log_sums, delta, dqkv, tokens, heads, scale_log2, scale); \
    }
ATTENTION(64)
ATTENTION(72)
