// What a launch touches of the machine's memory. Kernels are compiled with -fsanitize=thread, but
// without its library: the compiler calls a function of watch.cpp for every access that may go to
// memory of others. Each byte of the machine's memory has a mark that says what the launch may do
// with it, and then what it did.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

// Bits of a mark.
constexpr uint8_t READ = 1, WRITTEN = 2, MAY_READ = 4, MAY_WRITE = 8;

// Memory with a mark for each byte. Others than those in spans are not watched: stacks and shared
// memory of kernels.
struct Span {
    uintptr_t first;
    size_t size;
    uint8_t* marks;
};

// What a launch did.
struct Outcome {
    // Of tensor cores, two for a multiplication with its addition.
    uint64_t operations;
    // The access that ended the launch because it may not be, if its size is not 0.
    uintptr_t at;
    size_t size;
    int write;
};

// Spans in order of addresses, for the launches of this thread from now on.
void watch(const Span* spans, size_t count, Outcome* outcome);
}  // namespace emulator
