// Polyphase index arithmetic, shared by the CPU and the CUDA code so that a test of one covers both.
#pragma once

#include "storage.h"

namespace toon {
namespace TOON_ISA {

// An output sample is a sum over the taps tap, tap + up, tap + 2 up, ... of the (correlation) filter and the input
// samples input, input + 1, ...; the zeros inserted in between are skipped.
template <class Int>
struct Taps {
  Int input;
  Int tap;
  Int count;
};

// Taps of output sample o; input may lie outside the image.
template <class Int>
TOON_HD Taps<Int> taps_at(Int o, Int up, Int down, Int pad, Int taps) {
  const Int start = o * down - pad;  // the filter's first tap, on the axis with zeros inserted
  const Int remainder = start % up;  // has the sign of start
  const Int tap = remainder > 0 ? up - remainder : -remainder;
  return {(start + tap) / up, tap, tap < taps ? (taps - tap + up - 1) / up : 0};
}

// The same, without the taps that lie outside [0, size).
template <class Int>
TOON_HD Taps<Int> clip(Taps<Int> t, Int up, Int size) {
  if (t.input < 0) {
    t.tap -= t.input * up;
    t.count += t.input;
    t.input = 0;
  }
  if (t.count > size - t.input) t.count = size - t.input;
  if (t.count < 0) t.count = 0;
  return t;
}

// Whether f [height, width] is, up to rounding, the outer product of a column and a row; writes both. If it is, its row
// and column sums are multiples of them. A filter whose taps sum to 0 is not recognised.
template <class A>
TOON_HD bool factorise(const A *f, int height, int width, A *column, A *row) {
  A total = 0;
  for (int x = 0; x < width; x++) row[x] = 0;
  for (int y = 0; y < height; y++) {
    column[y] = 0;
    for (int x = 0; x < width; x++) column[y] += f[y * width + x], row[x] += f[y * width + x];
    total += column[y];
  }
  if (total == 0) return false;
  const A tolerance = sizeof(A) == 8 ? A(0x1p-50) : A(0x1p-21);
  bool fits = true;
  for (int y = 0; y < height; y++) {
    column[y] /= total;
    for (int x = 0; x < width; x++) {
      const A tap = f[y * width + x], error = tap - column[y] * row[x];
      fits = fits && (error < 0 ? -error : error) <= tolerance * (tap < 0 ? -tap : tap);
    }
  }
  return fits;
}

}  // namespace TOON_ISA
}  // namespace toon
