"""Reading and writing pictures: any common photo becomes 8-bit RGB, or an error says in one sentence why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..errors import ToonError
from ..files import atomic_path, explained_reading

if TYPE_CHECKING:
    import torch

    from .metadata import Metadata

# Raster formats whose decoders are compiled in and bounded. Pillow would also try EPS (which starts Ghostscript) and
# dozens of formats that photos do not have.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".avif")
MAX_PIXELS = 300_000_000  # beyond the largest phone sensor (200 megapixels); 1.2 GB once decoded


def read_image(
    source: str | Path | BinaryIO,
    *,
    name: str | None = None,
    max_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Read a picture as upright 8-bit RGB.

    EXIF rotation is applied, transparency is laid on white, and grey, palette, CMYK and 16-bit pictures
    are converted. The size is checked before anything is decoded.

    Args:
        source: a path, or an open binary file (a member of a zip, say).
        name: what messages call the picture; the path if None.
        max_side: the longer side of the result is at most this many pixels; JPEG files are then decoded
            at reduced size, which saves most of the memory and time.
        max_pixels: larger pictures (width x height) are refused.

    Raises:
        ToonError: missing, unreadable, not a picture, damaged, or too large.
    """
    if isinstance(source, (str, Path)):
        name = name or str(source)
        with _picture_file(source, name) as file:
            return read_image(file, name=name, max_side=max_side, max_pixels=max_pixels)

    name = name or "the picture"
    image = _identify(source, name)
    width, height = image.size
    if width * height > max_pixels:
        raise ToonError(
            f"{name} is {width}x{height} pixels, over the limit of {max_pixels // 1_000_000} megapixels: "
            "shrink it first."
        )
    try:
        if max_side is not None:
            # Draft halves while the picture stays at least this large; formats other than JPEG ignore it.
            scale = max_side / max(width, height)
            image.draft("RGB", (max(1, round(width * scale)), max(1, round(height * scale))))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = to_rgb(image)
    except MemoryError as error:
        raise ToonError(f"{name} ({width}x{height}) does not fit in memory: shrink it first.") from error
    except Exception as error:  # decoders meet damaged files with every kind of exception
        raise _damaged(name, error) from error
    if max_side is not None and max(image.size) > max_side:
        image = shrink(image, max_side)
    return image


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """A picture file with nothing decoded yet, for its size and metadata; closed at the end of the block.

    Raises:
        ToonError: missing, unreadable, or not a picture.
    """
    with _picture_file(path, str(path)) as file:
        yield _identify(file, str(path))


@contextlib.contextmanager
def _picture_file(path: str | Path, name: str) -> Iterator[BinaryIO]:
    if Path(path).is_fifo():  # opening one waits until something writes into it
        raise ToonError(f"{name} is not an ordinary file: give a picture file.")
    with explained_reading(name, "picture"), open(path, "rb") as file:
        yield file


def starts_like_picture(path: str | Path) -> bool:
    """Whether the first bytes of a file are those of a format that `read_image` knows."""
    try:
        with open(path, "rb") as file:
            return _decoder_of(file.read(16)) is not None
    except OSError:
        return False


