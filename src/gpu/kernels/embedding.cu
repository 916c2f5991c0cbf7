// The two ends of the network beside its products: patches, positions, time, classes, and tokens
// back to an image. Small passes, once a step. Does not know the layers between.
//
// An image is f32 [B, C, S, S]. With g = S / p, it has N = g g tokens, row by row. Numbers of a
// token come in the order (C, p, p) on the way in and (p, p, C) on the way out, as in SiT's code.
#include "device.h"

// patches [B N, C p p]. Four numbers of a row a thread; C p p is a multiple of 4.
template <class H> DEV void patch_gather(const float* image, H* patches, int channels, int side, int patch, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (i < n) {
        int area = patch * patch, width = channels * area, grid = side / patch;
        int64_t row = i / width;
        int64_t sample = row / (grid * grid);
        int token = static_cast<int>(row % (grid * grid)), first = static_cast<int>(i % width);
        int top = token / grid * patch, left = token % grid * patch;
        Four v;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            int k = first + j, c = k / area, y = top + k % area / patch, x = left + k % patch;
            v.v[j] = image[((sample * channels + c) * side + y) * side + x];
        }
        store4(patches + i, v.v);
    }
}

// image from tokens [B N, p p C].
template <class H> DEV void unpatchify(const H* tokens, float* image, int channels, int side, int patch, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (i < n) {
        int width = channels * patch * patch, grid = side / patch;
        int64_t row = i / width;
        int64_t sample = row / (grid * grid);
        int token = static_cast<int>(row % (grid * grid)), first = static_cast<int>(i % width);
        int top = token / grid * patch, left = token % grid * patch;
        Four v = load4(tokens + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            int k = first + j, c = k % channels, y = top + k / channels / patch, x = left + k / channels % patch;
            image[((sample * channels + c) * side + y) * side + x] = v.v[j];
        }
    }
}

// x [B, n] = positions [n], plus y [B, n - prefix] behind the prefix. Block (., b) takes a sample.
template <class H> DEV void add_positions(const H* y, const float* positions, float* x, int64_t prefix, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (i < n) {
        Four v = load4(positions + i);
        if (i >= prefix) {
            Four below = load4(y + BY * (n - prefix) + i - prefix);
            #pragma unroll
            for (int j = 0; j < 4; j++) v.v[j] += below.v[j];
        }
        store4(x + BY * n + i, v.v);
    }
}

// Cosine and sine. cosf and sinf would need a stack for the reduction of huge angles; this one is
// exact to f32 for angles up to 10^6. Series of degree 12 and 11 on [-pi/4, pi/4]: 7e-12 off at
// most.
DEV void cosine_and_sine(float angle, float& cosine, float& sine) {
    double turns = rint(angle * 0.63661977236758134);  // 2 / pi
    double r = angle - turns * 1.57079632679489662, s = r * r;
    double a = 1 - s / 2 * (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90 * (1 - s / 132)))));
    double b = r * (1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110)))));
    int quarter = static_cast<int>(turns) & 3;
    double x = quarter & 1 ? b : a, y = quarter & 1 ? a : b;
    cosine = static_cast<float>(quarter == 1 || quarter == 2 ? -x : x);
    sine = static_cast<float>(quarter >= 2 ? -y : y);
}

// wave [B, 256] of times t [B]: 128 cosines, then 128 sines, of t times frequencies from 1 down to
// 1 / 10,000. A block of 32 threads a sample.
template <class H> DEV void time_sinusoid(const float* t, H* wave) {
    float cosines[4], sines[4];
    #pragma unroll
    for (int j = 0; j < 4; j++) {
        // The exponent in f32 as the CPU has it.
        float exponent = -9.210340371976182f * static_cast<float>(TID * 4 + j) / 128.f;
        float frequency = static_cast<float>(exp(static_cast<double>(exponent)));
        cosine_and_sine(t[BX] * frequency, cosines[j], sines[j]);
    }
    int64_t at = static_cast<int64_t>(BX) * 256 + TID * 4;
    store4(wave + at, cosines);
    store4(wave + at + 128, sines);
}

