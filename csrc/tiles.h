// What kernels that work on tiles in a thread's cache share: vectors of floats, panels of weights, scratch memory.
#pragma once

#include <stdlib.h>

#include "simd.h"

namespace toon {
namespace TOON_ISA {
namespace {

using Vec = Vector<float>;
constexpr int kWidth = kLanes<float>;
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 12 : 6;  // twice as many sums, 2 weights, 1 input: of 32 or 16 registers
constexpr int kPanel = 2 * kWidth;                        // columns of a panel of packed weights

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Numbers from row to row of a tile: an odd multiple of a cache line, or rows would fight for the same places in it.
inline int64_t odd_lines(int64_t numbers) { return ((numbers + 15) / 16 | 1) * 16; }

// Per thread and kept: fresh pages for every call would cost more than the work.
struct Scratch {
  float *data = nullptr;
  int64_t size = 0;
  ~Scratch() { free(data); }
  float *get(int64_t numbers) {
    if (numbers > size) {
      free(data);
      data = static_cast<float *>(aligned_alloc(64, round_up(numbers, 16) * sizeof(float)));
      size = data ? numbers : 0;
    }
    return data;
  }
};

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
