// The losses of a training step with their gradients, and the z-score of features. A loss leaves
// one f64 sum a block; `loss_end` adds them in order. What a gradient is multiplied by is read from
// memory, for it differs from step to step. Does not know how losses are weighted.
#include "device.h"

// Squared error of tokens [B N, p p C] against a target image [B, C, S, S], N = (S / p)^2.
// partial[block] = the sum of (out - target)^2 over 4,096 numbers; dout = 2 factor (out - target),
// where dout is not null. Four numbers of a token a thread; p p C is a multiple of 4.
template <class H> DEV void velocity_loss(const H* out, const float* target, const float* factor, H* dout, double*
                                          partial, int channels, int side, int patch, int64_t n) {
    const float scale = 2.f * factor[0];
    const int width = channels * patch * patch, grid = side / patch;
    double sum = 0;
    for (int part = 0; part < 4; part++) {
        int64_t i = static_cast<int64_t>(BX) * 4096 + part * 1024 + TID * 4;
        if (i < n) {
            int64_t row = i / width;
            int64_t sample = row / (grid * grid);
            int token = static_cast<int>(row % (grid * grid)), first = static_cast<int>(i % width);
            int top = token / grid * patch, left = token % grid * patch;
            Four v = load4(out + i);
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                int k = first + j, c = k % channels, y = top + k / channels / patch, x = left + k / channels % patch;
                float apart = v.v[j] - target[((sample * channels + c) * side + y) * side + x];
                sum += static_cast<double>(apart * apart);
                v.v[j] = scale * apart;
            }
            if (dout) store4(dout + i, v.v);
        }
    }
    sum = block_sum(sum);
    if (TID == 0) partial[BX] = sum;
}

// Added to squared lengths: acts like a lower bound on the length, with a finite gradient at zero.
// 1e-12 is that of alignments, 1e-8 that of velocities (ml/diffusion/loss).
constexpr float TINY = 1e-24f, TINY_VELOCITY = 1e-16f;

// What a row needs: the cosine of p and f, and its gradient with respect to p times scale, which is
// by_f f - by_p p. pp and ff are squared lengths, with what is added to them.
struct Cosine { float value, by_f, by_p; };
DEV Cosine cosine_of(float pp, float ff, float pf, float scale) {
    float lengths = sqrtf(pp) * sqrtf(ff), by_f = scale / lengths;
    return {pf / lengths, by_f, by_f * pf / pp};
}

// Squared error as above, and the direction beside it (LightningDiT, arXiv 2501.01423): 1 - cosine of
// out and target over the channels of each of the n places. partial[block] = the sum of squares over
// 1,024 places, cosine_partial[block] that of 1 - cosine; dout = 2 factor (out - target) +
// cosine_factor times the gradient of 1 - cosine. A place a thread, number by number: there are few.
template <class H> DEV void velocity_cosine_loss(const H* out, const float* target, const float* factor,
                                                 const float* cosine_factor, H* dout, double* partial,
                                                 double* cosine_partial, int channels, int side, int patch,
                                                 int64_t n) {
    const float scale = 2.f * factor[0];
    const int inner = patch * patch, grid = side / patch;
    const int64_t plane = static_cast<int64_t>(side) * side;
    double squares = 0, directions = 0;
    for (int part = 0; part < 4; part++) {
        int64_t i = static_cast<int64_t>(BX) * 1024 + part * 256 + TID;
        if (i < n) {
            int64_t row = i / inner, sample = row / (grid * grid);
            int token = static_cast<int>(row % (grid * grid)), k = static_cast<int>(i % inner);
            int y = token / grid * patch + k / patch, x = token % grid * patch + k % patch;
            const H* p = out + i * channels;
            const float* f = target + sample * channels * plane + y * side + x;
            float pp = 0.f, ff = 0.f, pf = 0.f;
            for (int c = 0; c < channels; c++) {
                float a = to_f32(p[c]), b = f[c * plane], apart = a - b;
                squares += static_cast<double>(apart * apart);
                pp += a * a;
                ff += b * b;
                pf += a * b;
            }
            Cosine cosine = cosine_of(pp + TINY_VELOCITY, ff + TINY_VELOCITY, pf, -cosine_factor[0]);
            directions += 1.0 - static_cast<double>(cosine.value);
            if (dout) {
                for (int c = 0; c < channels; c++) {
                    float a = to_f32(p[c]), b = f[c * plane];
                    dout[i * channels + c] = round_to<H>(scale * (a - b) + (cosine.by_f * b - cosine.by_p * a));
                }
            }
        }
    }
    squares = block_sum(squares);
    directions = block_sum(directions);
    if (TID == 0) {
        partial[BX] = squares;
        cosine_partial[BX] = directions;
    }
}

