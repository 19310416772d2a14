"""How a network is run: as it is, as CUDA graphs, or compiled by torch. The results are the same up to rounding.

At small batches a GPU waits for Python, which launches some hundred kernels a picture one by one. A CUDA graph is a
recording of them that one call plays again.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..config import ACCELERATE

SMALL = 8  # the batch up to which "auto" takes graphs
_WARM_UP = 3  # calls of a kind before it is recorded: libraries choose their algorithms then
_MOST = 8  # recordings kept; each holds the memory of its activations


def accelerate(function: Callable, how: str = "auto") -> Callable:
    """``function`` itself, or a callable with the same results that runs it as CUDA graphs or compiled.

    Args:
        function: a module or a function of tensors and hashable options that returns a tensor or a tuple of tensors.
            To be recorded, it must work on tensors that stay at the same address. A module's weights may change or
            move: that is noticed, and recordings made with other weights are not used.
        how: "auto": CUDA graphs for up to 8 pictures on CUDA, otherwise nothing; "off": nothing; "graphs": for any
            number; "compile": torch.compile, which takes seconds to minutes at first and for every new shape. If one
            does not work on this machine, a warning says so and the function runs as it is.

    Returns:
        ``function`` itself for "off". Results of recordings have no gradients; functions whose results require
        gradients are not recorded.

    Raises:
        ValueError: ``how`` is none of these.
    """
    if how not in ACCELERATE:
        raise ValueError(f"accelerate must be one of {', '.join(ACCELERATE)}, not {how!r}")
    if how == "off":
        return function
    return _Compiled(function) if how == "compile" else Graphs(function, SMALL if how == "auto" else None)


class _Compiled:
    def __init__(self, function: Callable) -> None:
        self.function = function
        self.fast: Callable | None = torch.compile(function, dynamic=False)

    def __call__(self, *args, **kwargs):
        if self.fast is None:
            return self.function(*args, **kwargs)
        try:
            return self.fast(*args, **kwargs)
        except Exception as error:  # compilers fail in many ways; the call below repeats a mistake of the caller
            result = self.function(*args, **kwargs)
            self.fast = None
            warnings.warn(
                f"torch.compile does not work here ({_first_line(error)}): going on without it.", stacklevel=2
            )
            return result


@dataclass
class _Recording:
    """The calls of one kind so far, and their recording once there is one."""

    calls: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: Sequence[Tensor] = ()
    play: Callable[[], None] | None = None
    refused: bool = False


class Graphs:
    """``function`` as CUDA graphs, one for each kind of call: shapes, dtypes, options, versions of a module's weights.

    Every call has the effect of one call: the first three of a kind are the function itself, and a recording is made
    without computing anything. So functions that change tensors, such as a step of an optimiser, can be recorded, too.

    Args:
        function: see `accelerate`.
        most: largest batch (length of the first tensor) that is recorded; None = any.
        record: takes a function without arguments, records it and returns its results and a function that replays it.
        device_type: of the tensors that can be recorded.
    """

    def __init__(
        self,
        function: Callable,
        most: int | None = None,
        *,
        record: Callable[[Callable[[], Sequence[Tensor]]], tuple[Sequence[Tensor], Callable[[], None]]] | None = None,
        device_type: str = "cuda",
    ) -> None:
        self.function, self.most = function, most
        self.record, self.device_type = record or _record, device_type
        self.recordings: OrderedDict[Hashable, _Recording] = OrderedDict()

    def __call__(self, *args, **kwargs):
        names, values = list(kwargs), [*args, *kwargs.values()]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not tensors or (self.most is not None and len(tensors[0]) > self.most):
            return self.function(*args, **kwargs)
        if any(t.device.type != self.device_type or (t.requires_grad and torch.is_grad_enabled()) for t in tensors):
            if self.most is None and tensors[0].device.type != self.device_type:
                self.most = 0
                warnings.warn("CUDA graphs need a CUDA device: going on without them.", stacklevel=2)
            return self.function(*args, **kwargs)
        recording = self._recording((len(args), *names, torch.is_grad_enabled(), *map(_kind, values)))
        if recording.refused:
            return self.function(*args, **kwargs)
        if recording.play is None:
            if recording.calls < _WARM_UP:
                recording.calls += 1
                result = self._on_side_stream(*args, **kwargs)
                recording.refused = any(t.requires_grad for t in _several(result))
                return result
            self._make(recording, len(args), names, values)
        if recording.play is None:
            return self.function(*args, **kwargs)
        for own, given in zip(recording.inputs, tensors, strict=True):
            own.copy_(given)
        recording.play()
        results = [t.clone() for t in recording.outputs]  # the next call writes over them
        return tuple(results) if len(results) > 1 else results[0]

    def _recording(self, kind: Hashable) -> _Recording:
        if isinstance(self.function, nn.Module):
            weights = [*self.function.parameters(), *self.function.buffers()]
            kind = (kind, *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in weights))
        recording = self.recordings.setdefault(kind, _Recording())
        self.recordings.move_to_end(kind)
        if len(self.recordings) > _MOST:
            self.recordings.popitem(last=False)
        return recording

    def _on_side_stream(self, *args, **kwargs):
        """A call on a stream of its own, which CUDA requires before a recording."""
        if self.device_type != "cuda":
            return self.function(*args, **kwargs)
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = self.function(*args, **kwargs)
        here.wait_stream(side)
        for t in _several(result):
            t.record_stream(here)
        return result

    def _make(self, recording: _Recording, positional: int, names: list[str], values: list) -> None:
        """Record, or warn if that is not possible."""
        own = [v.detach().clone() if isinstance(v, Tensor) else v for v in values]
        recording.inputs = [v for v in own if isinstance(v, Tensor)]
        call = dict(zip(names, own[positional:], strict=True))
        try:
            recording.outputs, recording.play = self.record(lambda: _several(self.function(*own[:positional], **call)))
        except RuntimeError as error:
            recording.refused, recording.inputs = True, []
            warnings.warn(f"This cannot be a CUDA graph ({_first_line(error)}): going on without it.", stacklevel=3)


def _record(function: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function()
    return outputs, graph.replay


def _several(result: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (result,) if isinstance(result, Tensor) else result


def _kind(value: Hashable) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
