"""What `make bench ONLY=M` tries: strategies that mtl knows, each in a folder of its own."""

import tomllib
from pathlib import Path

import polars as pl
import pytest

from bench import method_entries, method_pieces, method_refit
from bench.method_pieces import SMALL, Side, Values
from cache.names import ACTION_UNITS, EXPRESSIONS
from pipelines.config import Config
from pipelines.postprocess import fit
from pipelines.search.grid import expand, parse_grid
from pipelines.strategy import strategy_of

PIECES = [piece for pieces in method_pieces.GROUPS.values() for piece in pieces]
SIDES = [side for piece in PIECES for side in (piece.side, piece.base)]


@pytest.mark.parametrize(
    "values", [pytest.param(side.values, id=method_entries.name_of(side.values)) for side in SIDES]
)
def test_a_strategy_is_what_its_values_say(values: Values) -> None:
    document = tomllib.loads(method_entries.grid_of(values, first_seed=3))
    strategies = expand(parse_grid(document, Path("grid.toml")), strategy_of(Config()))
    assert [each.train.seed for each in strategies] == [3, 4, 5]
    base = strategy_of(Config()).replace({**SMALL, **values, "seed": 3}, "test")
    assert strategies[0] == base


def test_other_values_are_in_another_folder() -> None:
    names = {method_entries.name_of(side.values): side.values for side in SIDES}
    assert all(names[method_entries.name_of(side.values)] == side.values for side in SIDES)


def test_a_piece_differs_from_what_it_is_compared_with() -> None:
    assert all(piece.side != piece.base for piece in PIECES)


def test_components_of_post_processing_are_known() -> None:
    known = {each for options in fit.OPTIONS.values() for option in options for each in option}
    assert {component for side in SIDES for component in side.post} <= known
    before = fit.OPTIONS
    with method_entries.only(Side(post=["smoothing"]).post):
        assert all(option in ((), ("smoothing",)) for options in fit.OPTIONS.values() for option in options)
    assert fit.OPTIONS is before


def test_the_mean_of_runs_is_decided_anew(tmp_path: Path) -> None:
    runs = []
    for number, (valence, happy, unit) in enumerate([(0.0, 0.9, 0.2), (0.5, 0.3, 0.9)]):
        row = {"video": "a", "frame": 1, "part": "report", "valence": valence, "arousal": 0.0}
        row |= {f"p_{name}": 0.0 for name in (*EXPRESSIONS, *ACTION_UNITS)}
        row |= {"p_Happiness": happy, "p_Neutral": 1 - happy, "p_AU12": unit}
        runs.append(tmp_path / str(number))
        runs[-1].mkdir()
        pl.DataFrame([row]).write_parquet(runs[-1] / "predictions.parquet")
    (row,) = method_refit.mean_of(runs).to_dicts()
    assert (row["valence"], row["expression"]) == (0.25, EXPRESSIONS.index("Happiness"))
    assert (row["AU12"], row["AU1"]) == (1, 0)
