// Attention of one head over the tokens of a sample, softmax(q k^T / sqrt(d)) v, and its gradients.
// Knows nothing of positions, norms of q and k, or masks: every token sees every token.
//
// qkv is [B, N, 3, H, d] as the product for q, k and v writes it, out and dout are [B, N, H, d],
// dqkv is like qkv. log_sums [B, H, N] is log2 of the softmax's denominator, its maximum included,
// of scores in units of log2; delta [B, H, N] is the sum over d of out dout. B samples, N tokens,
// H heads of d numbers.
//
// For half types and d of 64 and 72 the products run on tensor cores by tiles of 64 queries and 64
// keys, as in FlashAttention-2 (Dao 2023, arXiv 2307.08691). The gradients of k and v have one
// kernel and that of q another, so that each is summed in one block, in order, without atomics:
// seven products instead of five. The other kernels, for any d up to 256 and any type, give a row
// to a warp.
#include "device.h"

constexpr int TILE = 64;

// Numbers from a row of a tile in shared memory to the next, for rows of D. Products over d take 16
// numbers at a time, so rows are padded to that with zeros. 8 more make the pitch an odd number of
// 16 bytes: the eight rows of an 8 x 8 matrix then lie in different banks.
template <int D> constexpr int PITCH = (D + 15) / 16 * 16 + 8;
template <int D> constexpr int TILE_SIZE = TILE * PITCH<D>;

// Zeros the columns of a tile that pad D to a multiple of 16. Nothing else writes there.
template <int D, class H> DEV void clear_padding(H* tile) {
    if constexpr (D % 16 != 0) {
        static_assert(D % 16 == 8, "rows of a tile are copied by 8 numbers");
        if (TID < TILE) *reinterpret_cast<Vec4*>(tile + TID * PITCH<D> + D) = Vec4{0, 0, 0, 0};
    }
}

// A thread moves 8 numbers of a row, 16 bytes, then those so many rows below. With D of 72 two
// threads of 128 have nothing to do.
template <int D> constexpr int ROWS_AT_ONCE = 128 / (D / 8);

// Starts the copy of 64 rows of D numbers into a tile. Rows from `rows` on become zeros and are
// not read.
template <int D, class H> DEV void load_tile(H* tile, const H* from, int stride, int rows) {
    constexpr int STEP = ROWS_AT_ONCE<D>;
    const int first = TID / (D / 8), column = TID % (D / 8) * 8;
    from += first * stride + column;
    tile += first * PITCH<D> + column;
    // Four or five turns. Unrolled, their addresses take the forward pass from 100 registers to 130
    // (nvcc 13.0, sm_90), and a multiprocessor holds a block less.
    #pragma unroll 1
    for (int row = first; row < TILE && first < STEP; row += STEP) {
        if (row < rows) copy16_async(tile, from);
        else *reinterpret_cast<Vec4*>(tile) = Vec4{0, 0, 0, 0};
        from += STEP * stride;
        tile += STEP * PITCH<D>;
    }
}

template <int M> DEV void set_zero(float (&sums)[M][4]) {
    #pragma unroll
    for (int i = 0; i < M; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.f;
}

// sums [16 x 64] += a b^T over d. a are 16 rows of a tile from `row`, b is a whole tile. Lane l has
// in sums[n] the columns 8 n + l % 4 * 2 and the next, of the rows l / 4 and, in [2] and [3],
// l / 4 + 8.
template <int D, class H> DEV void multiply_rows(float (&sums)[8][4], const H* a, int row, const H* b) {
    const int lane = TID % 32;
    const H* a_row = a + (row + lane % 16) * PITCH<D> + lane / 16 * 8;
    const H* b_row = b + (lane % 8 + lane / 16 * 8) * PITCH<D> + lane / 8 % 2 * 8;
    #pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t x[4];
        load_matrices(x, a_row + k);
        #pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t y[4];
            load_matrices(y, b_row + n * 16 * PITCH<D> + k);
            const uint32_t left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
            mma<H>(sums[2 * n], x, left);
            mma<H>(sums[2 * n + 1], x, right);
        }
    }
}

