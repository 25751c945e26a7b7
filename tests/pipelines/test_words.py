"""How fields and values are called in tables and reports."""

import pytest

from pipelines.project import packaged_grids
from pipelines.search.grid import expand, read_grid
from pipelines.strategy import Strategy
from pipelines.words import strategy_words, value_words


@pytest.mark.parametrize("values", [{}, {"streams": ["va"]}, {"streams": ["va", "au"], "tasks": ["va", "expr"]}])
def test_every_field_of_a_strategy_has_words(values: dict) -> None:
    flat = Strategy().replace(values, "test").flat()
    assert all(isinstance(value_words(name, value), str) for name, value in flat.items())
    assert strategy_words(flat, list(flat))


@pytest.mark.parametrize("path", packaged_grids(), ids=lambda path: path.stem)
def test_every_strategy_of_the_grids_that_ship_has_words(path) -> None:
    grid = read_grid(path)
    assert all(strategy_words(one.flat(), grid.fields) for one in expand(grid, Strategy()))


def test_values_that_stand_for_another_one() -> None:
    assert [value_words("depth", value) for value in (0, 3)] == ["its own", "3"]
    assert value_words("batch_windows", 0) == "by size"
    assert value_words("seed", 0) == "0"
