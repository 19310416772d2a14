"""Ctrl-C and SIGTERM as a request: the step is finished, what was learnt is saved, then the training ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_requests(patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Inside this context the two signals only set a flag; gives the function that reads it.

    A second Ctrl-C interrupts at once, unless ``patient``: torchrun passes on what the terminal has sent already.
    Signals reach the main thread alone, so elsewhere nothing changes.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts(_: int) -> None:
    """For processes that read pictures: Ctrl-C reaches them too, but when to end is the trainer's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
