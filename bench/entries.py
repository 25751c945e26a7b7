"""What `python -m bench` measures, in which order, and how long each measurement may take."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Rows `ids` of `bench.MODULE`, measured in one process within `limit_s`, or within `quick_s` by --quick, from when
    the `data` that they read are made.

    Without `limit_s` they take as long as they take and are measured only where --only names them; without `quick_s`
    --quick leaves them out.
    """

    ids: tuple[str, ...]
    module: str
    data: tuple[str, ...] = ()
    limit_s: float | None = None
    quick_s: float | None = None

    def seconds(self, *, quick: bool, factor: float = 1.0) -> float | None:
        chosen = self.quick_s if quick else self.limit_s
        return None if chosen is None else chosen * factor


# The limits add up to less than ten minutes, and to less than two by --quick.
ENTRIES = (
    Entry(ids=("C1",), module="cache_reading", data=("stream",), limit_s=10, quick_s=6),
    Entry(ids=("C2",), module="cache_reading", data=("stream",), limit_s=5, quick_s=3),
    Entry(ids=("C3",), module="cache_reading", data=("stream",), limit_s=8, quick_s=4),
    Entry(ids=("C4",), module="beyond_memory", data=("stream",), limit_s=6, quick_s=4),
    Entry(ids=("C6",), module="cache_reading", data=("stream",), limit_s=5, quick_s=3),
    Entry(ids=("A4",), module="extraction", data=("faces",), limit_s=10, quick_s=6),
    Entry(ids=("A1",), module="extraction", data=("faces",), limit_s=36, quick_s=12),
    Entry(ids=("A2", "A3"), module="runtimes", limit_s=60),
    Entry(ids=("A6", "A7"), module="resuming", data=("faces",), limit_s=36, quick_s=12),
    Entry(ids=("A8",), module="extraction", data=("faces",), limit_s=22, quick_s=8),
    Entry(ids=("E1",), module="extraction_rivals", data=("faces",), limit_s=41),
    Entry(ids=("E2",), module="trials", limit_s=15),
    Entry(ids=("V1", "V2"), module="predicting", data=("faces",), limit_s=20),
    Entry(ids=("V3",), module="video_faces", data=("video",), limit_s=20),
    Entry(ids=("B1",), module="training", limit_s=18, quick_s=8),
    Entry(ids=("B2",), module="training", limit_s=28, quick_s=10),
    Entry(ids=("B3",), module="training", data=("faces",), limit_s=30, quick_s=8),
    Entry(ids=("B5",), module="beyond_memory"),
    Entry(ids=("S1",), module="stacking", limit_s=57, quick_s=15),
    Entry(ids=("S2",), module="stacking", limit_s=4, quick_s=3),
    Entry(ids=("S3",), module="searching", limit_s=30),
    Entry(ids=("S4",), module="searching", limit_s=40),
    Entry(ids=("S6",), module="stacked_pieces", limit_s=45, quick_s=10),
    Entry(ids=("S8",), module="searching", limit_s=24),
    Entry(ids=("B4",), module="training"),
    Entry(ids=("R1",), module="extraction", data=("faces",)),
    Entry(ids=("R2",), module="cache_reading", data=("stream",)),
    Entry(ids=("R4",), module="extraction_rivals", data=("faces",)),
    Entry(ids=("F1",), module="finetuning", data=("faces",)),
    Entry(ids=("R3",), module="finetuning", data=("faces",)),
    Entry(ids=("Q1", "Q2"), module="quality"),
    Entry(ids=("M",), module="methods"),
)
IDS = tuple(each for entry in ENTRIES for each in entry.ids)


def chosen(only: Sequence[str]) -> list[Entry]:
    """The entries with a row in `only`, with those rows alone; without `only` all that have a time limit."""
    if not only:
        return [entry for entry in ENTRIES if entry.limit_s is not None]
    picked = [(entry, tuple(each for each in entry.ids if each in only)) for entry in ENTRIES]
    return [dataclasses.replace(entry, ids=ids) for entry, ids in picked if ids]
