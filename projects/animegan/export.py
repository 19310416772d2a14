"""Write the generator as an ONNX file, for runtimes without PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from stylegan_toon import cli
from stylegan_toon.errors import ToonError
from stylegan_toon.files import atomic_path, refuse_overwrite
from stylegan_toon.ops import reference

from .infer import NETWORK, load_generator
from .model import AnimeGenerator

OPSET = 18
TOLERANCE = 2e-3  # of the range -1..1, between the two runtimes


def export_onnx(G: AnimeGenerator, path: Path) -> None:
    """Write ``G`` as ONNX: input ``photo``, output ``painting``, float32 ``[N, 3, H, W]`` in [-1, 1], H and W any
    multiples of 8.

    Raises:
        ToonError: the packages are missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ToonError("ONNX needs other packages: pip install 'stylegan_toon[onnx]'.") from None
    size = {0: torch.export.Dim("n", min=1, max=64)}
    grid = {2: 8 * torch.export.Dim("h8", min=4, max=1024), 3: 8 * torch.export.Dim("w8", min=4, max=1024)}
    quiet = logging.getLogger("torch.onnx")
    level, quiet.level = quiet.level, logging.ERROR
    try:
        with reference():  # ONNX knows none of the library's ops
            program = torch.onnx.export(
                G, (torch.zeros(2, 3, 64, 96),), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["photo"], output_names=["painting"], dynamic_shapes=(size | grid,),
            )  # fmt: skip
    finally:
        quiet.level = level
    assert program is not None  # dynamo=True returns a program
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)


def difference(G: AnimeGenerator, path: Path) -> float | None:
    """Largest difference of the file's output from that of ``G``, at a size it was not exported with.

    None where onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    photo = torch.rand(1, 3, 72, 120, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        wanted = G(photo)
    (output,) = session.run(None, {"photo": photo.numpy()})
    return float((torch.from_numpy(output) - wanted).abs().max())


@cli.command("python -m projects.animegan.export --out comic.onnx")
@NETWORK
@cli.out("animegan.onnx", help="File to write.")
@cli.overwrite()
def main(network: Path, out: Path, overwrite: bool) -> None:
    """Write the generator as ONNX and, where onnxruntime is installed, compare it with PyTorch's."""
    refuse_overwrite([out], overwrite)
    G = load_generator(network)
    export_onnx(G, out)
    off = difference(G, out)
    if off is None:
        click.echo("not compared: pip install onnxruntime", err=True)
    elif not off < TOLERANCE:
        raise ToonError(f"{out} differs by {off:.1e}: use another version of torch or onnxscript.")
    else:
        click.echo(f"onnxruntime gives the same within {off:.1e}", err=True)
    click.echo(out)


if __name__ == "__main__":
    main()
