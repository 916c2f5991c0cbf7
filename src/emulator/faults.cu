// Kernels with one fault each, beside the same without it: what the emulator is there to find.
#include "device.h"

// y is x in reverse order, through shared memory: a warp reads what the other writes.
template <bool BARRIER> DEV void reverse(const float* x, float* y) {
    DYNAMIC_SHARED(float, shared);
    shared[TID] = x[TID];
    if (BARRIER) sync_block();
    y[TID] = shared[NTHREADS - 1 - TID];
}
KERNEL(64, fault_barrier, const float* x, float* y) { reverse<false>(x, y); }
KERNEL(64, right_barrier, const float* x, float* y) { reverse<true>(x, y); }

// y is x, through an asynchronous copy.
template <bool WAIT> DEV void copied(const float* x, float* y) {
    DYNAMIC_SHARED(float, shared);
    if (TID < NTHREADS / 4) copy16_async(shared + 4 * TID, x + 4 * TID);
    commit_copies();
    if (WAIT) wait_for_copies<0>();
    sync_block();
    y[TID] = shared[TID];
}
KERNEL(64, fault_wait, const float* x, float* y) { copied<false>(x, y); }
KERNEL(64, right_wait, const float* x, float* y) { copied<true>(x, y); }

// y is x; the fault is an index that runs past the end.
KERNEL(64, fault_index, const float* x, float* y) { y[TID + 8] = x[TID]; }
KERNEL(64, right_index, const float* x, float* y) { y[TID] = x[TID]; }

// y is the sum over a warp; half of its lanes wait for the block instead.
template <bool TOGETHER> DEV void sum(const float* x, float* y) {
    float s = 0.f;
    if (TOGETHER || TID % 32 < 16) s = warp_sum(x[TID]);
    else sync_block();
    y[TID] = s;
}
KERNEL(64, fault_lanes, const float* x, float* y) { sum<false>(x, y); }
KERNEL(64, right_lanes, const float* x, float* y) { sum<true>(x, y); }

// y is x, through shared memory; the fault is an index that runs past its end. Found by the sanitizers
// of .ci/cuda/sanitize only, as is the next.
KERNEL(64, fault_shared, const float* x, float* y) {
    DYNAMIC_SHARED(float, shared);
    shared[TID + 8] = x[TID];
    y[TID] = shared[TID + 8];
}

// y is x plus a number beyond the largest int.
KERNEL(64, fault_overflow, const float* x, float* y) {
    int far = TID * (1 << 26);
    y[TID] = x[TID] + static_cast<float>(far);
}
