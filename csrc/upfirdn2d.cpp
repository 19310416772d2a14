// upfirdn2d on the CPU: the filters of fir_cpu.h, and nothing after them. Compiled once per instruction set; cpu.cpp
// chooses.
#include "fir_cpu.h"

namespace toon {
namespace TOON_ISA {
namespace {

// Pieces are formed in the output itself, or in a buffer if they are to be stored past the cache.
template <class S>
struct Store {
  S *out;
  Index width, inner;
  bool past_cache;

  S *at(Index row, Index column) const { return out + (row * width + column) * inner; }
  S *place(S *buffer, Index row, Index column) const { return past_cache ? buffer : at(row, column); }
  void done(const S *piece, Index row, Index column, Index columns) const {
    if (past_cache) copy_past_cache(at(row, column), piece, columns * inner * sizeof(S));
  }
  void end() const {
    if (past_cache) finish_past_cache();
  }
};

template <class S>
bool run(const ToonUpfirdn2d &p, int threads) {
  const int64_t bytes = p.n * p.c * p.out_h * p.out_w * sizeof(S);
  const Store<S> store{static_cast<S *>(p.out), p.out_w, p.channels_last ? p.c : 1, past_cache(bytes, p.out, p.x)};
  return fir<S, S>(p, threads, store);
}

}  // namespace

bool upfirdn2d(const ToonUpfirdn2d &p, int threads) {
  bool done = false;
  with_dtype(p.dtype, [&](auto storage) { done = run<decltype(storage)>(p, threads); });
  return done;
}

}  // namespace TOON_ISA
}  // namespace toon
