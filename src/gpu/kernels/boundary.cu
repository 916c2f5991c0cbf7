// The places between two branches of the residual stream: the end of one branch (x += gate y) and
// the normalisation at the start of the next, in one pass, forward and backward. The stream is f32,
// branches are of type H. Does not know what the branches compute.
//
// x^ = (x - mean) / sqrt(var + eps) over the D numbers of a row. With RMS, for RMSNorm, the mean is
// taken for 0, and 1 + scale is multiplied by a weight f32 [D]. Versions for D = 128 V keep a row in
// registers; V = 0 stands for any multiple of 4 and reads a row again for each pass over it.
#include "device.h"

// x + gate y of four neighbours; x where there is no y.
template <class H, class T> DEV Four residual(const float* x, const H* y, const T* gate, int c) {
    Four sum = load4(x + c);
    if (y) {
        Four below = load4(y + c), g = load4(gate + c);
#pragma unroll
        for (int j = 0; j < 4; j++) sum.v[j] += g.v[j] * below.v[j];
    }
    return sum;
}

// offset + scale of four neighbours, with RMSNorm times its weight.
template <bool RMS, class T> DEV Four gain(const T* scale, float offset, const float* weight, int c) {
    Four s = load4(scale + c);
#pragma unroll
    for (int j = 0; j < 4; j++) s.v[j] = offset + s.v[j];
    if constexpr (RMS) {
        Four w = load4(weight + c);
#pragma unroll
        for (int j = 0; j < 4; j++) s.v[j] *= w.v[j];
    }
    return s;
}

// One row by one warp: x_out = x + gate y; h = x^ gain + shift; stats = mean, 1 / deviation. x_out
// may be x: each lane writes what it alone has read before.
template <class H, int V, bool RMS, class T>
DEV void normalise_row(const float* x, const H* y, const T* gate, const T* shift, const T* scale, float offset,
                       const float* weight, float* x_out, H* h, float* stats, int width, float eps) {
    const int D = V ? 128 * V : width, steps = V ? V : (D + 127) / 128, lane = TID % 32;
    Four row[V ? V : 1];
    float sum = 0.f, squares = 0.f;
#pragma unroll(V ? V : 1)
    for (int i = 0; i < steps; i++) {
        int c = i * 128 + lane * 4;
        if (!V && c >= D) break;
        Four v = residual(x, y, gate, c);
        row[V ? i : 0] = v;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if constexpr (RMS) squares += v.v[j] * v.v[j];
            else sum += v.v[j];
        }
    }
    const float share = 1.f / D, mean = RMS ? 0.f : warp_sum(sum) * share;
    if constexpr (!RMS) {
#pragma unroll(V ? V : 1)
        for (int i = 0; i < steps; i++) {
            int c = i * 128 + lane * 4;
            if (!V && c >= D) break;
            Four v = V ? row[V ? i : 0] : residual(x, y, gate, c);
#pragma unroll
            for (int j = 0; j < 4; j++) squares += (v.v[j] - mean) * (v.v[j] - mean);
        }
    }
    const float inverse = 1.f / sqrtf(warp_sum(squares) * share + eps);
    if (stats && lane == 0) {
        stats[0] = mean;
        stats[1] = inverse;
    }
#pragma unroll(V ? V : 1)
    for (int i = 0; i < steps; i++) {
        int c = i * 128 + lane * 4;
        if (!V && c >= D) break;
        Four v = V ? row[V ? i : 0] : residual(x, y, gate, c), b = load4(shift + c), out;
        Four g = gain<RMS>(scale, offset, weight, c);
#pragma unroll
        for (int j = 0; j < 4; j++) out.v[j] = (v.v[j] - mean) * inverse * g.v[j] + b.v[j];
        if (x_out) store4(x_out + c, v.v);
        store4(h + c, out.v);
    }
}

