// The windows of a 3 x 3 convolution over tokens on a square grid, padded with zeros, as rows for a
// product, and the gradient back. x is [samples, side, side, width]; u is [samples, side, side,
// width, 3, 3], in the order of a convolution's weights, so that these need no other. `width` is a
// multiple of 4.
#include "device.h"

// Four channels of a token a thread, which makes their 36 numbers, neighbours in u.
template <class H> DEV void unfold(const H* x, H* u, int64_t count, int side, int width) {
    const int64_t at = static_cast<int64_t>(BX) * NTHREADS + TID;
    if (at >= count) return;
    const int across = width / 4, channel = static_cast<int>(at % across) * 4;
    const int64_t token = at / across;
    const int column = static_cast<int>(token % side), row = static_cast<int>(token / side % side);
    float v[36];
    #pragma unroll
    for (int tap = 0; tap < 9; tap++) {
        const int dy = tap / 3 - 1, dx = tap % 3 - 1;
        const bool inside = row + dy >= 0 && row + dy < side && column + dx >= 0 && column + dx < side;
        Four four = {};
        if (inside) four = load4(x + (token + dy * side + dx) * width + channel);
        #pragma unroll
        for (int i = 0; i < 4; i++) v[i * 9 + tap] = four.v[i];
    }
    H* to = u + (token * width + channel) * 9;
    #pragma unroll
    for (int i = 0; i < 36; i += 4) {
        const float four[4] = {v[i], v[i + 1], v[i + 2], v[i + 3]};
        store4(to + i, four);
    }
}

// Four channels of a token a thread: the sum over the windows in which it lies, by their taps.
template <class H> DEV void fold(const H* du, H* dx, int64_t count, int side, int width) {
    const int64_t at = static_cast<int64_t>(BX) * NTHREADS + TID;
    if (at >= count) return;
    const int across = width / 4, channel = static_cast<int>(at % across) * 4;
    const int64_t token = at / across;
    const int column = static_cast<int>(token % side), row = static_cast<int>(token / side % side);
    float sum[4] = {};
    #pragma unroll
    for (int tap = 0; tap < 9; tap++) {
        const int dy = 1 - tap / 3, dx = 1 - tap % 3;
        if (row + dy < 0 || row + dy >= side || column + dx < 0 || column + dx >= side) continue;
        const H* from = du + ((token + dy * side + dx) * width + channel) * 9 + tap;
        #pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += to_f32(from[i * 9]);
    }
    store4(dx + token * width + channel, sum);
}

#define UNFOLD(H, name) \
    KERNEL(256, unfold_##name, const H* __restrict__ x, H* __restrict__ u, int64_t count, int side, int width) { \
        unfold<H>(x, u, count, side, width); \
    } \
    KERNEL(256, fold_##name, const H* __restrict__ du, H* __restrict__ dx, int64_t count, int side, int width) { \
        fold<H>(du, dx, count, side, width); \
    }
UNFOLD(float, f32)
UNFOLD(bf16, bf16)
UNFOLD(f16, f16)
