"""Makes the two sets of the recipe: frontal faces without glasses, and heads of drawn avatars, all on white."""

from __future__ import annotations

from pathlib import Path

import click

from stylegan_toon import cli
from stylegan_toon.dataset_builder.avatars import Avatars
from stylegan_toon.dataset_builder.recipe import Recipe
from stylegan_toon.files import output_folder
from stylegan_toon.pipelines.dataset import avatars, dataset

HEAD = (0.14, 0.12, 0.72)  # crop of a toon-head in which the head is as large as an aligned face


@cli.command("python -m projects.cyclegan.prepare faces.zip --size 128 --train 700 --test 300 --out data")
@click.argument("faces", metavar="FACES")
@click.option("--size", type=click.IntRange(16, 1024), default=128, help="Side of the pictures.")
@click.option("--train", type=click.IntRange(1), default=700, help="Drawings to learn from.")
@click.option("--test", type=click.IntRange(1), default=300, help="Drawings held out.")
@click.option("--stop", type=click.IntRange(1), default=1100, help="Faces to look at for the training set ...")
@click.option("--test-stop", type=click.IntRange(1), default=1600, help="... and up to here for those held out.")
@click.option("--style", default="toon-head", help="DiceBear style.")
@click.option("--workers", type=click.IntRange(1), default=2, help="Processes.")
@cli.out("data", help="Folder for photos-train.zip, photos-test.zip, cartoons-train.zip, cartoons-test.zip.")
@cli.quiet()
@cli.overwrite()
def main(
    faces: str, size: int, train: int, test: int, stop: int, test_stop: int, style: str, workers: int, out: Path,
    quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make the sets for a CycleGAN from a set of aligned FACES.

    Faces turned by more than 20 degrees and faces with glasses are left out, what is behind the others becomes white.
    The drawings come from DiceBear (pip install 'stylegan_toon[avatars]'). NAME-report.html says what was left out.
    """
    output_folder(out)
    recipe = Recipe(size, crop="none", front=20.0, glasses=False, background="white")
    for name, start, end in (("train", 0, stop), ("test", stop, test_stop)):
        made = dataset(
            faces,
            out / f"photos-{name}.zip",
            recipe,
            start=start,
            stop=end,
            workers=workers,
            quiet=quiet,
            overwrite=overwrite,
        )
        click.echo(f"{made.kept} photos in {made.out}")
    for name, count, seed in (("train", train, 0), ("test", test, 1)):
        drawings = Avatars((style,), size, seed, "white", crop=HEAD)
        file = out / f"cartoons-{name}.zip"
        made = avatars(file, count, drawings, workers=workers, quiet=quiet, overwrite=overwrite)
        click.echo(f"{made.kept} drawings in {made.out}")
    click.echo(out)


if __name__ == "__main__":
    main()
