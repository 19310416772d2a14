"""Registering ops with torch, through `torch.library`.

An op is opaque to torch: autograd, ``torch.compile`` and fake tensors see a name, a schema, the shape of the result and
a backward formula, and never look inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NAMESPACE = "stylegan_toon"
_library = torch.library.Library(_NAMESPACE, "DEF")

Op = Callable[..., Any]


def define(
    schema: str,
    implementation: Callable,
    fake: Callable,
    *,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
) -> Op:
    """Register an op and return it.

    Args:
        schema: Name, arguments and results, in the language of `torch.library`.
        implementation: Computes the results, for every device.
        fake: Makes results of the same shape, dtype and strides, without data.
        setup_context: ``setup_context(ctx, inputs, output)`` saves what ``backward`` needs.
        backward: ``backward(ctx, *gradients)``, one gradient or None for each argument. None: the op has no gradient.
    """
    name = schema.split("(")[0]
    qualified = f"{_NAMESPACE}::{name}"
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
    return getattr(getattr(torch.ops, _NAMESPACE), name).default


def define_out(schema: str, implementation: Callable, fake: Callable) -> Op:
    """Register an op that writes its result into its keyword argument ``out``, returns nothing and has no gradient."""

    def compute(*args: Any, out: Tensor) -> None:
        refuse_gradient(*args, out)
        implementation(*args, out=out)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)  # a backward pass that has saved `out` must notice

    def compute_fake(*args: Any, out: Tensor) -> None:
        refuse_gradient(*args, out)
        fake(*args, out=out)

    return define(schema, compute, compute_fake)


def gradient_wanted(*tensors: Any) -> bool:
    """Whether autograd records what is computed from these."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def refuse_gradient(*tensors: Any) -> None:
    """Raise ValueError if autograd would have to record an op that writes over one of its arguments."""
    if gradient_wanted(*tensors):
        raise ValueError("out= cannot be recorded for a gradient: call without it, or within torch.no_grad()")
