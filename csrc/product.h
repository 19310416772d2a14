// Matrix products of one tile, in registers, for the separable layers and the RGB layer (corners.cpp).
//
//   sum[r][j] = sum over k of a[r * a_row + k * a_k] * b[k * b_k + j],  j over up to kVecs vectors
//
// and store(r, vector, sum) gets the result, so that bias and activation need no further pass over memory.
#pragma once

#include "parallel.h"
#include "tiles.h"

namespace toon {
namespace TOON_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Matrix {
  const float *at;
  int64_t row, k;  // steps
};

template <int kRows, int kVecs, class Store>
inline void product_rows(Matrix a, const float *b, int64_t b_k, int64_t depth, const Store &store) {
  Vec sum[kRows][kVecs] = {};
  const float *ak = a.at;
  for (int64_t k = 0; k < depth; k++, ak += a.k, b += b_k) {
    Vec bk[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) bk[v] = load_vector(b + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const float value = ak[r * a.row];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) sum[r][v] += value * bk[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) store(r, v, sum[r][v]);
}

template <int kRows, int kVecs, class Store>
inline void some_rows(int64_t rows, Matrix a, const float *b, int64_t b_k, int64_t depth, const Store &store) {
  if (rows == kRows) return product_rows<kRows, kVecs>(a, b, b_k, depth, store);
  if constexpr (kRows > 1) some_rows<kRows - 1, kVecs>(rows, a, b, b_k, depth, store);
}

// Calls store(row, column, vector) for a [rows, columns] result; columns are a multiple of the vector's width. Panel q
// of b begins at b + q * b_panel.
template <class Store>
inline void product(int64_t rows, int64_t columns, int64_t depth, Matrix a, const float *b, int64_t b_k,
                    int64_t b_panel, const Store &store) {
  const int64_t groups = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  for (int64_t column = 0; column < columns; column += kPanel, b += b_panel)
    for (int64_t g = 0; g < groups; g++) {
      const int64_t first = rows * g / groups, count = rows * (g + 1) / groups - first;  // groups of about equal size
      const Matrix from{a.at + first * a.row, a.row, a.k};
      const auto to = [&](int r, int v, Vec sum) { store(first + r, column + v * kWidth, sum); };
      if (column + kPanel <= columns) some_rows<kRowsAtOnce, 2>(count, from, b, b_k, depth, to);
      else some_rows<kRowsAtOnce, 1>(count, from, b, b_k, depth, to);
    }
}

inline Vec all(float value) {
  const Vec none = {};
  return none + value;
}

inline float horizontal(Vec v) {
  float sum = 0;
  for (int i = 0; i < kWidth; i++) sum += v[i];
  return sum;
}

// Calls body(t) for t in [0, parts), each in a thread of its own. Returns whether every call returned true.
template <class Body>
inline bool in_parts(int parts, const Body &body) {
  return parallel_all(parts, parts, [&](int64_t t) { return body(int(t)); });
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
