// Feature maps between the order of tensors, f32 [samples, channels, pixels], and that of the other
// kernels of networks with convolutions: channels last, padded with zeros to a multiple of 8.
#include "device.h"

// Four channels of a pixel a thread; neighbouring threads take neighbouring pixels, which are
// neighbours in planes.
template <class H> DEV void to_last(const float* planes, H* last, int64_t count, int pixels, int channels, int padded) {
    const int64_t at = static_cast<int64_t>(BX) * NTHREADS + TID;
    if (at >= count) return;
    const int64_t line = at / pixels, pixel = at % pixels, sample = line / (padded / 4);
    const int channel = static_cast<int>(line % (padded / 4)) * 4;
    float v[4];
    #pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = channel + i < channels ? planes[(sample * channels + channel + i) * pixels + pixel] : 0.f;
    store4(last + (sample * pixels + pixel) * padded + channel, v);
}

template <class H> DEV void to_planes(const H* last, float* planes, int64_t count, int pixels, int channels, int padded) {
    const int64_t at = static_cast<int64_t>(BX) * NTHREADS + TID;
    if (at >= count) return;
    const int64_t line = at / pixels, pixel = at % pixels, sample = line / (padded / 4);
    const int channel = static_cast<int>(line % (padded / 4)) * 4;
    const Four v = load4(last + (sample * pixels + pixel) * padded + channel);
    #pragma unroll
    for (int i = 0; i < 4; i++)
        if (channel + i < channels) planes[(sample * channels + channel + i) * pixels + pixel] = v.v[i];
}

#define PLANES(H, name) \
    KERNEL(256, channels_last_##name, const float* __restrict__ planes, H* __restrict__ last, int64_t count, \
           int pixels, int channels, int padded) { \
        to_last<H>(planes, last, count, pixels, channels, padded); \
    } \
    KERNEL(256, planes_##name, const H* __restrict__ last, float* __restrict__ planes, int64_t count, int pixels, \
           int channels, int padded) { \
        to_planes<H>(last, planes, count, pixels, channels, padded); \
    }
PLANES(float, f32)
PLANES(bf16, bf16)
PLANES(f16, f16)