// sums [16 x D] += p t for p [16 x 64], rounded to H, and a tile t. What a lane holds of p as a
// result is what it has to give as a factor.
template <int D, class H> DEV void multiply_tile(float (&sums)[D / 8][4], const float (&p)[8][4], const H* t) {
    const int lane = TID % 32;
    const H* t_row = t + lane % 16 * PITCH<D> + lane / 16 * 8;
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        const float(&low)[4] = p[2 * k], (&high)[4] = p[2 * k + 1];
        const uint32_t x[4] = {pack<H>(low[0], low[1]), pack<H>(low[2], low[3]),
                               pack<H>(high[0], high[1]), pack<H>(high[2], high[3])};
        #pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t y[4];
            load_matrices_transposed(y, t_row + k * 16 * PITCH<D> + n * 8);
            const uint32_t left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
            mma<H>(sums[n], x, left);
            if (n + 1 < D / 8) mma<H>(sums[n + 1 < D / 8 ? n + 1 : n], x, right);
        }
    }
}

// Writes the warp's rows of a result into a tile, rounded to H. A warp reads and writes only its
// own 16 rows of such a tile, so no barrier is due before.
template <int D, class H>
DEV void stage_rows(H* tile, int row, const float (&sums)[D / 8][4], float scale, float scale_of_8_below) {
    const int lane = TID % 32;
    H* to = tile + (row + lane / 4) * PITCH<D> + lane % 4 * 2;
    #pragma unroll
    for (int n = 0; n < D / 8; n++) {
        *reinterpret_cast<uint32_t*>(to + n * 8) = pack<H>(sums[n][0] * scale, sums[n][1] * scale);
        *reinterpret_cast<uint32_t*>(to + 8 * PITCH<D> + n * 8) =
            pack<H>(sums[n][2] * scale_of_8_below, sums[n][3] * scale_of_8_below);
    }
}

// Stores the first `rows` rows of a tile, 16 bytes at a time. After a barrier.
template <int D, class H> DEV void store_tile(H* to, const H* tile, int stride, int rows) {
    constexpr int STEP = ROWS_AT_ONCE<D>;
    const int first = TID / (D / 8), column = TID % (D / 8) * 8;
    to += first * stride + column;
    tile += first * PITCH<D> + column;
    #pragma unroll 1
    for (int row = first; row < TILE && row < rows && first < STEP; row += STEP) {
        *reinterpret_cast<Vec4*>(to) = *reinterpret_cast<const Vec4*>(tile);
        to += STEP * stride;
        tile += STEP * PITCH<D>;
    }
}

// Takes keys from `keys` on out of the softmax: their scores become minus infinity.
DEV void mask_keys(float (&scores)[8][4], int keys) {
    const int column = TID % 4 * 2;
    #pragma unroll
    for (int n = 0; n < 8; n++) {
        #pragma unroll
        for (int i = 0; i < 4; i++)
            if (n * 8 + column + i % 2 >= keys) scores[n][i] = -INFINITY;
    }
}

