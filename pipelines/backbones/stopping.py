"""Ctrl-C and SIGTERM while a backbone trains: the step at hand is finished and its state kept before it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM

from pipelines.backbones.distributed import World
from pipelines.fitting.interrupts import Interrupts

AGREED_EVERY = 10  # steps after which several processes ask each other; each time costs them a round


class StopAsked(Exception):
    """A stop was asked for, and the training is at a point from which it can resume."""


@dataclass(frozen=True, slots=True)
class Stopper:
    """What the processes of a `world` ask between two steps."""

    world: World
    interrupts: Interrupts

    def check(self, step: int = 0) -> None:
        """Raises `StopAsked` where a stop is wanted; with several processes, by all of them at the same `step`."""
        asked = self.interrupts.is_asked
        if self.world.size > 1:
            asked = step % AGREED_EVERY == 0 and any(self.world.gather_objects(asked))
        if asked:
            raise StopAsked

    def check_alone(self) -> None:
        """`check` at a place that several processes do not reach together: there nothing is asked."""
        if self.world.size == 1:
            self.check()


@contextmanager
def stopper(world: World) -> Iterator[Stopper]:
    """Inside, the first Ctrl-C or SIGTERM is noted for `Stopper.check`."""
    with Interrupts(SIGINT, SIGTERM) as interrupts:
        yield Stopper(world, interrupts)
