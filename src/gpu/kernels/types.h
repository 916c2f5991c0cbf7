// Types of numbers that C++ does not have, as bits.
#pragma once
#include <stdint.h>

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct alignas(16) Vec4 { uint32_t x, y, z, w; };
