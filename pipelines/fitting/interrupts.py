"""Ctrl-C and SIGTERM as a wish to stop at the next good place, not as an error in the middle of things."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Interrupts:
    """Notes the first of `signals`, for the work to ask for between two steps; a second one stops at once.

    A context manager. Outside the main thread nothing is noted: whoever owns that sees to signals.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        try:
            for number in self._signals:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread
            self._before.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    @property
    def words(self) -> str:
        """The signal that came, as users know it."""
        return "SIGTERM" if self._received == signal.SIGTERM else "Ctrl-C"

    @property
    def exit_code(self) -> int:
        """That of a command which the signal ended."""
        return 128 + (self._received or signal.SIGINT)

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal came."""
        if self.is_asked:
            raise KeyboardInterrupt

    def leave(self) -> NoReturn:
        """Does what the signal would have done without this."""
        number, handlers = self._received, dict(self._before)
        self.__exit__(None, None, None)
        handler: Callable[[int, FrameType | None], Any] | None = handlers.get(number) if number is not None else None
        if callable(handler) and number is not None:
            handler(number, None)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            self.leave()
        self._received = number
