"""What a film's steps have found, on disk, so that a film that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ToonError
from ..files import atomic_path, output_folder

MOST = 1 << 31  # bytes that a file of the journal may have


def journal_folder(cartoon: Path) -> Path:
    """Where the journal of a cartoon film lies until the film is whole."""
    return cartoon.with_suffix(".parts")


class Journal:
    """A folder with one ``.npz`` for each finished step; `discard` removes it.

    Args:
        folder: made when the first step is kept.
        film: the source.
        settings: what else the results depend on; a journal of another film or other settings is not used.
        resume: use what is there; otherwise it is replaced.

    Raises:
        ToonError: ``resume``, and the journal there is of another film or other settings.
    """

    def __init__(self, folder: Path, film: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        state = film.stat()
        self._key = {"film": film.name, "size": state.st_size, "time": state.st_mtime_ns, **settings}
        self._digest = hashlib.sha256(json.dumps(self._key, sort_keys=True, default=str).encode()).hexdigest()
        self._use = False
        if resume and folder.is_dir():
            try:
                self._use = (folder / "key").read_text(encoding="ascii").strip() == self._digest
            except OSError:
                self._use = False
            if not self._use:
                raise ToonError(
                    f"{folder} is of another film or of other options: repeat the first options, or leave out --resume."
                )

    def get(self, step: str) -> dict[str, np.ndarray] | None:
        """The arrays of a step; None if it was not finished."""
        path = self.folder / f"{step}.npz"
        if not self._use or not path.is_file() or path.stat().st_size > MOST:
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def keep(self, step: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a finished step."""
        if not self._use:
            self.discard()
            output_folder(self.folder)
            (self.folder / "key").write_text(self._digest + "\n", encoding="ascii")
            self._use = True
        with atomic_path(self.folder / f"{step}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]

    def discard(self) -> None:
        """Remove the folder, if it is a journal."""
        if (self.folder / "key").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._use = False