// adaLN. x, x_out f32 [rows, D]; y, h [rows, D]; stats f32 [rows, 2]. gate, shift and scale are the
// vectors of the first sample; those of the next lie `gate_width` and `modulation_width` further on.
// y and gate may be null together, x_out may be null or x. A warp a row.
template <class H, int V, bool RMS>
DEV void gate_norm_forward(const float* x, const H* y, const H* gate, const H* shift, const H* scale,
                           const float* weight, float* x_out, H* h, float* stats, int rows, int tokens, int width,
                           int gate_width, int modulation_width, float eps) {
    const int D = V ? 128 * V : width, r = BX * (NTHREADS / 32) + TID / 32;
    if (r >= rows) return;
    const int64_t at = static_cast<int64_t>(r) * D, sample = r / tokens;
    shift += sample * modulation_width;
    scale += sample * modulation_width;
    normalise_row<H, V, RMS>(x + at, y ? y + at : y, y ? gate + sample * gate_width : gate, shift, scale, 1.f, weight,
                             x_out ? x_out + at : x_out, h + at, stats + 2 * static_cast<int64_t>(r), D, eps);
}

// LayerNorm of an encoder: h = x^ weight + bias, all vectors f32 [D]; the gate is a LayerScale.
template <class H, int V>
DEV void layer_norm_forward(const float* x, const H* y, const float* gate, const float* weight, const float* bias,
                            float* x_out, H* h, int rows, int width, float eps) {
    const int D = V ? 128 * V : width, r = BX * (NTHREADS / 32) + TID / 32;
    if (r >= rows) return;
    const int64_t at = static_cast<int64_t>(r) * D;
    normalise_row<H, V, false>(x + at, y ? y + at : y, gate, bias, weight, 0.f, nullptr, x_out ? x_out + at : x_out,
                               h + at, nullptr, D, eps);
}

// The gradients at a boundary. A block takes `chunk` rows of one sample. dx f32 [rows, D] is the
// gradient of the residual stream above the norm; it gains the one through the norm, or with
// `begins` becomes it. x is `stream` + gate y with `again`, else `stream`.
//   g = dh (1 + scale),  dx += (g - mean(g) - x^ mean(g x^)) / deviation,  dy = gate dx
// With RMSNorm g has the weight as a factor, too, and mean(g) is not subtracted.
// partial f32 [blocks, 4, D]: sums over the rows of dh, dh x^, dx y, dx. y, gate, dy may be null
// together. First a warp sums a row, then a thread takes four columns of all rows; the second reading
// of the rows is from the cache.
template <class H, int V, bool RMS>
DEV void norm_gate_backward(float* dx, const H* dh, const float* stream, const float* stats, const H* scale,
                            const float* weight, const H* y, const H* gate, H* dy, float* partial, int tokens,
                            int chunk, int width, int gate_width, int modulation_width, int again, int begins) {
    const int D = V ? 128 * V : width, steps = V ? V : (D + 127) / 128, warps = V ? V : NTHREADS / 32;
    DYNAMIC_SHARED(float, of_row);  // [chunk, 4]: mean, 1 / deviation, mean(g), mean(g x^)
    const int chunks = tokens / chunk, sample = BX / chunks, lane = TID % 32;
    const int64_t first = static_cast<int64_t>(sample) * tokens + BX % chunks * chunk;
    scale += static_cast<int64_t>(sample) * modulation_width;
    if (y) gate += static_cast<int64_t>(sample) * gate_width;
    for (int r = TID / 32; r < chunk; r += warps) {
        const int64_t at = (first + r) * D;
        const float mean = stats[2 * (first + r)], inverse = stats[2 * (first + r) + 1];
        const H* branch = again ? y + at : nullptr;
        float sum = 0.f, along = 0.f;
#pragma unroll(V ? V : 1)
        for (int i = 0; i < steps; i++) {
            int c = i * 128 + lane * 4;
            if (!V && c >= D) break;
            Four x = residual(stream + at, branch, gate, c), d = load4(dh + at + c);
            Four by = gain<RMS>(scale, 1.f, weight, c);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float g = d.v[j] * by.v[j];
                sum += g;
                along += g * ((x.v[j] - mean) * inverse);
            }
        }
        sum = RMS ? 0.f : warp_sum(sum);
        along = warp_sum(along);
        if (lane == 0) {
            float row[4] = {mean, inverse, sum * (1.f / D), along * (1.f / D)};
            store4(of_row + 4 * r, row);
        }
    }
    sync_block();
    const Four zero = {};
    for (int c = TID * 4; c < D; c += V ? D : NTHREADS * 4) {
        // A gate of 0 instead of a branch in the loop, so that two rows' loads are under way at once.
        Four by = gain<RMS>(scale, 1.f, weight, c), g = y ? load4(gate + c) : zero, added = again ? g : zero;
        Four sums[4] = {};
#pragma unroll 2
        for (int r = 0; r < chunk; r++) {
            const int64_t at = (first + r) * D + c;
            Four x = load4(stream + at), d = load4(dh + at), up = begins ? zero : load4(dx + at);
            Four branch = y ? load4(y + at) : zero, row = load4(of_row + 4 * r), down;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float normal = (x.v[j] + added.v[j] * branch.v[j] - row.v[0]) * row.v[1];
                up.v[j] += row.v[1] * (d.v[j] * by.v[j] - row.v[2] - normal * row.v[3]);
                down.v[j] = g.v[j] * up.v[j];
                sums[0].v[j] += d.v[j];
                sums[1].v[j] += d.v[j] * normal;
                sums[2].v[j] += up.v[j] * branch.v[j];
                sums[3].v[j] += up.v[j];
            }
            store4(dx + at, up.v);
            if (y) store4(dy + at, down.v);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) store4(partial + (static_cast<int64_t>(BX) * 4 + i) * D + c, sums[i].v);
    }
}

