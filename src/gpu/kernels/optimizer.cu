// The end of a step on flat buffers of f32 numbers, n of them, each parameter padded to 256: norm of
// the gradients, clipping, AdamW and averages of weights. A step with gradients or losses that are
// not finite changes nothing, without an answer from the host. Does not know parameters by name.
//
// The arithmetic has the order of the CPU's update. Its bits can still differ on a card, whose
// compiler contracts a b + c to one rounding.
#include "device.h"

// partial[block] = the sum of squares of 65,536 numbers. Four squares are added in f32, the rest in
// f64, so that a square beyond f32 makes the norm infinite, as on the CPU. n is a multiple of 4.
KERNEL(256, gradient_norm, const float* g, double* partial, int64_t n) {
    double sum = 0;
    #pragma unroll 4
    for (int part = 0; part < 64; part++) {
        int64_t i = static_cast<int64_t>(BX) * 65536 + part * 1024 + TID * 4;
        if (i < n) {
            Four v = load4(g + i);
            sum += static_cast<double>((v.v[0] * v.v[0] + v.v[1] * v.v[1]) + (v.v[2] * v.v[2] + v.v[3] * v.v[3]));
        }
    }
    sum = block_sum(sum);
    if (TID == 0) partial[BX] = sum;
}

// unscale = 1 / (micro-batches loss scale): what turns gradients into those of the mean loss.
struct Clipping { float unscale, max_norm; };
// norm of the mean loss's gradient; factor for gradients, 0 for a step to skip; 1 where the norm and
// the losses are finite, else 0.
struct Norm { float norm, factor, finite; };

// factor = unscale min(1, max_norm / (norm + 1e-6)) as PyTorch clips; a max_norm of 0 or less does
// not. `losses` numbers have to be finite. One block of 256 threads.
KERNEL(256, gradient_norm_end, const double* partial, int count, const Clipping* clipping, const float* loss, int
       losses, Norm* result) {
    double sum = 0;
    for (int i = TID; i < count; i += NTHREADS) sum += partial[i];
    sum = block_sum(sum);
    if (TID == 0) {
        double norm = sqrt(sum) * clipping->unscale, max_norm = clipping->max_norm;
        // False for NaN.
        bool finite = norm < INFINITY;
        for (int i = 0; i < losses; i++) finite = finite && fabsf(loss[i]) < INFINITY;
        double clip = max_norm > 0 ? fmin(max_norm / (norm + 1e-6), 1.0) : 1.0;
        result->norm = static_cast<float>(norm);
        result->factor = finite ? static_cast<float>(clipping->unscale * clip) : 0.f;
        result->finite = finite ? 1.f : 0.f;
    }
}

// old <- keep old + add new
struct Mix { float keep, add; };
// step_size = rate / (1 - beta1^t), second_scale = 1 / (1 - beta2^t), decay = 1 - rate weight_decay.
struct Update { Mix first, second; float eps, step_size, second_scale, decay; };

// AdamW, and an average where AVERAGE. w16: a copy of the weights for products, or null. decays: a
// bit for each 256 numbers, those that decay. n is a multiple of 256.
template <bool AVERAGE, class H> DEV void adamw(float* w, const float* g, float* m, float* v, float* e, H* w16,
                                                const uint32_t* decays, const Update* update, const float* factor,
                                                const Mix* mix, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    float scale = factor[0];
    if (scale == 0.f || i >= n) return;
    const Update u = *update;
    float decay = decays[i / 8192] >> (i / 256 % 32) & 1u ? u.decay : 1.f;
    Four weight = load4(w + i), grad = load4(g + i), first = load4(m + i), second = load4(v + i);
    #pragma unroll
    for (int j = 0; j < 4; j++) {
        float x = grad.v[j] * scale;
        first.v[j] = u.first.keep * first.v[j] + u.first.add * x;
        second.v[j] = u.second.keep * second.v[j] + u.second.add * x * x;
        weight.v[j] = weight.v[j] * decay - u.step_size * first.v[j] / (sqrtf(second.v[j] * u.second_scale) + u.eps);
    }
    if (AVERAGE) {
        const Mix a = *mix;
        Four average = load4(e + i);
        #pragma unroll
        for (int j = 0; j < 4; j++) average.v[j] = a.keep * average.v[j] + a.add * weight.v[j];
        store4(e + i, average.v);
    }
    store4(w + i, weight.v);
    store4(m + i, first.v);
    store4(v + i, second.v);
    if (w16) store4(w16 + i, weight.v);
}

// A further average of weights that have just been updated.
KERNEL(256, average, float* e, const float* w, const Mix* mix, const float* factor, int64_t n) {
    int64_t i = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (factor[0] == 0.f || i >= n) return;
    const Mix a = *mix;
    Four old = load4(e + i), now = load4(w + i);
    #pragma unroll
    for (int j = 0; j < 4; j++) old.v[j] = a.keep * old.v[j] + a.add * now.v[j];
    store4(e + i, old.v);
}

#define OPTIMIZER(H, T) \
    KERNEL(256, adamw_##T, float* w, const float* g, float* m, float* v, H* w16, const uint32_t* decays, \
           const Update* update, const float* factor, int64_t n) { \
        adamw<false>(w, g, m, v, static_cast<float*>(nullptr), w16, decays, update, factor, \
                     static_cast<const Mix*>(nullptr), n); \
    } \
    KERNEL(256, adamw_average_##T, float* w, const float* g, float* m, float* v, float* e, H* w16, \
           const uint32_t* decays, const Update* update, const float* factor, const Mix* mix, int64_t n) { \
        adamw<true>(w, g, m, v, e, w16, decays, update, factor, mix, n); \
    }

OPTIMIZER(bf16, bf16)
OPTIMIZER(f16, f16)
OPTIMIZER(float, f32)
