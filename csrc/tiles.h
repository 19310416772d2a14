// Shared by the kernels that work on tiles in a thread's cache: vectors of floats, panels of weights, workspace.
#pragma once

#include <stdlib.h>

#include "simd.h"

namespace toon {
namespace TOON_ISA {
namespace {

using Vec = Vector<float>;
constexpr int kWidth = kLanes<float>;
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 12 : 6;  // 24 or 12 sums, 2 weights and 1 input in 32 or 16 registers
constexpr int kPanel = 2 * kWidth;                        // columns of a panel of packed weights

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Numbers from row to row of a tile: an odd number of cache lines, so that rows map to different sets of the cache.
inline int64_t odd_lines(int64_t numbers) { return ((numbers + 15) / 16 | 1) * 16; }

// Workspace of a thread, kept between calls: page faults of new memory would cost more than the work.
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
