// The checks of the launchers, on every device: a message if the parameters are refused, NULL otherwise. Python has
// checked shapes and layout before; this guards against a struct that was filled wrongly, which would make a kernel
// write outside the tensors.
#pragma once

#include "api.h"

inline const char *toon_invalid(const ToonBiasAct &p) {
  if (p.dtype < TOON_FLOAT32 || p.dtype > TOON_BFLOAT16) return "unknown dtype";
  if (p.act < 0 || p.act >= TOON_ACTIVATION_COUNT) return "unknown activation";
  if (p.order < 0 || p.order > 2) return "order is not 0, 1 or 2";
  if (!p.out || !p.ref || (p.order >= 1 && !p.dy) || (p.order >= 2 && !p.ddx)) return "a tensor is missing";
  if (p.numel < 0 || (p.b && (p.size_b < 1 || p.step_b < 1))) return "a size is out of range";
  return nullptr;
}

inline const char *toon_invalid(const ToonUpfirdn2d &p) {
  if (p.dtype < TOON_FLOAT32 || p.dtype > TOON_BFLOAT16) return "unknown dtype";
  if (!p.out || !p.x || !p.f) return "a tensor is missing";
  if (p.n < 0 || p.c < 0 || p.in_h < 1 || p.in_w < 1 || p.out_h < 1 || p.out_w < 1) return "a size is out of range";
  if (p.f_h < 1 || p.f_h > TOON_MAX_TAPS || p.f_w < 1 || p.f_w > TOON_MAX_TAPS)
    return "a filter has 1 to 32 taps per axis";
  if (p.separable && p.f_h != p.f_w) return "a separable filter has as many taps along y as along x";
  if (p.up_x < 1 || p.up_y < 1 || p.down_x < 1 || p.down_y < 1) return "up and down are at least 1";
  return nullptr;
}

template <class Params>  // ToonConv3x3 or ToonConv3x3Weight
inline const char *toon_invalid_geometry(const Params &p) {
  if (p.kind < TOON_PLAIN || p.kind > TOON_DOWN) return "unknown kind";
  if (p.n < 1 || p.c_in < 16 || p.c_in % 16 || p.c_out < 16 || p.c_out % 16) return "channels are multiples of 16";
  if (p.in_h < 1 || p.in_w < 1) return "a size is out of range";
  const auto fits = [&](int64_t in, int64_t out) {
    if (p.kind == TOON_PLAIN) return out == in;
    return p.kind == TOON_UP ? out == 2 * in : in % 2 == 0 && out == in / 2;
  };
  return fits(p.in_h, p.out_h) && fits(p.in_w, p.out_w)
             ? nullptr
             : "the size of the output does not follow from that of the input";
}

inline const char *toon_invalid(const ToonConv3x3 &p) {
  return p.out && p.x && p.u ? toon_invalid_geometry(p) : "a tensor is missing";
}

inline const char *toon_invalid(const ToonConv3x3Weight &p) {
  if (p.kind == TOON_UP) return "there is no kernel for TOON_UP";
  return p.dw && p.x && p.dy ? toon_invalid_geometry(p) : "a tensor is missing";
}

inline const char *toon_invalid(const ToonConv3x3Pack &p) {
  if (p.kind < TOON_PLAIN || p.kind > TOON_DOWN) return "unknown kind";
  if (!p.u || !p.w) return "a tensor is missing";
  if (p.c_in < 16 || p.c_in % 16 || p.c_out < 16 || p.c_out % 16) return "channels are multiples of 16";
  return nullptr;
}

inline const char *toon_invalid(const ToonHaar &p) {
  if (p.dtype < TOON_FLOAT32 || p.dtype > TOON_BFLOAT16) return "unknown dtype";
  if (!p.out || !p.x) return "a tensor is missing";
  return p.n < 1 || p.c < 1 || p.h < 1 || p.w < 1 ? "a size is out of range" : nullptr;
}

