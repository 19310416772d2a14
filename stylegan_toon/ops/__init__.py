"""Floor 1: the ops everything else is built from."""

from .bias_act import bias_act
from .upfirdn2d import setup_filter, upfirdn2d

__all__ = ["bias_act", "setup_filter", "upfirdn2d"]
