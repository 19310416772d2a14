// upfirdn2d on CUDA: the filters of fir_cuda.h, and nothing after them.
#include "fir_cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

struct Plain {
  struct Line {};
  template <class Int>
  TOON_HD Line line(Int, Int) const {
    return {};
  }
  template <class A, class Int>
  TOON_HD A operator()(A v, Line, Int, Int) const {
    return v;
  }
};

template <class S>
cudaError_t run(const ToonUpfirdn2d &p, const Stream &stream) {
  const Steps steps{p.up_x, p.up_y, p.down_x, p.down_y};
  return fir<true>(fir_of<S>(p, steps, Compute<S>(p.gain), Plain{}), stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_upfirdn2d_cuda(const ToonUpfirdn2d *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->separable) return "a separable filter takes two passes on CUDA, one per axis";
  if (p->n * p->c == 0) return nullptr;
  return toon::on_device(p->dtype, device, stream,
                         [&](auto storage, const toon::Stream &s) { return toon::run<decltype(storage)>(*p, s); });
}
