"""Writing files completely or not at all, and reading zips from untrusted sources within bounded memory."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ToonError, WriteError


class BoundedReader:
    """A file whose reads are limited to ``most`` bytes each, for `zipfile`.

    `zipfile` reads the table of contents in one call, of the size that the file itself states, and needs about ten
    times that much memory before the number of members can be checked.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        """As of the file; raises ToonError for more than ``most`` bytes."""
        if size > self._most:
            raise ToonError(f"{self._file.name} is a zip with far too many members: split it, or give another file.")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As of the file."""
        return self._file.seek(offset, whence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def explain_os_error(error: OSError, path: Path) -> WriteError:
    """An error that says why writing ``path`` failed: full disk, no permission, missing folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(f"The disk is full, so {path} could not be written: free some space or choose another --out.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WriteError(f"{path} cannot be written (no permission): choose another --out.")
    return WriteError(f"{path} cannot be written ({error.strerror or error}): choose another --out.")


@contextlib.contextmanager
def explained_reading(name: str, kind: str) -> Iterator[None]:
    """Turn errors of opening and reading a file in the block into a `ToonError`.

    Args:
        name: of the file, as messages have it.
        kind: of file, as in "give one picture file".
    """
    try:
        yield
    except FileNotFoundError:
        raise ToonError(f"{name} does not exist: check the path.") from None
    except IsADirectoryError:
        raise ToonError(f"{name} is a folder: give one {kind} file.") from None
    except OSError as error:
        raise ToonError(f"{name} cannot be read ({error.strerror or error}): check the path.") from error


def output_folder(path: str | Path) -> Path:
    """Make the folder if it is missing and check that it can be written to, before any long work starts.

    Raises:
        ToonError: a file is in the way, or the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        file = next((place for place in (path, *path.parents) if place.is_symlink() or place.is_file()), path)
        if file.is_symlink() and not file.exists():
            raise ToonError(f"{file} is a link to nothing: remove it, or choose another --out.") from error
        raise ToonError(f"{file} is a file, not a folder: choose another --out.") from error
    except OSError as error:
        raise explain_os_error(error, path) from error
    return path


@contextlib.contextmanager
def results_folder(path: str | Path) -> Iterator[Path]:
    """Like `output_folder`, for the time of a block: folders made here that are empty after an error are removed.

    Raises:
        ToonError: as `output_folder` does.
    """
    path = Path(path)
    missing = [place for place in (path, *path.parents) if not place.exists()]
    try:
        yield output_folder(path)
    except BaseException:
        for place in missing:  # from the inside out; one that is not empty stays, and so do those around it
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def refuse_overwrite(paths: list[Path], overwrite: bool) -> None:
    """Raise ToonError if one of ``paths`` exists, unless ``overwrite`` is set."""
    if overwrite:
        return
    for path in paths:
        if path.exists():
            raise ToonError(f"{path} exists already: choose another --out, or add --overwrite.")


def file_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: equal for all spellings of a path and all links to a file. None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def spare_originals(results: Iterable[Path], originals: Iterable[Path]) -> None:
    """Raise ToonError if a result would take the place of a file that it is made from, whatever that is called."""
    taken = {identity for path in originals if (identity := file_identity(path)) is not None}
    for path in results:
        if file_identity(path) in taken:
            raise ToonError(f"{path} is one of the originals and would be overwritten: choose another --out.")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success fsync it and rename it to ``path``.

    On any failure the temporary file is removed and ``path`` is left as it was.

    Raises:
        ToonError: the operating system refuses to write.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success fsync its files and rename it to ``path``.

    A folder that is there already is replaced. On any failure the temporary one is removed and ``path`` is left as
    it was.

    Raises:
        ToonError: the operating system refuses to write.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        remove_folder(path)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder by renaming it first, so that no reader sees half of it; does nothing if there is none."""
    if path.exists():
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        os.replace(path, aside)
        shutil.rmtree(aside)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in ``folder``."""
    for path in folder.glob(".*.tmp*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def append_line(path: str | Path, line: str) -> None:
    """Append one line to a text file; raises ToonError if the operating system refuses."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise explain_os_error(error, Path(path)) from error
