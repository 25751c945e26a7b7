"""The labels of a whole frames table in little memory: an array per label group, which marks what is no label.

ABAW's 15 columns take 21 bytes per frame, where values and masks (`heads.labels.Labels`) take 79; those are made of the
rows that are asked for. NumPy arrays or tensors alike. Letters: N frames, K columns of a group.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.labels import ABAW, Schema, Task
from heads.labels import Array, Labels
from pipelines.labels import DTYPES

STORED: dict[str, Any] = {"continuous": np.float32, "classes": np.int8, "binary": np.int8}
NO_LABEL: dict[str, float] = {"continuous": np.nan, "classes": -1, "binary": -1}
BLOCK = 1 << 20  # rows at once


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """`arrays` by group [N, K] of the types `STORED`, with `NO_LABEL` where there is none; `kinds` by group."""

    arrays: Mapping[str, Array]
    kinds: Mapping[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the schema's order."""
        return tuple(self.arrays)

    def map(self, change: Callable[[Array], Array]) -> "LabelTable":
        """`change` of every array."""
        return LabelTable({name: change(array) for name, array in self.arrays.items()}, self.kinds)

    def take(self, rows: Array) -> Labels:
        """The labels of `rows`: row numbers in any shape, a slice or a mask [N]."""
        values, masks = {}, {}
        for name, array in self.arrays.items():
            values[name], masks[name] = _labels_in(_rows(array, rows), self.kinds[name])
        return Labels(values, masks)

    def mask(self, group: str) -> Array:
        """[N, K] bool: what is a label of `group`."""
        return _is_label(self.arrays[group])

    def labelled(self, group: str, columns: Sequence[int] | None = None) -> np.ndarray:
        """[N] bool: frames with at least one label of `group`, or of some columns of it."""
        array, found = self.arrays[group], np.zeros(len(self), bool)
        for start in range(0, len(self), BLOCK):
            part = array[start : start + BLOCK]
            found[start : start + BLOCK] = _is_label(part if columns is None else part[:, columns]).any(axis=1)
        return found

    def labelled_for(self, tasks: Iterable[Task]) -> np.ndarray:
        """[N] bool: frames with a label of any of `tasks`."""
        found = np.zeros(len(self), bool)
        for task in tasks:
            found |= self.labelled(task.group.name, None if task.is_whole else task.indices)
        return found

    def blocks(self, rows: np.ndarray) -> Iterator[Labels]:
        """The labels of the rows under the mask `rows` [N], in order, those of at most `BLOCK` rows at a time; at least
        one block."""
        for start in range(0, max(len(self), 1), BLOCK):
            yield self.take(start + np.flatnonzero(rows[start : start + BLOCK]))


AnyLabels = Labels | LabelTable


def label_table(tables: Iterable[pl.DataFrame], num_rows: int, schema: Schema = ABAW) -> LabelTable:
    """The labels of `tables` one below the other, `num_rows` in all, and behind them a row without any."""
    kinds = {group.name: group.kind for group in schema}
    arrays = {
        group.name: np.full((num_rows + 1, len(group.columns)), NO_LABEL[group.kind], STORED[group.kind])
        for group in schema
    }
    start = 0
    for table in tables:
        for group in schema:
            for place, column in enumerate(group.columns):
                values = table[column].fill_null(NO_LABEL[group.kind]).to_numpy()
                arrays[group.name][start : start + len(table), place] = values
        start += len(table)
    return LabelTable(arrays, kinds)


def below_each_other(tables: Sequence[LabelTable]) -> LabelTable:
    """The labels of several tables, as tensors, as one."""
    import torch

    first = tables[0]
    return LabelTable({name: torch.cat([each.arrays[name] for each in tables]) for name in first.arrays}, first.kinds)


def _rows(array: Array, rows: Array) -> Array:
    """[..., K]"""
    if isinstance(array, np.ndarray):
        return array[rows]
    return array.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _is_label(array: Array) -> Array:
    if isinstance(array, np.ndarray):
        return ~np.isnan(array) if array.dtype.kind == "f" else array >= 0
    return ~array.isnan() if array.is_floating_point() else array >= 0


def _labels_in(array: Array, kind: str) -> tuple[Array, Array]:
    """Values, 0 where there is none, and mask of a group."""
    mask = _is_label(array)
    if isinstance(array, np.ndarray):
        return np.where(mask, array, array.dtype.type(0)).astype(DTYPES[kind], copy=False), mask
    values = array.masked_fill(~mask, 0)
    return values.long() if kind == "classes" else values.float(), mask