// out and log_sums (unless null) of 64 queries; a block of 128 threads for each, and for each head
// of a sample. Shared: tiles of q, k, v. The copy of v runs beside the product with k, the copy of
// the next k beside the product with v.
template <class H, int D>
DEV void forward(const H* qkv, H* out, float* log_sums, int tokens, int heads, float scale_log2) {
    DYNAMIC_SHARED(H, shared);
    H *q = shared, *k = q + TILE_SIZE<D>, *v = k + TILE_SIZE<D>;
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, lane = TID % 32, row = TID / 32 * 16;
    const int stride = 3 * heads * D, rows = tokens - first;
    const H* queries = qkv + static_cast<int64_t>(sample) * tokens * stride + head * D;
    const H *keys = queries + heads * D, *values = keys + heads * D;
    clear_padding<D>(q);
    clear_padding<D>(k);
    load_tile<D>(q, queries + static_cast<int64_t>(first) * stride, stride, rows);
    load_tile<D>(k, keys, stride, tokens);
    commit_copies();
    float sums[D / 8][4], top[2] = {-INFINITY, -INFINITY}, below[2] = {0.f, 0.f};
    set_zero(sums);
    for (int at = 0; at < tokens; at += TILE) {
        wait_for_copies<0>();
        sync_block();
        load_tile<D>(v, values + static_cast<int64_t>(at) * stride, stride, tokens - at);
        commit_copies();
        float p[8][4];
        set_zero(p);
        multiply_rows<D>(p, q, row, k);
        wait_for_copies<0>();
        sync_block();
        if (at + TILE < tokens) {
            load_tile<D>(k, keys + static_cast<int64_t>(at + TILE) * stride, stride, tokens - at - TILE);
            commit_copies();
        }
        if (at + TILE > tokens) mask_keys(p, tokens - at);
        // The softmax so far, by its maximum and its denominator; a new maximum rescales both sums.
        // A tile has a key at least, so the maximum is finite.
        #pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = top[r];
            #pragma unroll
            for (int n = 0; n < 8; n++) most = fmaxf(most, fmaxf(p[n][2 * r], p[n][2 * r + 1]));
            most = fmaxf(most, shuffle_xor(most, 1));
            most = fmaxf(most, shuffle_xor(most, 2));
            const float shift = most * scale_log2, fix = exp2_fast(top[r] * scale_log2 - shift);
            top[r] = most;
            float sum = 0.f;
            #pragma unroll
            for (int n = 0; n < 8; n++) {
                p[n][2 * r] = exp2_fast(p[n][2 * r] * scale_log2 - shift);
                p[n][2 * r + 1] = exp2_fast(p[n][2 * r + 1] * scale_log2 - shift);
                sum += p[n][2 * r] + p[n][2 * r + 1];
            }
            below[r] = below[r] * fix + sum;
            #pragma unroll
            for (int n = 0; n < D / 8; n++) {
                sums[n][2 * r] *= fix;
                sums[n][2 * r + 1] *= fix;
            }
        }
        multiply_tile<D>(sums, p, v);
    }
    #pragma unroll
    for (int r = 0; r < 2; r++) {
        below[r] += shuffle_xor(below[r], 1);
        below[r] += shuffle_xor(below[r], 2);
    }
    stage_rows<D>(q, row, sums, 1.f / below[0], 1.f / below[1]);
    sync_block();
    const int64_t start = static_cast<int64_t>(sample) * tokens + first;
    store_tile<D>(out + (start * heads + head) * D, q, heads * D, rows);
    if (log_sums && lane % 4 == 0) {
        float* to = log_sums + static_cast<int64_t>(BY) * tokens + first;
        #pragma unroll
        for (int r = 0; r < 2; r++) {
            const int query = row + lane / 4 + 8 * r;
            if (query < rows) to[query] = top[r] * scale_log2 + log2f(below[r]);
        }
    }
}

// delta of the rows of a sample (a row: a token's head); 8 lanes a row, 16 rows a block of 128
// threads, a line of blocks a sample.
template <class H, int D> DEV void sum_delta(const H* out, const H* dout, float* delta, int tokens, int heads) {
    const int row = BX * 16 + TID / 8, rows = tokens * heads;
    float sum = 0.f;
    if (row < rows) {
        const int64_t at = (static_cast<int64_t>(BY) * rows + row) * D;
        #pragma unroll
        for (int c = TID % 8 * 8; c < D; c += 64) {
            const Vec4 x = *reinterpret_cast<const Vec4*>(out + at + c);
            const Vec4 y = *reinterpret_cast<const Vec4*>(dout + at + c);
            const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                sum += to_f32(H{static_cast<uint16_t>(xs[i])}) * to_f32(H{static_cast<uint16_t>(ys[i])});
                sum += to_f32(H{static_cast<uint16_t>(xs[i] >> 16)}) * to_f32(H{static_cast<uint16_t>(ys[i] >> 16)});
            }
        }
    }
    #pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (row < rows && TID % 8 == 0)
        delta[(static_cast<int64_t>(BY) * heads + row % heads) * tokens + row / heads] = sum;
}

