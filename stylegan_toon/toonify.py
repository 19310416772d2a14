"""Photo to cartoon: find the faces, project them, show the same latents with a blended network; or draw them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .config import flag
from .errors import ToonError
from .files import refuse_overwrite, results_folder
from .inversion.config import InversionConfig
from .pipelines.defaults import (
    RESOLUTION,
    SHARPEN,
    SOFTEN,
    STEPS,
    STEPS_FROM_ENCODER,
    TOONIFY_DRAWING,
    TOONIFY_STYLE,
    TOONIFY_SWAP,
    TUNE_STEPS,
    TUNE_STEPS_MUON,
)

if TYPE_CHECKING:
    import torch

    from .faces.photo import Photo
    from .pipelines.photo_list import Job
    from .pipelines.toonify import Toon

# The modules that need torch are imported when a command runs, so that a missing photo is reported at once.


@cli.command(
    "python -m stylegan_toon.toonify photo.jpg\n"
    "python -m stylegan_toon.toonify photo.jpg --draw --style ink\n"
    "python -m stylegan_toon.toonify party.jpg --face 2 --paste-back --swap b64- --out out/party\n"
    "python -m stylegan_toon.toonify photo.jpg --strength 0.6 --paste-back --background toon\n"
    "python -m stylegan_toon.toonify photos/ --out toons/\n"
    "python -m stylegan_toon.toonify photo.jpg --save-latent\n"
    "python -m stylegan_toon.toonify --latent out/toonify/photo-latent.safetensors --style animated --out new\n"
    "python -m stylegan_toon.toonify film.mp4 --style animated"
)
@click.argument("places", type=cli.PHOTOS, nargs=-1, is_eager=True, metavar="PHOTOS...")
@cli.base()
@cli.toon(TOONIFY_STYLE)
@cli.swap(TOONIFY_SWAP)
@cli.width()
@click.option(
    "--strength", type=cli.number(0, 1), help="From 0, the photo as the base shows it, to 1, the cartoon.  [default: 1]"
)
@click.option(
    "--preserve-colour/--no-preserve-colour",
    default=None,
    help="Give the cartoon of a photo the photo's colours, or leave it those of its network.  [default: preserve]",
)
@click.option(
    "--sharpen", "sharpened", type=cli.number(0, 3),
    help=f"How much to sharpen the cartoon's lines; 0 is as the network makes them.  [default: {SHARPEN}]",
)  # fmt: skip
@click.option(
    "--soften", type=cli.number(0, 1),
    help=f"How far to lighten lines in the skin, at 1 to half the photo's depth; 0 = not.  [default: {SOFTEN:g}]",
)  # fmt: skip
@click.option("--draw", "drawn", is_flag=True, help="Draw the face in --style without any network, in seconds.")
@click.option(
    "--resolution",
    type=cli.integer(8, 4096),
    help=f"Side of the cartoon: 256, 512 or 1024 px.  [default: {RESOLUTION}]",
)
@click.option("--face", type=cli.integer(1, 1000), help="Only this face, counted from the left; all if not given.")
@click.option("--all-faces", is_flag=True, help="Also faces that are far smaller than the largest of the photo.")
@click.option("--force", is_flag=True, help="Also faces that are tiny, turned away, cut off, covered or drawn already.")
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
@click.option("--strip", is_flag=True, help="With --paste-back: leave out the photo's EXIF (date, camera, place).")
@click.option("--save-latent", is_flag=True, help="Also write the latent of each face, for --latent.")
@click.option(
    "--latent",
    "latents",
    type=cli.PATH,
    multiple=True,
    help="Latent file of a face, instead of a search; once for each face if its photo is given too.",
)
@click.option("--resume", is_flag=True, help="Go on with a film or photos that were stopped, with the same options.")
@cli.with_config(
    InversionConfig,
    help={
        "steps": f"Steps of the search; {STEPS_FROM_ENCODER} from the encoder's latent, {STEPS} from w_avg.",
        "tune_steps": f"Steps of pivotal tuning; {TUNE_STEPS_MUON}, of Adam {TUNE_STEPS}.",
    },
)  # fmt: skip
@cli.out("out/toonify")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    places: tuple[Path, ...], base: str, toon: str, swap: str, width: float | None, strength: float | None,
    preserve_colour: bool | None, sharpened: float | None, soften: float | None, drawn: bool, resolution: int | None,
    face: int | None, all_faces: bool, force: bool, aligned: bool, paste_back: bool, background: str, strip: bool,
    save_latent: bool, latents: tuple[Path, ...], resume: bool, config: InversionConfig, out: Path,
    device: torch.device, quiet: bool, overwrite: bool,
) -> int:  # fmt: skip
    """Turn photos of people into cartoons.

    Writes NAME-toon.png (NAME-1-toon.png and so on for several faces) and NAME-sheet.png: photo, aligned, inverted
    and toon side by side. With --draw NAME-drawing.png instead, made by a renderer and not by a network. With
    --paste-back also NAME-pasted.png, with --save-latent NAME-latent.safetensors.

    Of a folder: the same for every photo in it, in the same sub-folders of --out. A photo that cannot be used is named
    and passed over, and the exit code is then 1; a folder that was stopped goes on where it was. Under torchrun the
    processes share the photos.

    Of a film: NAME-toon.mp4 (NAME-drawing.mp4), the whole film with the cartoons in it and its sound, and
    NAME-sheet.png with moments of both. This needs the extra "film".
    """
    if not places and not latents:
        raise ToonError("There is nothing to do: give a photo, a folder of photos, a film, or --latent FILE.")

    from .data.video import Film
    from .drawing import STYLES
    from .pipelines.photo_list import Wanted, forget_finished, latent_jobs, list_photos, note_plan, plan_of, remaining
    from .weights import catalogue

    style = TOONIFY_DRAWING if toon == TOONIFY_STYLE else toon  # of what is drawn without a network
    photos = list_photos(places, out, Wanted("drawing" if drawn else "toon", paste_back, save_latent))
    films = {job.path: Film(job.path) for job in photos.jobs if job.film}
    if films and aligned:
        raise ToonError("A film is no aligned crop: leave out --aligned.")
    if films and save_latent:
        raise ToonError("--save-latent is for photos: leave it out for films.")
    if films and (config.time_budget is not None or config.legacy):
        raise ToonError("--time-budget and --legacy are for photos: leave them out for films.")
    if drawn and style not in STYLES:
        raise ToonError(f"--draw has no style {style!r}: use --style {' or '.join(STYLES)}.")
    if drawn and any(value is not None for value in (strength, preserve_colour, sharpened, soften)):
        raise ToonError(
            "--strength, --preserve-colour, --sharpen and --soften are for cartoons of networks: leave out --draw."
        )
    if drawn and (save_latent or latents):
        raise ToonError("Drawings have no latents: leave out --draw, or --save-latent and --latent.")
    scene = None if background == "photo" else style if background == "toon" else background
    if scene is not None and not paste_back:
        raise ToonError("--background is for the whole photo: add --paste-back.")
    if strip and not paste_back:
        raise ToonError("--strip is for the whole photo, the other results carry no EXIF: add --paste-back.")
    if scene is not None and scene not in STYLES:
        raise ToonError(f"The background cannot be drawn as {scene!r}: use --background {', '.join(STYLES)} or photo.")
    if not drawn and toon in STYLES and toon not in catalogue():
        raise ToonError(f"There is no network for the style {toon}: add --draw to draw without one.")
    if latents and (save_latent or films or len(photos.jobs) > 1 or photos.folders):
        raise ToonError("--latent is for one photo or none, and without --save-latent: the latent is there already.")
    if latents and not places and (paste_back or preserve_colour or soften):
        raise ToonError("--paste-back, --preserve-colour and --soften need the photo: give it beside --latent.")

    options = {
        "base": base, "style": toon, "swap": swap, "width": width, "strength": strength, "draw": drawn,
        "preserve_colour": preserve_colour, "sharpen": sharpened, "soften": soften, "resolution": resolution,
        "face": face, "all_faces": all_faces, "force": force, "aligned": aligned, "paste_back": paste_back,
        "background": background, "strip": strip, "save_latent": save_latent,
        **{flag(entry).removeprefix("--"): getattr(config, entry.name) for entry in dataclasses.fields(config)},
    }  # fmt: skip
    plan = plan_of(photos, options)
    todo = remaining(photos, out, plan, overwrite=overwrite, resume=resume)
    jobs = latent_jobs(latents, out) if not places else []
    refuse_overwrite([file for job in jobs for file in (job.cartoon(), job.sheet)], overwrite)

    from .distributed import own_device, unjoined_processes
    from .memory import keep_pages
    from .pipelines.many import summed_up, work_through
    from .pipelines.toonify import Toonifier, draw_faces
    from .pipelines.toonify_files import Choice, open_job, read_faces, write_latent, write_results

    group = unjoined_processes()
    many = len(photos.jobs) > 1 or bool(photos.folders) or group.size > 1
    finished = len(photos.jobs) - len(todo)
    if many:
        left = set(todo)
        todo = [job for job in photos.jobs[group.rank :: group.size] if job in left]
    keep_pages()
    toonifier = None if drawn or not (todo or jobs) else Toonifier.load(
        base, toon, swap, width, strength=1.0 if strength is None else strength,
        preserve_colour=preserve_colour is not False, sharpen=SHARPEN if sharpened is None else sharpened,
        soften=SOFTEN if soften is None else soften,
        resolution=resolution, config=config, device=own_device(device),
    )  # fmt: skip
    size = toonifier.resolution if toonifier else resolution or RESOLUTION
    choice = Choice(size, aligned, face, all_faces, force, scene, strip)
    kept = read_faces(latents, toonifier) if toonifier else []
    if not places and toonifier:
        for job, latent in zip(jobs, kept):
            write_latent(job, toonifier.show(latent))
        click.echo(out)
        return 0

    def cartoons_of(photo: Photo) -> Toon:
        if toonifier is None:
            return draw_faces(photo, style, force=True)
        if kept:
            return toonifier.with_latents(photo, kept)
        steps = toonifier.inversion.total_steps * len(photo.faces)
        with cli.search_progress(steps, photo.name, quiet or many) as move:
            return toonifier(photo, move)

    def make_film(job: Job) -> int:
        from .data.images import save_image
        from .pipelines.film import toonify_film

        with results_folder(job.folder):
            result = toonify_film(
                films[job.path], job.cartoon(), toonifier or style, resolution=resolution, face=face, resume=resume,
                quiet=quiet,
            )  # fmt: skip
            save_image(result.sheet, job.sheet)
        return result.people

    def make(job: Job) -> int:
        if job.film:
            return make_film(job)
        photo = open_job(job, choice, cli.say, toonifier=toonifier, quiet=quiet)
        photos.refuse_meeting(job, photo.numbers if len(photo.faces) > 1 else (), overwrite=overwrite)
        if kept and len(kept) != len(photo.faces):
            raise ToonError(
                f"{photo.name} has {len(photo.faces)} face(s) for {len(kept)} latent(s): give one --latent for each, "
                "from left to right, or choose --face."
            )
        with results_folder(job.folder):  # also made and checked before the long work
            result = cartoons_of(photo)
            if result.interrupted and many:
                raise KeyboardInterrupt  # a draft among finished photos would be taken for one of them
            write_results(job, photo, result, choice, base=toonifier, options=options)
        if result.interrupted:
            click.echo(f"Stopped early; drafts are in {out}.", err=True)
            raise click.Abort
        return len(result)

    if not many:
        for job in todo:
            make(job)
        click.echo(out)
        return 0
    for line in photos.remarks(finished) if group.rank == 0 else ():
        cli.say(line)
    if photos.folders:
        note_plan(out, plan)
    if overwrite:
        forget_finished(todo)
    summary = work_through(todo, make, say=cli.say, quiet=quiet or group.rank > 0)
    if summary.stopped is not None:
        done = f"{summary.done} of {len(todo)} photos are finished and stay"
        again = "the same command" + ("" if all(job.listed for job in photos.jobs) else " with --resume")
        cli.say(f"{f'error: {summary.stopped} ' if summary.stopped else 'Stopped: '}{done}; {again} goes on.")
        if summary.stopped:
            return 1
        raise click.Abort
    whole = summed_up(summary, group, cli.say)
    click.echo(out)
    return 0 if whole else 1


if __name__ == "__main__":
    main()
