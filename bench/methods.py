"""M: each piece of a strategy against the same strategy without it, on the made data sets of Q1, three seeds.

About ten minutes for a data set on one core.
"""

from collections.abc import Callable, Mapping

import torch

from bench.measure import Row
from bench.method_entries import compared, entry_of
from bench.method_pieces import GROUPS, Piece
from bench.method_refit import refit
from bench.method_unlabelled import self_training
from bench.quality import Made, data_sets, shown


def methods(device: torch.device) -> list[Row]:
    """M: held-out P with each piece minus P without it."""
    rows = []
    for made in data_sets():
        rows += [shown(of_piece(made, name, piece)) for name, pieces in GROUPS.items() for piece in pieces]
        rows += [shown(refit(made)), shown(self_training(made))]
    return rows


def of_piece(made: Made, group: str, piece: Piece) -> Row:
    base, found = (entry_of(made, side, piece.tasks) for side in (piece.base, piece.side))
    return compared(f"M D{made.seed} {group}: {piece.name}", found, base, piece.tasks)


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"M": methods}
ON_CUDA = ()
