// A token of the network that is made of an encoder's class token (REG, arXiv 2507.01467). It is the
// first of a sample's tokens in the residual stream, before the patches: LayerNorm of its embedding,
// with weight and bias, and copies of the rows of some tokens of each sample. The rows of a norm are
// few and read again from the cache. Does not know the layers around.
#include "device.h"

// The first n numbers of each sample, to rows of `to_step` numbers from rows of `from_step`. Block
// (., b) takes a sample.
template <class F, class T> DEV void copy_samples(const F* from, T* to, int64_t from_step, int64_t to_step,
                                                  int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (i < n) store4(to + BY * to_step + i, load4(from + BY * from_step + i).v);
}

struct Moments { float mean, inverse; };
template <class H> DEV Moments moments(const H* y, int width, float eps) {
    float sum = 0.f, squares = 0.f;
    for (int c = TID % 32 * 4; c < width; c += 128) {
        Four v = load4(y + c);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += v.v[j];
    }
    const float mean = warp_sum(sum) / width;
    for (int c = TID % 32 * 4; c < width; c += 128) {
        Four v = load4(y + c);
#pragma unroll
        for (int j = 0; j < 4; j++) squares += (v.v[j] - mean) * (v.v[j] - mean);
    }
    return {mean, 1.f / sqrtf(warp_sum(squares) / width + eps)};
}

// The first `width` numbers of each row of x, which are `step` apart: y^ weight + bias + position, with
// y [samples, width]. A warp a sample.
template <class H> DEV void class_norm_forward(const H* y, const float* weight, const float* bias,
                                               const float* position, float* x, int samples, int width, int64_t step,
                                               float eps) {
    const int sample = BX * (NTHREADS / 32) + TID / 32;
    if (sample >= samples) return;
    y += static_cast<int64_t>(sample) * width;
    x += sample * step;
    const Moments of = moments(y, width, eps);
    for (int c = TID % 32 * 4; c < width; c += 128) {
        Four v = load4(y + c), w = load4(weight + c), b = load4(bias + c), p = load4(position + c);
#pragma unroll
        for (int j = 0; j < 4; j++) v.v[j] = (v.v[j] - of.mean) * of.inverse * w.v[j] + b.v[j] + p.v[j];
        store4(x + c, v.v);
    }
}

// From dx, laid out like x, to dy, and to a sample's parts in the gradients of weight and bias, f32
// [samples, width] each.
template <class H> DEV void class_norm_backward(const float* dx, const H* y, const float* weight, H* dy,
                                                float* dweight, float* dbias, int samples, int width, int64_t step,
                                                float eps) {
    const int sample = BX * (NTHREADS / 32) + TID / 32;
    if (sample >= samples) return;
    const int64_t row = static_cast<int64_t>(sample) * width;
    y += row;
    dx += sample * step;
    const Moments of = moments(y, width, eps);
    float sum = 0.f, along = 0.f;
    for (int c = TID % 32 * 4; c < width; c += 128) {
        Four d = load4(dx + c), v = load4(y + c), w = load4(weight + c), product;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float normal = (v.v[j] - of.mean) * of.inverse, g = d.v[j] * w.v[j];
            sum += g;
            along += g * normal;
            product.v[j] = d.v[j] * normal;
        }
        store4(dbias + row + c, d.v);
        store4(dweight + row + c, product.v);
    }
    sum = warp_sum(sum) / width;
    along = warp_sum(along) / width;
    for (int c = TID % 32 * 4; c < width; c += 128) {
        Four d = load4(dx + c), v = load4(y + c), w = load4(weight + c);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float normal = (v.v[j] - of.mean) * of.inverse;
            v.v[j] = of.inverse * (d.v[j] * w.v[j] - sum - normal * along);
        }
        store4(dy + row + c, v.v);
    }
}

#define CLASS_TOKEN(H, T) \
    KERNEL(256, copy_samples_##T, const H* from, H* to, int64_t from_step, int64_t to_step, int64_t n) { \
        copy_samples(from, to, from_step, to_step, n); \
    } \
    KERNEL(256, copy_samples_narrow_##T, const float* from, H* to, int64_t from_step, int64_t to_step, int64_t n) { \
        copy_samples(from, to, from_step, to_step, n); \
    } \
    KERNEL(256, class_norm_forward_##T, const H* y, const float* weight, const float* bias, const float* position, \
           float* x, int samples, int width, int64_t step, float eps) { \
        class_norm_forward(y, weight, bias, position, x, samples, width, step, eps); \
    } \
    KERNEL(256, class_norm_backward_##T, const float* dx, const H* y, const float* weight, H* dy, float* dweight, \
           float* dbias, int samples, int width, int64_t step, float eps) { \
        class_norm_backward(dx, y, weight, dy, dweight, dbias, samples, width, step, eps); \
    }

CLASS_TOKEN(bf16, bf16)
CLASS_TOKEN(f16, f16)
CLASS_TOKEN(float, f32)