template <class Params>  // ToonSeparable or ToonSeparableGrad
inline const char *toon_invalid_separable(const Params &p) {
  if (p.n < 1 || p.c_in < 16 || p.c_in % 16 || p.c_out < 16 || p.c_out % 16) return "channels are multiples of 16";
  if (p.h < 1 || p.w < 1 || (p.up_style && (p.h % 2 || p.w % 2))) return "a size is out of range";
  return p.slope >= 0 ? nullptr : "the slope is negative";
}

inline const char *toon_invalid(const ToonSeparable &p) {
  if (!p.out || !p.x || !p.style || !p.depthwise || !p.u || !p.b) return "a tensor is missing";
  return toon_invalid_separable(p);
}

inline const char *toon_invalid(const ToonSeparableGrad &p) {
  if (!p.dy || !p.y || !p.x || !p.style || !p.depthwise || !p.sums) return "a tensor is missing";
  if ((p.dx || p.d_depthwise) && !p.u) return "a tensor is missing";
  if (p.d_pointwise && p.parts > 1 && !p.pointwise_parts) return "a tensor is missing";
  if ((p.d_up_style && !p.dx) || (p.d_style && !p.dx && !p.d_depthwise))
    return "d_up_style needs dx, d_style needs dx or d_depthwise";
  return p.parts < 1 ? "a size is out of range" : toon_invalid_separable(p);
}

template <class Params>  // ToonCorners or ToonCornersGrad
inline const char *toon_invalid_corners(const Params &p) {
  if (p.n < 1 || p.c < 16 || p.c % 16) return "channels are multiples of 16";
  return p.h < 1 || p.w < 1 || p.colours < 1 || p.colours > 4 ? "a size is out of range" : nullptr;
}

inline const char *toon_invalid(const ToonCorners &p) {
  return p.out && p.x && p.weight && p.b ? toon_invalid_corners(p) : "a tensor is missing";
}

inline const char *toon_invalid(const ToonCornersGrad &p) {
  if (!p.sums || !p.dy || !p.x || !p.weight) return "a tensor is missing";
  return p.parts < 1 ? "a size is out of range" : toon_invalid_corners(p);
}

inline const char *toon_invalid(const ToonSeparablePack &p) {
  if (!p.u || !p.w) return "a tensor is missing";
  const bool fits = p.depth >= 16 && p.depth % 16 == 0 && p.columns >= 16 && p.columns % 16 == 0;
  return fits ? nullptr : "channels are multiples of 16";
}

inline const char *toon_invalid(const ToonEpilogue &p) {
  if (p.dtype < TOON_FLOAT32 || p.dtype > TOON_BFLOAT16) return "unknown dtype";
  if (!p.out || !p.x) return "a tensor is missing";
  if (p.n < 0 || p.c < 0 || p.in_h < 1 || p.in_w < 1 || p.out_h < 1 || p.out_w < 1) return "a size is out of range";
  if (p.f_h < 1 || p.f_h > TOON_MAX_TAPS || p.f_w < 1 || p.f_w > TOON_MAX_TAPS)
    return "a filter has 1 to 32 taps per axis";
  if (p.separable && p.f_h != p.f_w) return "a separable filter has as many taps along y as along x";
  if (!p.f && (p.out_h != p.in_h || p.out_w != p.in_w)) return "without a filter the size does not change";
  return nullptr;
}

inline const char *toon_invalid(const ToonEpilogueGrad &p) {
  if (p.dtype < TOON_FLOAT32 || p.dtype > TOON_BFLOAT16) return "unknown dtype";
  if (!p.out || !p.channel_sums || !p.pixel_sums || !p.dy || !p.y) return "a tensor is missing";
  if (p.n < 0 || p.c < 0 || p.pixels < 0 || p.chunk < 1 || p.group < 1) return "a size is out of range";
  return nullptr;
}
