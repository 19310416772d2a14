"""The parameter structs of ``csrc/api.h``, field by field and in its order.

`library` compares the size of each with the C compiler's when it loads the kernels. Every field is 8 bytes wide, so
there is no padding on either side.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

from torch import Tensor


def _fields(pointers: str, integers: str = "", numbers: str = "") -> list[tuple[str, type]]:
    kinds = (pointers, ctypes.c_void_p), (integers, ctypes.c_int64), (numbers, ctypes.c_double)
    return [(name, kind) for names, kind in kinds for name in names.split()]


class Parameters(ctypes.Structure):
    """What a kernel is called with. All fields are named when one is made, so that none is forgotten or exchanged."""

    names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        cls.names = frozenset(field[0] for field in cls._fields_)

    def __init__(self, **values: Any) -> None:
        if values.keys() != self.names:
            raise TypeError(f"{type(self).__name__}: missing or unknown fields {sorted(values.keys() ^ self.names)}")
        super().__init__(**values)

    @classmethod
    def c_name(cls) -> str:
        """The name of the struct in ``csrc/api.h``."""
        return f"Toon{cls.__name__}"


class BiasAct(Parameters):
    _fields_ = _fields("out ref b dy ddx", "numel size_b step_b dtype act order", "alpha gain clamp")


class Upfirdn2d(Parameters):
    _fields_ = _fields(
        "out x f",
        "n c in_h in_w out_h out_w f_h f_w up_x up_y down_x down_y pad_x0 pad_y0 flip separable channels_last dtype",
        "gain",
    )


class Conv3x3(Parameters):
    _fields_ = _fields(
        "out x u s d noise b", "n c_in c_out in_h in_w out_h out_w d_step noise_step kind", "alpha gain clamp"
    )


class Conv3x3Weight(Parameters):
    _fields_ = _fields(
        "dw x s dy d w e",
        "n c_in c_out in_h in_w out_h out_w kind in_step out_step tap_step e_in_step e_out_step",
    )


class Conv3x3Pack(Parameters):
    _fields_ = _fields("u w energy", "c_in c_out kind in_step out_step tap_step")


class Haar(Parameters):
    _fields_ = _fields("out x", "n c h w up channels_last dtype")


class Separable(Parameters):
    _fields_ = _fields("out x up_style style depthwise u b noise", "n c_in c_out h w noise_step", "slope")


class SeparableGrad(Parameters):
    _fields_ = _fields(
        "dx d_up_style d_style d_depthwise d_pointwise d_b d_noise sums pointwise_parts"
        " dy y x up_style style depthwise u",
        "n c_in c_out h w parts",
        "slope",
    )


class Corners(Parameters):
    _fields_ = _fields("out x weight b", "n c h w colours")


class CornersGrad(Parameters):
    _fields_ = _fields("dx d_weight d_b sums dy x weight", "n c h w colours parts")


class SeparablePack(Parameters):
    _fields_ = _fields("u w", "depth columns k_step column_step")


class Epilogue(Parameters):
    _fields_ = _fields(
        "out x f scale noise b",
        "n c in_h in_w out_h out_w f_h f_w pad_x0 pad_y0 flip separable shared_noise channels_last dtype",
        "fir_gain alpha gain clamp",
    )


class EpilogueGrad(Parameters):
    _fields_ = _fields(
        "out channel_sums pixel_sums dy y scale noise",
        "n c pixels chunk group shared_noise channels_last dtype",
        "alpha gain clamp",
    )


ALL: tuple[type[Parameters], ...] = (
    BiasAct, Upfirdn2d, Conv3x3, Conv3x3Weight, Conv3x3Pack, Haar, Separable, SeparableGrad, Corners, CornersGrad,
    SeparablePack, Epilogue, EpilogueGrad,
)  # fmt: skip


def address(x: Tensor | None) -> int | None:
    """Where the data of a tensor begins; None (a NULL pointer) for None."""
    return None if x is None else x.data_ptr()
