// Shared by the forward and the gradient kernels of conv3x3: tiles and patches.
#pragma once

#include <cmath>

#include "conv3x3.h"
#include "parallel.h"
#include "tiles.h"

namespace toon {
namespace TOON_ISA {
namespace {

// to[i * to_step] = sum over j of m[i][j] * from[j * from_step]. The matrix is constant, so zeros cost nothing.
template <const auto &kMatrix, int kRows, int kColumns>
TOON_HD void multiply(Vec *to, int to_step, const Vec *from, int from_step) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
    Vec sum = {};
    bool first = true;
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; j++) {
      const float k = float(kMatrix.at[i][j]);
      if (k == 0) continue;
      sum = first ? k * from[j * from_step] : sum + k * from[j * from_step];
      first = false;
    }
    to[i * to_step] = sum;
  }
}

template <int kRows, int kColumns>
constexpr Matrix<kColumns, kRows> transposed(const Matrix<kRows, kColumns> &m) {
  Matrix<kColumns, kRows> t{};
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kColumns; j++) t.at[j][i] = m.at[i][j];
  return t;
}

// The tiles of all images, numbered in a row. Params is ToonConv3x3 or ToonConv3x3Weight.
template <class Kind, class Params>
struct Tiles {
  static constexpr int kPatch = Kind::kPatch, kFreq = Kind::kFreq, kTile = Kind::kTile;
  const Params &p;
  int64_t tiles_y, tiles_x, tiles;

  explicit Tiles(const Params &params) : p(params) {
    tiles_y = (p.out_h + kTile - 1) / kTile;
    tiles_x = (p.out_w + kTile - 1) / kTile;
    tiles = p.n * tiles_y * tiles_x;
  }

  struct Place {
    int64_t n, y, x;
  };  // image; output row and column of the tile's first corner
  Place place(int64_t tile) const {
    const int64_t row = tile / tiles_x;
    return {row / tiles_y, row % tiles_y * kTile, tile % tiles_x * kTile};
  }

  // The patch of a tile, scaled by the styles and transformed: v[frequency * plane + channel]. `zeros` are c_in zeros.
  void in(float *v, int64_t plane, const float *zeros, int64_t tile) const {
    const Place at = place(tile);
    const int64_t y0 = at.y / kTile * Kind::kStep + Kind::kOrigin;
    const int64_t x0 = at.x / kTile * Kind::kStep + Kind::kOrigin;
    const float *patch[kPatch][kPatch];
    for (int i = 0; i < kPatch; i++)
      for (int j = 0; j < kPatch; j++) {
        const int64_t y = y0 + i, x = x0 + j;
        const bool inside = y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
        patch[i][j] = inside ? p.x + ((at.n * p.in_h + y) * p.in_w + x) * p.c_in : zeros;
      }
    const float *styles = p.s ? p.s + at.n * p.c_in : nullptr;
    for (int64_t c = 0; c < p.c_in; c += kWidth) {
      Vec rows[kPatch][kFreq], line[kPatch > kFreq ? kPatch : kFreq];
      for (int i = 0; i < kPatch; i++) {
        if (styles) {
          const Vec s = load_vector(styles + c);
#pragma GCC unroll 16
          for (int j = 0; j < kPatch; j++) line[j] = load_vector(patch[i][j] + c) * s;
        } else {
#pragma GCC unroll 16
          for (int j = 0; j < kPatch; j++) line[j] = load_vector(patch[i][j] + c);
        }
        multiply<Kind::kIn, kFreq, kPatch>(rows[i], 1, line, 1);
      }
      for (int j = 0; j < kFreq; j++) {
        multiply<Kind::kIn, kFreq, kPatch>(line, 1, &rows[0][j], kFreq);
#pragma GCC unroll 16
        for (int i = 0; i < kFreq; i++) store_vector(v + (i * kFreq + j) * plane + c, line[i]);
      }
    }
  }
};

thread_local Scratch scratch;

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
