// epilogue on CUDA: filter, scale, noise, bias, activation and clamp in one pass over memory. Its gradient is in
// epilogue_grad.cu.
#include "activations.h"
#include "fir_cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class A>
struct Finish {
  const A *scale, *noise, *b;  // NULL: none
  int64_t c, pixels;
  bool shared_noise;
  Scalars<A> scalars;

  struct Line {
    A scale, b;
  };
  template <class Int>
  TOON_HD Line line(Int n, Int channel) const {
    return {scale ? scale[n * Int(c) + channel] : A(1), b ? b[channel] : A(0)};
  }
  template <class Int>
  TOON_HD A operator()(A v, Line line, Int n, Int pixel) const {
    const A added = noise ? noise[(shared_noise ? 0 : n) * Int(pixels) + pixel] : A(0);
    return epilogue_at(v, line.scale, added, line.b, scalars);
  }
};

// Without a filter. A pack is part of one plane or, channels_last, of one pixel.
template <class S>
struct Pointwise {
  S *out;
  const S *x;
  int64_t numel;
  bool channels_last;
  Finish<Compute<S>> finish;
};

template <int kWidth, class Int, class S>
__global__ void __launch_bounds__(kThreads) pointwise_kernel(Pointwise<S> a) {
  using P = Pack<S, kWidth>;
  const Int c_size = Int(a.finish.c), pixels = Int(a.finish.pixels);
  const Int packs = Int(a.numel / kWidth), stride = Int(gridDim.x) * Int(blockDim.x);
  for (Int p = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x); p < packs; p += stride) {
    const Int i = p * kWidth, outer = i / (a.channels_last ? c_size : pixels);
    const Int inner = i - outer * (a.channels_last ? c_size : pixels);
    const Int n = outer / (a.channels_last ? pixels : c_size);
    const Int middle = outer - n * (a.channels_last ? pixels : c_size);
    P pack = reinterpret_cast<const P *>(a.x)[p];
    if (a.channels_last) {
#pragma unroll
      for (int k = 0; k < kWidth; k++)
        pack.at[k] = store<S>(a.finish(load(pack.at[k]), a.finish.line(n, inner + k), n, middle));
    } else {
      const auto line = a.finish.line(n, middle);
#pragma unroll
      for (int k = 0; k < kWidth; k++) pack.at[k] = store<S>(a.finish(load(pack.at[k]), line, n, inner + k));
    }
    reinterpret_cast<P *>(a.out)[p] = pack;
  }
}

template <class S>
cudaError_t run(const ToonEpilogue &p, const Stream &stream) {
  using A = Compute<S>;
  S *const out = static_cast<S *>(p.out);
  const S *const x = static_cast<const S *>(p.x);
  const int64_t pixels = p.out_h * p.out_w, numel = p.n * p.c * pixels;
  const Finish<A> finish{static_cast<const A *>(p.scale),
                         static_cast<const A *>(p.noise),
                         static_cast<const A *>(p.b),
                         p.c,
                         pixels,
                         p.shared_noise != 0,
                         scalars_of<S>(p)};
  if (p.f) return fir<false>(fir_of<S>(p, Steps{}, A(p.fir_gain), finish), stream);
  const Pointwise<S> a{out, x, numel, p.channels_last != 0, finish};
  constexpr int kWidth = 16 / sizeof(S);
  if (numel < INT32_MAX / 2 && aligned(out) && aligned(x) && (p.channels_last ? p.c : pixels) % kWidth == 0)
    return launch(pointwise_kernel<kWidth, int, S>, kThreads, numel / kWidth, a, stream);
  return launch(pointwise_kernel<1, int64_t, S>, kThreads, numel, a, stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_epilogue_cuda(const ToonEpilogue *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->separable) return "a filter has two dimensions on CUDA";
  if (p->n * p->c == 0) return nullptr;
  return toon::on_device(p->dtype, device, stream,
                         [&](auto storage, const toon::Stream &s) { return toon::run<decltype(storage)>(*p, s); });
}
