// Polyphase index arithmetic, shared by the CPU and the CUDA code so that a test of one covers both.
#pragma once

#include "storage.h"

namespace toon {
namespace TOON_ISA {

// An output sample sees the taps tap, tap + up, tap + 2 up, ... of the (correlation) filter, lying over the
// input samples input, input + 1, ...: the zeros inserted in between are never visited.
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

}  // namespace TOON_ISA
}  // namespace toon
