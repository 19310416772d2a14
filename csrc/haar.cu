// The Haar transform on CUDA: a thread makes 2x2 pixels from four bands, or four bands from 2x2 pixels. haar.h has the
// matrix.
#include "cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class S>
struct Arguments {
  S *out;
  const S *x;
  int64_t n, c, h, w;
  bool up, channels_last;
};

// Indices of the first of the four corners, of the steps to the right and down, and of the bands.
template <class Int>
struct Place {
  Int corner, right, down;
  Int low, high, step;  // lo; lh; from lh to hl and from hl to hh

  template <class S>
  TOON_HD Place(const Arguments<S> &a, Int i) {
    const Int c_size = Int(a.c), h = Int(a.h), w = Int(a.w);
    if (a.channels_last) {
      const Int pixel = i / c_size, c = i - pixel * c_size, row = pixel / w, x = pixel - row * w;
      corner = (4 * row * w + 2 * x) * c_size + c, right = c_size, down = 2 * w * c_size;
      low = 4 * pixel * c_size + c, high = low + c_size + 2 * c, step = 1;
    } else {
      const Int row = i / w, x = i - row * w, plane = row / h, y = row - plane * h;
      const Int n = plane / c_size, c = plane - n * c_size;
      corner = 4 * row * w + 2 * x, right = 1, down = 2 * w;
      step = h * w, low = (4 * n * c_size + c) * step + y * w + x, high = low + (c_size + 2 * c) * step;
    }
  }
};

template <class Int, class S>
__global__ void __launch_bounds__(kThreads) kernel(Arguments<S> a) {
  using A = Compute<S>;
  const Int count = Int(a.n * a.c * a.h * a.w), stride = Int(gridDim.x) * Int(blockDim.x);
  for (Int i = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x); i < count; i += stride) {
    const Place<Int> at(a, i);
    const Int corners[4] = {at.corner, at.corner + at.right, at.corner + at.down, at.corner + at.down + at.right};
    const Int bands[4] = {at.low, at.high, at.high + at.step, at.high + 2 * at.step};
    A v[4];
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = load(a.x[a.up ? bands[k] : corners[k]]);
    const A sum = v[0] + v[1], difference = v[0] - v[1], high = v[2] + v[3], skew = v[2] - v[3];
    const A out[4] = {sum + high, sum - high, difference + skew, difference - skew};
#pragma unroll
    for (int k = 0; k < 4; k++) a.out[a.up ? corners[k] : bands[k]] = store<S>(out[k] / 2);
  }
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_haar_cuda(const ToonHaar *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  return toon::on_device(p->dtype, device, stream, [&](auto storage, const toon::Stream &s) {
    using S = decltype(storage);
    const toon::Arguments<S> a{
        static_cast<S *>(p->out), static_cast<const S *>(p->x), p->n, p->c, p->h, p->w, p->up != 0,
        p->channels_last != 0};
    const int64_t work = p->n * p->c * p->h * p->w;
    if (work < INT32_MAX / 8) return toon::launch(toon::kernel<int, S>, toon::kThreads, work, a, s);
    return toon::launch(toon::kernel<int64_t, S>, toon::kThreads, work, a, s);
  });
}
