"""Ctrl-C at a place where the state can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Tell by a function whether Ctrl-C was pressed, instead of an exception in the middle of a step; once.

    The second Ctrl-C is an exception as ever, and so is the first where another handler is in place or this is not the
    main thread, which alone gets signals.
    """
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
