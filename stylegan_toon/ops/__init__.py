"""The ops that the networks are built from: each file has one op or one kind of layer.

Each op has a compiled implementation (``csrc``) and a pure-PyTorch reference; ``status()`` tells which of them runs on
this machine, and why.
"""

from .bias_act import bias_act
from .epilogue import epilogue
from .haar import haar_down, haar_rgb, haar_up
from .library import Status, reference, status
from .separable import separable_layer, separable_up_layer
from .upfirdn2d import setup_filter, upfirdn2d
from .workspace import release

__all__ = [
    "Status", "bias_act", "epilogue", "haar_down", "haar_rgb", "haar_up", "reference", "release", "separable_layer",
    "separable_up_layer", "setup_filter", "status", "upfirdn2d",
]  # fmt: skip