// dk and dv of 64 keys; blocks as forward's. Shared: tiles of k, v, q, the next q, dout; log_sums
// and delta of 64 queries. With p = 2^(score - log_sum):
//   dv = p^T dout, dp = dout v^T, ds = p (dp - delta), dk = ds^T q / sqrt(d).
template <class H, int D>
DEV void keys_backward(const H* qkv, const H* dout, const float* log_sums, const float* delta, H* dqkv, int tokens,
                       int heads, float scale_log2, float scale) {
    DYNAMIC_SHARED(H, shared);
    H *k = shared, *v = k + TILE_SIZE<D>, *q = v + TILE_SIZE<D>, *o = q + 2 * TILE_SIZE<D>;
    float* of_queries = reinterpret_cast<float*>(o + TILE_SIZE<D>);
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, row = TID / 32 * 16, column = TID % 4 * 2;
    const int stride = 3 * heads * D, rows = tokens - first;
    const int64_t start = static_cast<int64_t>(sample) * tokens;
    const H *queries = qkv + start * stride + head * D, *own = queries + static_cast<int64_t>(first) * stride;
    const H* douts = dout + (start * heads + head) * D;
    #pragma unroll
    for (int i = 0; i < 5; i++) clear_padding<D>(shared + i * TILE_SIZE<D>);
    load_tile<D>(k, own + heads * D, stride, rows);
    load_tile<D>(v, own + 2 * heads * D, stride, rows);
    load_tile<D>(q, queries, stride, tokens);
    commit_copies();
    float dk[D / 8][4], dv[D / 8][4];
    set_zero(dk);
    set_zero(dv);
    // Queries beyond the last need no mask: their log-sum is taken for infinite, so p is zero.
    const bool of_sums = TID < TILE;
    const float* from = (of_sums ? log_sums : delta) + static_cast<int64_t>(BY) * tokens;
    for (int at = 0, turn = 0; at < tokens; at += TILE, turn = TILE_SIZE<D> - turn) {
        wait_for_copies<0>();
        sync_block();
        load_tile<D>(o, douts + static_cast<int64_t>(at) * heads * D, heads * D, tokens - at);
        commit_copies();
        const int query = at + TID % TILE;
        const float of_query = query < tokens ? from[query] : of_sums ? INFINITY : 0.f;
        float p[8][4], ds[8][4];
        set_zero(p);
        multiply_rows<D>(p, k, row, q + turn);
        of_queries[TID] = of_query;
        wait_for_copies<0>();
        sync_block();
        if (at + TILE < tokens) {
            load_tile<D>(q + TILE_SIZE<D> - turn, queries + static_cast<int64_t>(at + TILE) * stride, stride,
                         tokens - at - TILE);
            commit_copies();
        }
        set_zero(ds);
        multiply_rows<D>(ds, v, row, o);
        #pragma unroll
        for (int n = 0; n < 8; n++) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int c = n * 8 + column + i % 2;
                p[n][i] = exp2_fast(p[n][i] * scale_log2 - of_queries[c]);
                ds[n][i] = p[n][i] * (ds[n][i] - of_queries[TILE + c]);
            }
        }
        multiply_tile<D>(dv, p, o);
        multiply_tile<D>(dk, ds, q + turn);
    }
    stage_rows<D>(k, row, dk, scale, scale);
    stage_rows<D>(v, row, dv, 1.f, 1.f);
    sync_block();
    H* to = dqkv + (start + first) * stride + head * D;
    store_tile<D>(to + heads * D, k, stride, rows);
    store_tile<D>(to + 2 * heads * D, v, stride, rows);
}

