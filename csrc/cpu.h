// The CPU kernels of every instruction set that the library was built for: the same sources, compiled with different
// flags. The launchers in cpu.cpp have checked the arguments. Those that return bool return false if memory
// cannot be allocated.
#pragma once

#include "api.h"

#define TOON_DECLARE(isa)                                            \
  namespace toon::isa {                                              \
  void bias_act(const ToonBiasAct &p, int threads);                  \
  bool upfirdn2d(const ToonUpfirdn2d &p, int threads);               \
  bool conv3x3(const ToonConv3x3 &p, int threads);                   \
  bool conv3x3_weight(const ToonConv3x3Weight &p, int threads);      \
  void conv3x3_pack(const ToonConv3x3Pack &p, int threads);          \
  int64_t conv3x3_packed(int64_t kind, int64_t c_in, int64_t c_out); \
  void haar2d(const ToonHaar &p, int threads);                       \
  bool separable(const ToonSeparable &p, int threads);               \
  bool separable_grad(const ToonSeparableGrad &p, int threads);      \
  bool corners(const ToonCorners &p, int threads);                   \
  bool corners_grad(const ToonCornersGrad &p, int threads);          \
  void separable_pack(const ToonSeparablePack &p, int threads);      \
  int64_t separable_packed(int64_t depth, int64_t columns);          \
  bool epilogue(const ToonEpilogue &p, int threads);                 \
  void epilogue_grad(const ToonEpilogueGrad &p, int threads);        \
  }

TOON_DECLARE(baseline)
#ifdef TOON_X86
TOON_DECLARE(avx2)
TOON_DECLARE(avx512)
#endif