// Adds the partial sums of a sample's chunks in order. dshift, dscale and dgate are vectors of the
// first sample in tables like those of shift, scale and gate. bias_of_sample f32 [B, D] = gate times
// the sum of dx: the gradient of a bias that was added to y. gate, dgate and bias_of_sample may be
// null together. With RMSNorm, weight_of_sample f32 [B, D] is the part of a sample in the gradient of
// the weight. A block takes a sample and 4 NTHREADS columns.
template <class H, bool RMS>
DEV void partial_sums(const float* partial, const H* gate, const H* scale, const float* weight, H* dshift, H* dscale,
                      H* dgate, float* bias_of_sample, float* weight_of_sample, int chunks, int width, int gate_width,
                      int modulation_width) {
    const int64_t sample = BX, vectors = gate ? 4 : 2;
    const int c = (BY * NTHREADS + TID) * 4;
    if (c < width) {
        Four sums[4] = {};
        for (int k = 0; k < chunks; k++) {
            const float* from = partial + (sample * chunks + k) * 4 * width + c;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (i >= vectors) break;
                Four v = load4(from + static_cast<int64_t>(i) * width);
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i].v[j] += v.v[j];
            }
        }
        if constexpr (RMS) {
            // So far the sum of dh x^, the gradient of (1 + scale) weight.
            Four s = load4(scale + sample * modulation_width + c), w = load4(weight + c);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s.v[j] = sums[1].v[j] * (1.f + s.v[j]);
                sums[1].v[j] *= w.v[j];
            }
            store4(weight_of_sample + sample * width + c, s.v);
        }
        store4(dshift + sample * modulation_width + c, sums[0].v);
        store4(dscale + sample * modulation_width + c, sums[1].v);
        if (gate) {
            Four g = load4(gate + sample * gate_width + c);
#pragma unroll
            for (int j = 0; j < 4; j++) g.v[j] *= sums[3].v[j];
            store4(dgate + sample * gate_width + c, sums[2].v);
            store4(bias_of_sample + sample * width + c, g.v);
        }
    }
}

