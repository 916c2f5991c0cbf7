// Runs a kernel on the CPU. Every CUDA thread is a fiber with a stack of its own, a block is one
// OS thread, and barriers, shuffles, ldmatrix and mma are the places where fibers meet.
//
// Beyond plain execution it makes faults visible: one warp runs as far ahead as barriers let it
// (three schedules), asynchronous copies arrive only when they are waited for, shared memory begins
// as NaN, and an access to memory that the launch does not tell ends it (watch.h). It does not show
// speed, bank conflicts, the error of ex2.approx, or what a card's compiler does with multiply-adds.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "types.h"

// For device.h: this stands in front of it.
#define EMULATOR

#define DEV static inline
#define SHARED static thread_local
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::block().dynamic.data())

namespace emulator {

enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Copy { void* to; const void* from; };
struct Fiber {
    void* sp = nullptr;
    char* stack = nullptr;
    State state = READY;
    int tid = 0;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
struct Warp {
    uint64_t shuffled[32];
    const void* rows[32];
    float a[16][16], b[8][16];
};
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<uint64_t> aligned;
    struct { unsigned char* at; unsigned char* data() { return at; } } dynamic;
    int bx, by, threads;
    void* main_sp;
    Fiber* now;
    const std::function<void()>* body;
    std::string fault;
    uint64_t operations;
};
inline Block& block() {
    static thread_local Block b;
    return b;
}

// Saves the callee-saved registers on this stack and goes on with the other (System V, x86-64 and
// AArch64).
extern "C" void emulator_switch(void** save, void* load);

inline void yield(State state) {
    Block& b = block();
    Fiber* f = b.now;
    f->state = state;
    emulator_switch(&f->sp, b.main_sp);
}
inline void entry() {
    (*block().body)();
    yield(DONE);
    abort();
}
inline Warp& warp() { return block().warps[block().now->tid / 32]; }
inline int lane() { return block().now->tid % 32; }
// Ends the launch with a message.
inline void fail(const char* what) {
    if (block().fault.empty()) block().fault = what;
    for (;;) yield(AT_BLOCK);
}

void run(int grid_x, int grid_y, int threads, size_t shared, const std::function<void()>& body, unsigned schedule);

// How a parameter looks to the caller: p, i, l, f for a pointer, an int, an int64_t, a float.
template <class T> struct Letter;
template <class T> struct Letter<T*> { static constexpr char value = 'p'; };
template <> struct Letter<int> { static constexpr char value = 'i'; };
template <> struct Letter<int64_t> { static constexpr char value = 'l'; };
template <> struct Letter<float> { static constexpr char value = 'f'; };

struct Kernel {
    std::string signature;
    int max_threads;
    std::function<std::function<void()>(void**)> bind;
};
std::map<std::string, Kernel>& kernels();

template <class... A, size_t... I> void call(void (*f)(A...), void** p, std::index_sequence<I...>) {
    f(*static_cast<A*>(p[I])...);
}
// Registers a kernel by name when the program starts.
struct Registration {
    template <class... A> Registration(const char* name, int max_threads, void (*f)(A...)) {
        kernels()[name] = Kernel{std::string{Letter<A>::value...}, max_threads, [f](void** p) {
            return std::function<void()>([=] { call(f, p, std::index_sequence_for<A...>{}); });
        }};
    }
};
}  // namespace emulator

#define KERNEL(threads, name, ...) \
    static void name(__VA_ARGS__); \
    static const emulator::Registration registration_##name(#name, threads, name); \
    static void name(__VA_ARGS__)
// Functions of the emulator itself, whose accesses are not those of a kernel (watch.h).
#define UNWATCHED __attribute__((no_sanitize("thread")))
namespace emulator {
// The same for a fiber as long as a kernel runs, as they are for a thread.
#define PLACE UNWATCHED __attribute__((const, noinline)) inline int
PLACE tid() { return block().now->tid; }
PLACE bx() { return block().bx; }
PLACE by() { return block().by; }
PLACE threads() { return block().threads; }
#undef PLACE
}  // namespace emulator
#define TID (emulator::tid())
#define BX (emulator::bx())
#define BY (emulator::by())
#define NTHREADS (emulator::threads())

