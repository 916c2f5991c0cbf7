// The functions that the compiler calls for accesses of kernels. This file itself is compiled without
// -fsanitize=thread.
#include "watch.h"

#include "device.h"

namespace emulator {

static thread_local struct {
    const Span *spans, *end, *last;
    // Around all spans.
    uintptr_t low, length;
    Outcome* outcome;
} watched;

void watch(const Span* spans, size_t count, Outcome* outcome) {
    watched = {spans, spans + count, spans, 0, 0, outcome};
    if (count) {
        watched.low = spans->first;
        watched.length = spans[count - 1].first + spans[count - 1].size - spans->first;
    }
}

static bool within(const Span* s, uintptr_t at) { return at - s->first < s->size; }

static void touch(const void* p, size_t size, bool write) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    if (at - watched.low >= watched.length) return;
    const Span* s = watched.last;
    if (!within(s, at)) {
        auto behind = [](uintptr_t a, const Span& span) { return a < span.first; };
        s = std::upper_bound(watched.spans, watched.end, at, behind) - 1;
        if (!within(s, at)) return;
        watched.last = s;
    }
    const uint8_t may = write ? MAY_WRITE : MAY_READ, did = write ? WRITTEN : READ;
    uint8_t *mark = s->marks + (at - s->first), *end = s->marks + s->size;
    for (size_t i = 0; i < size; i++, mark++) {
        if (mark == end || !(*mark & may)) {
            *watched.outcome = {0, at, size, write};
            fail("touches memory that its launch does not tell");
        }
        *mark |= did;
    }
}
}  // namespace emulator

using emulator::touch;
#define ACCESSES(bytes) \
    void __tsan_read##bytes(void* p) { touch(p, bytes, false); } \
    void __tsan_write##bytes(void* p) { touch(p, bytes, true); } \
    void __tsan_unaligned_read##bytes(void* p) { touch(p, bytes, false); } \
    void __tsan_unaligned_write##bytes(void* p) { touch(p, bytes, true); }
extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, size_t size) { touch(p, size, false); }
void __tsan_write_range(void* p, size_t size) { touch(p, size, true); }
void __tsan_init() {}
}
