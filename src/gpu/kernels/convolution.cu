// Convolution of feature maps with channels last, as a product that gathers its left factor: rows
// are output pixels, columns are output channels, and the sum is over kernel_height x kernel_width x
// channels. Nothing is unfolded in memory.
//
// x is [samples, height, width, channels], weight [outputs, kernel_height, kernel_width, channels],
// bias f32 [outputs] or null, y has rows of `pitch` numbers of which `outputs` are written, so that
// several results can lie beside each other. Channels and outputs are multiples of 8. With
// `upsample` x is read as if each pixel were four, by nearest neighbour. After bias and ReLU
// (`relu`) comes `residual` [samples, out_height, out_width, outputs], or null.
//
// A block of 256 threads computes 128 pixels of 128 or 64 channels. Both factors pass through
// shared memory by 64 bytes of the sum at a time, two steps ahead. Half types multiply on tensor
// cores. f32 takes multiply-adds, as results are to be those of f32 on other devices.
#include "device.h"

constexpr int ROWS = 128, STAGES = 3;
// Numbers that are copied at once, numbers of the sum that a step takes, and numbers from a row in
// shared memory to the next. 80 bytes let eight rows lie in different banks.
template <class H> constexpr int CHUNK = 16 / sizeof(H);
template <class H> constexpr int STEP = 4 * CHUNK<H>;
template <class H> constexpr int PITCH = 5 * CHUNK<H>;

struct Map {
    int height, width, channels, kernel_width, length, upsample;
};

// The input under the first tap of an output pixel. `first_row` counts rows of all samples.
struct Window {
    int64_t first_row;
    int top, left;
};

// Starts the copy of a step's part of 128 windows. A thread copies 16 bytes for each of two.
template <class H>
DEV void load_windows(H* tile, const H* x, const Window (&windows)[2], const Map& map, int step) {
    const int at = step * STEP<H> + TID % 4 * CHUNK<H>;
    const int tap = at / map.channels, channel = at - tap * map.channels;
    const int dy = tap / map.kernel_width, dx = tap - dy * map.kernel_width;
    H* to = tile + TID / 4 * PITCH<H> + TID % 4 * CHUNK<H>;
    #pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = windows[r].top + dy, column = windows[r].left + dx;
        const bool inside = at < map.length && row >= 0 && row < map.height << map.upsample && column >= 0 &&
                            column < map.width << map.upsample;
        if (inside) {
            const int64_t pixel = (windows[r].first_row + (row >> map.upsample)) * map.width + (column >> map.upsample);
            copy16_async(to + r * 64 * PITCH<H>, x + pixel * map.channels + channel);
        } else {
            *reinterpret_cast<Vec4*>(to + r * 64 * PITCH<H>) = Vec4{0, 0, 0, 0};
        }
    }
}

// Starts the copy of a step's part of the weights of COLUMNS output channels.
template <class H, int COLUMNS>
DEV void load_weights(H* tile, const H* weight, int first, int outputs, int length, int step) {
    const int at = step * STEP<H> + TID % 4 * CHUNK<H>;
    H* to = tile + TID / 4 * PITCH<H> + TID % 4 * CHUNK<H>;
    #pragma unroll
    for (int r = 0; r < COLUMNS; r += 64) {
        const int row = first + TID / 4 + r;
        if (at < length && row < outputs) copy16_async(to + r * PITCH<H>, weight + static_cast<int64_t>(row) * length + at);
        else *reinterpret_cast<Vec4*>(to + r * PITCH<H>) = Vec4{0, 0, 0, 0};
    }
}

// Where the sums of a thread lie in f32: 8 pixels, 16 apart, by COLUMNS / 16 channels, 16 apart.
DEV int plain_row() { return TID / 64 * 4 + TID % 32 / 8; }
DEV int plain_column() { return TID / 32 % 2 * 8 + TID % 8; }

template <int COLUMNS> DEV void multiply(float (&sums)[8][COLUMNS / 16], const float* a, const float* b) {
    a += plain_row() * PITCH<float>;
    b += plain_column() * PITCH<float>;
    // Unrolled it takes 206 registers instead of 128 (nvcc 13.0, sm_90), and a multiprocessor holds one
    // block instead of two.
    #pragma unroll 1
    for (int k = 0; k < STEP<float>; k += 4) {
        Four x[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) x[i] = load4(a + i * 16 * PITCH<float> + k);
        #pragma unroll
        for (int j = 0; j < COLUMNS / 16; j++) {
            const Four y = load4(b + j * 16 * PITCH<float> + k);
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                #pragma unroll
                for (int c = 0; c < 4; c++) sums[i][j] += x[i].v[c] * y.v[c];
            }
        }
    }
}

