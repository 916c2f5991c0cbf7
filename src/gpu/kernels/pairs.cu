// Losses over pairs of images of a batch, with their gradients: NT-Xent of projections and features,
// and the parts of the dispersive loss between its products. Sums of a loss are f64 partial sums; what
// a gradient is multiplied by is read from memory. Does not know how losses are weighted.
#include "device.h"

// Added to squared lengths, as in loss.cu.
constexpr float TINY = 1e-24f;

// NT-Xent (arXiv 2504.10188, eq. 13) of projections and features [images, tokens, width]. With c_ij
// the cosine of the projection of image i and the feature of image j at one token, a row has the loss
// log sum_j e^((c_ij - c_ii) / tau). partial[block] = the sum over the block's rows; dp = factor times
// the gradient of the sum. dp may be null or p: a row is written by the warp that alone has read it.
//
// A warp a row, token by token, so that the warps of a block read the same features. Dynamic shared
// memory f32 [warps, 2, images]; a lane writes what it has of every 32nd image.
template <class H> DEV void nt_xent(const H* p, const float* features, const float* factor, H* dp, double* partial,
                                    int images, int tokens, int width, float inverse_tau) {
    DYNAMIC_SHARED(float, of_images);
    const int lane = TID % 32, warp = TID / 32, warps = NTHREADS / 32, rows = images * tokens;
    const int row = BX * warps + warp, own = (row < rows ? row : rows - 1) % images;
    const int64_t step = static_cast<int64_t>(tokens) * width;
    const int64_t token = static_cast<int64_t>((row < rows ? row : rows - 1) / images) * width;
    float *cosines = of_images + warp * 2 * images, *by_feature = cosines + images;
    const H* mine = p + own * step + token;
    const float* first = features + token;
    float pp = 0.f, largest = -1.f;
    for (int k = lane * 4; k < width; k += 128) {
        Four a = load4(mine + k);
#pragma unroll
        for (int j = 0; j < 4; j++) pp += a.v[j] * a.v[j];
    }
    const float by_length = 1.f / sqrtf(warp_sum(pp) + TINY);
    const float* f = first;
    for (int image = 0; image < images; image++, f += step) {
        float ff = 0.f, pf = 0.f;
        for (int k = lane * 4; k < width; k += 128) {
            Four a = load4(mine + k), b = load4(f + k);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                ff += b.v[j] * b.v[j];
                pf += a.v[j] * b.v[j];
            }
        }
        const float inverse = 1.f / sqrtf(warp_sum(ff) + TINY), cosine = warp_sum(pf) * by_length * inverse;
        if (lane == image % 32) {
            cosines[image] = cosine;
            by_feature[image] = inverse;
        }
        largest = cosine > largest ? cosine : largest;
    }
    sync_block();
    const float same = cosines[own];
    float sum = 0.f, along = 0.f;
    for (int image = lane; image < images; image += 32) sum += expf((cosines[image] - largest) * inverse_tau);
    sum = warp_sum(sum);
    double loss = 0;
    if (lane == 0 && row < rows)
        loss = static_cast<double>(logf(sum)) + static_cast<double>((largest - same) * inverse_tau);
    loss = block_sum(loss);
    if (TID == 0) partial[BX] = loss;
    // The softmax less 1 at the row's own image, times 1 / length of the feature.
    for (int image = lane; image < images; image += 32) {
        float share = expf((cosines[image] - largest) * inverse_tau) / sum - (image == own ? 1.f : 0.f);
        along += share * cosines[image];
        by_feature[image] *= share;
    }
    along = warp_sum(along);
    sync_block();
    if (!dp || row >= rows) return;
    const float scale = factor[0] * inverse_tau * by_length, back = along * by_length;
    for (int k = lane * 4; k < width; k += 128) {
        Four a = load4(mine + k), g = {};
        for (int image = 0; image < images; image++) {
            Four b = load4(first + image * step + k);
#pragma unroll
            for (int j = 0; j < 4; j++) g.v[j] += by_feature[image] * b.v[j];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) g.v[j] = scale * (g.v[j] - back * a.v[j]);
        store4(dp + own * step + token + k, g.v);
    }
}

