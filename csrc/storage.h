// Storage types, the compute type that goes with each, and the macros CPU and CUDA code share.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "api.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define TOON_HD __host__ __device__ __forceinline__
#else
#define TOON_HD inline __attribute__((always_inline))  // a call inside a loop would keep it from being vectorised
#endif

// The CPU sources are compiled once per instruction set. Everything they include is in a namespace named after it;
// otherwise the linker would merge equal names, and a processor without AVX-512 could get AVX-512 code.
#ifndef TOON_ISA
#define TOON_ISA baseline
#endif

namespace toon {
namespace TOON_ISA {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class To, class From>
TOON_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

TOON_HD float load(float x) { return x; }
TOON_HD double load(double x) { return x; }

// The half conversions, of one number (F float, U uint32_t) or of a vector of them (simd.h); halves are the low
// 16 bits of a U. They are written with selects instead of branches, which vectors do not have.
template <class F, class U>
TOON_HD F from_bfloat16(U half) {
  return bit_cast<F>(half << 16);
}

template <class U, class F>
TOON_HD U to_bfloat16(F x) {
  const U bits = bit_cast<U>(x);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const U nan = (bits >> 16) | 0x40u;
  return x != x ? nan : rounded;
}

template <class F, class U>
TOON_HD F from_float16(U half) {
  const U sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
  const U normal = magnitude + (uint32_t(127 - 15) << 23);
  // A subnormal is mantissa * 2^-24: give it the exponent of 2^-14, then subtract the implied one.
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude + (113u << 23)) - 0x1p-14f);
  const U special = magnitude | 0x7f800000u;  // infinity, NaN
  const U finite = magnitude < (1u << 23) ? subnormal : normal;
  return bit_cast<F>(sign | (magnitude >= (31u << 23) ? special : finite));
}

template <class U, class F>
TOON_HD U to_float16(F x) {
  const U bits = bit_cast<U>(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14: adding 1/2 makes the floating point unit round to a multiple of 2^-24.
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude) + 0.5f) - 0x3f000000u;
  const U infinity = U{} + 0x7c00u, nan = U{} + 0x7e00u;
  const U special = magnitude > 0x7f800000u ? nan : infinity;
  const U finite = magnitude < (113u << 23) ? subnormal : normal;
  return sign | (magnitude >= (143u << 23) ? special : finite);
}

TOON_HD float load(BFloat16 x) {
#ifdef __CUDA_ARCH__
  return __bfloat162float(__ushort_as_bfloat16(x.bits));
#else
  return from_bfloat16<float>(uint32_t(x.bits));
#endif
}

TOON_HD float load(Float16 x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  return from_float16<float>(uint32_t(x.bits));
#endif
}

template <class S>
TOON_HD S store(Compute<S> x) {
  return x;
}

template <>
TOON_HD BFloat16 store<BFloat16>(float x) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  return {uint16_t(to_bfloat16<uint32_t>(x))};
#endif
}

template <>
TOON_HD Float16 store<Float16>(float x) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  return {uint16_t(to_float16<uint32_t>(x))};
#endif
}

// Calls f with a value of the storage type of `dtype`, a ToonDtype.
template <class F>
inline void with_dtype(int64_t dtype, F &&f) {
  switch (dtype) {
    case TOON_FLOAT32: return f(float{});
    case TOON_FLOAT64: return f(double{});
    case TOON_FLOAT16: return f(Float16{});
    case TOON_BFLOAT16: return f(BFloat16{});
  }
}

}  // namespace TOON_ISA
using namespace TOON_ISA;
}  // namespace toon
