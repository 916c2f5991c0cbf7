// The scheduler of the emulator, and launches by name.
#include "device.h"
#include "watch.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#if defined(__x86_64__)
asm(R"(
.text
.globl emulator_switch
emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
constexpr int SAVED = 6;
#else
#error "the emulator switches stacks on x86-64 only"
#endif

namespace emulator {

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

constexpr size_t STACK = 64 << 10;

static void start(Block& b, size_t shared) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(b.aligned.data(), 8 * b.aligned.size());
#endif
    // NaN in every type, so that reading what nobody wrote shows.
    b.aligned.assign((shared + 15) / 8 + 2, ~0ull);
    auto at = reinterpret_cast<uintptr_t>(b.aligned.data());
    b.dynamic.at = reinterpret_cast<unsigned char*>((at + 15) & ~static_cast<uintptr_t>(15));
#ifdef __SANITIZE_ADDRESS__
    unsigned char* end = b.dynamic.at + shared;
    __asan_poison_memory_region(end, reinterpret_cast<unsigned char*>(b.aligned.data() + b.aligned.size()) - end);
#endif
    for (int t = 0; t < b.threads; t++) {
        Fiber& f = b.fibers[t];
        f.state = READY;
        f.tid = t;
        f.groups.clear();
        f.open.clear();
#ifdef __SANITIZE_ADDRESS__
        // Fibers never return from their first function: what it marked is still there.
        __asan_unpoison_memory_region(f.stack, STACK);
#endif
        void** sp = reinterpret_cast<void**>(f.stack + STACK);
        *--sp = nullptr;
        *--sp = reinterpret_cast<void*>(entry);
        for (int i = 0; i < SAVED; i++) *--sp = nullptr;
        f.sp = sp;
    }
}

// The warp that goes on: the first that can, the last that can, or any.
static int choose(Block& b, unsigned schedule, unsigned& seed) {
    const int warps = static_cast<int>(b.warps.size());
    int first = 0;
    if (schedule > 1) {
        seed = seed * 1664525u + 1013904223u;
        first = static_cast<int>((seed >> 8) % static_cast<unsigned>(warps));
    }
    for (int i = 0; i < warps; i++) {
        int w = schedule == 1 ? warps - 1 - i : (first + i) % warps;
        for (int t = w * 32; t < std::min(b.threads, w * 32 + 32); t++)
            if (b.fibers[t].state == READY) return w;
    }
    return -1;
}

static void run_block(Block& b, unsigned schedule) {
    unsigned seed = schedule * 2654435761u + static_cast<unsigned>(b.bx);
    for (int done = 0; done < b.threads && b.fault.empty();) {
        int w = choose(b, schedule, seed);
        if (w < 0) {
            int waiting = 0;
            for (Fiber& f : b.fibers)
                if (f.state == AT_BLOCK) {
                    f.state = READY;
                    waiting++;
                }
            if (waiting + done != b.threads) b.fault = "deadlock: threads of a warp wait at different places";
            continue;
        }
        int low = w * 32, high = std::min(b.threads, low + 32), at = 0;
        for (int i = 0; i < high - low && b.fault.empty(); i++) {
            Fiber& f = b.fibers[schedule == 1 ? high - 1 - i : low + i];
            if (f.state == READY) {
                b.now = &f;
                emulator_switch(&b.main_sp, f.sp);
                if (f.state == DONE) done++;
            }
            at += f.state == AT_WARP;
        }
        if (at == high - low)
            for (int t = low; t < high; t++) b.fibers[t].state = READY;
    }
}

void run(int grid_x, int grid_y, int threads, size_t shared, const std::function<void()>& body, unsigned schedule) {
    Block& b = block();
    b.body = &body;
    b.threads = threads;
    b.fault.clear();
    b.operations = 0;
    for (size_t t = threads; t < b.fibers.size(); t++) free(b.fibers[t].stack);
    b.fibers.resize(threads);
    b.warps.resize((threads + 31) / 32);
    for (Fiber& f : b.fibers)
        if (!f.stack) f.stack = static_cast<char*>(aligned_alloc(64, STACK));
    for (b.by = 0; b.by < grid_y && b.fault.empty(); b.by++)
        for (b.bx = 0; b.bx < grid_x && b.fault.empty(); b.bx++) {
            start(b, shared);
            run_block(b, schedule);
        }
}
}  // namespace emulator

// Launches a kernel with the arguments of cuLaunchKernel. `signature` has a letter for each
// argument as the caller sees it. Schedule 0 prefers the first warp that can go on, 1 the last,
// others are seeds of a shuffle. `spans` are the machine's memory. Returns null, or what went wrong;
// valid until the next launch.
extern "C" const char* emulator_launch(const char* name, int grid_x, int grid_y, int threads, size_t shared,
                                       void** arguments, const char* signature, unsigned schedule,
                                       const emulator::Span* spans, size_t count, emulator::Outcome* outcome) {
    static thread_local std::string message;
    *outcome = {};
    auto found = emulator::kernels().find(name);
    if (found == emulator::kernels().end()) {
        message = "no kernel has this name";
    } else if (found->second.signature != signature) {
        message = "the kernel takes (" + found->second.signature + "), not (" + signature + ")";
    } else if (threads > found->second.max_threads || threads < 1) {
        message = "the kernel allows blocks of up to " + std::to_string(found->second.max_threads) + " threads";
    } else {
        emulator::watch(spans, count, outcome);
        emulator::run(grid_x, grid_y, threads, shared, found->second.bind(arguments), schedule);
        emulator::watch(nullptr, 0, nullptr);
        outcome->operations = emulator::block().operations;
        message = emulator::block().fault;
    }
    return message.empty() ? nullptr : message.c_str();
}
