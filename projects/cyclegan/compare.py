"""Cost and quality of generators with 4, 6 or 9 residual blocks after the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import torch

from stylegan_toon import cli
from stylegan_toon.config import read_toml
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, save_image
from stylegan_toon.errors import ToonError
from stylegan_toon.files import atomic_path, refuse_overwrite
from stylegan_toon.metrics.evaluation import evaluate_pictures

from .infer import load_generator
from .train import TrainingConfig, translate

METRICS = ("fd-efficientnet-lite0", "kd-efficientnet-lite0")
SHOWN = 6


def trained(out: Path, arguments: list[str]) -> dict[str, float]:
    """Train in a process of its own; returns its seconds of processor time and its largest memory in MB."""
    command = [sys.executable, "-m", "projects.cyclegan.train", "--out", str(out), *arguments]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ToonError(f"The training in {out} ended with code {process.returncode}: see its message.")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "memory_mb": used.ru_maxrss * unit / 1e6}


@cli.command(
    """python -m projects.cyclegan.compare --photos data/photos-train.zip --cartoons data/cartoons-train.zip \\
    --test-photos data/photos-test.zip --test-cartoons data/cartoons-test.zip --kimg 2 --out runs/blocks"""
)
@click.option("--photos", required=True, help="Set of photos to learn from.")
@click.option("--cartoons", required=True, help="Set of cartoons to learn from.")
@click.option("--test-photos", required=True, help="Photos held out, to be translated.")
@click.option("--test-cartoons", required=True, help="Cartoons held out, to compare with.")
@click.option("--blocks", default="4,6", help="Numbers of residual blocks.")
@click.option("--kimg", type=float, default=2.0, help="Thousands of pictures to train each on.")
@click.option("--config", type=cli.PATH, default=Path(__file__).with_name("config.toml"), show_default="config.toml")
@cli.out("runs/blocks")
@cli.device()
@cli.overwrite()
def main(
    photos: str, cartoons: str, test_photos: str, test_cartoons: str, blocks: str, kimg: float, config: Path, out: Path,
    device: torch.device, overwrite: bool,
) -> None:  # fmt: skip
    """Train with each number of residual blocks, otherwise alike, and compare.

    Writes compare.json: parameters, processor time and largest memory of the training's process, Frechet and kernel
    distance between translated photos and cartoons, both held out; and compare.png, the same photos side by side.
    """
    refuse_overwrite([out / "compare.json", out / "compare.png"], overwrite)
    whole = read_toml(TrainingConfig, config)
    decay = kimg * whole.decay_kimg / (whole.kimg or 1)  # the rate falls over the same part of the training
    inputs = ImageDataset(test_photos, whole.resolution, resize=True)
    rows, columns, names = [], [], []
    for number in blocks.split(","):
        run = out / f"blocks{number}"
        arguments = ["--photos", photos, "--cartoons", cartoons, "--config", str(config), "--blocks", number]
        arguments += ["--kimg", str(kimg), "--decay-kimg", str(decay), "--device", str(device)]
        arguments += ["--overwrite"] * overwrite
        cost = trained(run, arguments)
        G = load_generator(run / "network.safetensors", device=device)
        made = [translate(G, inputs.image(row)) for row in cli.progress(range(len(inputs)), unit="img")]
        (run / "test").mkdir(exist_ok=True)
        for row, picture in enumerate(made):
            save_image(picture, run / "test" / f"{row:05d}.png")
        reals = ImageDataset(test_cartoons, whole.resolution, resize=True)
        metrics = evaluate_pictures(ImageDataset(run / "test"), reals, METRICS, quiet=True)
        parameters = sum(parameter.numel() for parameter in G.parameters())
        rows.append({"blocks": int(number), "parameters": parameters, **cost, **metrics})
        columns.append(made[:SHOWN])
        names.append(f"{number} blocks")
        click.echo(json.dumps(rows[-1]))
    with atomic_path(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    shown = [inputs.image(row) for row in range(min(SHOWN, len(inputs)))]
    cells = [image for row in (shown, *columns) for image in row]
    save_image(image_grid(cells, len(shown), size=96, row_labels=["photo", *names]), out / "compare.png")
    click.echo(out / "compare.png")


if __name__ == "__main__":
    main()
