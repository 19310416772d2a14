"""What torch.compile takes for constants while it traces.

Marking a function needs the compiler, whose import takes seconds: so this module is imported only by code that is being
traced.
"""

from __future__ import annotations

import torch

from . import conv3x3, library

torch.compiler.assume_constant_result(library.usable_on)
torch.compiler.assume_constant_result(conv3x3.has_network_taps)
