// Vectors of the width of the instruction set, and loads and stores of numbers.
//
// Written with the vector types that GCC and Clang share, so that one source serves every width; intrinsics only for
// half conversions in one instruction and for stores past the cache, which these types cannot express.
#pragma once

#include <utility>

#include "storage.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace toon {
namespace TOON_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <class A>
using Vector = typename VectorOf<A, kVectorBytes>::type;
template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

using Bits = Vector<uint32_t>;
using Halves = VectorOf<uint16_t, kVectorBytes / 2>::type;

template <class V>
inline V load_as(const void *p) {
  V v;
  memcpy(&v, p, sizeof(v));
  return v;
}

inline Vector<float> load_vector(const float *p) { return load_as<Vector<float>>(p); }
inline Vector<double> load_vector(const double *p) { return load_as<Vector<double>>(p); }

inline Bits load_halves(const void *p) {
#if defined(__AVX512F__)
  return bit_cast<Bits>(_mm512_maskz_cvtepu16_epi32(-1, load_as<__m256i>(p)));
#elif defined(__AVX2__)
  return bit_cast<Bits>(
      _mm256_cvtepu16_epi32(load_as<__m128i>(p)));  // GCC 12 compiles the plain form to four instructions
#else
  return __builtin_convertvector(load_as<Halves>(p), Bits);
#endif
}

inline Vector<float> load_vector(const BFloat16 *p) { return from_bfloat16<Vector<float>>(load_halves(p)); }

inline Vector<float> load_vector(const Float16 *p) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_maskz_cvtph_ps(-1, load_as<__m256i>(p)));
#elif defined(__F16C__)
  return bit_cast<Vector<float>>(_mm256_cvtph_ps(load_as<__m128i>(p)));
#else
  return from_float16<Vector<float>>(load_halves(p));
#endif
}

#ifdef __F16C__
constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#endif

inline void store_vector(float *p, Vector<float> v) { memcpy(p, &v, sizeof(v)); }
inline void store_vector(double *p, Vector<double> v) { memcpy(p, &v, sizeof(v)); }

inline void store_vector(BFloat16 *p, Vector<float> v) {
  const Halves halves = __builtin_convertvector(to_bfloat16<Bits>(v), Halves);
  memcpy(p, &halves, sizeof(halves));
}

// The conversions of AVX-512 are the zero-masked ones, with nothing masked: the plain ones make GCC 12 warn.
inline void store_vector(Float16 *p, Vector<float> v) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_maskz_cvtps_ph(-1, bit_cast<__m512>(v), kToNearest);
#elif defined(__F16C__)
  const __m128i halves = _mm256_cvtps_ph(bit_cast<__m256>(v), kToNearest);
#else
  const Halves halves = __builtin_convertvector(to_float16<Bits>(v), Halves);
#endif
  memcpy(p, &halves, sizeof(halves));
}

// a[0], b[0], a[1], b[1], ... : the first half of that, and the second.
template <int kStart, class V, int... i>
inline V interleave(V a, V b, std::integer_sequence<int, i...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (kStart + i / 2 + i % 2 * int(sizeof...(i)))...);
#else
  typedef std::conditional_t<sizeof(a[0]) == 8, int64_t, int32_t> Lane;
  typedef typename VectorOf<Lane, sizeof(V)>::type Lanes;
  return __builtin_shuffle(a, b, Lanes{(kStart + i / 2 + i % 2 * Lane(sizeof...(i)))...});
#endif
}

template <class A>
inline Vector<A> interleave_first(Vector<A> a, Vector<A> b) {
  return interleave<0>(a, b, std::make_integer_sequence<int, kLanes<A>>());
}

template <class A>
inline Vector<A> interleave_second(Vector<A> a, Vector<A> b) {
  return interleave<kLanes<A> / 2>(a, b, std::make_integer_sequence<int, kLanes<A>>());
}

// to[i] = from[i], between a storage type and its compute type.
template <class S>
inline void widen(Compute<S> *to, const S *from, int64_t n) {
  using A = Compute<S>;
  if constexpr (std::is_same_v<S, A>) {
    memcpy(to, from, n * sizeof(A));
  } else {
    int64_t i = 0;
    for (; i + kLanes<A> <= n; i += kLanes<A>) store_vector(to + i, load_vector(from + i));
    for (; i < n; i++) to[i] = load(from[i]);
  }
}

template <class S>
inline void narrow(S *to, const Compute<S> *from, int64_t n) {
  using A = Compute<S>;
  if constexpr (std::is_same_v<S, A>) {
    memcpy(to, from, n * sizeof(A));
  } else {
    int64_t i = 0;
    for (; i + kLanes<A> <= n; i += kLanes<A>) store_vector(to + i, load_vector(from + i));
    for (; i < n; i++) to[i] = store<S>(from[i]);
  }
}

// A store to memory that is not in the cache first reads it. For an output too large to be in a cache when it is read
// next, a store past the cache saves that read, a third of the traffic; kernels then form rows in a buffer and call
// copy_past_cache. For smaller outputs it is slower, because the next reader does not find them in the cache. An output
// that shares its memory with an input is in the cache already.
#ifdef __SSE2__
inline bool past_cache(int64_t bytes, const void *out, const void *in) { return bytes > 64 << 20 && out != in; }

inline void copy_past_cache(void *to, const void *from, int64_t bytes) {
  char *out = static_cast<char *>(to);
  const char *in = static_cast<const char *>(from);
  int64_t head = -reinterpret_cast<uintptr_t>(out) & 15;
  if (head > bytes) head = bytes;
  memcpy(out, in, head);
  int64_t i = head;
  for (; i + 16 <= bytes; i += 16) _mm_stream_si128(reinterpret_cast<__m128i *>(out + i), load_as<__m128i>(in + i));
  memcpy(out + i, in + i, bytes - i);
}

inline void finish_past_cache() { _mm_sfence(); }  // before another thread may read
#else
inline bool past_cache(int64_t, const void *, const void *) { return false; }
inline void copy_past_cache(void *to, const void *from, int64_t bytes) { memcpy(to, from, bytes); }
inline void finish_past_cache() {}
#endif

}  // namespace TOON_ISA
}  // namespace toon
