// What a kernel may use of the device. One source, two compilers: nvcc turns the kernels into
// machine code; g++ compiles the same files behind emulator.h, which runs them on the CPU.
//
// A kernel is written `KERNEL(threads, name, parameters) { … }` and launched by its name, with the
// argument list of cuLaunchKernel. Parameters are pointers, int, int64_t and float.
#pragma once
#include <math.h>
#include <stdint.h>

#include "types.h"

#ifdef __CUDACC__
#define DEV static __device__ __forceinline__
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define SHARED __shared__
// Shared memory whose size the launch gives, as an array of T.
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(dynamic_shared)
#define TID (static_cast<int>(threadIdx.x))
#define BX (static_cast<int>(blockIdx.x))
#define BY (static_cast<int>(blockIdx.y))
#define NTHREADS (static_cast<int>(blockDim.x))

DEV float to_f32(float x) { return x; }
DEV float to_f32(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
DEV float to_f32(f16 x) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits)); return r; }
template <class H> DEV H round_to(float x);
template <> __device__ __forceinline__ float round_to<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 round_to<bf16>(float x) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}
template <> __device__ __forceinline__ f16 round_to<f16>(float x) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}
// Two rounded numbers in a register, `lo` in the low half.
template <class H> DEV uint32_t pack(float lo, float hi);
template <> __device__ __forceinline__ uint32_t pack<bf16>(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
template <> __device__ __forceinline__ uint32_t pack<f16>(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
DEV void sync_block() { __syncthreads(); }
// The value of x in the lane whose number differs by the bits of `mask`. All lanes take part.
DEV float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEV double shuffle_xor(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
// 2^x, with an error of two units in the last place.
DEV float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

// d += a b for the 16 x 16 matrix a and the 16 x 8 matrix b, spread over the lanes of a warp as the
// PTX manual says of mma.m16n8k16.
template <class H> DEV void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
#define MMA(H, name) \
    template <> __device__ __forceinline__ void mma<H>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
MMA(bf16, "bf16")
MMA(f16, "f16")
#undef MMA
// Four 8 x 8 matrices of 16-bit numbers from shared memory; lane l gives the address of a row of
// matrix l / 8. With `transposed`, each is transposed on the way.
DEV void load_matrices(uint32_t (&r)[4], const void* row) {
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
DEV void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// Copies 16 bytes to shared memory without waiting. Copies are committed in groups;
// `wait_for_copies<N>` waits until at most N groups are under way.
DEV void copy16_async(void* to, const void* from) {
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
DEV void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#elif !defined(EMULATOR)
#error "compile with nvcc, or with emulator.h in front"
#endif

// Four neighbours in one access: 16 bytes of f32, 8 bytes of a half type.
struct alignas(16) Four { float v[4]; };
struct alignas(8) FourHalves { uint16_t v[4]; };
DEV Four load4(const float* p) { return *reinterpret_cast<const Four*>(p); }
DEV Four load4(const bf16* p) {
    FourHalves h = *reinterpret_cast<const FourHalves*>(p);
    return Four{{to_f32(bf16{h.v[0]}), to_f32(bf16{h.v[1]}), to_f32(bf16{h.v[2]}), to_f32(bf16{h.v[3]})}};
}
DEV Four load4(const f16* p) {
    FourHalves h = *reinterpret_cast<const FourHalves*>(p);
    return Four{{to_f32(f16{h.v[0]}), to_f32(f16{h.v[1]}), to_f32(f16{h.v[2]}), to_f32(f16{h.v[3]})}};
}
DEV void store4(float* p, const float (&v)[4]) { *reinterpret_cast<Four*>(p) = Four{{v[0], v[1], v[2], v[3]}}; }
template <class H> DEV void store4(H* p, const float (&v)[4]) {
    uint32_t lo = pack<H>(v[0], v[1]), hi = pack<H>(v[2], v[3]);
    *reinterpret_cast<FourHalves*>(p) = FourHalves{{static_cast<uint16_t>(lo), static_cast<uint16_t>(lo >> 16),
                                                    static_cast<uint16_t>(hi), static_cast<uint16_t>(hi >> 16)}};
}
// The sum over the lanes of a warp, the same bits in each.
DEV float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
DEV double warp_sum(double x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
// The sum over the threads of a block, in thread 0. Every thread takes part; whole warps, 1,024
// threads at most.
DEV double block_sum(double x) {
    SHARED double sums[32];
    x = warp_sum(x);
    sync_block();
    if (TID % 32 == 0) sums[TID / 32] = x;
    sync_block();
    double total = 0;
    if (TID == 0)
        for (int w = 0; w < NTHREADS / 32; w++) total += sums[w];
    return total;
}
