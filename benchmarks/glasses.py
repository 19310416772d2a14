"""Precision and recall of the glasses filter on pictures labelled by hand (glasses.txt).

    python benchmarks/glasses.py --portraits DIR --faces faces-256.zip

The threshold was chosen on the portraits alone; the synthetic faces are a test set.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from stylegan_toon.cli import progress
from stylegan_toon.data.archive import Archive
from stylegan_toon.data.images import read_image
from stylegan_toon.dataset_builder.filters import GLASSES, glasses
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import align, detect_faces, largest


def labelled(section: str) -> set[str]:
    """Names of the pictures with glasses in one section of the list."""
    text = Path(__file__).with_suffix(".txt").read_text()
    return set(text.partition(f"[{section}]\n")[2].partition("[")[0].split())


def measure(section: str, place: Path, step: int) -> None:
    archive, truth = Archive(place), labelled(section)
    hit = miss = false = seen = 0
    for name in progress(archive.names[::step], desc=section):
        photo = read_image(io.BytesIO(archive.read(name)), name=name)
        try:
            face = largest(detect_faces(photo))
        except ToonError:
            continue
        detected = glasses(align(photo, face, 256).image) > GLASSES
        seen += 1
        hit += detected and name in truth
        miss += not detected and name in truth
        false += detected and name not in truth
    print(f"{section:10} {seen:4} pictures, {hit + miss:3} with glasses: "
          f"precision {hit / max(hit + false, 1):.2f}, recall {hit / max(hit + miss, 1):.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--portraits", type=Path, help="folder of the 272 portraits")
    parser.add_argument("--faces", type=Path, help="faces-256.zip")
    args = parser.parse_args()
    if args.portraits:
        measure("portraits", args.portraits, 1)
    if args.faces:
        measure("faces", args.faces, 26)


if __name__ == "__main__":
    main()
