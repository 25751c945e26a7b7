"""mtl.toml: defaults, overrides, and errors that name section and key."""

import tomllib
from pathlib import Path

import pytest
import tomlkit

from cache.labels import ABAW, DISFA, SCHEMAS, Schema, schema_of
from extract.config import BackboneConfig
from pipelines.config import Config, parse_config, read_config, read_schema
from pipelines.fitting.runs import config_toml
from pipelines.project import packaged_grids, write_project
from pipelines.strategy import Strategy, flat_fields, strategy_of, streams_of
from pipelines.typed import from_mapping, to_mapping

FIXTURES = Path(__file__).parents[1] / "fixtures"


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
        ("[train]\nmethod = 'both'", "expected one of 'separate', 'joint', 'progressive', 'self-training'"),
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


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        ("", r"--set: \[train\] steps: expected"),
        ("[split]\nfolds = 1", r"mtl.toml: \[split\]: unknown key 'folds'"),  # whatever --set says
        ("[train]\nsteps = 0", r"mtl.toml: \[train\] steps"),
    ],
)
def test_the_file_or_the_override_is_blamed(text: str, blamed: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=blamed):
        parse(text, "train.steps=many", "train.lr=0.1", folder=tmp_path)


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


PAIN = FIXTURES / "labels" / "pain.toml"


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), read_schema(str(PAIN), "x")], ids=lambda schema: schema.name)
def test_what_init_writes_has_the_schema_and_its_groups_as_tasks(schema: Schema, tmp_path: Path) -> None:
    write_project(tmp_path, "faces", schema)
    config = read_config(tmp_path / "mtl.toml")
    assert config.schema == schema
    assert config.head.tasks == schema.names
    for grid in (tmp_path / "grids").glob("*.toml"):
        sets = tomllib.loads(grid.read_text()).get("product", {}).get("tasks", [])
        assert {name for names in sets for name in names} <= set(schema.tasks)


def test_a_schema_by_name_and_by_its_groups(tmp_path: Path) -> None:
    assert parse("", folder=tmp_path).schema is ABAW
    assert parse("[labels]\nname = 'disfa'", folder=tmp_path).schema is DISFA
    config = parse("", "labels.name=disfa", folder=tmp_path)
    assert (config.schema, config.head.tasks) == (DISFA, DISFA.names)
    written = tomlkit.dumps({"labels": tomllib.loads(PAIN.read_text())})
    assert parse(written, folder=tmp_path).schema == schema_of(tomllib.loads(PAIN.read_text()), "x")


def test_the_configuration_of_a_run_has_the_schema(tmp_path: Path) -> None:
    write_project(tmp_path, "faces", read_schema(str(PAIN), "x"))
    config = read_config(tmp_path / "mtl.toml")
    (tmp_path / "config.toml").write_text(config_toml(config, strategy_of(config)))
    assert read_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[labels]\nname = 'DISFA'",
            r"\[labels\] name: unknown schema 'DISFA' \(did you mean 'disfa'\?\); known: abaw",
        ),
        ("[labels]\nname = [1]", r"\[labels\] name: unknown schema \[1\]"),
        ("[labels]\nnmae = 'disfa'", r"\[labels\]: unknown key 'nmae' \(did you mean 'name'\?\)"),
        ("[label]\nname = 'disfa'", r"unknown section \[label\] \(did you mean 'labels'\?\)"),
        ("labels = 'disfa'", r"\[labels\]: expected a section"),
        ("[labels]\nname = 'x'\ngroups = []", r"\[labels\]: no group"),
        (
            "[labels]\nname = 'x'\n[[labels.groups]]\nname = 'a'\nkind = 'ordinal'",
            r"\[labels\]: group 1 \(a\): kind = 'ordinal' must be one of continuous",
        ),
        (
            "[labels]\nname = 'disfa'\n[[labels.groups]]\nname = 'a'\nkind = 'binary'\ncolumns = ['a']",
            r"\[labels\]: disfa comes with the program and has other groups",
        ),
        ("[head]\ntasks = ['va', 'exp']", r"\[head\] tasks: unknown task 'exp' \(did you mean 'expr'\?\)"),
        ("[labels]\nname = 'disfa'\n[head]\ntasks = ['va']", r"\[head\] tasks: unknown task 'va'.*disfa has intensity"),
        ("[loss]\ntask_weights = {exp = 2}", r"\[loss\] task_weights: unknown task 'exp' \(did you mean 'expr'\?\)"),
        ("[backbones.a]\nmodel = 'm'\ntasks = ['Valence']", r"\[backbones.a\] tasks: unknown task 'Valence' \(did you"),
        (
            "[[finetune.data]]\nfaces = 'f'\nframes = 'f'\ntasks = ['aus']",
            r"\[\[finetune.data\]\] 1 tasks: unknown task 'aus' \(did you mean 'au'\?\)",
        ),
    ],
)
def test_wrong_labels_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text, folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dsfa", r"^--labels: unknown schema 'dsfa' \(did you mean 'disfa'\?\); known: abaw"),
        ("gone.toml", r"^--labels gone.toml: no such file, nor a schema that ships: abaw"),
        ("none.toml", r'^none.toml: no name; write name = "NAME" at the top'),
        ("broken.toml", r"^broken.toml: not valid TOML"),
    ],
)
def test_a_wrong_option_labels_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.toml").write_text("")
    Path("broken.toml").write_text("[")
    with pytest.raises(ValueError, match=message):
        read_schema(text, "--labels")
