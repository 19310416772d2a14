// bias_act on the CPU. Compiled once per instruction set; cpu.cpp chooses.
#include "activations.h"
#include "parallel.h"
#include "simd.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements per piece of work: a few tens of kilobytes
constexpr int64_t kBlock = 512;      // elements at a time, so that the buffers they pass through stay in the L1 cache

template <class S>
struct Tensors {
  S *out;
  const S *ref, *dy, *ddx;
  bool past_cache;
};

// x in its compute type: itself, or converted into the buffer.
template <class S>
const Compute<S> *widened(Compute<S> *buffer, const S *x, int64_t n) {
  if constexpr (std::is_same_v<S, Compute<S>>) return x;
  else return widen(buffer, x, n), buffer;
}

// n <= kBlock elements from i on, with one bias for all of them or, if kBiasPerElement, b[0 .. n). out may be ref.
template <int kOrder, class Act, bool kBiasPerElement, class S>
void block(const Tensors<S> &t, int64_t i, int64_t n, const Compute<S> *b, const Scalars<Compute<S>> &s) {
  using A = Compute<S>;
  constexpr bool kSame = std::is_same_v<S, A>;
  alignas(64) A ref_buffer[kBlock], dy_buffer[kBlock], ddx_buffer[kBlock];
  alignas(64) S out_buffer[kBlock];
  const A *const ref = widened(ref_buffer, t.ref + i, n);
  const A *const dy = kOrder >= 1 ? widened(dy_buffer, t.dy + i, n) : ref;
  const A *const ddx = kOrder >= 2 ? widened(ddx_buffer, t.ddx + i, n) : ref;
  S *const to = t.past_cache ? out_buffer : t.out + i;
  A *result = ref_buffer;
  if constexpr (kSame) result = to;
  const Scalars<A> scalars = s;
  const A b0 = kBiasPerElement ? A(0) : *b;
#pragma omp simd
  for (int64_t k = 0; k < n; k++)
    result[k] = bias_act_at<kOrder, Act>(ref[k], kBiasPerElement ? b[k] : b0, dy[k], ddx[k], scalars);
  if constexpr (!kSame) narrow(to, result, n);
  if (t.past_cache) copy_past_cache(t.out + i, to, n * sizeof(S));
}

template <int kOrder, class Act, class S>
void run(const ToonBiasAct &p, int threads) {
  using A = Compute<S>;
  const A zero = 0;
  // The tensor is cut into segments. Without a bias there is one; with one, all elements of a segment have the same
  // bias, or, if the biased dimension is innermost (channels_last, fully connected), a segment is one bias vector long.
  const bool biased = p.b && (kOrder == 0 || Act::kFromInput);
  const A *b = biased ? static_cast<const A *>(p.b) : &zero;
  const bool per_element = biased && p.step_b == 1 && p.size_b > 1;
  const int64_t size = biased && !per_element ? p.size_b : 1;
  int64_t step = per_element ? p.size_b : biased ? p.step_b : p.numel;
  A rounds[kBlock];  // a short bias vector, repeated: a loop over three channels would be too short to be fast
  if (per_element && step <= kBlock / 2) {
    const int64_t length = kBlock / step * step;
    for (int64_t k = 0; k < length; k++) rounds[k] = b[k % step];
    b = rounds, step = length;
  }
  const Tensors<S> t{static_cast<S *>(p.out), static_cast<const S *>(p.ref), static_cast<const S *>(p.dy),
                     static_cast<const S *>(p.ddx), past_cache(p.numel * sizeof(S), p.out, p.ref)};
  const Scalars<A> s = scalars_of<S>(p);

  const int64_t chunks = (p.numel + kChunk - 1) / kChunk;
  parallel_for(chunks, threads, [&](int64_t chunk) {
    const int64_t end = chunk + 1 < chunks ? (chunk + 1) * kChunk : p.numel;
    int64_t i = chunk * kChunk, offset = i % step, channel = i / step % size;
    while (i < end) {
      int64_t n = step - offset < end - i ? step - offset : end - i;
      if (n > kBlock) n = kBlock;
      if (per_element) block<kOrder, Act, true>(t, i, n, b + offset, s);
      else block<kOrder, Act, false>(t, i, n, b + channel, s);
      i += n;
      if ((offset += n) == step) offset = 0, channel = channel + 1 < size ? channel + 1 : 0;
    }
    if (t.past_cache) finish_past_cache();
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
