// The Haar transform of whole images on the CPU. Compiled once per instruction set; cpu.cpp chooses.
#include "haar.h"

#include "cpu.h"
#include "parallel.h"

namespace toon {
namespace TOON_ISA {
namespace {

// One row of four contiguous planes to two rows of twice the width, or the inverse.
void plane_row(bool up, float *const part[4], float *top, float *bottom, int64_t width) {
  constexpr int kWidth = kLanes<float>;
  using Vec = Vector<float>;
  int64_t i = 0;
  if (up)
    for (; i + kWidth <= width; i += kWidth) {
      Vec v[4];
      for (int k = 0; k < 4; k++) v[k] = load_vector(part[k] + i);
      haar(&v[0], &v[1], &v[2], &v[3]);
      store_vector(top + 2 * i, interleave_first<float>(v[0], v[1]));
      store_vector(top + 2 * i + kWidth, interleave_second<float>(v[0], v[1]));
      store_vector(bottom + 2 * i, interleave_first<float>(v[2], v[3]));
      store_vector(bottom + 2 * i + kWidth, interleave_second<float>(v[2], v[3]));
    }
  for (; i < width; i++) {
    float *const corner[4] = {top + 2 * i, top + 2 * i + 1, bottom + 2 * i, bottom + 2 * i + 1};
    float v[4];
    for (int k = 0; k < 4; k++) v[k] = up ? part[k][i] : *corner[k];
    haar(&v[0], &v[1], &v[2], &v[3]);
    for (int k = 0; k < 4; k++) *(up ? corner[k] : part[k] + i) = v[k];
  }
}

}  // namespace

void haar2d(const ToonHaar &p, int threads) {
  const bool up = p.up != 0;
  float *const wide = static_cast<float *>(up ? p.out : const_cast<void *>(p.x));
  float *const parts = static_cast<float *>(up ? const_cast<void *>(p.x) : p.out);
  const int64_t pixels = p.h * p.w;
  if (p.n * p.c * pixels <= 1 << 12) threads = 1;
  if (p.channels_last)
    return parallel_for(p.n * p.h, threads, [&](int64_t row) {
      float *const top = wide + row * 4 * p.w * p.c, *const four = parts + row * p.w * 4 * p.c;
      if (up) haar_row_up(top, top + 2 * p.w * p.c, four, nullptr, p.w, p.c);
      else haar_row_down(four, top, top + 2 * p.w * p.c, p.w, p.c);
    });
  parallel_for(p.n * p.c * p.h, threads, [&](int64_t row) {
    const int64_t plane = row / p.h, n = plane / p.c, c = plane % p.c, y = row % p.h;
    float *part[4];
    for (int k = 0; k < 4; k++) part[k] = parts + (n * 4 * p.c + (k ? p.c + 3 * c + k - 1 : c)) * pixels + y * p.w;
    float *const top = wide + plane * 4 * pixels + y * 4 * p.w;
    plane_row(up, part, top, top + 2 * p.w, p.w);
  });
}

}  // namespace TOON_ISA
}  // namespace toon