// result = (result, if `add`, else 0) + the sum of all partial sums / terms. One block of 256.
KERNEL(256, loss_end, const double* partial, float* result, int count, int64_t terms, int add) {
    double sum = 0;
    for (int i = TID; i < count; i += NTHREADS) sum += partial[i];
    sum = block_sum(sum);
    if (TID == 0) result[0] = static_cast<float>((add ? result[0] : 0.0) + sum / static_cast<double>(terms));
}

// The same from the parts of a warp's lanes.
DEV Cosine cosine_of_warp(float pp, float ff, float pf, float scale) {
    return cosine_of(warp_sum(pp) + TINY, warp_sum(ff) + TINY, warp_sum(pf), scale);
}

// A row by a warp. Width 128 V: the row stays in registers. Returns the cosine.
namespace {
template <int V> struct Rows {
    template <class H, class F> DEV float run(const H* p, const F* f, H* dp, float scale, int) {
        Four a[V], b[V];
        float pp = 0.f, ff = 0.f, pf = 0.f;
        #pragma unroll
        for (int i = 0; i < V; i++) {
            a[i] = load4(p + i * 128 + TID % 32 * 4);
            b[i] = load4(f + i * 128 + TID % 32 * 4);
        }
        #pragma unroll
        for (int i = 0; i < V; i++) {
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                pp += a[i].v[j] * a[i].v[j];
                ff += b[i].v[j] * b[i].v[j];
                pf += a[i].v[j] * b[i].v[j];
            }
        }
        Cosine c = cosine_of_warp(pp, ff, pf, scale);
        if (dp) {
            #pragma unroll
            for (int i = 0; i < V; i++) {
                #pragma unroll
                for (int j = 0; j < 4; j++) a[i].v[j] = c.by_f * b[i].v[j] - c.by_p * a[i].v[j];
                store4(dp + i * 128 + TID % 32 * 4, a[i].v);
            }
        }
        return c.value;
    }
};
// Any multiple of 4: the row is read twice, the second time from the cache.
template <> struct Rows<0> {
    template <class H, class F> DEV float run(const H* p, const F* f, H* dp, float scale, int width) {
        float pp = 0.f, ff = 0.f, pf = 0.f;
        for (int k = TID % 32 * 4; k < width; k += 128) {
            Four a = load4(p + k), b = load4(f + k);
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                pp += a.v[j] * a.v[j];
                ff += b.v[j] * b.v[j];
                pf += a.v[j] * b.v[j];
            }
        }
        Cosine c = cosine_of_warp(pp, ff, pf, scale);
        if (dp) {
            for (int k = TID % 32 * 4; k < width; k += 128) {
                Four a = load4(p + k), b = load4(f + k);
                #pragma unroll
                for (int j = 0; j < 4; j++) a.v[j] = c.by_f * b.v[j] - c.by_p * a.v[j];
                store4(dp + k, a.v);
            }
        }
        return c.value;
    }
};
}  // namespace

// The negative cosine of projections and features [rows, width], which may have another type.
// partial[block] = its sum over 32 rows, four for each warp, one after the other; dp = factor times
// its gradient, where dp is not null. A block has 256 threads.
template <int V, class H, class F> DEV void cosine_loss(const H* p, const F* features, const float* factor, H* dp,
                                                        double* partial, int rows, int width) {
    if (V > 0) width = 128 * V;
    const float scale = -factor[0];
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        int row = BX * 32 + i * 8 + TID / 32;
        if (row < rows) {
            int64_t at = static_cast<int64_t>(row) * width;
            float value = Rows<V>::run(p + at, features + at, dp ? dp + at : dp, scale, width);
            // Every lane has it; one counts.
            if (TID % 32 == 0) sum -= static_cast<double>(value);
        }
    }
    sum = block_sum(sum);
    if (TID == 0) partial[BX] = sum;
}