// dq of 64 queries, ds k / sqrt(d); blocks as forward's. Shared: tiles of q, dout, k, the next k
// and v.
template <class H, int D>
DEV void queries_backward(const H* qkv, const H* dout, const float* log_sums, const float* delta, H* dqkv, int tokens,
                          int heads, float scale_log2, float scale) {
    DYNAMIC_SHARED(H, shared);
    H *q = shared, *o = q + TILE_SIZE<D>, *k = o + TILE_SIZE<D>, *v = k + 2 * TILE_SIZE<D>;
    const int sample = BY / heads, head = BY % heads, first = BX * TILE, row = TID / 32 * 16;
    const int stride = 3 * heads * D, rows = tokens - first;
    const int64_t start = static_cast<int64_t>(sample) * tokens;
    const H *queries = qkv + start * stride + head * D, *keys = queries + heads * D, *values = keys + heads * D;
    #pragma unroll
    for (int i = 0; i < 5; i++) clear_padding<D>(shared + i * TILE_SIZE<D>);
    load_tile<D>(q, queries + static_cast<int64_t>(first) * stride, stride, rows);
    load_tile<D>(o, dout + ((start + first) * heads + head) * D, heads * D, rows);
    load_tile<D>(k, keys, stride, tokens);
    commit_copies();
    float log_sum[2], d[2], dq[D / 8][4];
    #pragma unroll
    for (int r = 0; r < 2; r++) {
        const int query = first + row + TID % 32 / 4 + 8 * r;
        const int64_t at = static_cast<int64_t>(BY) * tokens + query;
        log_sum[r] = query < tokens ? log_sums[at] : INFINITY;
        d[r] = query < tokens ? delta[at] : 0.f;
    }
    set_zero(dq);
    for (int at = 0, turn = 0; at < tokens; at += TILE, turn = TILE_SIZE<D> - turn) {
        wait_for_copies<0>();
        sync_block();
        load_tile<D>(v, values + static_cast<int64_t>(at) * stride, stride, tokens - at);
        commit_copies();
        float p[8][4], ds[8][4];
        set_zero(p);
        multiply_rows<D>(p, q, row, k + turn);
        wait_for_copies<0>();
        sync_block();
        if (at + TILE < tokens) {
            load_tile<D>(k + TILE_SIZE<D> - turn, keys + static_cast<int64_t>(at + TILE) * stride, stride,
                         tokens - at - TILE);
            commit_copies();
        }
        set_zero(ds);
        multiply_rows<D>(ds, o, row, v);
        // Rows of k beyond the last are zeros, but p there may be infinite.
        if (at + TILE > tokens) mask_keys(p, tokens - at);
        #pragma unroll
        for (int n = 0; n < 8; n++) {
            #pragma unroll
            for (int i = 0; i < 4; i++)
                ds[n][i] = exp2_fast(p[n][i] * scale_log2 - log_sum[i / 2]) * (ds[n][i] - d[i / 2]);
        }
        multiply_tile<D>(dq, ds, k + turn);
    }
    stage_rows<D>(q, row, dq, scale, scale);
    sync_block();
    store_tile<D>(dqkv + (start + first) * stride + head * D, q, stride, rows);
}

// ---- any d up to 256, any type: a warp a row, lanes over d, 4 rows a block ----

constexpr int PARTS = 8;

// Lane l has the numbers l, l + 32, .. of a row; zeros beyond d.
template <class H> DEV void load_row(float (&to)[PARTS], const H* from, int d) {
    #pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const int c = TID % 32 + 32 * i;
        to[i] = c < d ? to_f32(from[c]) : 0.f;
    }
}

template <class H> DEV void store_row(H* to, const float (&row)[PARTS], float scale, int d) {
    #pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const int c = TID % 32 + 32 * i;
        if (c < d) to[c] = round_to<H>(row[i] * scale);
    }
}

