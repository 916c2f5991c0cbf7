// Softmax over the rows of a matrix: y = softmax(scale x), x f32 [rows, width].
#include "device.h"

// The largest number of a block's threads, in all of them.
DEV float block_max(float x, float* of_warps) {
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    sync_block();
    if (TID % 32 == 0) of_warps[TID / 32] = x;
    sync_block();
    for (int w = 0; w < NTHREADS / 32; w++) x = fmaxf(x, of_warps[w]);
    return x;
}

// A block of 256 threads a row; each takes four numbers of every 1,024.
template <class H> DEV void softmax(const float* x, H* y, int width, float scale_log2) {
    SHARED float of_warps[8];
    const float* from = x + static_cast<int64_t>(BX) * width;
    float most = -INFINITY, sum = 0.f;
    for (int c = TID * 4; c < width; c += 4 * NTHREADS) {
        const Four v = load4(from + c);
        most = fmaxf(most, fmaxf(fmaxf(v.v[0], v.v[1]), fmaxf(v.v[2], v.v[3])));
    }
    most = block_max(most, of_warps);
    for (int c = TID * 4; c < width; c += 4 * NTHREADS) {
        const Four v = load4(from + c);
        #pragma unroll
        for (int i = 0; i < 4; i++) sum += exp2f((v.v[i] - most) * scale_log2);
    }
    sum = warp_sum(sum);
    sync_block();
    if (TID % 32 == 0) of_warps[TID / 32] = sum;
    sync_block();
    sum = 0.f;
    for (int w = 0; w < NTHREADS / 32; w++) sum += of_warps[w];
    for (int c = TID * 4; c < width; c += 4 * NTHREADS) {
        const Four v = load4(from + c);
        float p[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) p[i] = exp2f((v.v[i] - most) * scale_log2) / sum;
        store4(y + static_cast<int64_t>(BX) * width + c, p);
    }
}

#define SOFTMAX(H, name) \
    KERNEL(256, softmax_##name, const float* x, H* y, int width, float scale_log2) { \
        softmax<H>(x, y, width, scale_log2); \
    }
SOFTMAX(float, f32)
SOFTMAX(bf16, bf16)
SOFTMAX(f16, f16)
