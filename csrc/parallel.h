// The one way the CPU kernels use threads.
//
// The library is compiled with OpenMP but not linked against it: its symbols are found in the copy that torch
// has already loaded, so there is one thread pool in the process (library.py says what happens without one).
#pragma once

#include <stdint.h>

#include "storage.h"

namespace toon {
namespace TOON_ISA {

// Calls body(i) for i in [0, n), each thread on one run of consecutive i.
template <class Body>
inline void parallel_for(int64_t n, int threads, const Body &body) {
  if (threads > n) threads = int(n);
  if (threads <= 1) {
    for (int64_t i = 0; i < n; i++) body(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; i++) body(i);
}

}  // namespace TOON_ISA
}  // namespace toon
