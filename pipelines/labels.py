"""Labels of a frames table as arrays with masks. N frames.

Nulls of the table become masks here; the value under a mask is 0 and means nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import DTypeLike

from cache.names import ACTION_UNITS, TASKS, VA_COLUMNS

if TYPE_CHECKING:
    from heads.losses import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """`va` [N, 2] float32 in [-1, 1], `expr` [N] int64 in 0..7, `au` [N, 12] float32 in {0, 1}, each with a mask."""

    va: np.ndarray
    va_mask: np.ndarray
    expr: np.ndarray
    expr_mask: np.ndarray
    au: np.ndarray
    au_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.expr)

    def rows(self, chosen: np.ndarray) -> "Labels":
        """The labels of the rows `chosen` (a mask [N] or row numbers)."""
        return Labels(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    def labelled(self, task: str) -> np.ndarray:
        """[N] bool: rows with at least one label of `task`."""
        mask: np.ndarray = {"va": self.va_mask, "expr": self.expr_mask[:, None], "au": self.au_mask}[task]
        return np.asarray(mask.any(axis=1))

    @property
    def labelled_any(self) -> np.ndarray:
        """[N] bool: rows with a label of any task."""
        return np.asarray(np.stack([self.labelled(task) for task in TASKS]).any(axis=0))


def labels_of(frames: pl.DataFrame) -> Labels:
    """The labels of a frames table, row for row."""
    va, va_mask = _columns(frames, VA_COLUMNS, np.float32)
    expr, expr_mask = _columns(frames, ("expression",), np.int64)
    au, au_mask = _columns(frames, ACTION_UNITS, np.float32)
    return Labels(va=va, va_mask=va_mask, expr=expr[:, 0], expr_mask=expr_mask[:, 0], au=au, au_mask=au_mask)


def label_pattern(labels: Labels) -> np.ndarray:
    """[R] int: equal for rows that are labelled for the same things, which can be mixed without losing any."""
    masks = np.concatenate([labels.va_mask, labels.expr_mask[:, None], labels.au_mask], axis=1)
    return np.asarray(masks @ (1 << np.arange(masks.shape[1], dtype=np.int64)))


def targets_of(frames: pl.DataFrame) -> "Targets":
    """The labels of a frames table as CPU tensors, for the losses."""
    return as_targets(labels_of(frames))


def as_targets(labels: Labels) -> "Targets":
    """`labels` as CPU tensors, for the losses."""
    import torch

    from heads.losses import Targets

    return Targets(**{name: torch.from_numpy(getattr(labels, name)) for name in labels.__dataclass_fields__})


def _columns(frames: pl.DataFrame, names: tuple[str, ...], dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """Columns [N, len(names)] with nulls as 0, and where they were not null."""
    table = frames.select(names)
    values: np.ndarray = table.fill_null(0).to_numpy().astype(dtype)
    return values, table.select(pl.all().is_not_null()).to_numpy()
