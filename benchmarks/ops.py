"""Speed of the ops: time, bytes that must be moved, and the time to copy as many bytes.

    python benchmarks/ops.py --peer PATH_OF_STYLEGAN2_ADA_PYTORCH

Each row is one op on one tensor. "new" allocates its output, "ready" gets it (out=), "in place" overwrites its input;
"backward" computes the gradients of all inputs, "double" the gradient of that gradient by the incoming one (for R1).
"MB" is what must be read and written; "copy" is the time of copy_ for as many bytes between allocated tensors, "of
copy" the reached part of that rate (above 1: some data stayed in the cache). The other columns are the time of others
over ours: our PyTorch reference, torch.compile of it, and with --peer a checkout of NVlabs/stylegan2-ada-pytorch (its
plugins on CUDA, its PyTorch code on the CPU). These have no "ready" or "in place" and are measured without. All run
alternately in one process; times are medians.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from timing import alternately, describe, peer_module
from torch import Tensor

from stylegan_toon import ops

MODES = ("new", "ready", "in place", "backward", "double")
OPTIONS = {"act": "lrelu", "clamp": 256.0}
RESAMPLINGS = {  # padding that keeps the size, halves or doubles it
    "filter": {"padding": [2, 1, 2, 1]},
    "up 2": {"up": 2, "padding": [2, 1, 2, 1], "gain": 4},
    "down 2": {"down": 2, "padding": [1, 1, 1, 1]},
}


@dataclass
class Row:
    """One line of the table. Times in milliseconds; ``others``: their times by name."""

    work: str
    megabytes: float
    copy: float = 0.0
    ours: float = 0.0
    others: dict[str, float] = field(default_factory=dict)


@dataclass
class Case:
    """One op: ``ours`` and the ``others``, each a function of ``inputs`` (x and what else has a gradient)."""

    name: str
    ours: Callable[..., Tensor]
    others: dict[str, Callable[..., Tensor]]
    inputs: list[Tensor]
    size: int  # numbers in the output

    def bytes_moved(self, mode: str) -> int:
        # bias_act computes its slope from its output: backward and double read that, too.
        numbers = self.inputs[0].numel() + self.size + (self.size if self.sloped and mode in MODES[3:] else 0)
        return numbers * self.inputs[0].element_size()

    @property
    def sloped(self) -> bool:
        return len(self.inputs) > 1

    def prepare(self, mode: str, f: Callable[..., Tensor], takes_out: bool) -> Callable[[], object]:
        """The function that one measurement calls."""
        if mode in MODES[:3]:
            leaves = [t.detach() for t in self.inputs]
            if not takes_out or mode == "new":
                return partial(_without_gradient, f, *leaves)
            out = f(*leaves).zero_() if mode == "ready" else leaves[0].clone()
            return partial(_without_gradient, f, *(leaves if mode == "ready" else [out, *leaves[1:]]), out=out)
        leaves = [t.detach().requires_grad_() for t in self.inputs]
        y = f(*leaves)
        dy = torch.randn_like(y).requires_grad_()
        if mode == "backward":
            return partial(torch.autograd.grad, y, leaves, dy.detach(), retain_graph=True)
        (dx,) = torch.autograd.grad(y, leaves[:1], dy, create_graph=True)
        return partial(torch.autograd.grad, dx, dy, torch.randn_like(dx), retain_graph=True)


def _without_gradient(f: Callable[..., Tensor], *inputs: Tensor, **options: Tensor) -> Tensor:
    with torch.no_grad():
        return f(*inputs, **options)


def _as_reference(f: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with ops.reference():
        return f(*inputs)


def compiled(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile of our reference."""
    return partial(_as_reference, torch.compile(f, fullgraph=True))


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here; prints a message if it does not."""
    try:
        from torch._functorch import config

        config.donated_buffer = False  # each backward pass is measured many times
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
        return True
    except Exception as error:  # torch.compile raises unrelated kinds of errors
        print(f"torch.compile does not work here ({str(error).splitlines()[0][:80]}): it is left out.\n")
        return False


def cases(args: argparse.Namespace) -> list[Case]:
    memory = torch.channels_last if args.channels_last else torch.contiguous_format
    n, c, h, w = args.shape
    f = ops.setup_filter([1, 3, 3, 1], device=args.device)
    with_compile = args.compile and can_compile(args.device)
    peer_add = peer_module(args.peer, "torch_utils.ops.bias_act").bias_act if args.peer else None
    peer_fir = peer_module(args.peer, "torch_utils.ops.upfirdn2d").upfirdn2d if args.peer else None
    impl = "cuda" if args.device.type == "cuda" else "ref"

    def case(
        name: str, ours: Callable[..., Tensor], peer: Callable[..., Tensor] | None, size: int, *inputs: Tensor
    ) -> Case:
        others: dict[str, Callable[..., Tensor]] = {"reference": partial(_as_reference, ours)}
        others |= {"compile": compiled(ours)} if with_compile else {}
        others |= {"peer": peer} if peer else {}
        placed = [t.contiguous(memory_format=memory) if t.ndim == 4 else t for t in inputs]
        return Case(name, ours, others, placed, size)

    def add(x: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        return ops.bias_act(x, b, **OPTIONS, out=out)

    def fir(options: dict, x: Tensor, out: Tensor | None = None) -> Tensor:
        return ops.upfirdn2d(x, f, **options, out=out)

    x = torch.randn(n, c, h, w, device=args.device).to(args.dtype)
    b = torch.randn(c, device=args.device).to(args.dtype)
    peer = partial(peer_add, **OPTIONS, impl=impl) if peer_add else None
    selected = [case("bias_act", add, peer, x.numel(), x, b)]
    for name, options in RESAMPLINGS.items():
        small = x[:, :, : h // 2, : w // 2] if "up" in options else x
        size = x.numel() // 4 if "down" in options else x.numel()
        peer = partial(peer_fir, f=f, **options, impl=impl) if peer_fir else None
        selected.append(case(f"upfirdn2d {name}", partial(fir, options), peer, size, small))
    return selected


def measure(case: Case, mode: str, copy: Callable[[], object], args: argparse.Namespace) -> Row:
    names = [k for k in case.others if not (k == "compile" and mode == "double")]  # torch.compile has none
    functions = [copy, case.prepare(mode, case.ours, takes_out=True)]
    functions += [case.prepare(mode, case.others[k], takes_out=False) for k in names]
    seconds = alternately(functions, args.rounds, warm_up=2, device=args.device)
    moved = case.bytes_moved(mode)
    copy_seconds = seconds[0] * moved / (2 * args.numel * args.dtype.itemsize)
    milliseconds = [1e3 * s for s in seconds]
    return Row(
        f"{case.name}, {mode}", moved / 1e6, 1e3 * copy_seconds, milliseconds[1], dict(zip(names, milliseconds[2:]))
    )


def table(rows: list[Row], names: list[str]) -> str:
    lines = [f"| {'work':26} | MB  | copy ms | ours ms | GB/s | of copy |" + "".join(f" {n} |" for n in names)]
    lines += ["|---|---|---|---|---|---|" + "---|" * len(names)]
    for r in rows:
        line = f"| {r.work:26} | {r.megabytes:3.0f} | {r.copy:8.2f} | {r.ours:7.2f} | {r.megabytes / r.ours:4.1f} |"
        line += f" {r.copy / r.ours:7.2f} |"
        ratios = [f"{r.others[n] / r.ours:.1f}x" if n in r.others else "-" for n in names]
        lines.append(line + "".join(f" {ratio:>{len(n)}} |" for n, ratio in zip(names, ratios)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--shape", type=int, nargs=4, default=[1, 128, 256, 256], metavar=("N", "C", "H", "W"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16", "float64"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="measure the rows whose name holds this")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    args = parser.parse_args()
    args.dtype, args.numel = getattr(torch, args.dtype), torch.Size(args.shape).numel()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=UserWarning)  # the peer's, of torch functions long deprecated
    head = describe()
    if args.device.type == "cuda":
        head += f"\n{torch.cuda.get_device_name(args.device)}"
    head += f"\n{args.shape} {args.dtype}, {'channels_last' if args.channels_last else 'contiguous'}"
    print(head)

    memory = torch.empty(args.shape, dtype=args.dtype, device=args.device)
    source, target = torch.randn_like(memory), torch.zeros_like(memory)
    copy = partial(target.copy_, source)
    seconds = alternately([copy, source.clone], args.rounds, warm_up=2, device=args.device)
    rate = 2e-9 * source.nbytes / seconds[0]
    limits = f"copy_ {seconds[0] * 1e3:.2f} ms ({rate:.1f} GB/s), clone() {seconds[1] * 1e3:.2f} ms"
    print(limits + "\n")

    selected = cases(args)
    work = [(case, mode) for case in selected for mode in MODES if mode != "in place" or case.sloped]
    rows = [measure(case, mode, copy, args) for case, mode in work if args.only in f"{case.name}, {mode}"]
    print(table(rows, list(selected[0].others)))
    if args.json:
        numbers = {"head": head, "copy_ms": 1e3 * seconds[0], "clone_ms": 1e3 * seconds[1]}
        args.json.write_text(json.dumps(numbers | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
