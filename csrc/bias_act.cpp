// bias_act on the CPU. Compiled once per instruction set; cpu.cpp chooses.
#include "activations.h"
#include "parallel.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements per piece of work: a few tens of kilobytes

template <class S>
struct Tensors {
  S *out;
  const S *ref, *dy, *ddx;
};

// n elements from i on, with one bias for all of them or, if kBiasPerElement, b[0 .. n).
template <int kOrder, class Act, bool kBiasPerElement, class S>
void segment(const Tensors<S> &t, int64_t i, int64_t n, const Compute<S> *b, const Scalars<Compute<S>> &s) {
  using A = Compute<S>;
  S *__restrict out = t.out + i;
  const S *ref = t.ref + i, *dy = t.dy + i, *ddx = t.ddx + i;
  const Scalars<A> scalars = s;
  const A b0 = kBiasPerElement ? A(0) : *b;
#pragma omp simd
  for (int64_t k = 0; k < n; k++) {
    const A bias = kBiasPerElement ? b[k] : b0;
    const A g = kOrder >= 1 ? load(dy[k]) : A(0);
    const A h = kOrder >= 2 ? load(ddx[k]) : A(0);
    out[k] = store<S>(bias_act_at<kOrder, Act>(load(ref[k]), bias, g, h, scalars));
  }
}

template <int kOrder, class Act, class S>
void run(const ToonBiasAct &p, int threads) {
  using A = Compute<S>;
  const A zero = 0;
  // Without a bias the whole tensor is one segment; with one, a segment shares its bias element, or, where
  // the biased dimension is innermost (channels_last, fully connected), is one round of the bias vector.
  const bool biased = p.b && (kOrder == 0 || Act::kFromInput);
  const A *b = biased ? static_cast<const A *>(p.b) : &zero;
  const bool per_element = biased && p.step_b == 1 && p.size_b > 1;
  const int64_t size = biased && !per_element ? p.size_b : 1;
  const int64_t step = per_element ? p.size_b : biased ? p.step_b : p.numel;
  const Tensors<S> t{static_cast<S *>(p.out), static_cast<const S *>(p.ref),
                     static_cast<const S *>(kOrder >= 1 ? p.dy : p.ref),
                     static_cast<const S *>(kOrder >= 2 ? p.ddx : p.ref)};
  const Scalars<A> s = scalars_of<S>(p);

  const int64_t chunks = (p.numel + kChunk - 1) / kChunk;
  parallel_for(chunks, threads, [&](int64_t chunk) {
    const int64_t end = chunk + 1 < chunks ? (chunk + 1) * kChunk : p.numel;
    for (int64_t i = chunk * kChunk; i < end;) {
      const int64_t offset = i % step;
      const int64_t n = step - offset < end - i ? step - offset : end - i;
      if (per_element) segment<kOrder, Act, true>(t, i, n, b + offset, s);
      else segment<kOrder, Act, false>(t, i, n, b + i / step % size, s);
      i += n;
    }
  });
}

}  // namespace

void bias_act(const ToonBiasAct &p, int threads) {
  with_dtype(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    with_activation(p.act, [&](auto activation) {
      using Act = decltype(activation);
      if (p.order == 0) run<0, Act, S>(p, threads);
      if (p.order == 1) run<1, Act, S>(p, threads);
      if (p.order == 2) run<2, Act, S>(p, threads);
    });
  });
}

}  // namespace TOON_ISA
}  // namespace toon