// c [B, width] = time + table[label]; s = silu(c). Block (b, .) takes a sample.
template <class H> DEV void condition_forward(const H* time, const float* table, const uint32_t* labels, float* c,
                                              H* s, int width) {
    int k = (BY * NTHREADS + TID) * 4;
    if (k < width) {
        int64_t at = static_cast<int64_t>(BX) * width + k;
        Four v = load4(time + at), row = load4(table + static_cast<int64_t>(labels[BX]) * width + k), out;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            v.v[j] += row.v[j];
            out.v[j] = v.v[j] / (1.f + expf(-v.v[j]));
        }
        store4(c + at, v.v);
        store4(s + at, out.v);
    }
}

// dc = ds silu'(c), in f32 for the class table and as H, if not null, for the time's layers.
template <class G, class H> DEV void condition_backward(const G* ds, const float* c, float* dc, H* dc_half, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (i < n) {
        Four g = load4(ds + i), v = load4(c + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            float s = 1.f / (1.f + expf(-v.v[j]));
            g.v[j] *= s + v.v[j] * s * (1.f - s);
        }
        store4(dc + i, g.v);
        if (dc_half) store4(dc_half + i, g.v);
    }
}

// Adds the rows of dc [samples, width] to the rows of dtable that their labels name. The block of a
// label's first sample adds all of them, in order: no two blocks write one row.
KERNEL(256, label_rows_backward, const float* dc, const uint32_t* labels, float* dtable, int samples, int width) {
    uint32_t label = labels[BX];
    bool first = true;
    for (int b = 0; b < BX; b++) first = first && labels[b] != label;
    int k = (BY * NTHREADS + TID) * 4;
    if (first && k < width) {
        Four sum = load4(dc + static_cast<int64_t>(BX) * width + k);
        for (int b = BX + 1; b < samples; b++) {
            if (labels[b] == label) {
                Four more = load4(dc + static_cast<int64_t>(b) * width + k);
                #pragma unroll
                for (int j = 0; j < 4; j++) sum.v[j] += more.v[j];
            }
        }
        float* to = dtable + static_cast<int64_t>(label) * width + k;
        Four row = load4(to);
        #pragma unroll
        for (int j = 0; j < 4; j++) row.v[j] += sum.v[j];
        store4(to, row.v);
    }
}

KERNEL(256, fill_zero, float* x, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    const float zeros[4] = {0.f, 0.f, 0.f, 0.f};
    if (i < n) store4(x + i, zeros);
}

#define EMBEDDING(H, T) \
    KERNEL(256, patch_gather_##T, const float* image, H* patches, int channels, int side, int patch, int64_t n) { \
        patch_gather(image, patches, channels, side, patch, n); \
    } \
    KERNEL(256, unpatchify_##T, const H* tokens, float* image, int channels, int side, int patch, int64_t n) { \
        unpatchify(tokens, image, channels, side, patch, n); \
    } \
    KERNEL(256, add_positions_##T, const H* y, const float* positions, float* x, int64_t prefix, int64_t n) { \
        add_positions(y, positions, x, prefix, n); \
    } \
    KERNEL(32, time_sinusoid_##T, const float* t, H* wave) { time_sinusoid(t, wave); } \
    KERNEL(256, condition_forward_##T, const H* time, const float* table, const uint32_t* labels, float* c, H* s, \
           int width) { \
        condition_forward(time, table, labels, c, s, width); \
    } \
    KERNEL(256, condition_backward_##T, const H* ds, const float* c, float* dc, H* dc_half, int64_t n) { \
        condition_backward(ds, c, dc, dc_half, n); \
    }
#define EMBEDDING_FROM_F32(H, T) \
    KERNEL(256, condition_backward_wide_##T, const float* ds, const float* c, float* dc, H* dc_half, int64_t n) { \
        condition_backward(ds, c, dc, dc_half, n); \
    }

EMBEDDING(bf16, bf16)
EMBEDDING(f16, f16)
EMBEDDING(float, f32)
EMBEDDING_FROM_F32(bf16, bf16)
EMBEDDING_FROM_F32(f16, f16)
