// Shared by the forward and the gradient kernels of the separable layers: depthwise sums, and the rows they read.
#pragma once

#include "haar.h"
#include "product.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kTilePixels = 96;  // rows of a matrix product: each reads the weights once for all of them

// A row of pixels: the first one, and the step to the next. A row outside the image is {zeros, 0}.
struct Row {
  const float *at;
  int64_t step;
};

// Taps [c, 9] in the order that the loops below read, [c / kWidth, 9, kWidth]; times scale [c] unless NULL, flipped if
// `flipped`.
inline void arrange_taps(float *to, const float *taps, const float *scale, int64_t c_size, bool flipped) {
  for (int64_t c = 0; c < c_size; c++)
    for (int t = 0; t < 9; t++)
      to[(c / kWidth * 9 + t) * kWidth + c % kWidth] = taps[c * 9 + (flipped ? 8 - t : t)] * (scale ? scale[c] : 1);
}

// kCount adjacent pixels; at(i, j) is the pixel i - 1 rows below and j - 1 columns right of the first of them.
template <int kCount, class At, class Use>
inline void depthwise_pixels(const float *taps, int64_t c_size, const At &at, const Use &use) {
  for (int64_t c = 0; c < c_size; c += kWidth, taps += 9 * kWidth) {
    Vec sum[kCount] = {};
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      Vec w[3];
#pragma GCC unroll 3
      for (int t = 0; t < 3; t++) w[t] = load_vector(taps + (3 * i + t) * kWidth);
#pragma GCC unroll 8
      for (int j = 0; j < kCount + 2; j++) {
        const Vec x = load_vector(at(i, j) + c);
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++)
          if (j - t >= 0 && j - t < kCount) sum[j - t] += w[t] * x;
      }
    }
    use(c, sum, std::integral_constant<int, kCount>());
  }
}

// Calls visit(pixel, count as a constant, at) for the pixels [first, last) of a row, four at a time.
template <class Visit>
inline void along_row(const Row *rows, int64_t width, int64_t first, int64_t last, const float *zeros,
                      const Visit &visit) {
  constexpr std::integral_constant<int, 4> four;
  constexpr std::integral_constant<int, 1> one;
  const float *near[3][6];
  const auto beside = [&](int64_t x, int count) {
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < count + 2; j++) {
        const int64_t at = x + j - 1;
        near[i][j] = at >= 0 && at < width ? rows[i].at + at * rows[i].step : zeros;
      }
    return [&near](int i, int j) { return near[i][j]; };
  };
  int64_t x = first;
  while (x < last) {
    if (x + 4 > last) {
      visit(x, one, beside(x, 1));
      x += 1;
    } else if (x == 0 || x + 5 > width) {
      visit(x, four, beside(x, 4));
      x += 4;
    } else {
      const Row r[3] = {{rows[0].at + (x - 1) * rows[0].step, rows[0].step},
                        {rows[1].at + (x - 1) * rows[1].step, rows[1].step},
                        {rows[2].at + (x - 1) * rows[2].step, rows[2].step}};
      visit(x, four, [&r](int i, int j) { return r[i].at + j * r[i].step; });
      x += 4;
    }
  }
}

// Depthwise sums of the pixels [first, last) of a row: calls use(pixel, c, sums, count as a constant).
template <class Use>
inline void depthwise(const Row *rows, int64_t width, int64_t first, int64_t last, const float *taps, int64_t c_size,
                      const float *zeros, const Use &use) {
  along_row(rows, width, first, last, zeros, [&](int64_t x, auto count, const auto &at) {
    depthwise_pixels<count()>(taps, c_size, at, [&](int64_t c, Vec *sum, auto many) { use(x, c, sum, many); });
  });
}

// The rows that a layer's depthwise convolution reads, for one thread that goes down the images: those of x or, with
// up_style, those of the inverse Haar transform of x * up_style. Of these a ring holds as many as are needed at a time.
struct Input {
  const float *x, *up_style;
  int64_t h, w, c_size;
  const float *zeros;
  float *ring;  // [pairs, 2, w, c]
  int64_t pairs;
  int64_t n = -1, next = 0;

  // Pairs of rows that the ring needs for `reach` rows at a time, if the first of them may be the second of a pair.
  static int64_t pairs_for(int64_t reach) { return reach / 2 + 1; }

  void need(int64_t image, int64_t first, int64_t last) {
    const int64_t from = larger(first, 0) / 2, to = (smaller(last, h) + 1) / 2;
    if (image != n || from > next) n = image, next = from;
    if (!up_style) return;
    for (; next < to; next++) {
      float *const pair = ring + next % pairs * 2 * w * c_size;
      haar_row_up(pair, pair + w * c_size, x + (n * h / 2 + next) * w / 2 * 4 * c_size, up_style + n * 4 * c_size,
                  w / 2, c_size);
    }
  }

  Row row(int64_t y) const {
    if (y < 0 || y >= h) return {zeros, 0};
    if (!up_style) return {x + (n * h + y) * w * c_size, c_size};
    return {ring + (y / 2 % pairs * 2 + y % 2) * w * c_size, c_size};
  }
};

// How the rows of n images are distributed: bands of `rows` rows; a thread takes consecutive bands.
struct Bands {
  int64_t h, rows, per_image, count;
  int parts;

  Bands(int64_t n, int64_t height, int64_t width, bool pairs, int threads) : h(height) {
    rows = smaller((kTilePixels + width - 1) / width, (n * h + threads - 1) / threads);
    rows = smaller(h, round_up(larger(rows, 1), pairs ? 2 : 1));
    per_image = (h + rows - 1) / rows;
    count = n * per_image;
    parts = int(smaller(threads, count));
  }

  // The end of this part's rows in image n.
  int64_t last_row(int part, int64_t n) const {
    return smaller(h, (count * (part + 1) / parts - n * per_image) * rows);
  }

  // Calls body(image, first row, end of the rows) for the bands of a part.
  template <class Body>
  void each(int part, const Body &body) const {
    for (int64_t b = count * part / parts; b < count * (part + 1) / parts; b++) {
      const int64_t first = b % per_image * rows;
      body(b / per_image, first, smaller(first + rows, h));
    }
  }
};

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
