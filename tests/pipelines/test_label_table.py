"""Labels of a whole table in little memory are those of the table."""

import numpy as np
import polars as pl
import pytest
import torch

from cache.labels import ABAW, SCHEMAS, Schema
from pipelines import label_table as module
from pipelines.label_table import LabelTable, below_each_other, label_table
from pipelines.labels import as_tensors, labelled, labels_of

NUM_ROWS = 40


def made(schema: Schema) -> pl.DataFrame:
    """With every value that a label can have, and holes."""
    columns = {}
    for number, group in enumerate(schema):
        for place, name in enumerate(group.columns):
            row = np.arange(NUM_ROWS)
            value = np.linspace(group.low, group.high, NUM_ROWS) if group.kind == "continuous" else row
            value = (
                value % (len(group.classes) if group.kind == "classes" else 2) if group.kind != "continuous" else value
            )
            hole = (row + number + place) % (2 + place) == 0
            dtype = pl.Float32 if group.kind == "continuous" else pl.Int8
            columns[name] = pl.Series([None if no else each for each, no in zip(value, hole, strict=True)], dtype=dtype)
    return pl.DataFrame(columns)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_labels_of_some_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    schema = SCHEMAS[name]
    frames, rows = made(schema), np.arange(NUM_ROWS) % 3 > 0
    whole, padded = labels_of(frames, schema), label_table([frames[:13], frames[13:]], NUM_ROWS, schema)
    table = padded.map(lambda array: array[:-1])
    assert (len(padded), len(table), table.groups) == (NUM_ROWS + 1, NUM_ROWS, whole.groups)
    for chosen in (rows, np.flatnonzero(rows), slice(3, 20)):
        same(table.take(chosen), whole.take(chosen))
    parts = [part.map(torch.from_numpy) for part in table.blocks(rows)]
    assert len(parts) == 6
    for group in schema.names:
        assert torch.cat([part.masks[group] for part in parts]).numpy().tolist() == whole.masks[group][rows].tolist()
        assert not padded.mask(group)[-1].any()
        assert np.array_equal(table.mask(group), whole.masks[group])
        assert np.array_equal(table.labelled(group), whole.labelled(group))
    for task in schema.tasks:
        assert np.array_equal(table.labelled_for([schema.tasks[task]]), labelled(whole, schema.tasks[task]))
    both = below_each_other([each.map(torch.from_numpy) for each in (table, padded)])
    places = torch.tensor([[1, 39], [2 * NUM_ROWS, NUM_ROWS + 2]])
    expected = as_tensors(labels_of(pl.concat([frames, frames, frames.clear(1)]), schema)).take(places)
    found = both.take(places)
    for group in schema.names:
        assert torch.equal(found.masks[group], expected.masks[group])
        assert torch.equal(found.values[group], expected.values[group])
        assert found.values[group].dtype == expected.values[group].dtype


def same(found: object, expected: object) -> None:
    for kind in ("values", "masks"):
        for group, array in getattr(expected, kind).items():
            other = getattr(found, kind)[group]
            assert other.dtype == array.dtype
            assert np.array_equal(other, array)


def test_a_frame_takes_21_bytes() -> None:
    table = label_table([], 1000, ABAW)
    assert isinstance(table, LabelTable)
    assert sum(array.nbytes for array in table.arrays.values()) == 21 * 1001
