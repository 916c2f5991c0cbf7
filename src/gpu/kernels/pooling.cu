// Pooling of feature maps with channels last, x [samples, height, width, channels] with channels a
// multiple of 4. Four channels a thread.
#include "device.h"

// NaN is larger than any number: it must not vanish.
DEV float larger(float most, float x) { return x > most || x != x ? x : most; }

// Windows of 3 x 3, clipped to the map: the largest number, or the mean of those inside. `pad` is 1
// where windows stand around every pixel, 0 where only whole windows count. Rows of y have `pitch`
// numbers.
template <class H, bool MEAN>
DEV void pool(const H* x, H* y, int64_t count, int height, int width, int channels, int out_height, int out_width,
              int pitch, int stride, int pad) {
    const int64_t at = static_cast<int64_t>(BX) * NTHREADS + TID;
    if (at >= count) return;
    const int across = channels / 4, channel = static_cast<int>(at % across) * 4;
    const int64_t pixel = at / across, line = pixel / out_width, sample = line / out_height;
    const int left = static_cast<int>(pixel % out_width) * stride - pad;
    const int top = static_cast<int>(line % out_height) * stride - pad;
    float result[4];
    int inside = 0;
    #pragma unroll
    for (int i = 0; i < 4; i++) result[i] = MEAN ? 0.f : -INFINITY;
    for (int row = top < 0 ? 0 : top; row < top + 3 && row < height; row++) {
        for (int column = left < 0 ? 0 : left; column < left + 3 && column < width; column++) {
            const Four v = load4(x + ((sample * height + row) * width + column) * channels + channel);
            #pragma unroll
            for (int i = 0; i < 4; i++) result[i] = MEAN ? result[i] + v.v[i] : larger(result[i], v.v[i]);
            inside++;
        }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++)
        if (MEAN) result[i] /= static_cast<float>(inside);
    store4(y + pixel * pitch + channel, result);
}

// The mean over the pixels of each sample, in order: y f32 [samples, channels]. BY is the sample.
template <class H> DEV void mean(const H* x, float* y, int pixels, int channels) {
    const int channel = (BX * NTHREADS + TID) * 4;
    if (channel >= channels) return;
    const H* from = x + static_cast<int64_t>(BY) * pixels * channels + channel;
    float sum[4] = {};
    for (int p = 0; p < pixels; p++) {
        const Four v = load4(from + static_cast<int64_t>(p) * channels);
        #pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += v.v[i];
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) sum[i] /= static_cast<float>(pixels);
    store4(y + static_cast<int64_t>(BY) * channels + channel, sum);
}

#define POOLING(H, name) \
    KERNEL(256, pool_max_##name, const H* __restrict__ x, H* __restrict__ y, int64_t count, int height, int width, \
           int channels, int out_height, int out_width, int pitch, int stride, int pad) { \
        pool<H, false>(x, y, count, height, width, channels, out_height, out_width, pitch, stride, pad); \
    } \
    KERNEL(256, pool_mean_##name, const H* __restrict__ x, H* __restrict__ y, int64_t count, int height, int width, \
           int channels, int out_height, int out_width, int pitch, int stride, int pad) { \
        pool<H, true>(x, y, count, height, width, channels, out_height, out_width, pitch, stride, pad); \
    } \
    KERNEL(256, mean_of_pixels_##name, const H* __restrict__ x, float* __restrict__ y, int pixels, int channels) { \
        mean<H>(x, y, pixels, channels); \
    }
POOLING(float, f32)
POOLING(bf16, bf16)
POOLING(f16, f16)