// to += factor row
DEV void add_row(float (&to)[PARTS], const float (&row)[PARTS], float factor) {
    #pragma unroll
    for (int i = 0; i < PARTS; i++) to[i] += factor * row[i];
}

DEV float dot(const float (&a)[PARTS], const float (&b)[PARTS]) {
    float sum = 0.f;
    #pragma unroll
    for (int i = 0; i < PARTS; i++) sum += a[i] * b[i];
    return warp_sum(sum);
}

// Where things lie for the row of this warp.
struct Place {
    int row;
    int64_t stride, head, width;  // numbers from token to token, to this head, from q to k to v
    int64_t first, sums;          // the sample's first token; this head's first row of sums
};
DEV Place place(int tokens, int heads, int d) {
    const int sample = BY / heads, head = BY % heads;
    const int64_t width = static_cast<int64_t>(heads) * d;
    return Place{BX * 4 + TID / 32, 3 * width, static_cast<int64_t>(head) * d, width,
                 static_cast<int64_t>(sample) * tokens, static_cast<int64_t>(BY) * tokens};
}

template <class H>
DEV void plain_forward(const H* qkv, H* out, float* log_sums, int tokens, int heads, int d, float scale_log2) {
    const Place at = place(tokens, heads, d);
    if (at.row >= tokens) return;
    const H* queries = qkv + at.first * at.stride + at.head;
    float q[PARTS], k[PARTS], v[PARTS], sums[PARTS] = {}, top = -INFINITY, below = 0.f;
    load_row(q, queries + at.row * at.stride, d);
    for (int j = 0; j < tokens; j++) {
        const H* key = queries + j * at.stride + at.width;
        load_row(k, key, d);
        load_row(v, key + at.width, d);
        const float score = dot(q, k) * scale_log2, most = fmaxf(top, score);
        const float fix = exp2_fast(top - most), p = exp2_fast(score - most);
        top = most;
        below = below * fix + p;
        #pragma unroll
        for (int i = 0; i < PARTS; i++) sums[i] = sums[i] * fix + p * v[i];
    }
    store_row(out + (at.first + at.row) * at.width + at.head, sums, 1.f / below, d);
    if (log_sums && TID % 32 == 0) log_sums[at.sums + at.row] = top + log2f(below);
}

template <class H>
DEV void plain_delta(const H* out, const H* dout, float* delta, int tokens, int heads, int d) {
    const Place at = place(tokens, heads, d);
    if (at.row >= tokens) return;
    const int64_t from = (at.first + at.row) * at.width + at.head;
    float a[PARTS], b[PARTS];
    load_row(a, out + from, d);
    load_row(b, dout + from, d);
    const float sum = dot(a, b);
    if (TID % 32 == 0) delta[at.sums + at.row] = sum;
}

template <class H>
DEV void plain_keys_backward(const H* qkv, const H* dout, const float* log_sums, const float* delta, H* dqkv,
                             int tokens, int heads, int d, float scale_log2, float scale) {
    const Place at = place(tokens, heads, d);
    if (at.row >= tokens) return;
    const H* queries = qkv + at.first * at.stride + at.head;
    const int64_t own = at.row * at.stride + at.width;
    float k[PARTS], v[PARTS], q[PARTS], o[PARTS], dk[PARTS] = {}, dv[PARTS] = {};
    load_row(k, queries + own, d);
    load_row(v, queries + own + at.width, d);
    for (int j = 0; j < tokens; j++) {
        load_row(q, queries + j * at.stride, d);
        load_row(o, dout + (at.first + j) * at.width + at.head, d);
        const float p = exp2_fast(dot(q, k) * scale_log2 - log_sums[at.sums + j]);
        const float ds = p * (dot(o, v) - delta[at.sums + j]);
        add_row(dv, o, p);
        add_row(dk, q, ds);
    }
    H* to = dqkv + at.first * at.stride + at.head + own;
    store_row(to, dk, scale, d);
    store_row(to + at.width, dv, 1.f, d);
}

