"""Ctrl-C and SIGTERM as a request: the step is finished and a snapshot written before the training ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_requests(patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Inside this context the two signals only set a flag; yields the function that reads it.

    A second Ctrl-C interrupts at once, unless ``patient``: torchrun passes on a signal that the terminal has already
    sent. Only the main thread receives signals, so in other threads nothing changes.
    """
    requested = False

    def request(number: int, frame: object) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        requested = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts(_: int) -> None:
    """For the processes that read pictures: Ctrl-C reaches them too, but the training process ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
