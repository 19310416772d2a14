// The orthonormal Haar transform of 2x2 pixels:
//
//   [ out(0,0) ]         [ 1  1  1  1 ]   [ lo ]
//   [ out(0,1) ] = 1/2 * [ 1  1 -1 -1 ] * [ lh ]
//   [ out(1,0) ]         [ 1 -1  1 -1 ]   [ hl ]
//   [ out(1,1) ]         [ 1 -1 -1  1 ]   [ hh ]
//
// The matrix is symmetric and its own inverse, so both directions are the same sums. Of 4 C channels the first C are
// lo; channel C + 3 c + k is the k-th of lh, hl, hh for c.
#pragma once

#include "simd.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class V>
inline void haar(V *lo, V *lh, V *hl, V *hh) {
  const V sum = (*lo + *lh) * 0.5f, difference = (*lo - *lh) * 0.5f;
  const V high = (*hl + *hh) * 0.5f, skew = (*hl - *hh) * 0.5f;
  *lo = sum + high;
  *lh = sum - high;
  *hl = difference + skew;
  *hh = difference - skew;
}

// Lane i is lane Index::at(i) of a and b concatenated.
template <class Index, class V, int... i>
inline V pick(V a, V b, std::integer_sequence<int, i...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, Index::at(i)...);
#else
  typedef typename VectorOf<int32_t, sizeof(V)>::type Lanes;
  return __builtin_shuffle(a, b, Lanes{Index::at(i)...});
#endif
}

template <class Index>
inline Vector<float> pick(Vector<float> a, Vector<float> b) {
  return pick<Index>(a, b, std::make_integer_sequence<int, kLanes<float>>());
}

// Every third lane of three concatenated vectors, from lane k on: first from two of them, then from the third.
template <int k>
struct ApartFirst {
  static constexpr int at(int i) { return 3 * i + k < 2 * kLanes<float> ? 3 * i + k : 0; }
};
template <int k>
struct ApartSecond {
  static constexpr int at(int i) { return 3 * i + k < 2 * kLanes<float> ? i : 3 * i + k - kLanes<float>; }
};

// v[0], v[1], v[2] hold a0 b0 c0 a1 b1 c1 ...; afterwards a0 a1 ..., b0 b1 ..., c0 c1 ...
inline void apart(Vector<float> *v) {
  const Vector<float> a = v[0], b = v[1], c = v[2];
  v[0] = pick<ApartSecond<0>>(pick<ApartFirst<0>>(a, b), c);
  v[1] = pick<ApartSecond<1>>(pick<ApartFirst<1>>(a, b), c);
  v[2] = pick<ApartSecond<2>>(pick<ApartFirst<2>>(a, b), c);
}

template <int k>
struct TogetherFirst {
  static constexpr int at(int i) {
    const int j = (k * kLanes<float> + i) / 3, of = (k * kLanes<float> + i) % 3;
    return of == 0 ? j : of == 1 ? kLanes<float> + j : 0;
  }
};
template <int k>
struct TogetherSecond {
  static constexpr int at(int i) {
    const int j = (k * kLanes<float> + i) / 3, of = (k * kLanes<float> + i) % 3;
    return of < 2 ? i : kLanes<float> + j;
  }
};

// The inverse of `apart`.
inline void together(Vector<float> *v) {
  const Vector<float> a = v[0], b = v[1], c = v[2];
  v[0] = pick<TogetherSecond<0>>(pick<TogetherFirst<0>>(a, b), c);
  v[1] = pick<TogetherSecond<1>>(pick<TogetherFirst<1>>(a, b), c);
  v[2] = pick<TogetherSecond<2>>(pick<TogetherFirst<2>>(a, b), c);
}

// From a row of 4 C channels, times scale [4 C] unless NULL, to two rows of C channels and twice the width.
inline void haar_row_up(float *top, float *bottom, const float *x, const float *scale, int64_t width, int64_t c_size) {
  constexpr int kWidth = kLanes<float>;
  using Vec = Vector<float>;
  for (int64_t i = 0; i < width; i++, x += 4 * c_size, top += 2 * c_size, bottom += 2 * c_size) {
    int64_t c = 0;
    for (; c + kWidth <= c_size; c += kWidth) {
      Vec low = load_vector(x + c), high[3];
      const float *from = x + c_size + 3 * c;
      for (int k = 0; k < 3; k++) high[k] = load_vector(from + k * kWidth);
      if (scale) {
        low *= load_vector(scale + c);
        for (int k = 0; k < 3; k++) high[k] *= load_vector(scale + c_size + 3 * c + k * kWidth);
      }
      apart(high);
      haar(&low, &high[0], &high[1], &high[2]);
      store_vector(top + c, low);
      store_vector(top + c_size + c, high[0]);
      store_vector(bottom + c, high[1]);
      store_vector(bottom + c_size + c, high[2]);
    }
    for (; c < c_size; c++) {
      float v[4];
      for (int k = 0; k < 4; k++) {
        const int64_t at = k ? c_size + 3 * c + k - 1 : c;
        v[k] = scale ? x[at] * scale[at] : x[at];
      }
      haar(&v[0], &v[1], &v[2], &v[3]);
      top[c] = v[0], top[c_size + c] = v[1], bottom[c] = v[2], bottom[c_size + c] = v[3];
    }
  }
}

// The inverse. With `scale`, x * out is added to its gradient `sums` [4 C], and then out is multiplied by it.
inline void haar_row_down(float *out, const float *top, const float *bottom, int64_t width, int64_t c_size,
                          const float *scale = nullptr, const float *x = nullptr, float *sums = nullptr) {
  constexpr int kWidth = kLanes<float>;
  using Vec = Vector<float>;
  for (int64_t i = 0; i < width; i++, out += 4 * c_size, top += 2 * c_size, bottom += 2 * c_size) {
    const auto put = [&](int64_t at, Vec v) {
      if (scale) {
        store_vector(sums + at, load_vector(sums + at) + v * load_vector(x + i * 4 * c_size + at));
        v *= load_vector(scale + at);
      }
      store_vector(out + at, v);
    };
    int64_t c = 0;
    for (; c + kWidth <= c_size; c += kWidth) {
      Vec low = load_vector(top + c);
      Vec high[3] = {load_vector(top + c_size + c), load_vector(bottom + c), load_vector(bottom + c_size + c)};
      haar(&low, &high[0], &high[1], &high[2]);
      together(high);
      put(c, low);
      for (int k = 0; k < 3; k++) put(c_size + 3 * c + k * kWidth, high[k]);
    }
    for (; c < c_size; c++) {  // never with a scale, whose channels are multiples of 16
      float v[4] = {top[c], top[c_size + c], bottom[c], bottom[c_size + c]};
      haar(&v[0], &v[1], &v[2], &v[3]);
      out[c] = v[0];
      for (int k = 0; k < 3; k++) out[c_size + 3 * c + k] = v[k + 1];
    }
  }
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
