// How the CPU kernels use threads.
//
// The library is compiled with OpenMP but not linked against it: its symbols are found in the copy that torch has
// already loaded, so there is one thread pool in the process. library.py loads the system's copy if torch exports none.
#pragma once

#include <stdint.h>

#include "storage.h"

namespace toon {
namespace TOON_ISA {

// Calls body(i) for i in [0, n), each thread for one range of consecutive i.
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

// The same for a body that returns whether it succeeded. Returns whether every call did.
template <class Body>
inline bool parallel_all(int64_t n, int threads, const Body &body) {
  bool all = true;
  if (threads > n) threads = int(n);
  if (threads <= 1) {
    for (int64_t i = 0; i < n; i++) all = body(i) && all;
    return all;
  }
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : all)
  for (int64_t i = 0; i < n; i++) all = body(i) && all;
  return all;
}

}  // namespace TOON_ISA
}  // namespace toon
