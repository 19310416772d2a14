"""What a photo says besides its pixels: EXIF, and the ICC profile that says which colours its numbers mean."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from .images import open_image

MAX_PROFILE = 4 << 20  # bytes; profiles with tables, of printers and scanners, have about 2 MB
MAX_EXIF = 60_000  # bytes; a JPEG has room for 65,533
SAME = 1  # levels of 255: a profile that is never further from sRGB is sRGB
# Left out: what describes the file and not the photo. The maker's notes hold offsets that no longer fit, and often a
# preview with the face as it was.
_DROPPED = {ExifTags.Base.Orientation, ExifTags.Base.JpegIFOffset, ExifTags.Base.JpegIFByteCount}
_DROPPED_BELOW = {
    ExifTags.Base.MakerNote, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, ExifTags.Base.ColorSpace,
    ExifTags.IFD.Interop,
}  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """EXIF and colours of a photo.

    Attributes:
        exif: as a file holds it, without orientation, thumbnail and maker's notes; None = there is none.
        profile: the ICC profile of an RGB photo; None = its numbers are sRGB.
    """

    exif: bytes | None = None
    profile: bytes | None = None

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """A picture in the photo's colours as sRGB; itself where they are sRGB."""
        return self._converted(image, 0)

    def from_srgb(self, image: Image.Image) -> Image.Image:
        """The inverse of `to_srgb`, as far as the colours of both reach."""
        return self._converted(image, 1)

    def _converted(self, image: Image.Image, direction: int) -> Image.Image:
        if self._transforms is None:
            return image
        return ImageCms.applyTransform(image, self._transforms[direction]) or image

    @cached_property
    def _transforms(self) -> tuple[Any, Any] | None:
        """Into sRGB and back; None where there is nothing to convert, or the profile has no way back."""
        if self.profile is None:
            return None
        try:
            own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(self.profile)), ImageCms.createProfile("sRGB")
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            there = ImageCms.buildTransform(own, srgb, "RGB", "RGB", intent)
            back = ImageCms.buildTransform(srgb, own, "RGB", "RGB", intent)
            steps = np.linspace(0, 255, 9).round().astype(np.uint8)
            every = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
            moved = np.asarray(ImageCms.applyTransform(every, there)).astype(int) - np.asarray(every)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return None
        return None if np.abs(moved).max() <= SAME else (there, back)


PLAIN = Metadata()  # sRGB, and nothing said


def metadata_of(photo: str | Path | Image.Image) -> Metadata:
    """EXIF and profile of a photo, a path or a picture that was opened; what is damaged or far too large is left out.

    Raises:
        ToonError: the file cannot be read as a picture.
    """
    if isinstance(photo, Image.Image):
        return _of(photo)
    with open_image(photo) as image:
        return _of(image)


def _of(image: Image.Image) -> Metadata:
    profile = image.info.get("icc_profile")
    # Pictures of other modes were converted to RGB without their profile, which fits them no longer.
    sound = isinstance(profile, bytes) and 128 < len(profile) <= MAX_PROFILE and profile[16:20] == b"RGB "
    exif = None
    # Readers meet damaged EXIF with warnings and every kind of exception.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = _portable(image.getexif())
    return Metadata(exif, profile if sound and image.mode in ("RGB", "RGBA", "P", "PA", "RGBX") else None)


def _portable(found: Image.Exif) -> bytes | None:
    """EXIF that fits the photo's pixels whatever was done to them; None if nothing is left or it is too large."""
    kept = Image.Exif()
    places = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    for tag, value in found.items():
        if tag not in _DROPPED and tag not in places:
            kept[tag] = value
    for place in places:
        below = {tag: value for tag, value in found.get_ifd(place).items() if tag not in _DROPPED_BELOW}
        if below:
            kept.get_ifd(place).update(below)
    data = kept.tobytes() if len(kept) or any(kept.get_ifd(place) for place in places) else b""
    return data if 0 < len(data) <= MAX_EXIF else None
