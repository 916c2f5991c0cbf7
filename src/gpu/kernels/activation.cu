// Activations, copies between types and biases: SiLU, GELU, SwiGLU, forward and backward. Four
// numbers a thread, in one access; arithmetic in f32. Does not know which layer it serves.
//
// GELU is the tanh form, x sigmoid(s) with s = 2 sqrt(2 / pi) (x + 0.044715 x^3), unless its name
// says otherwise.
#include "device.h"

DEV float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

namespace {
struct Silu {
    DEV float value(float x) { return x / (1.f + expf(-x)); }
    DEV float slope(float x) {
        float s = sigmoid(x);
        return s + x * s * (1.f - s);
    }
};

struct Gelu {
    static constexpr float TWICE_ROOT = 1.595769f;  // 2 sqrt(2 / pi)
    static constexpr float CUBIC = 0.044715f;
    DEV float value(float x) { return x / (1.f + expf(-TWICE_ROOT * x * (1.f + CUBIC * x * x))); }
    DEV float slope(float x) {
        float s = sigmoid(TWICE_ROOT * x * (1.f + CUBIC * x * x));
        return s + x * s * (1.f - s) * (TWICE_ROOT * (1.f + 3.f * CUBIC * x * x));
    }
};

// The exact form, x P(z < x) for a normal z.
struct GeluErf {
    static constexpr float ROOT_OF_HALF = 0.70710678f;
    DEV float value(float x) { return 0.5f * x * (1.f + erff(ROOT_OF_HALF * x)); }
};

// x sigmoid(1.702 x), CLIP's.
struct QuickGelu {
    DEV float value(float x) { return x / (1.f + expf(-1.702f * x)); }
};

struct Same {
    DEV float value(float x) { return x; }
};
}  // namespace

DEV int64_t first_of_four() { return (static_cast<int64_t>(BX) * NTHREADS + TID) * 4; }

// y = F(x), also where x and y have different types. n is a multiple of 4.
template <class F, class From, class To> DEV void forward(const From* x, To* y, int64_t n) {
    int64_t i = first_of_four();
    if (i < n) {
        Four v = load4(x + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) v.v[j] = F::value(v.v[j]);
        store4(y + i, v.v);
    }
}

// dx = dy F'(x). dx may be dy or x.
template <class F, class H> DEV void backward(const H* dy, const H* x, H* dx, int64_t n) {
    int64_t i = first_of_four();
    if (i < n) {
        Four g = load4(dy + i), v = load4(x + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) g.v[j] *= F::slope(v.v[j]);
        store4(dx + i, g.v);
    }
}

// y += x
template <class H> DEV void add(const H* x, float* y, int64_t n) {
    int64_t i = first_of_four();
    if (i < n) {
        Four v = load4(x + i), sum = load4(y + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) sum.v[j] += v.v[j];
        store4(y + i, sum.v);
    }
}

// Rows x of `width` numbers += bias. Block (r, c) takes share c of row r.
template <class H> DEV void add_bias(H* x, const H* bias, int width) {
    int c = (BY * NTHREADS + TID) * 4;
    if (c < width) {
        int64_t at = static_cast<int64_t>(BX) * width + c;
        Four v = load4(x + at), b = load4(bias + c);
        #pragma unroll
        for (int j = 0; j < 4; j++) v.v[j] += b.v[j];
        store4(x + at, v.v);
    }
}

// Rows [gate | up] of 2 width numbers to silu(gate) up. Block (r, c) takes share c of row r.
template <class H> DEV void swiglu_forward(const H* x, H* y, int width) {
    int c = (BY * NTHREADS + TID) * 4;
    if (c < width) {
        int64_t at = static_cast<int64_t>(BX) * width + c, from = at + static_cast<int64_t>(BX) * width;
        Four gate = load4(x + from), up = load4(x + from + width);
        #pragma unroll
        for (int j = 0; j < 4; j++) up.v[j] *= Silu::value(gate.v[j]);
        store4(y + at, up.v);
    }
}

// dx may be x.
template <class H> DEV void swiglu_backward(const H* dy, const H* x, H* dx, int width) {
    int c = (BY * NTHREADS + TID) * 4;
    if (c < width) {
        int64_t at = static_cast<int64_t>(BX) * width + c, from = at + static_cast<int64_t>(BX) * width;
        Four g = load4(dy + at), gate = load4(x + from), up = load4(x + from + width), dgate, dup;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            float s = sigmoid(gate.v[j]);
            dgate.v[j] = g.v[j] * up.v[j] * s * (1.f + gate.v[j] * (1.f - s));
            dup.v[j] = g.v[j] * gate.v[j] * s;
        }
        store4(dx + from, dgate.v);
        store4(dx + from + width, dup.v);
    }
}

#define ACTIVATION(H, T) \
    KERNEL(256, silu_forward_##T, const H* x, H* y, int64_t n) { forward<Silu>(x, y, n); } \
    KERNEL(256, silu_backward_##T, const H* dy, const H* x, H* dx, int64_t n) { backward<Silu>(dy, x, dx, n); } \
    KERNEL(256, gelu_forward_##T, const H* x, H* y, int64_t n) { forward<Gelu>(x, y, n); } \
    KERNEL(256, gelu_backward_##T, const H* dy, const H* x, H* dx, int64_t n) { backward<Gelu>(dy, x, dx, n); } \
    KERNEL(256, gelu_erf_##T, const H* x, H* y, int64_t n) { forward<GeluErf>(x, y, n); } \
    KERNEL(256, quick_gelu_##T, const H* x, H* y, int64_t n) { forward<QuickGelu>(x, y, n); } \
    KERNEL(256, silu_narrow_##T, const float* x, H* y, int64_t n) { forward<Silu>(x, y, n); } \
    KERNEL(256, narrow_##T, const float* x, H* y, int64_t n) { forward<Same>(x, y, n); } \
    KERNEL(256, widen_##T, const H* x, float* y, int64_t n) { forward<Same>(x, y, n); } \
    KERNEL(256, add_##T, const H* x, float* y, int64_t n) { add(x, y, n); } \
    KERNEL(256, add_bias_##T, H* x, const H* bias, int width) { add_bias(x, bias, width); } \
    KERNEL(256, swiglu_forward_##T, const H* x, H* y, int width) { swiglu_forward(x, y, width); } \
    KERNEL(256, swiglu_backward_##T, const H* dy, const H* x, H* dx, int width) { swiglu_backward(dy, x, dx, width); }

ACTIVATION(bf16, bf16)
ACTIVATION(f16, f16)
ACTIVATION(float, f32)
