"""Labels of a frames table by label group, as arrays with masks, and the tasks of a schema. N frames.

Nulls of the table become masks here; the value under a mask is 0 and means nothing.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cache.labels import ABAW, Schema
from cache.labels import Task as SchemaTask
from heads.labels import Labels

if TYPE_CHECKING:
    from heads.tasks import Task

DTYPES = {"continuous": np.float32, "classes": np.int64, "binary": np.float32}


def labels_of(frames: pl.DataFrame, schema: Schema = ABAW) -> Labels:
    """The labels of a frames table, row for row, as NumPy arrays."""
    values, masks = {}, {}
    for group in schema:
        table = frames.select(group.columns)
        values[group.name] = table.fill_null(0).to_numpy(writable=True).astype(DTYPES[group.kind], copy=False)
        masks[group.name] = table.select(pl.all().is_not_null()).to_numpy()
    return Labels(values, masks)


def as_tensors(labels: Labels) -> Labels:
    """`labels` as CPU tensors, for the losses."""
    import torch

    return labels.map(torch.from_numpy)


def concatenated(parts: list[Labels]) -> Labels:
    """The labels of several tables of one schema, one below the other."""
    return Labels(
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        {name: np.concatenate([part.masks[name] for part in parts]) for name in parts[0].masks},
    )


def labelled(labels: Labels, task: SchemaTask) -> np.ndarray:
    """[N] bool: rows with a label of `task`."""
    mask = labels.masks[task.group.name]
    return np.asarray((mask if task.is_whole else mask[:, task.indices]).any(axis=1))


def labelled_any(labels: Labels) -> np.ndarray:
    """[N] bool: rows with a label of any group."""
    return np.asarray(np.stack([labels.labelled(name) for name in labels.masks]).any(axis=0))


def label_pattern(labels: Labels) -> np.ndarray:
    """[N] int: equal for rows that are labelled for the same things, which can be mixed without losing any."""
    masks = np.concatenate(list(labels.masks.values()), axis=1)
    _, pattern = np.unique(np.packbits(masks, axis=1), axis=0, return_inverse=True)
    return np.asarray(pattern).reshape(-1)


def tasks_of(schema: Schema) -> dict[str, "Task"]:
    """Every task of `schema` as heads know it."""
    from heads.tasks import Task

    return {
        task.name: Task(
            group=task.group.name,
            kind=task.group.kind,
            num_outputs=task.num_outputs,
            column=None if task.is_whole else task.indices[0],
            low=task.group.low,
            high=task.group.high,
        )
        for task in schema.tasks.values()
    }
