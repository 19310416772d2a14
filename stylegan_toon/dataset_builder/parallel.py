"""An ordered map over processes that holds only a few results at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from ..errors import ToonError

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int = 1, chunk: int = 4) -> Iterator[R]:
    """``map(function, items)`` over ``workers`` processes, results in order; in this process if ``workers`` is 1.

    Raises:
        ToonError: a process was killed, most often because the memory was full.
    """
    items = iter(items)
    if workers <= 1:
        yield from map(function, items)
        return
    # Spawned, because forking a process in which torch or BLAS threads run can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting: deque = deque()
    try:
        while True:
            while len(waiting) < 3 * workers and (part := list(islice(items, chunk))):
                with _interrupts_blocked():  # it may start a process
                    waiting.append(pool.submit(_apply, function, part))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ToonError("A worker process was killed (memory full?): run it again with fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[T], R], part: list[T]) -> list[R]:
    return [function(item) for item in part]


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C; processes that are started meanwhile inherit that and ignore it even while they import."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
