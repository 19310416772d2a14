"""Work through many photos: one that fails is named and passed over, and processes share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch

from ..distributed import ProcessGroup, join_processes
from ..errors import ToonError, WriteError, short
from ..progress import progress
from .photo_list import Job

SHOWN = 20  # photos that a summary names
PATIENCE = timedelta(days=7)  # processes that are done wait for the others


@dataclass
class Summary:
    """What became of the photos.

    Attributes:
        done: photos that were finished.
        faces: in them.
        failed: photos that were passed over, and why.
        stopped: why the run ended before the last photo: a sentence, or "" for Ctrl-C; None = it did not.
    """

    done: int = 0
    faces: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    stopped: str | None = None

    def lines(self) -> list[str]:
        """The summary for people."""
        made = f"{_count(self.done, 'photo')} made, {_count(self.faces, 'face')}"
        if not self.failed:
            return [made + "."]
        result = [f"{made}; {_count(len(self.failed), 'photo')} passed over:"]
        result += [f"  {_named(path, why)}" for path, why in self.failed[:SHOWN]]
        if len(self.failed) > SHOWN:
            result.append(f"  ... and {len(self.failed) - SHOWN} more, named above.")
        return result


def work_through(
    jobs: Sequence[Job], make: Callable[[Job], int], *, say: Callable[[str], None], quiet: bool = False,
) -> Summary:  # fmt: skip
    """Make the results of every job.

    Args:
        jobs: in order.
        make: writes the results of one, completely or not at all, and returns how many faces it had.
        say: shows a line beside the progress bar.
        quiet: show no progress.

    Returns:
        A `Summary`. A `ToonError` or a lack of memory concerns one photo; a `WriteError`, as of a full disk, and
        Ctrl-C end the run.
    """
    summary = Summary()
    with progress(total=len(jobs), unit="photo", quiet=quiet) as bar:
        for job in jobs:
            bar.set_postfix_str(short(job.path.name, 30), refresh=False)
            try:
                summary.faces += make(job)
                summary.done += 1
            except KeyboardInterrupt:
                summary.stopped = ""
            except WriteError as error:
                summary.stopped = str(error)
            except Exception as error:
                reason = _reason(error)
                summary.failed.append((job.path, reason))
                say(f"passed over: {_named(job.path, reason)}")
            if summary.stopped is not None:
                break
            bar.update()
    return summary


def _named(path: Path, why: str) -> str:
    """A reason with the photo's path, unless it begins with that already."""
    return why if why.startswith(str(path)) else f"{short(path, 200)}: {why}"


def _reason(error: Exception) -> str:
    """Why one photo failed, in a sentence."""
    if isinstance(error, ToonError):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
        return "There is not enough memory for it: shrink it first."
    # One photo that meets a defect is no reason to leave ten thousand others undone overnight.
    return f"A defect of this program ({type(error).__name__}: {short(error)}): please report it, with the photo."


def summed_up(summary: Summary, group: ProcessGroup, say: Callable[[str], None]) -> bool:
    """Say what became of the photos of all processes; returns whether all of them were made.

    Processes wait here for each other, because torchrun ends the others once one has ended with an error.
    """
    if group.size > 1:
        mine = f"Process {group.rank + 1} of {group.size}: "
        for line in summary.lines():
            say(line if line.startswith(" ") else mine + line)
        with join_processes(torch.device("cpu"), PATIENCE) as (joined, _):
            counts = torch.tensor([summary.done, summary.faces, len(summary.failed)])
            joined.sum(counts)
            done, faces, failed = counts.tolist()
            if joined.rank == 0:
                say(f"Together: {_count(done, 'photo')} made, {_count(faces, 'face')}; {failed} passed over.")
            joined.sum(counts)  # nobody leaves before that is said
        return failed == 0
    for line in summary.lines():
        say(line)
    return not summary.failed


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