KERNEL(128, nt_xent_bf16, const bf16* p, const float* __restrict__ features, const float* factor, bf16* dp,
       double* partial, int images, int tokens, int width, float inverse_tau) {
    nt_xent(p, features, factor, dp, partial, images, tokens, width, inverse_tau);
}
KERNEL(128, nt_xent_f16, const f16* p, const float* __restrict__ features, const float* factor, f16* dp,
       double* partial, int images, int tokens, int width, float inverse_tau) {
    nt_xent(p, features, factor, dp, partial, images, tokens, width, inverse_tau);
}
KERNEL(128, nt_xent_f32, const float* p, const float* __restrict__ features, const float* factor, float* dp,
       double* partial, int images, int tokens, int width, float inverse_tau) {
    nt_xent(p, features, factor, dp, partial, images, tokens, width, inverse_tau);
}

// The dispersive loss (arXiv 2506.09027) of hidden states z f32 [images, width]:
//   L = log(S / images^2),  S = sum_ij e_ij,  e_ij = e^(-rate |z_i - z_j|^2),  rate = 1 / (width tau)
//   dL/dz = 4 rate / S (e z - (sum_j e_ij) z_i)
// Products give the distances and the gradient. The states are centred first, by which neither
// changes and the products lose fewer digits.

// y = z less its mean over images. Four columns a thread.
KERNEL(256, centre_images, const float* __restrict__ z, float* __restrict__ y, int images, int64_t width) {
    const int64_t c = (static_cast<int64_t>(BX) * NTHREADS + TID) * 4;
    if (c >= width) return;
    Four mean = {};
    for (int i = 0; i < images; i++) {
        Four v = load4(z + i * width + c);
#pragma unroll
        for (int j = 0; j < 4; j++) mean.v[j] += v.v[j];
    }
#pragma unroll
    for (int j = 0; j < 4; j++) mean.v[j] /= static_cast<float>(images);
    for (int i = 0; i < images; i++) {
        Four v = load4(z + i * width + c);
#pragma unroll
        for (int j = 0; j < 4; j++) v.v[j] -= mean.v[j];
        store4(y + i * width + c, v.v);
    }
}

// From the products f32 [images, images] of the centred states to e, with its sum over row i in
// partial[i]. A block a row.
KERNEL(256, dispersive_pairs, const float* __restrict__ products, float* __restrict__ e, double* partial, int images,
       float rate) {
    const int64_t row = static_cast<int64_t>(BX) * images;
    const float own = products[row + BX];
    double sum = 0;
    for (int j = TID; j < images; j += NTHREADS) {
        // Rounding can make a distance slightly negative, and that to itself not 0.
        float distance = own + products[static_cast<int64_t>(j) * images + j] - 2.f * products[row + j];
        float value = j == BX || distance < 0.f ? 1.f : expf(-rate * distance);
        e[row + j] = value;
        sum += static_cast<double>(value);
    }
    sum = block_sum(sum);
    if (TID == 0) partial[BX] = sum;
}

// The loss to result, and e in place to what the states are multiplied by for factor times the
// gradient. A block a row.
KERNEL(256, dispersive_end, float* e, const double* __restrict__ partial, const float* factor, float* result,
       int images, float rate) {
    SHARED double total;
    double sum = 0;
    for (int j = TID; j < images; j += NTHREADS) sum += partial[j];
    sum = block_sum(sum);
    if (TID == 0) {
        total = sum;
        if (BX == 0) result[0] = static_cast<float>(log(sum / images / images));
    }
    sync_block();
    const float scale = static_cast<float>(4.0 * static_cast<double>(factor[0] * rate) / total);
    for (int j = TID; j < images; j += NTHREADS) {
        float* at = e + static_cast<int64_t>(BX) * images + j;
        // Of the own state: e_ii = 1, less the sum of the row.
        *at = scale * (j == BX ? static_cast<float>(1.0 - partial[BX]) : *at);
    }
}
