// A 1x1 convolution that makes 2x2 pixels of a few colours from each pixel, and its gradient, on the CPU. Compiled once
// per instruction set; cpu.cpp chooses. There are few weights, so this is mostly one pass over x.
#include "cpu.h"
#include "product.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kTile = 96;     // pixels
constexpr int64_t kColumns = 16;  // outputs of a pixel (at most 4 * 4), padded with zeros

thread_local Scratch scratch;

// Calls visit(image, first pixel, count, index of their top outputs, of their bottom outputs) for the thread's part of
// the images.
template <class Params, class Visit>
void along_rows(const Params &p, int part, int parts, const Visit &visit) {
  const int64_t rows = p.n * p.h, step = 2 * p.colours;
  for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; row++)
    for (int64_t x = 0, count; x < p.w; x += count) {
      count = smaller(kTile, p.w - x);
      const int64_t top = row * 2 * p.w * step + x * step;
      visit(row / p.h, row * p.w + x, count, top, top + p.w * step);
    }
}

}  // namespace

bool corners(const ToonCorners &p, int threads) {
  const int parts = int(smaller(threads, p.n * p.h));
  const int64_t step = 2 * p.colours;
  return in_parts(parts, [&](int part) {
    float *const u = scratch.get(kColumns * (p.c + kTile + 1));  // weights of the current image: [c, kColumns]
    if (!u) return false;
    float *const tile = u + kColumns * p.c, *const b = tile + kColumns * kTile;
    for (int64_t k = 0; k < kColumns; k++) b[k] = k < 2 * step ? p.b[k] : 0;
    int64_t packed = -1;
    along_rows(p, part, parts, [&](int64_t n, int64_t pixel, int64_t count, int64_t top, int64_t bottom) {
      if (n != packed)
        for (int64_t c = 0; c < p.c; c++)
          for (int64_t k = 0; k < kColumns; k++)
            u[c * kColumns + k] = k < 2 * step ? p.weight[(n * 2 * step + k) * p.c + c] : 0;
      packed = n;
      product(count, kColumns, p.c, {p.x + pixel * p.c, p.c, 1}, u, kColumns, kPanel,
              [&](int64_t r, int64_t column, Vec sum) {
                store_vector(tile + r * kColumns + column, sum + load_vector(b + column));
              });
      for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < step; k++) {
          p.out[top + i * step + k] = tile[i * kColumns + k];
          p.out[bottom + i * step + k] = tile[i * kColumns + step + k];
        }
    });
    return true;
  });
}

bool corners_grad(const ToonCornersGrad &p, int threads) {
  const int parts = int(smaller(smaller(threads, p.parts), p.n * p.h));
  const int64_t step = 2 * p.colours, size = 2 * step * (p.n * p.c + 1);
  const bool done = in_parts(parts, [&](int part) {
    float *const tile = scratch.get(kColumns * kTile), *const d_weight = p.sums + part * size;
    if (!tile) return false;
    float *const d_b = d_weight + 2 * step * p.n * p.c;
    memset(d_weight, 0, size * sizeof(float));
    along_rows(p, part, parts, [&](int64_t n, int64_t pixel, int64_t count, int64_t top, int64_t bottom) {
      for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < step; k++) {
          d_b[k] += tile[i * kColumns + k] = p.dy[top + i * step + k];
          d_b[step + k] += tile[i * kColumns + step + k] = p.dy[bottom + i * step + k];
        }
      if (p.dx)
        product(count, p.c, 2 * step, {tile, kColumns, 1}, p.weight + n * 2 * step * p.c, p.c, kPanel,
                [&](int64_t r, int64_t column, Vec sum) { store_vector(p.dx + (pixel + r) * p.c + column, sum); });
      if (p.d_weight)
        product(2 * step, p.c, count, {tile, 1, kColumns}, p.x + pixel * p.c, p.c, kPanel,
                [&](int64_t r, int64_t column, Vec sum) {
                  float *const to = d_weight + (n * 2 * step + r) * p.c + column;
                  store_vector(to, load_vector(to) + sum);
                });
    });
    return true;
  });
  if (!done) return false;
  for (int part = 1; part < parts; part++)  // in a fixed order
    for (int64_t i = 0; i < size; i++) p.sums[i] += p.sums[part * size + i];
  if (p.d_weight) memcpy(p.d_weight, p.sums, 2 * step * p.n * p.c * sizeof(float));
  if (p.d_b) memcpy(p.d_b, p.sums + 2 * step * p.n * p.c, 2 * step * sizeof(float));
  return true;
}

}  // namespace TOON_ISA
}  // namespace toon
