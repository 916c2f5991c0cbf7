// Prepares queries and keys for attention: LayerNorm or RMSNorm of each head (QK-norm), then the
// rotary embedding, on packed rows qkv [rows, 3, heads, d]. Values of a head stay f32 from the norm
// to the end of the embedding and are rounded once. Does not know attention.
//
//   x^ = (x - mean) / sqrt(var + eps),  n = x^ weight + bias
//   out_even = n_even cos_even - n_odd sin_even,  out_odd = n_odd cos_odd + n_even sin_odd
//
// With RMS, for RMSNorm, the mean is taken for 0 and there is no bias. A warp takes a token, so that
// the tables and the norms' weights are read once for all its heads. Versions for d = 64 and 72 give
// a lane four neighbours of a head; d = 64 takes two heads at a time. D = 0 stands for any even d up
// to 256 and gives a lane up to four pairs.
#include "device.h"

struct alignas(4) TwoHalves { uint16_t v[2]; };
struct alignas(8) Two { float v[2]; };

// How a head lies in the lanes of a warp: lane l has numbers (l % LANES + LANES k) W + j.
template <int D> struct Layout {
    static constexpr int W = 4, K = 1, LANES = D <= 64 ? 16 : 32, HEADS = 32 / LANES, UNROLL = 4;
    static_assert(D > 32 && D <= 128 && D % 4 == 0, "a head is one access of up to 32 lanes");
};
template <> struct Layout<0> { static constexpr int W = 2, K = 4, LANES = 32, HEADS = 1, UNROLL = 1; };

// A lane's numbers of a head.
template <int D> struct Part { float v[Layout<D>::K][Layout<D>::W]; };

template <int W> DEV void load(float (&v)[W], const float* p) {
    if constexpr (W == 4) {
        Four four = load4(p);
        v[0] = four.v[0], v[1] = four.v[1], v[2] = four.v[2], v[3] = four.v[3];
    } else {
        Two two = *reinterpret_cast<const Two*>(p);
        v[0] = two.v[0], v[1] = two.v[1];
    }
}
template <int W, class H> DEV void load(float (&v)[W], const H* p) {
    if constexpr (W == 4) {
        Four four = load4(p);
        v[0] = four.v[0], v[1] = four.v[1], v[2] = four.v[2], v[3] = four.v[3];
    } else {
        TwoHalves two = *reinterpret_cast<const TwoHalves*>(p);
        v[0] = to_f32(H{two.v[0]}), v[1] = to_f32(H{two.v[1]});
    }
}
template <int W> DEV void store(float* p, const float (&v)[W]) {
    if constexpr (W == 4) store4(p, v);
    else *reinterpret_cast<Two*>(p) = Two{{v[0], v[1]}};
}
template <int W, class H> DEV void store(H* p, const float (&v)[W]) {
    if constexpr (W == 4) {
        store4(p, v);
    } else {
        uint32_t both = pack<H>(v[0], v[1]);
        *reinterpret_cast<TwoHalves*>(p) = TwoHalves{{static_cast<uint16_t>(both), static_cast<uint16_t>(both >> 16)}};
    }
}

// The lane's first number of the k-th piece.
template <int D> DEV int place(int k) { return (TID % Layout<D>::LANES + Layout<D>::LANES * k) * Layout<D>::W; }
template <int D> DEV int which_head() { return TID % 32 / Layout<D>::LANES; }

// Numbers outside a head, and of heads that there are not, are `otherwise`.
template <int D, class T> DEV Part<D> load_part(const T* p, bool there, int d, float otherwise) {
    Part<D> part = {};
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++) {
#pragma unroll
        for (int j = 0; j < Layout<D>::W; j++) part.v[k][j] = otherwise;
        if (there && place<D>(k) < d) load(part.v[k], p + place<D>(k));
    }
    return part;
}
template <int D, class T> DEV void store_part(T* p, const Part<D>& part, bool there, int d) {
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++)
        if (there && place<D>(k) < d) store(p + place<D>(k), part.v[k]);
}

