"""Ctrl-C and SIGTERM while a backbone trains: the step at hand is finished and its state kept before it ends."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from pipelines.backbones.distributed import World

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGREED_EVERY = 10  # steps after which several processes ask each other; each time costs them a round


class StopAsked(Exception):
    """Someone wants the training to stop, and it is at a place where it can go on later."""


class Stopper:
    """Notes the first signal for the loop to ask for; a second one does not wait. A context manager."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopper":
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: whoever owns that sees to signals
            self._before.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self, step: int = 0) -> None:
        """Raises `StopAsked` where a stop is wanted; with several processes, by all of them at the same `step`."""
        asked = self._received is not None
        if self._world.size > 1:
            asked = step % AGREED_EVERY == 0 and any(self._world.gather_objects(asked))
        if asked:
            raise StopAsked

    def check_alone(self) -> None:
        """`check` at a place that several processes do not reach together: there nothing is asked."""
        if self._world.size == 1:
            self.check()

    def leave(self) -> None:
        """Does what the signal would have done without this."""
        number, handlers = self._received, dict(self._before)
        self.__exit__(None, None, None)
        handler: Callable[[int, FrameType | None], Any] | None = handlers.get(number) if number is not None else None
        if callable(handler) and number is not None:
            handler(number, None)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            self.leave()
        self._received = number