// Where results go, and what is done to them.
template <class H> struct Output {
    const float* bias;
    const H* residual;
    H* y;
    int64_t pixels;
    int outputs, pitch, relu;
};

DEV float finish(float sum, float bias, int relu) {
    sum += bias;
    return relu && sum < 0.f ? 0.f : sum;
}

template <int COLUMNS>
DEV void store(const float (&sums)[8][COLUMNS / 16], const Output<float>& to, int64_t first, int first_column,
               float*) {
    #pragma unroll
    for (int j = 0; j < COLUMNS / 16; j++) {
        const int column = first_column + plain_column() + 16 * j;
        if (column >= to.outputs) continue;
        const float bias = to.bias ? to.bias[column] : 0.f;
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            const int64_t pixel = first + plain_row() + 16 * i;
            if (pixel >= to.pixels) continue;
            const float beside = to.residual ? to.residual[pixel * to.outputs + column] : 0.f;
            to.y[pixel * to.pitch + column] = finish(sums[i][j], bias, to.relu) + beside;
        }
    }
}

// On tensor cores a warp has 64 pixels by 32 channels of a block's 128 by 128, or 32 by 32 of its
// 128 by 64, as tiles of 16 by 8.
template <int COLUMNS> constexpr int TILES = COLUMNS / 32;
template <int COLUMNS> DEV int warp_row() { return TID / 32 / (COLUMNS / 32) * 16 * TILES<COLUMNS>; }
template <int COLUMNS> DEV int warp_column() { return TID / 32 % (COLUMNS / 32) * 32; }

template <int COLUMNS, class H> DEV void multiply(float (&sums)[TILES<COLUMNS>][4][4], const H* a, const H* b) {
    const int lane = TID % 32;
    a += (warp_row<COLUMNS>() + lane % 16) * PITCH<H> + lane / 16 * 8;
    b += (warp_column<COLUMNS>() + lane % 8 + lane / 16 * 8) * PITCH<H> + lane / 8 % 2 * 8;
    #pragma unroll
    for (int k = 0; k < STEP<H>; k += 16) {
        uint32_t x[TILES<COLUMNS>][4];
        #pragma unroll
        for (int m = 0; m < TILES<COLUMNS>; m++) load_matrices(x[m], a + m * 16 * PITCH<H> + k);
        #pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t y[4];
            load_matrices(y, b + n * 8 * PITCH<H> + k);
            const uint32_t left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
            #pragma unroll
            for (int m = 0; m < TILES<COLUMNS>; m++) {
                mma<H>(sums[m][n], x[m], left);
                mma<H>(sums[m][n + 1], x[m], right);
            }
        }
    }
}

// Through shared memory, so that rows are stored by 16 bytes. `staged` is what the factors lay in.
template <int COLUMNS, class H>
DEV void store(const float (&sums)[TILES<COLUMNS>][4][4], const Output<H>& to, int64_t first, int first_column,
               H* staged) {
    constexpr int WIDTH = COLUMNS + 8;
    const int lane = TID % 32, row = warp_row<COLUMNS>() + lane / 4, column = warp_column<COLUMNS>() + lane % 4 * 2;
    sync_block();
    #pragma unroll
    for (int n = 0; n < 4; n++) {
        const int c = first_column + column + n * 8;
        const bool biased = to.bias && c < to.outputs;
        const float left = biased ? to.bias[c] : 0.f, right = biased ? to.bias[c + 1] : 0.f;
        #pragma unroll
        for (int m = 0; m < TILES<COLUMNS>; m++) {
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                const float low = finish(sums[m][n][2 * half], left, to.relu);
                const float high = finish(sums[m][n][2 * half + 1], right, to.relu);
                *reinterpret_cast<uint32_t*>(staged + (row + m * 16 + half * 8) * WIDTH + column + n * 8) =
                    pack<H>(low, high);
            }
        }
    }
    sync_block();
    for (int at = TID; at < ROWS * (COLUMNS / 8); at += NTHREADS) {
        const int r = at / (COLUMNS / 8), c = at % (COLUMNS / 8) * 8;
        const int64_t pixel = first + r;
        if (pixel >= to.pixels || first_column + c >= to.outputs) continue;
        Vec4 v = *reinterpret_cast<const Vec4*>(staged + r * WIDTH + c);
        if (to.residual) {
            const Vec4 x = *reinterpret_cast<const Vec4*>(to.residual + pixel * to.outputs + first_column + c);
            uint32_t sum[4] = {v.x, v.y, v.z, v.w};
            const uint32_t beside[4] = {x.x, x.y, x.z, x.w};
            #pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i] = pack<H>(to_f32(H{static_cast<uint16_t>(sum[i])}) + to_f32(H{static_cast<uint16_t>(beside[i])}),
                                 to_f32(H{static_cast<uint16_t>(sum[i] >> 16)}) +
                                     to_f32(H{static_cast<uint16_t>(beside[i] >> 16)}));
            v = Vec4{sum[0], sum[1], sum[2], sum[3]};
        }
        *reinterpret_cast<Vec4*>(to.y + pixel * to.pitch + first_column + c) = v;
    }
}

