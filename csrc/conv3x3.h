// The three convolutions of the networks as one bilinear algorithm, and the constants that differ between them.
//
// Winograd's minimal filtering (Lavin and Gray 2016, "Fast algorithms for convolutional neural networks"): along
// each axis a tile of 4 outputs is  out * ((weight * g) .* (in * d)),  g being the 3 taps and d the kPatch inputs
// under the tile; over both axes it takes kFreq^2 products where the definition takes 144. The fixed filter around
// resampling, (1, 3, 3, 1) / 8, is part of `in`: no filtered image is written to memory.
#pragma once

#include "storage.h"

namespace toon {
namespace TOON_ISA {

template <int kRows, int kColumns>
struct Matrix {
  double at[kRows][kColumns];
};

template <int kRows, int kInner, int kColumns>
constexpr Matrix<kRows, kColumns> product(const Matrix<kRows, kInner> &a, const Matrix<kInner, kColumns> &b) {
  Matrix<kRows, kColumns> c{};
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kColumns; j++)
      for (int k = 0; k < kInner; k++) c.at[i][j] += a.at[i][k] * b.at[k][j];
  return c;
}

// F(4, kTaps) by polynomial interpolation (Toom and Cook) at kTaps + 2 points and infinity.
template <int kTaps>
struct Interpolation {
  static constexpr int kPoints = kTaps + 2;
  Matrix<kPoints + 1, kPoints + 1> in{};
  Matrix<kPoints + 1, kTaps> weight{};
  Matrix<4, kPoints + 1> out{};

  constexpr Interpolation(const double (&points)[kPoints]) {
    for (int i = 0; i <= kPoints; i++) {
      // The polynomial with all the other points as roots, and its value at this one.
      double value = 1;
      int degree = 0;
      in.at[i][0] = 1;
      for (int j = 0; j < kPoints; j++) {
        if (j == i) continue;
        degree++;
        for (int k = degree; k >= 0; k--) in.at[i][k] = (k ? in.at[i][k - 1] : 0) - points[j] * in.at[i][k];
        if (i < kPoints) value *= points[i] - points[j];
      }
      double power = 1;  // of the point
      for (int k = 0; k < (kTaps > 4 ? kTaps : 4); k++) {
        if (k < kTaps) weight.at[i][k] = i < kPoints ? power / value : k == kTaps - 1;
        if (k < 4) out.at[k][i] = i < kPoints ? power : k == 3;
        if (i < kPoints) power *= points[i];
      }
    }
  }
};

// Of the points that are short binary numbers these have the smallest rounding errors: a fourth of those of
// 0, 1, -1, 2, -2.
constexpr Interpolation<3> k43({0, .75, -.75, 1.5, -1.5});
constexpr Interpolation<2> k42({0, 1, -1, .5});

// Correlation with 3 taps, padding 1.
struct Plain {
  static constexpr int kTile = 4, kFreq = 6;
  static constexpr int kPatch = 6, kStep = 4;  // inputs under a tile, inputs from tile to tile
  static constexpr int kOrigin = -1;           // first input under the first tile
  static constexpr auto kIn = k43.in;
  static constexpr auto kWeight = k43.weight;
  static constexpr auto kOut = k43.out;
};

// Transposed convolution of stride 2, then the filter with gain 2. The filter commutes with the weights and so comes
// first, on the input with zeros inserted: tile t needs samples 4t - 3 ... 4t + 2 of that, made of 4 inputs.
struct Up {
  static constexpr int kTile = 4, kFreq = 6, kPatch = 4, kStep = 2;
  static constexpr int kOrigin = -1;
  static constexpr auto kIn = product(k43.in, Matrix<6, 4>{{{.75, .25, 0, 0},
                                                            {.25, .75, 0, 0},
                                                            {0, .75, .25, 0},
                                                            {0, .25, .75, 0},
                                                            {0, 0, .75, .25},
                                                            {0, 0, .25, .75}}});
  // A transposed convolution is a correlation with flipped taps.
  static constexpr auto kWeight = product(k43.weight, Matrix<3, 3>{{{0, 0, 1}, {0, 1, 0}, {1, 0, 0}}});
  static constexpr auto kOut = k43.out;
};

// The filter, then correlation of stride 2: taps 0 and 2 multiply the even samples of the filtered signal (frequencies 0
// to 4), tap 1 the odd ones (5 to 8).
struct DownConstants {
  static constexpr int kTile = 4, kFreq = 9, kPatch = 12, kStep = 8;
  static constexpr int kOrigin = -2;

  static constexpr Matrix<9, 12> in() {
    constexpr double taps[4] = {.125, .375, .375, .125};
    Matrix<9, 12> filter{};
    for (int i = 0; i < 9; i++)
      for (int k = 0; k < 4; k++) filter.at[i][i + k] = taps[k];
    Matrix<9, 9> split{};
    for (int i = 0; i < 5; i++)
      for (int k = 0; k < 5; k++) split.at[i][2 * k] = k42.in.at[i][k];
    for (int i = 0; i < 4; i++) split.at[5 + i][2 * i + 1] = 1;
    return product(split, filter);
  }
  static constexpr Matrix<9, 3> weight() {
    Matrix<9, 3> m{};
    for (int i = 0; i < 5; i++) m.at[i][0] = k42.weight.at[i][0], m.at[i][2] = k42.weight.at[i][1];
    for (int i = 5; i < 9; i++) m.at[i][1] = 1;
    return m;
  }
  static constexpr Matrix<4, 9> out() {
    Matrix<4, 9> m{};
    for (int i = 0; i < 4; i++) {
      for (int k = 0; k < 5; k++) m.at[i][k] = k42.out.at[i][k];
      m.at[i][5 + i] = 1;
    }
    return m;
  }
};

struct Down : DownConstants {  // a class of its own: a constexpr member cannot call functions of its own class
  static constexpr auto kIn = in();
  static constexpr auto kWeight = weight();
  static constexpr auto kOut = out();
};

}  // namespace TOON_ISA
}  // namespace toon