DEV float to_f32(float x) { return x; }
DEV float to_f32(bf16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
DEV float to_f32(f16 x) {
    _Float16 h;
    memcpy(&h, &x.bits, 2);
    return static_cast<float>(h);
}
template <class H> inline H round_to(float x);
template <> inline float round_to<float>(float x) { return x; }
template <> inline bf16 round_to<bf16>(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    if ((b & 0x7fffffff) > 0x7f800000) return {0x7fff};
    b += 0x7fff + ((b >> 16) & 1);
    return {static_cast<uint16_t>(b >> 16)};
}
template <> inline f16 round_to<f16>(float x) {
    _Float16 h = static_cast<_Float16>(x);
    f16 r;
    memcpy(&r.bits, &h, 2);
    return r;
}
template <class H> inline uint32_t pack(float lo, float hi) {
    return round_to<H>(lo).bits | static_cast<uint32_t>(round_to<H>(hi).bits) << 16;
}
DEV void sync_block() { emulator::yield(emulator::AT_BLOCK); }
DEV float exp2_fast(float x) { return exp2f(x); }
template <class T> UNWATCHED inline T shuffle(T x, int mask) {
    emulator::Warp& w = emulator::warp();
    int l = emulator::lane();
    memcpy(&w.shuffled[l], &x, sizeof x);
    emulator::yield(emulator::AT_WARP);
    T y;
    memcpy(&y, &w.shuffled[l ^ mask], sizeof y);
    emulator::yield(emulator::AT_WARP);
    return y;
}
DEV float shuffle_xor(float x, int mask) { return shuffle(x, mask); }
DEV double shuffle_xor(double x, int mask) { return shuffle(x, mask); }
template <class H> inline float half_of(uint32_t v, bool high) {
    return to_f32(H{static_cast<uint16_t>(high ? v >> 16 : v)});
}
template <class H> UNWATCHED inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulator::Warp& w = emulator::warp();
    int l = emulator::lane(), g = l / 4, t = l % 4;
    if (l == 0) emulator::block().operations += 2 * 16 * 8 * 16;
    for (int i = 0; i < 4; i++) {
        int row = g + i % 2 * 8, k = t * 2 + i / 2 * 8;
        w.a[row][k] = half_of<H>(a[i], false);
        w.a[row][k + 1] = half_of<H>(a[i], true);
    }
    for (int i = 0; i < 2; i++) {
        int k = t * 2 + i * 8;
        w.b[g][k] = half_of<H>(b[i], false);
        w.b[g][k + 1] = half_of<H>(b[i], true);
    }
    emulator::yield(emulator::AT_WARP);
    for (int i = 0; i < 4; i++) {
        const float *x = w.a[g + i / 2 * 8], *y = w.b[t * 2 + i % 2];
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += x[k] * y[k];
        d[i] += sum;
    }
    emulator::yield(emulator::AT_WARP);
}
UNWATCHED inline void load_matrices_as(uint32_t (&r)[4], const void* row, bool transposed) {
    emulator::Warp& w = emulator::warp();
    int l = emulator::lane();
    if (reinterpret_cast<uintptr_t>(row) & 15) emulator::fail("ldmatrix of a row that is not aligned to 16 bytes");
    w.rows[l] = row;
    emulator::yield(emulator::AT_WARP);
    for (int m = 0; m < 4; m++) {
        int i = l / 4, j = l % 4 * 2;
        uint16_t x, y;
        if (!transposed) {
            const uint16_t* from = static_cast<const uint16_t*>(w.rows[m * 8 + i]);
            x = from[j];
            y = from[j + 1];
        } else {
            x = static_cast<const uint16_t*>(w.rows[m * 8 + j])[i];
            y = static_cast<const uint16_t*>(w.rows[m * 8 + j + 1])[i];
        }
        r[m] = x | static_cast<uint32_t>(y) << 16;
    }
    emulator::yield(emulator::AT_WARP);
}
DEV void load_matrices(uint32_t (&r)[4], const void* row) { load_matrices_as(r, row, false); }
DEV void load_matrices_transposed(uint32_t (&r)[4], const void* row) { load_matrices_as(r, row, true); }
// Arrives only when it is waited for, so that a missing wait shows.
DEV void copy16_async(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15)
        emulator::fail("an asynchronous copy that is not aligned to 16 bytes");
    emulator::block().now->open.push_back({to, from});
}
DEV void commit_copies() {
    emulator::Fiber* f = emulator::block().now;
    f->groups.push_back(std::move(f->open));
    f->open.clear();
}
template <int N> inline void wait_for_copies() {
    emulator::Fiber* f = emulator::block().now;
    while (static_cast<int>(f->groups.size()) > N) {
        for (const emulator::Copy& c : f->groups.front()) memcpy(c.to, c.from, 16);
        f->groups.erase(f->groups.begin());
    }
}
