// upfirdn2d on CUDA: a thread an output sample, in the order of memory; inserted zeros are never visited.
#include "cuda.h"
#include "taps.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class S, class Int>
struct Arguments {
  S *out;
  const S *x;
  const Compute<S> *f;
  Int total;  // output samples
  Int c, in_h, in_w, out_h, out_w, f_h, f_w;
  Int up_x, up_y, down_x, down_y, pad_x0, pad_y0;
  bool flip, channels_last;
  Compute<S> gain;
};

// kUp, kDown and kTaps, where not 0, hold for both axes: the loops over taps then unroll.
template <class S, class Int, int kUp, int kDown, int kTaps>
__global__ void __launch_bounds__(kThreads) kernel(Arguments<S, Int> a) {
  using A = Compute<S>;
  const Int up_x = kUp ? kUp : a.up_x, up_y = kUp ? kUp : a.up_y;
  const Int down_x = kDown ? kDown : a.down_x, down_y = kDown ? kDown : a.down_y;
  const Int f_w = kTaps ? kTaps : a.f_w, f_h = kTaps ? kTaps : a.f_h;
  constexpr int kMost = kTaps ? (kTaps + kUp - 1) / kUp : 0;  // taps that can meet a sample, per axis
  const Int inner = a.channels_last ? a.c : 1;

  const Int stride = Int(gridDim.x) * Int(blockDim.x);
  for (Int i = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x); i < a.total; i += stride) {
    const Int channel = i % inner, pixel = i / inner;
    const Int x = pixel % a.out_w, row = pixel / a.out_w, y = row % a.out_h, image = row / a.out_h;
    const Taps<Int> tx = clip(taps_at(x, up_x, down_x, a.pad_x0, f_w), up_x, a.in_w);
    const Taps<Int> ty = clip(taps_at(y, up_y, down_y, a.pad_y0, f_h), up_y, a.in_h);
    const S *const corner = a.x + ((image * a.in_h + ty.input) * a.in_w + tx.input) * inner + channel;
    // Correlation order is the order of f if flip is set; otherwise it runs backwards from the end.
    const A *const tap = a.f + (a.flip ? ty.tap * f_w + tx.tap : (f_h - 1 - ty.tap) * f_w + f_w - 1 - tx.tap);
    const Int tap_y = (a.flip ? up_y : -up_y) * f_w, tap_x = a.flip ? up_x : -up_x;

    A sum = 0;
    if constexpr (kTaps) {
#pragma unroll
      for (int j = 0; j < kMost; j++)
#pragma unroll
        for (int k = 0; k < kMost; k++)
          if (j < ty.count && k < tx.count) sum += tap[j * tap_y + k * tap_x] * load(corner[(j * a.in_w + k) * inner]);
    } else {
      for (Int j = 0; j < ty.count; j++)
        for (Int k = 0; k < tx.count; k++) sum += tap[j * tap_y + k * tap_x] * load(corner[(j * a.in_w + k) * inner]);
    }
    a.out[i] = store<S>(sum * a.gain);
  }
}

template <class S, class Int, int kUp, int kDown, int kTaps>
cudaError_t start(const ToonUpfirdn2d &p, int device, cudaStream_t stream) {
  const int64_t total = p.n * p.c * p.out_h * p.out_w;
  const Arguments<S, Int> a{
      static_cast<S *>(p.out), static_cast<const S *>(p.x), static_cast<const Compute<S> *>(p.f), Int(total),
      Int(p.c), Int(p.in_h), Int(p.in_w), Int(p.out_h), Int(p.out_w), Int(p.f_h), Int(p.f_w),
      Int(p.up_x), Int(p.up_y), Int(p.down_x), Int(p.down_y), Int(p.pad_x0), Int(p.pad_y0),
      p.flip != 0, p.channels_last != 0, Compute<S>(p.gain)};
  return launch(kernel<S, Int, kUp, kDown, kTaps>, total, a, device, stream);
}

template <class S>
cudaError_t run(const ToonUpfirdn2d &p, int device, cudaStream_t stream) {
  // 32-bit indices where none of them, nor a step of the grid beyond the end, can overflow.
  const int64_t most = INT32_MAX / 2;
  const auto small = [&](int64_t n) { return n < most && n > -most; };
  if (!small(p.n * p.c * p.out_h * p.out_w) || !small(p.n * p.c * p.in_h * p.in_w) ||
      !small(p.out_w * p.down_x) || !small(p.out_h * p.down_y) || !small(p.in_w * p.up_x) ||
      !small(p.in_h * p.up_y) || !small(p.pad_x0) || !small(p.pad_y0))
    return start<S, int64_t, 0, 0, 0>(p, device, stream);
  if (p.f_w == 4 && p.f_h == 4 && p.up_x == p.up_y && p.down_x == p.down_y) {  // [1, 3, 3, 1]
    if (p.up_x == 2 && p.down_x == 1) return start<S, int32_t, 2, 1, 4>(p, device, stream);
    if (p.up_x == 1 && p.down_x == 2) return start<S, int32_t, 1, 2, 4>(p, device, stream);
    if (p.up_x == 1 && p.down_x == 1) return start<S, int32_t, 1, 1, 4>(p, device, stream);
  }
  return start<S, int32_t, 0, 0, 0>(p, device, stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_upfirdn2d_cuda(const ToonUpfirdn2d *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->separable) return "a separable filter takes two passes on CUDA, one per axis";
  if (p->n * p->c == 0) return nullptr;
  toon::DeviceGuard guard(device);
  cudaError_t error = guard.error();
  if (error != cudaSuccess) return toon::message(error);
  toon::with_dtype(p->dtype, [&](auto storage) {
    error = toon::run<decltype(storage)>(*p, device, static_cast<cudaStream_t>(stream));
  });
  return toon::message(error);
}
