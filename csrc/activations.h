// The activations and the formulas of bias_act and epilogue, shared by the CPU and the CUDA code.
#pragma once

#include <cmath>

#include "storage.h"

namespace toon {
namespace TOON_ISA {

// value(u) = act(u). slope = act' and slope_derivative = slope' are functions of t = act(u), which the next layer keeps
// anyway, or of u itself if kFromInput.
struct Linear {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) { return u; }
  template <class A> static TOON_HD A slope(A, A) { return 1; }
  template <class A> static TOON_HD A slope_derivative(A, A) { return 0; }
};

struct Relu {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) { return u < 0 ? A(0) : u; }
  template <class A> static TOON_HD A slope(A t, A) { return t > 0 ? 1 : 0; }
  template <class A> static TOON_HD A slope_derivative(A, A) { return 0; }
};

struct Lrelu {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A alpha) { return u > 0 ? u : u * alpha; }
  template <class A> static TOON_HD A slope(A t, A alpha) { return t > 0 ? A(1) : alpha; }
  template <class A> static TOON_HD A slope_derivative(A, A) { return 0; }
};

struct Tanh {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) { return std::tanh(u); }
  template <class A> static TOON_HD A slope(A t, A) { return 1 - t * t; }
  template <class A> static TOON_HD A slope_derivative(A t, A) { return -2 * t; }
};

struct Sigmoid {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) { return 1 / (1 + std::exp(-u)); }
  template <class A> static TOON_HD A slope(A t, A) { return t * (1 - t); }
  template <class A> static TOON_HD A slope_derivative(A t, A) { return 1 - 2 * t; }
};

struct Elu {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) { return u > 0 ? u : std::expm1(u); }
  template <class A> static TOON_HD A slope(A t, A) { return t > 0 ? A(1) : t + 1; }
  template <class A> static TOON_HD A slope_derivative(A t, A) { return t > 0 ? 0 : 1; }
};

struct Selu {  // constants of Klambauer et al. 2017
  static constexpr bool kFromInput = false;
  static constexpr double kScale = 1.0507009873554804934193349852946;
  static constexpr double kScaleAlpha = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717;
  template <class A> static TOON_HD A value(A u, A) { return u > 0 ? u * A(kScale) : A(kScaleAlpha) * std::expm1(u); }
  template <class A> static TOON_HD A slope(A t, A) { return t > 0 ? A(kScale) : t + A(kScaleAlpha); }
  template <class A> static TOON_HD A slope_derivative(A t, A) { return t > 0 ? 0 : 1; }
};

struct Softplus {
  static constexpr bool kFromInput = false;
  template <class A> static TOON_HD A value(A u, A) {
    return (u > 0 ? u : A(0)) + std::log1p(std::exp(-std::abs(u)));  // exp never overflows
  }
  template <class A> static TOON_HD A slope(A t, A) { return -std::expm1(-t); }
  template <class A> static TOON_HD A slope_derivative(A t, A) { return std::exp(-t); }
};

struct Swish {
  static constexpr bool kFromInput = true;  // not monotonic: u does not follow from act(u)
  template <class A> static TOON_HD A value(A u, A) { return u * Sigmoid::value(u, A(0)); }
  template <class A> static TOON_HD A slope(A u, A) {
    const A s = Sigmoid::value(u, A(0));
    return s * (1 + u * (1 - s));
  }
  template <class A> static TOON_HD A slope_derivative(A u, A) {
    const A s = Sigmoid::value(u, A(0));
    return s * (1 - s) * (2 + u * (1 - 2 * s));
  }
};

// Calls f with the activation of code `act`, a ToonActivation.
template <class F>
TOON_HD void with_activation(int64_t act, F &&f) {
  switch (act) {
    case TOON_LINEAR: return f(Linear{});
    case TOON_RELU: return f(Relu{});
    case TOON_LRELU: return f(Lrelu{});
    case TOON_TANH: return f(Tanh{});
    case TOON_SIGMOID: return f(Sigmoid{});
    case TOON_ELU: return f(Elu{});
    case TOON_SELU: return f(Selu{});
    case TOON_SOFTPLUS: return f(Softplus{});
    case TOON_SWISH: return f(Swish{});
  }
}

template <class A>
struct Scalars {
  A alpha, gain;
  A inverse_gain;  // 0 where gain is 0: there y is 0 whatever x was, and so is the slope
  A limit;         // clamp as the storage type rounds it (a clipped y compares equal to it); NaN: no clamp
};

template <class S, class Params>
inline Scalars<Compute<S>> scalars_of(const Params &p) {
  using A = Compute<S>;
  const A gain = A(p.gain);
  return {A(p.alpha), gain, gain != 0 ? 1 / gain : A(0), p.clamp < 0 ? A(NAN) : load(store<S>(A(p.clamp)))};
}

// One element of ToonBiasAct. Every comparison with a NaN limit is false, which is what "no clamp" asks for.
template <int kOrder, class Act, class A>
TOON_HD A bias_act_at(A ref, A b, A dy, A ddx, const Scalars<A> &s) {
  if constexpr (kOrder == 0) {
    const A y = s.gain * Act::value(ref + b, s.alpha);
    return y > s.limit ? s.limit : y < -s.limit ? -s.limit : y;
  } else {
    const A r = Act::kFromInput ? ref + b : ref * s.inverse_gain;
    const A y = Act::kFromInput ? s.gain * Act::value(r, s.alpha) : ref;
    // By output, the gain of the slope and the 1 / gain of t = y / gain cancel in the second derivative.
    const A d = kOrder == 1 ? s.gain * Act::slope(r, s.alpha)
                            : (Act::kFromInput ? s.gain : A(1)) * Act::slope_derivative(r, s.alpha);
    const A flow = kOrder == 1 ? dy : dy * ddx;
    return y >= s.limit || y <= -s.limit ? A(0) : flow * d;
  }
}

// One element of ToonEpilogue, from the filtered v.
template <class A>
TOON_HD A epilogue_at(A v, A scale, A noise, A b, const Scalars<A> &s) {
  const A u = v * scale + noise + b;
  const A below = s.alpha > 0 ? u * s.alpha : A(0);  // relu of -infinity is 0, not 0 * infinity
  const A y = s.gain * (u < 0 ? below : u);
  return y > s.limit ? s.limit : y < -s.limit ? -s.limit : y;
}

// One element of ToonEpilogueGrad: du, and du * u. The latter needs no division by the slope m, as y = m * u.
template <class A>
struct EpilogueGrad {
  A du, du_u;
};

template <class A>
TOON_HD EpilogueGrad<A> epilogue_grad_at(A dy, A y, const Scalars<A> &s) {
  const A slope = s.gain * (y * s.inverse_gain > 0 ? A(1) : s.alpha);
  const bool clipped = y >= s.limit || y <= -s.limit;
  return {clipped ? A(0) : dy * slope, clipped ? A(0) : dy * y};
}

}  // namespace TOON_ISA
}  // namespace toon
