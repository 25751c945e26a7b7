"""What `make bench ONLY=M` tries: settings of a strategy, and those of the strategy without the piece."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache.names import TASKS

Values = Mapping[str, Any]
# Of every strategy: half the default width and budget, so that many are trained.
SMALL: Values = {"width": 64, "steps": 400}
FRAME_WISE: Values = {"temporal": "none"}
SEPARATE: Values = {"method": "separate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A strategy with what is tried in it, and `base` without; both say what differs from the defaults and `SMALL`."""

    name: str
    values: Values
    base: Values = field(default_factory=dict)
    tasks: Sequence[str] = TASKS


ENCODERS = ("gru", "lstm", "ssm", "tcn-multi", "transformer", "tcn-transformer")
FUSIONS = ("sum", "gated", "attention", "cross-attention")
GROUPS: Mapping[str, Sequence[Piece]] = {
    "encoder, frame-wise without": [
        Piece(name="tcn", values={}, base=FRAME_WISE),
        *(Piece(name=each, values={"temporal": each}, base=FRAME_WISE) for each in ENCODERS),
    ],
    "fusion, frame-wise without": [
        *(Piece(name=f"{each}, tcn", values={"fusion": each}, base=FRAME_WISE) for each in FUSIONS),
        Piece(name="cross-attention alone", values=FRAME_WISE | {"fusion": "cross-attention"}, base=FRAME_WISE),
    ],
    "fusion, concat without": [Piece(name=each, values={"fusion": each}) for each in FUSIONS],
    "auxiliary tasks, the task alone without": [
        Piece(
            name="expr beside au, valence",
            values={"tasks": ["expr", "au", "valence"], "targets": ["expr"], "task_weights": {"expr": 0.25}},
            base={"tasks": ["expr"]},
            tasks=("expr",),
        ),
        Piece(
            name="au beside valence",
            values={"tasks": ["au", "valence"], "targets": ["au"]},
            base={"tasks": ["au"]},
            tasks=("au",),
        ),
    ],
    "values of a task's own, separate without": [
        Piece(name="window 128 of va", values=SEPARATE | {"task.va.window": 128}, base=SEPARATE),
        Piece(name="window 16 of au", values=SEPARATE | {"task.au.window": 16}, base=SEPARATE),
        Piece(name="gru of va", values=SEPARATE | {"task.va.temporal": "gru"}, base=SEPARATE),
    ],
}