// The sum over a head, the same bits in each of its lanes.
template <int D> DEV float head_sum(float x) {
#pragma unroll
    for (int mask = Layout<D>::LANES / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

// Replaces x by x^ and returns 1 / deviation. All lanes of the warp take part.
template <bool RMS, int D> DEV float normalise(Part<D>& x, int d, float eps) {
    const float share = 1.f / d;
    float sum = 0.f, squares = 0.f;
    if constexpr (!RMS) {
#pragma unroll
        for (int k = 0; k < Layout<D>::K; k++)
#pragma unroll
            for (int j = 0; j < Layout<D>::W; j++) sum += x.v[k][j];
    }
    const float mean = RMS ? 0.f : head_sum<D>(sum) * share;
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++)
#pragma unroll
        for (int j = 0; j < Layout<D>::W; j++) {
            x.v[k][j] = place<D>(k) < d ? x.v[k][j] - mean : 0.f;
            squares += x.v[k][j] * x.v[k][j];
        }
    const float inverse = 1.f / sqrtf(head_sum<D>(squares) * share + eps);
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++)
#pragma unroll
        for (int j = 0; j < Layout<D>::W; j++) x.v[k][j] *= inverse;
    return inverse;
}

// Rotates pairs of neighbours.
template <int D> DEV void turn(Part<D>& x, const Part<D>& cos, const Part<D>& sin) {
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++)
#pragma unroll
        for (int j = 0; j < Layout<D>::W; j += 2) {
            float even = x.v[k][j], odd = x.v[k][j + 1];
            x.v[k][j] = even * cos.v[k][j] - odd * sin.v[k][j];
            x.v[k][j + 1] = odd * cos.v[k][j + 1] + even * sin.v[k][j + 1];
        }
}
// The transposed rotation, for gradients.
template <int D> DEV void turn_back(Part<D>& g, const Part<D>& cos, const Part<D>& sin) {
#pragma unroll
    for (int k = 0; k < Layout<D>::K; k++)
#pragma unroll
        for (int j = 0; j < Layout<D>::W; j += 2) {
            float even = g.v[k][j], odd = g.v[k][j + 1];
            g.v[k][j] = even * cos.v[k][j] + odd * sin.v[k][j + 1];
            g.v[k][j + 1] = odd * cos.v[k][j + 1] - even * sin.v[k][j];
        }
}

// out [rows, 3, heads, d] may be qkv; else values are copied to it. The norms' vectors are f32 [d],
// the tables f32 [tokens, d]; all four norms or both tables may be null. A warp a row.
template <class H, int D, bool RMS>
DEV void forward(const H* qkv, H* out, const float* q_weight, const float* q_bias, const float* k_weight,
                 const float* k_bias, const float* cos, const float* sin, int rows, int tokens, int heads, int dim,
                 float eps) {
    using L = Layout<D>;
    const int d = D ? D : dim, row = BX * (NTHREADS / 32) + TID / 32;
    if (row >= rows) return;
    // Products of 32 bits, extended once: with a chain of 64-bit products nvcc stores number by number.
    const int64_t first = static_cast<int64_t>(row) * (3 * heads * d), position = row % tokens * d;
    const Part<D> cosines = load_part<D>(cos + (cos ? position : 0), cos, d, 1.f);
    const Part<D> sines = load_part<D>(sin + (cos ? position : 0), cos, d, 0.f);
    for (int which = 0; which < 2; which++) {
        const float *w = which ? k_weight : q_weight, *b = which ? k_bias : q_bias;
        const Part<D> weight = load_part<D>(w, w, d, 1.f), bias = load_part<D>(b, !RMS && w, d, 0.f);
        const H* from = qkv + first + which * heads * d;
        H* to = out + first + which * heads * d;
        for (int base = 0; base < heads; base += L::HEADS * L::UNROLL) {
            Part<D> x[L::UNROLL];
#pragma unroll
            for (int u = 0; u < L::UNROLL; u++) {
                int head = base + u * L::HEADS + which_head<D>();
                x[u] = load_part<D>(from + head * d, head < heads, d, 0.f);
            }
#pragma unroll
            for (int u = 0; u < L::UNROLL; u++) {
                int head = base + u * L::HEADS + which_head<D>();
                if (w) {
                    normalise<RMS>(x[u], d, eps);
#pragma unroll
                    for (int k = 0; k < L::K; k++)
#pragma unroll
                        for (int j = 0; j < L::W; j++) x[u].v[k][j] = x[u].v[k][j] * weight.v[k][j] + bias.v[k][j];
                }
                if (cos) turn(x[u], cosines, sines);
                store_part(to + head * d, x[u], head < heads, d);
            }
        }
    }
    if (out != qkv) {
        const int64_t start = first + 2 * heads * d;
#pragma unroll 4
        for (int c = TID % 32 * L::W; c < heads * d; c += 32 * L::W) {
            float v[L::W];
            load(v, qkv + start + c);
            store(out + start + c, v);
        }
    }
}