// y = (x - alpha mean) / (deviation + 1e-6), mean and deviation over the tokens of a sample for
// each channel, the deviation with the divisor tokens - 1 (iREPA, arXiv 2512.10794). x and y are
// [B, tokens, width], width a multiple of 4; y may be x. Block (k, b) takes 128 channels of a
// sample: a lane 4 channels, a warp every eighth token. What a block reads three times fits the
// cache.
DEV void channel_sums(Four& x, Four (&shared)[8][32]) {
    shared[TID / 32][TID % 32] = x;
    sync_block();
    x = shared[0][TID % 32];
    for (int w = 1; w < 8; w++) {
        #pragma unroll
        for (int j = 0; j < 4; j++) x.v[j] += shared[w][TID % 32].v[j];
    }
    sync_block();
}
template <class H> DEV void z_score(const H* x, H* y, int tokens, int width, float alpha) {
    SHARED Four shared[8][32];
    int c = BX * 128 + TID % 32 * 4, last = c < width ? tokens : 0;
    int64_t at = static_cast<int64_t>(BY) * tokens * width + c;
    Four mean = {{0.f, 0.f, 0.f, 0.f}}, deviation = mean;
    for (int t = TID / 32; t < last; t += 8) {
        Four v = load4(x + at + static_cast<int64_t>(t) * width);
        #pragma unroll
        for (int j = 0; j < 4; j++) mean.v[j] += v.v[j];
    }
    channel_sums(mean, shared);
    #pragma unroll
    for (int j = 0; j < 4; j++) mean.v[j] /= static_cast<float>(tokens);
    for (int t = TID / 32; t < last; t += 8) {
        Four v = load4(x + at + static_cast<int64_t>(t) * width);
        #pragma unroll
        for (int j = 0; j < 4; j++) deviation.v[j] += (v.v[j] - mean.v[j]) * (v.v[j] - mean.v[j]);
    }
    channel_sums(deviation, shared);
    #pragma unroll
    for (int j = 0; j < 4; j++) {
        deviation.v[j] = sqrtf(deviation.v[j] / static_cast<float>(tokens - 1)) + 1e-6f;
        mean.v[j] *= alpha;
    }
    for (int t = TID / 32; t < last; t += 8) {
        Four v = load4(x + at + static_cast<int64_t>(t) * width);
        #pragma unroll
        for (int j = 0; j < 4; j++) v.v[j] = (v.v[j] - mean.v[j]) / deviation.v[j];
        store4(y + at + static_cast<int64_t>(t) * width, v.v);
    }
}

#define COSINE(H, F, T, name, V) \
    KERNEL(256, cosine_loss_##T##_##name, const H* p, const F* features, const float* factor, H* dp, double* partial, \
           int rows, int width) { \
        cosine_loss<V>(p, features, factor, dp, partial, rows, width); \
    }
#define COSINES(H, F, T) \
    COSINE(H, F, T, 128, 1) \
    COSINE(H, F, T, 384, 3) \
    COSINE(H, F, T, 768, 6) \
    COSINE(H, F, T, 1024, 8) \
    COSINE(H, F, T, 1152, 9) \
    COSINE(H, F, T, any, 0)
#define LOSS(H, T) \
    COSINES(H, H, T) \
    KERNEL(256, velocity_loss_##T, const H* out, const float* target, const float* factor, H* dout, double* partial, \
           int channels, int side, int patch, int64_t n) { \
        velocity_loss(out, target, factor, dout, partial, channels, side, patch, n); \
    } \
    KERNEL(256, velocity_cosine_loss_##T##_any, const H* out, const float* target, const float* factor, \
           const float* cosine_factor, H* dout, double* partial, double* cosine_partial, int channels, int side, \
           int patch, int64_t n) { \
        velocity_cosine_loss(out, target, factor, cosine_factor, dout, partial, cosine_partial, channels, side, patch, \
                             n); \
    } \
    KERNEL(256, z_score_##T, const H* x, H* y, int tokens, int width, float alpha) { \
        z_score(x, y, tokens, width, alpha); \
    }

LOSS(bf16, bf16)
LOSS(f16, f16)
LOSS(float, f32)
COSINES(bf16, float, wide_bf16)
COSINES(f16, float, wide_f16)