// LayerNorm has no weight: its kernels do not take one.
#define BOUNDARY(H, type, V, name, backward_threads) \
    KERNEL(256, gate_norm_forward_##type##_##name, const float* x, const H* __restrict__ y, \
           const H* __restrict__ gate, const H* __restrict__ shift, const H* __restrict__ scale, float* x_out, \
           H* __restrict__ h, float* __restrict__ stats, int rows, int tokens, int width, int gate_width, \
           int modulation_width, float eps) { \
        gate_norm_forward<H, V, false>(x, y, gate, shift, scale, nullptr, x_out, h, stats, rows, tokens, width, \
                                       gate_width, modulation_width, eps); \
    } \
    KERNEL(256, gate_rms_norm_forward_##type##_##name, const float* x, const H* __restrict__ y, \
           const H* __restrict__ gate, const H* __restrict__ shift, const H* __restrict__ scale, \
           const float* __restrict__ weight, float* x_out, H* __restrict__ h, float* __restrict__ stats, int rows, \
           int tokens, int width, int gate_width, int modulation_width, float eps) { \
        gate_norm_forward<H, V, true>(x, y, gate, shift, scale, weight, x_out, h, stats, rows, tokens, width, \
                                      gate_width, modulation_width, eps); \
    } \
    KERNEL(256, layer_norm_forward_##type##_##name, const float* x, const H* __restrict__ y, \
           const float* __restrict__ gate, const float* __restrict__ weight, const float* __restrict__ bias, \
           float* x_out, H* __restrict__ h, int rows, int width, float eps) { \
        layer_norm_forward<H, V>(x, y, gate, weight, bias, x_out, h, rows, width, eps); \
    } \
    KERNEL(backward_threads, norm_gate_backward_##type##_##name, float* __restrict__ dx, const H* __restrict__ dh, \
           const float* __restrict__ stream, const float* __restrict__ stats, const H* __restrict__ scale, \
           const H* __restrict__ y, const H* __restrict__ gate, H* __restrict__ dy, float* __restrict__ partial, \
           int tokens, int chunk, int width, int gate_width, int modulation_width, int again, int begins) { \
        norm_gate_backward<H, V, false>(dx, dh, stream, stats, scale, nullptr, y, gate, dy, partial, tokens, chunk, \
                                        width, gate_width, modulation_width, again, begins); \
    } \
    KERNEL(backward_threads, rms_norm_gate_backward_##type##_##name, float* __restrict__ dx, \
           const H* __restrict__ dh, const float* __restrict__ stream, const float* __restrict__ stats, \
           const H* __restrict__ scale, const float* __restrict__ weight, const H* __restrict__ y, \
           const H* __restrict__ gate, H* __restrict__ dy, float* __restrict__ partial, int tokens, int chunk, \
           int width, int gate_width, int modulation_width, int again, int begins) { \
        norm_gate_backward<H, V, true>(dx, dh, stream, stats, scale, weight, y, gate, dy, partial, tokens, chunk, \
                                       width, gate_width, modulation_width, again, begins); \
    }
#define BOUNDARIES(H, type) \
    BOUNDARY(H, type, 1, 128, 32) \
    BOUNDARY(H, type, 3, 384, 96) \
    BOUNDARY(H, type, 6, 768, 192) \
    BOUNDARY(H, type, 8, 1024, 256) \
    BOUNDARY(H, type, 9, 1152, 288) \
    BOUNDARY(H, type, 0, any, 256) \
    KERNEL(128, partial_sums_##type, const float* __restrict__ partial, const H* __restrict__ gate, \
           H* __restrict__ dshift, H* __restrict__ dscale, H* __restrict__ dgate, \
           float* __restrict__ bias_of_sample, int chunks, int width, int gate_width, int modulation_width) { \
        partial_sums<H, false>(partial, gate, nullptr, nullptr, dshift, dscale, dgate, bias_of_sample, nullptr, \
                               chunks, width, gate_width, modulation_width); \
    } \
    KERNEL(128, rms_partial_sums_##type, const float* __restrict__ partial, const H* __restrict__ gate, \
           const H* __restrict__ scale, const float* __restrict__ weight, H* __restrict__ dshift, \
           H* __restrict__ dscale, H* __restrict__ dgate, float* __restrict__ bias_of_sample, \
           float* __restrict__ weight_of_sample, int chunks, int width, int gate_width, int modulation_width) { \
        partial_sums<H, true>(partial, gate, scale, weight, dshift, dscale, dgate, bias_of_sample, weight_of_sample, \
                              chunks, width, gate_width, modulation_width); \
    }
BOUNDARIES(bf16, bf16)
BOUNDARIES(f16, f16)
BOUNDARIES(float, f32)