// In place on dqkv, from gradients of what `forward` wrote to gradients of qkv, its input; the part
// of the values stays. partial f32 [blocks, 4, d]: sums over the block's `block_rows` rows for q
// weight, q bias, k weight, k bias; with RMSNorm those of biases are 0. qkv and partial are not used
// where the norms are null.
template <class H, int D, bool RMS>
DEV void backward(H* dqkv, const H* qkv, const float* q_weight, const float* k_weight, const float* cos,
                  const float* sin, float* partial, int rows, int block_rows, int tokens, int heads, int dim,
                  float eps) {
    using L = Layout<D>;
    // Accesses under way at once. With two for d = 64 the compiler takes 64 registers and spills one.
    constexpr int U = D == 64 ? 3 : D ? 2 : 1;
    DYNAMIC_SHARED(float, sums);  // [warps HEADS, 4, d]
    const int d = D ? D : dim, warps = NTHREADS / 32, warp = TID / 32;
    for (int which = 0; which < 2; which++) {
        const float* w = which ? k_weight : q_weight;
        const Part<D> weight = load_part<D>(w, w, d, 1.f);
        Part<D> dweight = {}, dbias = {};
        for (int r = warp; r < block_rows; r += warps) {
            const int row = BX * block_rows + r;
            if (row >= rows) break;
            const int64_t position = row % tokens * d;
            const Part<D> cosines = load_part<D>(cos + (cos ? position : 0), cos, d, 1.f);
            const Part<D> sines = load_part<D>(sin + (cos ? position : 0), cos, d, 0.f);
            const int64_t start = static_cast<int64_t>(row) * (3 * heads * d) + which * heads * d;
            H* to = dqkv + start;
            const H* from = w ? qkv + start : qkv;
            for (int base = 0; base < heads; base += L::HEADS * U) {
                Part<D> g[U], x[U];
#pragma unroll
                for (int u = 0; u < U; u++) {
                    int head = base + u * L::HEADS + which_head<D>();
                    g[u] = load_part<D>(to + head * d, head < heads, d, 0.f);
                    x[u] = load_part<D>(from + head * d, w && head < heads, d, 0.f);
                }
#pragma unroll
                for (int u = 0; u < U; u++) {
                    int head = base + u * L::HEADS + which_head<D>();
                    if (cos) turn_back(g[u], cosines, sines);
                    if (w) {
                        const float inverse = normalise<RMS>(x[u], d, eps), share = 1.f / d;
                        float sum = 0.f, along = 0.f;
#pragma unroll
                        for (int k = 0; k < L::K; k++)
#pragma unroll
                            for (int j = 0; j < L::W; j++) {
                                dweight.v[k][j] += g[u].v[k][j] * x[u].v[k][j];
                                if constexpr (!RMS) dbias.v[k][j] += g[u].v[k][j];
                                g[u].v[k][j] *= weight.v[k][j];
                                sum += g[u].v[k][j];
                                along += g[u].v[k][j] * x[u].v[k][j];
                            }
                        sum = RMS ? 0.f : head_sum<D>(sum) * share;
                        along = head_sum<D>(along) * share;
#pragma unroll
                        for (int k = 0; k < L::K; k++)
#pragma unroll
                            for (int j = 0; j < L::W; j++)
                                g[u].v[k][j] = inverse * (g[u].v[k][j] - sum - x[u].v[k][j] * along);
                    }
                    store_part(to + head * d, g[u], head < heads, d);
                }
            }
        }
        if (w) {
            float* own = sums + ((warp * L::HEADS + which_head<D>()) * 4 + 2 * which) * d;
            store_part(own, dweight, true, d);
            store_part(own + d, dbias, true, d);
        }
    }
    if (q_weight) {
        sync_block();
        for (int i = TID; i < 4 * d; i += NTHREADS) {
            float total = 0.f;
            for (int k = 0; k < warps * L::HEADS; k++) total += sums[k * 4 * d + i];
            partial[static_cast<int64_t>(BX) * 4 * d + i] = total;
        }
    }
}

