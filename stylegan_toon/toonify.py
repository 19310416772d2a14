"""Photo to cartoon: find the faces, project them, show the same latents with a blended network; or draw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .errors import ToonError
from .files import refuse_overwrite, results_folder
from .inversion.config import InversionConfig
from .pipelines.defaults import RESOLUTION, STEPS, STEPS_FROM_ENCODER, TOONIFY_SWAP, TUNE_STEPS, TUNE_STEPS_MUON

if TYPE_CHECKING:
    import torch

    from .faces.photo import Photo
    from .pipelines.toonify import Toon

# The modules that need torch are imported when a command runs, so that a missing photo is reported at once.


@cli.command(
    "python -m stylegan_toon.toonify photo.jpg\n"
    "python -m stylegan_toon.toonify photo.jpg --draw --style ink\n"
    "python -m stylegan_toon.toonify party.jpg --face 2 --paste-back --swap b64- --out out/party\n"
    "python -m stylegan_toon.toonify photo.jpg --strength 0.6 --preserve-colour --paste-back --background toon\n"
    "python -m stylegan_toon.toonify film.mp4 --style animated"
)
@click.argument("photos", type=cli.PHOTO, nargs=-1, required=True, is_eager=True)
@cli.base()
@cli.toon()
@cli.swap(TOONIFY_SWAP)
@cli.width()
@click.option(
    "--strength", type=cli.number(0, 1), help="From 0, the photo as the base shows it, to 1, the cartoon.  [default: 1]"
)
@click.option("--preserve-colour", is_flag=True, help="Give the cartoon the photo's colours.")
@click.option("--draw", "drawn", is_flag=True, help="Draw the face in --style without any network, in seconds.")
@click.option(
    "--resolution",
    type=cli.integer(8, 4096),
    help=f"Side of the cartoon: 256, 512 or 1024 px.  [default: {RESOLUTION}]",
)
@click.option("--face", type=cli.integer(1, 1000), help="Only this face, counted from the left; all if not given.")
@cli.aligned("The photos are aligned square crops already.")
@click.option("--paste-back", is_flag=True, help="Also write the whole photo with the cartoons in it.")
@click.option(
    "--background",
    type=cli.TEXT,
    default="photo",
    show_default=True,
    metavar="photo|toon|STYLE",
    help="With --paste-back: keep the rest of the photo, draw it as in --style, or in another drawing style.",
)
@click.option("--resume", is_flag=True, help="Go on with a film that was stopped, with the same options.")
@cli.with_config(
    InversionConfig,
    help={
        "steps": f"Steps of the search; {STEPS_FROM_ENCODER} from the encoder's latent, {STEPS} from w_avg.",
        "tune_steps": f"Steps of pivotal tuning; {TUNE_STEPS}, with Muon {TUNE_STEPS_MUON}.",
    },
)  # fmt: skip
@cli.out("out/toonify")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], base: str, toon: str, swap: str, width: float | None,
    strength: float | None, preserve_colour: bool, drawn: bool, resolution: int | None, face: int | None, aligned: bool,
    paste_back: bool, background: str, resume: bool, config: InversionConfig, out: Path, device: torch.device,
    quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Turn photos of people into cartoons.

    Writes NAME-toon.png (NAME-1-toon.png and so on for several faces) and NAME-sheet.png: photo, aligned, inverted
    and toon side by side. With --draw NAME-drawing.png instead, made by a renderer and not by a network. With
    --paste-back also NAME-pasted.png.

    Of a film: NAME-toon.mp4 (NAME-drawing.mp4), the whole film with the cartoons in it and its sound, and
    NAME-sheet.png with moments of both. This needs the extra "film".
    """
    if len({photo.stem for photo in photos}) < len(photos):
        raise ToonError("Two of the photos have the same name and would overwrite each other: do them one at a time.")

    from .data.images import save_image
    from .data.video import Film, is_film
    from .drawing import STYLES
    from .faces.photo import open_photo
    from .memory import keep_pages
    from .pipelines.toonify import Toonifier, draw_faces
    from .weights import catalogue

    films = {path: Film(path) for path in photos if is_film(path)}
    if films and aligned:
        raise ToonError("A film is no aligned crop: leave out --aligned.")
    if films and (config.time_budget is not None or config.legacy):
        raise ToonError("--time-budget and --legacy are for photos: leave them out for films.")
    keep_pages()
    size, toonifier = resolution or RESOLUTION, None
    if drawn and toon not in STYLES:
        raise ToonError(f"--draw has no style {toon!r}: use --style {' or '.join(STYLES)}.")
    if drawn and (strength is not None or preserve_colour):
        raise ToonError("--strength and --preserve-colour are for networks; a drawing has neither: leave out --draw.")
    scene = None if background == "photo" else toon if background == "toon" else background
    if scene is not None and not paste_back:
        raise ToonError("--background is for the whole photo: add --paste-back.")
    if scene is not None and scene not in STYLES:
        raise ToonError(f"The background cannot be drawn as {scene!r}: use --background {', '.join(STYLES)} or photo.")
    if not drawn:
        if toon in STYLES and toon not in catalogue():
            raise ToonError(f"There is no network for the style {toon}: add --draw to draw without one.")
        toonifier = Toonifier.load(
            base, toon, swap, width, strength=1.0 if strength is None else strength, preserve_colour=preserve_colour,
            resolution=resolution, config=config, device=device,
        )  # fmt: skip
        size = toonifier.resolution

    def cartoons_of(photo: Photo) -> Toon:
        if toonifier is None:
            return draw_faces(photo, toon)
        with cli.search_progress(toonifier.inversion.total_steps * len(photo.faces), photo.name, quiet) as move:
            return toonifier(photo, move)

    for path in photos:
        if path in films:
            from .pipelines.film import toonify_film

            film = out / f"{path.stem}-{'drawing' if drawn else 'toon'}.mp4"
            sheet = out / f"{path.stem}-sheet.png"
            refuse_overwrite([film, sheet], overwrite or resume)
            with results_folder(out):
                result = toonify_film(
                    films[path], film, toonifier or toon, resolution=resolution, face=face, resume=resume, quiet=quiet
                )
                save_image(result.sheet, sheet)
            continue
        photo = open_photo(path, size, aligned=aligned, face=face)
        stems = [path.stem] if len(photo.faces) == 1 else [f"{path.stem}-{i + 1}" for i in range(len(photo.faces))]
        cartoons = [out / f"{stem}-{'drawing' if drawn else 'toon'}.png" for stem in stems]
        sheet, pasted = out / f"{path.stem}-sheet.png", out / f"{path.stem}-pasted.png" if paste_back else None
        refuse_overwrite([*cartoons, sheet, *([pasted] if pasted else [])], overwrite)
        with results_folder(out):
            result = cartoons_of(photo)
            for cartoon, one in zip(cartoons, result):
                save_image(one.image, cartoon)
            save_image(result.sheet(), sheet)
            if pasted:
                save_image(result.pasted(scene), pasted)
        if result.interrupted:
            click.echo(f"Stopped early; drafts are in {out}.", err=True)
            raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()
