"""mtl.toml: defaults, overrides, and errors that name section and key."""

from pathlib import Path

import pytest

from extract.config import BackboneConfig
from pipelines.config import Config, parse_config, read_config
from pipelines.project import packaged_grids, write_project
from pipelines.strategy import Strategy, flat_fields, strategy_of, streams_of
from pipelines.typed import from_mapping, to_mapping


def parse(text: str, *overrides: str, folder: Path) -> Config:
    path = folder / "mtl.toml"
    path.write_text(text)
    return read_config(path, overrides)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert parse("", folder=tmp_path) == Config(folder=tmp_path)


def test_what_init_writes_is_read_and_says_the_defaults(tmp_path: Path) -> None:
    write_project(tmp_path, "my faces")
    config = read_config(tmp_path / "mtl.toml")
    assert config.data.faces == Path("my faces")
    assert strategy_of(config) == Strategy()
    assert packaged_grids()
    with pytest.raises(ValueError, match="there already"):
        write_project(tmp_path, "x")


def test_values_and_overrides(tmp_path: Path) -> None:
    text = (
        '[head]\nfusion = "sum"\nstreams = ["a", "b"]\n[train]\nlr = 1\n[backbones.a]\nmodel = "m"\nmean = [0, 0.5, 1]'
    )
    config = parse(text, "train.seed=7", "head.temporal=gru", 'head.tasks=["va"]', folder=tmp_path)
    assert config.head.fusion == "sum"
    assert config.head.streams == ("a", "b")
    assert config.head.temporal == "gru"
    assert config.head.tasks == ("va",)
    assert config.train.seed == 7
    assert config.train.lr == 1.0
    assert config.backbones["a"] == BackboneConfig(model="m", mean=(0.0, 0.5, 1.0))
    assert config.at("x/y") == tmp_path / "x/y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[haed]", r"unknown section \[haed\] \(did you mean 'head'\?\)"),
        ("[head]\nfusoin = 'sum'", r"\[head\]: unknown key 'fusoin' \(did you mean 'fusion'\?\)"),
        ("[train]\nsteps = 'ten'", r"\[train\] steps: expected a whole number, found 'ten'"),
        ("[train]\nsteps = true", "expected a whole number, found True"),
        ("[train]\nmethod = 'both'", "expected one of 'separate', 'joint', 'progressive'"),
        ("[backbones.a]\nweights = 'x'", r"\[backbones.a\]: missing key 'model'"),
        ("[backbones.a]\nmodel = 'x'\nmean = [0, 1]", "mean: expected"),
        ("head = 3", r"\[head\]: expected a section"),
        ("[head\n", "not valid TOML"),
    ],
)
def test_errors_say_what_and_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, folder=tmp_path)


@pytest.mark.parametrize("override", ["train.lr", "lr=3", "train.=3", "head.fusion.x=1"])
def test_a_bad_override_is_named(override: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--set"):
        parse('[head]\nfusion = "sum"', override, folder=tmp_path)


def test_a_missing_file_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mtl init"):
        read_config(tmp_path / "mtl.toml")


def test_strategies_survive_the_way_through_json() -> None:
    strategy = Strategy().replace({"streams": ["a"], "lr": 0.5, "tasks": ["va"]}, "here")
    assert Strategy().replace(strategy.flat(), "there") == strategy
    assert strategy.digest != Strategy().digest
    assert from_mapping(type(strategy.head), to_mapping(strategy.head), "x") == strategy.head


def test_flat_names_are_unique() -> None:
    fields = flat_fields()
    assert len(fields) == sum(len(to_mapping(part)) for part in (Strategy().head, Strategy().loss, Strategy().train))


BACKBONES = {"backbones": {name: {"model": "m"} for name in ("va", "expr", "au")} | {"face": {"model": "m"}}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"joint": ("va", "expr", "au", "face")}),
        ({"streams": "own"}, {"joint": ("va", "expr", "au")}),
        ({"streams": "own", "method": "separate", "tasks": ["va", "au"]}, {"va": ("va",), "au": ("au",)}),
        ({"streams": ["face"], "method": "progressive", "tasks": ["va"]}, {"va": ("face",)}),
    ],
)
def test_streams_of_a_strategy(values: dict, expected: dict) -> None:
    config = parse_config(BACKBONES, Path(), "x")
    assert streams_of(Strategy().replace(values, "x"), config) == expected


@pytest.mark.parametrize(("streams", "message"), [(["nose"], "unknown stream 'nose'"), ("own", "no backbone is made")])
def test_streams_that_are_not_there(streams: object, message: str) -> None:
    config = parse_config({"backbones": {"face": {"model": "m"}}}, Path(), "x")
    with pytest.raises(ValueError, match=message):
        streams_of(Strategy().replace({"streams": streams}, "x"), config)
