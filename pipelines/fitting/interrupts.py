"""Ctrl-C as a wish to stop at the next good place, not as an error in the middle of things."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C once sets what is yielded to True, so that the current step ends; twice stops at once."""
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stopping() -> Iterator[Callable[[], None]]:
    """Yields what raises KeyboardInterrupt once Ctrl-C came: to be called where it is good to stop."""
    with interrupts() as interrupted:

        def poll() -> None:
            if interrupted():
                raise KeyboardInterrupt

        yield poll
