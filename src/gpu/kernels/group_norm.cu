// Group normalisation of feature maps with channels last, with SiLU or without.
//
// x is [samples, pixels, channels], channels a multiple of 4 and 1,024 at most. Variances are sums of
// squares around the first pixel of each channel, which keeps them right where means are large.
// Sums over pixels are partial sums over chunks, added in order by a second kernel.
#include "device.h"

// partial f32 [samples, chunks, 2, channels]: the sums of x and of x^2 over a chunk of pixels, both
// less the first pixel of the sample. A thread takes four channels of every so many pixels.
template <class H> DEV void sum(const H* x, float* partial, int pixels, int channels, int chunk) {
    SHARED Four sums[256 * 2];
    const int across = channels / 4, lines = NTHREADS / across, line = TID / across, channel = TID % across * 4;
    const H* sample = x + static_cast<int64_t>(BY) * pixels * channels + channel;
    float s[4] = {}, q[4] = {};
    if (line < lines) {
        const Four origin = load4(sample);
        const int end = (BX + 1) * chunk < pixels ? (BX + 1) * chunk : pixels;
        const H* from = sample + static_cast<int64_t>(BX * chunk + line) * channels;
        #pragma unroll 4
        for (int p = BX * chunk + line; p < end; p += lines, from += lines * channels) {
            const Four v = load4(from);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const float d = v.v[i] - origin.v[i];
                s[i] += d;
                q[i] += d * d;
            }
        }
    }
    sums[TID * 2] = Four{{s[0], s[1], s[2], s[3]}};
    sums[TID * 2 + 1] = Four{{q[0], q[1], q[2], q[3]}};
    sync_block();
    if (line > 0) return;
    #pragma unroll 1
    for (int l = 1; l < lines; l++) {
        const Four more = sums[(l * across + TID) * 2], more_squares = sums[(l * across + TID) * 2 + 1];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            s[i] += more.v[i];
            q[i] += more_squares.v[i];
        }
    }
    const int chunks = (pixels + chunk - 1) / chunk;
    float* to = partial + (static_cast<int64_t>(BY) * chunks + BX) * 2 * channels + channel;
    store4(to, s);
    store4(to + channels, q);
}

// factors f32 [samples, 2, channels]: the mean of each channel's group, and its weight over the
// group's standard deviation. A thread a group; `real` channels are in groups, others have factor 0.
template <class H>
DEV void group(const H* x, const float* partial, const float* weight, float* factors, int pixels, int channels,
               int real, int groups, int chunks, float eps) {
    const int g = BX * NTHREADS + TID, width = real / groups;
    float* to = factors + static_cast<int64_t>(BY) * 2 * channels;
    if (g == 0)
        for (int c = real; c < channels; c++) to[c] = to[channels + c] = 0.f;
    if (g >= groups) return;
    const H* origin = x + static_cast<int64_t>(BY) * pixels * channels;
    const float* sums = partial + static_cast<int64_t>(BY) * chunks * 2 * channels;
    // Of the channels: the mean of means, then squares around it.
    double mean = 0, squares = 0;
    for (int c = g * width; c < (g + 1) * width; c++) {
        double s = 0;
        for (int k = 0; k < chunks; k++) s += sums[k * 2 * channels + c];
        mean += to_f32(origin[c]) + s / pixels;
    }
    mean /= width;
    for (int c = g * width; c < (g + 1) * width; c++) {
        double s = 0, q = 0;
        for (int k = 0; k < chunks; k++) {
            s += sums[k * 2 * channels + c];
            q += sums[(k * 2 + 1) * channels + c];
        }
        const double away = to_f32(origin[c]) + s / pixels - mean;
        squares += q - s * s / pixels + away * away * pixels;
    }
    const double scale = 1.0 / sqrt(squares / (static_cast<double>(width) * pixels) + eps);
    for (int c = g * width; c < (g + 1) * width; c++) {
        to[c] = static_cast<float>(mean);
        to[channels + c] = static_cast<float>(scale * weight[c]);
    }
}

// y = (x - mean) factor + bias, then SiLU if `silu`. Four numbers a thread; BY is the sample.
template <class H>
DEV void apply(const H* x, const float* factors, const float* bias, H* y, int pixels, int channels, int silu) {
    const int64_t at = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4, count = static_cast<int64_t>(pixels) * channels;
    if (at >= count) return;
    const int channel = static_cast<int>(at % channels);
    const float* of = factors + static_cast<int64_t>(BY) * 2 * channels + channel;
    const Four v = load4(x + BY * count + at), mean = load4(of), scale = load4(of + channels), b = load4(bias + channel);
    float r[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        r[i] = (v.v[i] - mean.v[i]) * scale.v[i] + b.v[i];
        if (silu) r[i] = r[i] / (1.f + expf(-r[i]));
    }
    store4(y + BY * count + at, r);
}

#define GROUP_NORM(H, name) \
    KERNEL(256, group_norm_sums_##name, const H* __restrict__ x, float* __restrict__ partial, int pixels, \
           int channels, int chunk) { \
        sum<H>(x, partial, pixels, channels, chunk); \
    } \
    KERNEL(128, group_norm_factors_##name##_any, const H* __restrict__ x, const float* __restrict__ partial, \
           const float* __restrict__ weight, float* __restrict__ factors, int pixels, int channels, int real, \
           int groups, int chunks, float eps) { \
        group<H>(x, partial, weight, factors, pixels, channels, real, groups, chunks, eps); \
    } \
    KERNEL(256, group_norm_##name, const H* x, const float* __restrict__ factors, \
           const float* __restrict__ bias, H* y, int pixels, int channels, int silu) { \
        apply<H>(x, factors, bias, y, pixels, channels, silu); \
    }
GROUP_NORM(float, f32)
GROUP_NORM(bf16, bf16)
GROUP_NORM(f16, f16)