// The sums of a thread.
template <class H, int COLUMNS> struct Sums { float of[TILES<COLUMNS>][4][4]; };
template <int COLUMNS> struct Sums<float, COLUMNS> { float of[8][COLUMNS / 16]; };

template <class H, int COLUMNS>
DEV void convolve(const H* x, const H* weight, const Output<H>& to, const Map& map, int out_height, int out_width,
                  int stride, int pad_top, int pad_left) {
    DYNAMIC_SHARED(H, shared);  // STAGES x [128 windows, COLUMNS rows of weights]
    constexpr int STAGE = (ROWS + COLUMNS) * PITCH<H>;
    const int64_t first = static_cast<int64_t>(BX) * ROWS;
    const int first_column = BY * COLUMNS, steps = (map.length + STEP<H> - 1) / STEP<H>;
    Window windows[2];
    #pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t pixel = first + TID / 4 + r * 64, line = pixel / out_width, sample = line / out_height;
        windows[r].first_row = sample * map.height;
        windows[r].left = static_cast<int>(pixel - line * out_width) * stride - pad_left;
        windows[r].top = static_cast<int>(line - sample * out_height) * stride - pad_top;
        // Above every map: all of it is outside.
        if (pixel >= to.pixels) windows[r].top = -(1 << 30);
    }
    auto load = [&](int step) {
        H* stage = shared + step % STAGES * STAGE;
        if (step < steps) {
            load_windows<H>(stage, x, windows, map, step);
            load_weights<H, COLUMNS>(stage + ROWS * PITCH<H>, weight, first_column, to.outputs, map.length, step);
        }
        commit_copies();
    };
    Sums<H, COLUMNS> sums = {};
    load(0);
    load(1);
    for (int step = 0; step < steps; step++) {
        wait_for_copies<1>();
        sync_block();
        // What lay there was used in the step before, which every thread has left.
        load(step + 2);
        const H* stage = shared + step % STAGES * STAGE;
        multiply<COLUMNS>(sums.of, stage, stage + ROWS * PITCH<H>);
    }
    store<COLUMNS>(sums.of, to, first, first_column, shared);
}

#define CONVOLUTION(H, name, COLUMNS) \
    KERNEL(256, convolution_##name##_##COLUMNS, const H* __restrict__ x, const H* __restrict__ weight, \
           const float* __restrict__ bias, const H* __restrict__ residual, H* __restrict__ y, int64_t pixels, \
           int height, int width, int channels, int out_height, int out_width, int outputs, int pitch, \
           int kernel_height, int kernel_width, int stride, int pad_top, int pad_left, int upsample, int relu) { \
        convolve<H, COLUMNS>(x, weight, {bias, residual, y, pixels, outputs, pitch, relu}, \
                             {height, width, channels, kernel_width, kernel_height * kernel_width * channels, upsample}, \
                             out_height, out_width, stride, pad_top, pad_left); \
    }
CONVOLUTION(float, f32, 64)
CONVOLUTION(float, f32, 128)
CONVOLUTION(bf16, bf16, 64)
CONVOLUTION(bf16, bf16, 128)
CONVOLUTION(f16, f16, 64)
CONVOLUTION(f16, f16, 128)