def _decoder_of(prefix: bytes) -> Any:
    """What opens a file that begins with these 16 bytes; None if nothing does."""
    Image.init()
    for key in FORMATS:
        factory, accept = Image.OPEN.get(key, (None, None))
        # A string in place of True: built without this decoder.
        if factory is not None and accept is not None and accept(prefix) is True:
            return factory
    return None


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Open without decoding.

    ``Image.open`` warns from 89 megapixels on and fails from 179, by a module-wide setting that belongs to the calling
    program. Its plugins do neither, and `read_image` applies its own limit.
    """
    factory = _decoder_of(file.read(16))
    if factory is None:
        raise ToonError(f"{name} is not a picture this can read: give one of {', '.join(FORMATS)}.")
    file.seek(0)
    try:
        return factory(file, name)
    except Image.DecompressionBombError as error:
        raise ToonError(f"{name} is too large ({error}): shrink it first.") from error
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ToonError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ToonError(f"{name} is damaged or not really a picture ({reason}): save it again in an editor.")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a picture in any mode but floating point; transparency is laid on white.

    Raises:
        ValueError: the picture holds floating-point values.
    """
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("it holds floating-point values, not 8 or 16 bits")
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image)  # composites in place: no third copy of a large photo
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit grey, a band of rows at a time (Pillow's own conversion clips at 255)."""
    grey = Image.new("L", image.size)
    for top in range(0, image.height, 256):
        band = np.asarray(image.crop((0, top, image.width, min(top + 256, image.height))))
        eight = (band.astype(np.int64).clip(0, 65535) * 255 + 32767) // 65535
        grey.paste(Image.fromarray(eight.astype(np.uint8)), (0, top))
    return grey


def shrink(image: Image.Image, max_side: int) -> Image.Image:
    """The picture with its longer side at most ``max_side`` pixels (antialiased)."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def save_image(image: Image.Image, path: str | Path, metadata: Metadata | None = None) -> None:
    """Write a picture, completely or not at all; the suffix chooses the format (JPEG and WebP at quality 95).

    Args:
        image: any mode that the format has.
        path: of the file.
        metadata: EXIF and ICC profile to write with it; None = none but what ``image`` itself brings along.

    Raises:
        ToonError: a suffix that names no picture format, or what the operating system refuses.
    """
    path = Path(path)
    if Image.registered_extensions().get(path.suffix.lower()) not in FORMATS:
        raise ToonError(f"{path} does not end in a picture format: use .png or .jpg.")
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    if metadata is not None:
        options |= {"icc_profile": metadata.profile, **({"exif": metadata.exif} if metadata.exif else {})}
    with atomic_path(path) as temporary:
        image.save(temporary, None, **options)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB picture -> float32 ``[1, 3, H, W]`` in [-1, 1]."""
    import torch

    array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pil(image: torch.Tensor) -> Image.Image:
    """``[3, H, W]`` (or ``[1, 3, H, W]``, or one grey channel) in [-1, 1] -> RGB picture.

    Values beyond the range are clamped. It inverts `to_tensor` exactly.

    Raises:
        ValueError: a tensor of another shape.
    """
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected one picture [3, H, W], got {list(image.shape)}")
    pixels = (image.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def image_grid(
    images: Sequence[Image.Image],
    columns: int,
    *,
    size: int | tuple[int, int] | None = None,
    captions: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
) -> Image.Image:
    """A labelled sheet of pictures on white, row by row.

    Args:
        images: any sizes; each is fitted into its cell, centred, its proportions kept.
        columns: pictures in a row.
        size: cell size in pixels, one number or (width, height); the largest picture's if None.
        captions: a line under each picture.
        column_labels: a line above each column.
        row_labels: a line left of each row.

    Raises:
        ValueError: no pictures.
    """
    if not images:
        raise ValueError("image_grid needs at least one picture")
    if size is None:
        size = (max(image.width for image in images), max(image.height for image in images))
    width, height = (size, size) if isinstance(size, int) else size
    rows = -(-len(images) // columns)
    gap = max(2, round(min(width, height) / 32))
    font = ImageFont.load_default(size=max(11, round(min(width, height) / 14)))
    assert isinstance(font, ImageFont.FreeTypeFont)  # the bitmap font of a Pillow without FreeType has no size
    line = sum(font.getmetrics())
    margin = 2 * gap
    left = margin + (max(round(font.getlength(label)) for label in row_labels) + 2 * gap if row_labels else 0)
    top = margin + (line + gap if column_labels else 0)
    step_x, step_y = width + gap, height + gap + (line + gap // 2 if captions else 0)

    total = (left + columns * step_x - gap + margin, top + rows * step_y - gap + margin)
    sheet = Image.new("RGB", total, "white")
    draw = ImageDraw.Draw(sheet)
    ink = (40, 40, 46)

    def text(label: str, x: int, y: int, anchor: str, space: int) -> None:
        while len(label) > 1 and font.getlength(label) > space:
            label = label.rstrip("…")[:-1] + "…"
        draw.text((x, y), label, fill=ink, font=font, anchor=anchor)

    for column, label in enumerate(column_labels or ()):
        text(label, left + column * step_x + width // 2, margin, "ma", width)
    for row, label in enumerate(row_labels or ()):
        text(label, left - 2 * gap, top + row * step_y + height // 2, "rm", left)
    for index, image in enumerate(images):
        x, y = left + index % columns * step_x, top + index // columns * step_y
        if image.size != (width, height):
            image = ImageOps.contain(image, (width, height), Image.Resampling.LANCZOS)
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        if captions and index < len(captions):
            text(captions[index], x + width // 2, y + height + gap // 2, "ma", width)
    return sheet