#define QK_NORM_ROPE(H, type, D, name, norm, RMS) \
    KERNEL(128, norm##_rope_forward_##type##_##name, const H* qkv, H* out, const float* __restrict__ q_weight, \
           const float* __restrict__ q_bias, const float* __restrict__ k_weight, const float* __restrict__ k_bias, \
           const float* __restrict__ cos, const float* __restrict__ sin, int rows, int tokens, int heads, int dim, \
           float eps) { \
        forward<H, D, RMS>(qkv, out, q_weight, q_bias, k_weight, k_bias, cos, sin, rows, tokens, heads, dim, eps); \
    } \
    KERNEL(128, norm##_rope_backward_##type##_##name, H* __restrict__ dqkv, const H* __restrict__ qkv, \
           const float* __restrict__ q_weight, const float* __restrict__ k_weight, const float* __restrict__ cos, \
           const float* __restrict__ sin, float* __restrict__ partial, int rows, int block_rows, int tokens, \
           int heads, int dim, float eps) { \
        backward<H, D, RMS>(dqkv, qkv, q_weight, k_weight, cos, sin, partial, rows, block_rows, tokens, heads, dim, \
                            eps); \
    }
#define HEADS(H, type, norm, RMS) \
    QK_NORM_ROPE(H, type, 64, 64, norm, RMS) \
    QK_NORM_ROPE(H, type, 72, 72, norm, RMS) \
    QK_NORM_ROPE(H, type, 0, any, norm, RMS)
#define NORMS(norm, RMS) \
    HEADS(bf16, bf16, norm, RMS) \
    HEADS(f16, f16, norm, RMS) \
    HEADS(float, f32, norm, RMS)
NORMS(qk_norm, false)
NORMS(qk_rms_norm, true)

// partial f32 [blocks, 4, d] to the gradients of the norms, f32 [d] each; biases may be null. A block
// takes 32 of the 4 d columns; each warp adds a run of neighbouring blocks in order, then the runs are
// added in order.
KERNEL(256, qk_norm_sums, const float* __restrict__ partial, float* __restrict__ q_weight, float* __restrict__ q_bias,
       float* __restrict__ k_weight, float* __restrict__ k_bias, int blocks, int d) {
    DYNAMIC_SHARED(float, sums);  // [warps, 32]
    const int lane = TID % 32, warp = TID / 32, warps = NTHREADS / 32, own = (blocks + warps - 1) / warps;
    const int c = BX * 32 + lane, first = warp * own, end = first + own < blocks ? first + own : blocks;
    float sum = 0.f;
    if (c < 4 * d) {
#pragma unroll 8
        for (int k = first; k < end; k++) sum += partial[static_cast<int64_t>(k) * 4 * d + c];
    }
    sums[TID] = sum;
    sync_block();
    if (warp == 0 && c < 4 * d) {
        const int which = c / d;
        float* to = which == 0 ? q_weight : which == 1 ? q_bias : which == 2 ? k_weight : k_bias;
        float total = 0.f;
        for (int w = 0; w < warps; w++) total += sums[w * 32 + lane];
        if (to) to[c % d] = total;
    }
}
