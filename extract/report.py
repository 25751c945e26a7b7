"""What an extraction did and which faces it could not use; needs no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cache.frames_file import Frames
from cache.stream import Stream

NO_EMBEDDING = "its embedding by "  # how the reasons begin that are no face's fault


class Failure(NamedTuple):
    """A face without an embedding."""

    video: str
    frame: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an extraction did.

    `num_done` faces went through it, into the streams `filled` (their titles); `num_skipped` every stream had already;
    `num_elsewhere` are left to other parts.
    `num_redone` shards had lost files and were made again; `num_turned` faces were turned as their orientation says;
    `notes` are lines for the user (a smaller batch, say).
    Where it is `of_sound`, what is counted are frames.
    """

    num_done: int
    num_skipped: int
    failed: list[Failure]
    seconds: float
    filled: tuple[str, ...] = ()
    num_elsewhere: int = 0
    num_redone: int = 0
    num_turned: int = 0
    notes: tuple[str, ...] = ()
    of_sound: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """The notes, and a line on faces that were turned."""
        if not self.num_turned:
            return self.notes
        how = "as their EXIF orientation or rotation says; --ignore-orientation: as stored"
        return *self.notes, f"{self.num_turned:,} faces turned {how}"

    @property
    def is_backbones_fault(self) -> bool:
        """Whether every failure is an embedding that is none: the faces are right."""
        return all(failure.reason.startswith(NO_EMBEDDING) for failure in self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What an extraction tells whoever waits for it.

    `opened`: all streams are there, so other processes can open them too. `begin`: the number of faces to do here.
    `advance`: so many of them are done.
    """

    opened: Callable[[], None] = lambda: None
    begin: Callable[[int], None] = lambda count: None
    advance: Callable[[int], None] = lambda count: None


def failures_of(streams: Sequence[Stream], frames: Frames) -> list[Failure]:
    """Every failed face of the streams, in the frames table's order; one entry a reason."""
    reasons = sorted({(row, reason) for stream in streams for row, reason in stream.failed().items()})
    rows = frames[[row for row, _ in reasons]].select("video", "frame", "path").rows() if reasons else []
    return [Failure._make((*key, reason)) for key, (_, reason) in zip(rows, reasons, strict=True)]