template <class H>
DEV void plain_queries_backward(const H* qkv, const H* dout, const float* log_sums, const float* delta, H* dqkv,
                                int tokens, int heads, int d, float scale_log2, float scale) {
    const Place at = place(tokens, heads, d);
    if (at.row >= tokens) return;
    const H* queries = qkv + at.first * at.stride + at.head;
    const int64_t own = at.row * at.stride;
    const float log_sum = log_sums[at.sums + at.row], mean = delta[at.sums + at.row];
    float q[PARTS], o[PARTS], k[PARTS], v[PARTS], dq[PARTS] = {};
    load_row(q, queries + own, d);
    load_row(o, dout + (at.first + at.row) * at.width + at.head, d);
    for (int j = 0; j < tokens; j++) {
        const H* key = queries + j * at.stride + at.width;
        load_row(k, key, d);
        load_row(v, key + at.width, d);
        const float p = exp2_fast(dot(q, k) * scale_log2 - log_sum);
        add_row(dq, k, p * (dot(o, v) - mean));
    }
    store_row(dqkv + at.first * at.stride + at.head + own, dq, scale, d);
}

#define ATTENTION(H, D) \
    KERNEL(128, attention_forward_##H##_##D, const H* qkv, H* out, float* log_sums, int tokens, int heads, \
           float scale_log2) { \
        forward<H, D>(qkv, out, log_sums, tokens, heads, scale_log2); \
    } \
    KERNEL(128, attention_delta_##H##_##D, const H* out, const H* dout, float* delta, int tokens, int heads) { \
        sum_delta<H, D>(out, dout, delta, tokens, heads); \
    } \
    KERNEL(128, attention_dkdv_##H##_##D, const H* qkv, const H* dout, const float* log_sums, const float* delta, \
           H* dqkv, int tokens, int heads, float scale_log2, float scale) { \
        keys_backward<H, D>(qkv, dout, log_sums, delta, dqkv, tokens, heads, scale_log2, scale); \
    } \
    KERNEL(128, attention_dq_##H##_##D, const H* qkv, const H* dout, const float* log_sums, const float* delta, \
           H* dqkv, int tokens, int heads, float scale_log2, float scale) { \
        queries_backward<H, D>(qkv, dout, log_sums, delta, dqkv, tokens, heads, scale_log2, scale); \
    }
ATTENTION(bf16, 64)
ATTENTION(bf16, 72)
ATTENTION(f16, 64)
ATTENTION(f16, 72)

#define PLAIN_ATTENTION(H, name) \
    KERNEL(128, attention_plain_forward_##name, const H* qkv, H* out, float* log_sums, int tokens, int heads, int d, \
           float scale_log2) { \
        plain_forward<H>(qkv, out, log_sums, tokens, heads, d, scale_log2); \
    } \
    KERNEL(128, attention_plain_delta_##name, const H* out, const H* dout, float* delta, int tokens, int heads, \
           int d) { \
        plain_delta<H>(out, dout, delta, tokens, heads, d); \
    } \
    KERNEL(128, attention_plain_dkdv_##name, const H* qkv, const H* dout, const float* log_sums, const float* delta, \
           H* dqkv, int tokens, int heads, int d, float scale_log2, float scale) { \
        plain_keys_backward<H>(qkv, dout, log_sums, delta, dqkv, tokens, heads, d, scale_log2, scale); \
    } \
    KERNEL(128, attention_plain_dq_##name, const H* qkv, const H* dout, const float* log_sums, const float* delta, \
           H* dqkv, int tokens, int heads, int d, float scale_log2, float scale) { \
        plain_queries_backward<H>(qkv, dout, log_sums, delta, dqkv, tokens, heads, d, scale_log2, scale); \
    }
PLAIN_ATTENTION(bf16, bf16)
PLAIN_ATTENTION(f16, f16)
PLAIN_ATTENTION(float, f32)
