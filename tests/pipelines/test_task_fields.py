"""Values of a task's own: where they are written, whose model they are, and that nothing else changes by them."""

import tomllib
from pathlib import Path

import pytest
import torch

from extract.config import BackboneConfig
from helpers.made_project import WIDTHS, make
from pipelines.config import Config, parse_config, read_config
from pipelines.fitting.runs import config_toml
from pipelines.metrics.challenge import score_predictions
from pipelines.results.leaderboard import make_leaderboard
from pipelines.search.estimate import work
from pipelines.search.grid import check, expand, parse_grid
from pipelines.search.memory import weights_bytes
from pipelines.search.study import Result, Trial
from pipelines.strategy import Strategy, problem_of, strategy_of, streams_of
from pipelines.task_fields import TASK_FIELDS
from pipelines.training.budget import budget_of, budget_words
from pipelines.training.packing import head_bytes, stack_key
from pipelines.training.run import load_run, predict_run, train_run
from pipelines.training.train import train_strategy
from pipelines.words import field_words, strategy_words, value_in

CONFIG = Config(backbones={name: BackboneConfig(model="test_vit2", tasks=(name,)) for name in ("va", "expr", "au")})
SEPARATE = strategy_of(CONFIG).replace({"method": "separate"}, "test")


def changed(base: Strategy = SEPARATE, /, **values) -> Strategy:
    """`base` with values for "va" alone."""
    return base.replace({f"task.va.{key}": value for key, value in values.items()}, "test")


def trained(config, dataset, **values):
    own = values.pop("own", {})
    strategy = strategy_of(config).replace(values, "test").replace(own, "test")
    return train_strategy(config, dataset, strategy)


def test_a_section_is_read_overridden_and_written_back(tmp_path: Path) -> None:
    text = '[train]\nmethod = "separate"\n[task.va]\nwindow = 128\nstreams = ["va"]\n[backbones.va]\nmodel = "m"\n'
    (tmp_path / "mtl.toml").write_text(text)
    config = read_config(tmp_path / "mtl.toml", ["task.va.window=32", "task.expr.temporal=gru"])
    strategy = strategy_of(config)
    assert strategy.task == {"va": {"window": 32, "streams": ("va",)}, "expr": {"temporal": "gru"}}
    assert problem_of(strategy, config) is None
    again = parse_config(tomllib.loads(config_toml(config, strategy)), tmp_path, "again")
    assert strategy_of(again) == strategy
    assert Strategy().replace(strategy.flat(), "run.json") == strategy


def test_a_model_has_its_own_values_and_the_joint_one_those_of_all() -> None:
    strategy = changed(SEPARATE.replace({"method": "progressive"}, "test"), window=7, temporal="lstm")
    assert strategy.models == ("va", "expr", "au", "joint")
    shapes = {
        name: (one.head.tasks, one.head.temporal, one.train.window)
        for name in strategy.models
        for one in [strategy.model(name)]
    }
    assert shapes == {
        "va": (("va",), "lstm", 7),
        "expr": (("expr",), "ssm", 64),
        "au": (("au",), "ssm", 64),
        "joint": (("va", "expr", "au"), "ssm", 64),
    }
    assert strategy.model("va").model("va") == strategy.model("va")
    assert streams_of(changed(streams="own"), CONFIG) == {"va": ("va",), "expr": tuple(WIDTHS), "au": tuple(WIDTHS)}


def test_every_field_is_one_of_a_strategy_and_counts_for_its_digest() -> None:
    other = {"streams": ["au"], "fusion": "sum", "temporal": "gru", "causal": True, "dropout": 0.1, "lr": 0.01}
    base = SEPARATE.replace({"temporal": "tcn-transformer"}, "test")  # which heeds both kernel and num_heads
    for key in TASK_FIELDS:
        strategy = changed(base, **{key: other.get(key, 6)})
        assert strategy.digest != base.digest, key
        assert strategy.arm != base.arm, key
        assert strategy.model("va") != base.model("va"), key
        assert strategy.model("expr") == base.model("expr"), key


def test_a_value_that_is_that_of_all_changes_nothing() -> None:
    same = changed(window=SEPARATE.train.window)
    assert same.digest == SEPARATE.digest
    assert same.arm == SEPARATE.arm
    assert changed(window=5).digest != SEPARATE.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[task.vaa]\nwindow = 4", r"\[task.NAME\].*'vaa'.*va"),
        ("[task.va]\nwindw = 4", r"\[task.va\]: unknown key 'windw'.*'window'"),
        ("[task.va]\nseed = 1", r"\[task.va\]: seed is the same for the models of all tasks; .*known: streams, fusion"),
        ("[task.va]\ninputs = 'both'", r"\[task.va\]: inputs is the same for the models of all tasks"),
        ("[task.va]\nfocal_gamma = 1.0", r"\[task.va\]: focal_gamma is the same for the models of all tasks"),
        ("[task.va]\nwindow = 0", r"\[task.va\] window: expected a whole number from 1 to"),
        ("[task]\nva = 3", r"\[task.va\]: expected a section, found 3"),
    ],
)
def test_a_bad_section_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(tomllib.loads(text), Path(), "mtl.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "joint"}, r"\[task.va\] window: only the methods separate and progressive .* method = 'joint'"),
        ({"tasks": ["expr", "valence"]}, r"\[task.va\] window: tasks = .* has no 'va'"),
        ({"task.va.width": 30, "task.va.temporal": "transformer"}, r"\[task.va\] transformer: width = 30"),
        ({"task.va.temporal": "tcn", "task.va.kernel": 4}, r"\[task.va\] tcn: kernel = 4 must be odd"),
        ({"task.va.streams": ["nose"]}, "unknown stream 'nose'"),
    ],
)
def test_what_cannot_be_trained_is_refused(values: dict, message: str) -> None:
    problem = problem_of(changed(window=4).replace(values, "test"), CONFIG)
    assert problem is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


def grid_of(text: str):
    return parse_grid(tomllib.loads(text), Path("g.toml"), text)


@pytest.mark.parametrize(
    "text",
    [
        '"task.va.window" = [8, 16]\n"task.au.temporal" = ["gru", "lstm"]',
        'task.va.window = [8, 16]\ntask.au.temporal = ["gru", "lstm"]',
        '[product.task.va]\nwindow = [8, 16]\n[product.task.au]\ntemporal = ["gru", "lstm"]',
    ],
)
def test_grids_name_them_quoted_dotted_or_as_sections(text: str) -> None:
    grid = grid_of(f'[set]\nmethod = "separate"\n[product]\n{text}')
    assert grid.fields == ("method", "task.va.window", "task.au.temporal")
    found = expand(grid, strategy_of(CONFIG))
    pairs = [(one.model("va").train.window, one.model("au").head.temporal) for one in found]
    assert pairs == [(8, "gru"), (8, "lstm"), (16, "gru"), (16, "lstm")]
    check(found, CONFIG, "g.toml")


def test_conditions_and_rows_name_them_too() -> None:
    text = """
    [product]
    method = ["joint", "separate"]
    [when.method.separate]
    task.va.temporal = ["gru", "tcn"]
    task.expr.window = 4
    [when.task.va.temporal.gru]
    task.va.depth = [1, 2]
    """
    found = expand(grid_of(text), strategy_of(CONFIG))
    shapes = [(one.train.method, one.model("va").head.temporal, one.model("va").head.depth) for one in found]
    assert shapes == [("joint", "ssm", 0), ("separate", "gru", 1), ("separate", "gru", 2), ("separate", "tcn", 0)]
    check(found, CONFIG, "g.toml")
    rows = '[set]\nmethod = "separate"\n[[list]]\ntask.va.window = 64\n[[list]]\ntask.va.window = 8'
    assert [one.model("va").train.window for one in expand(grid_of(rows), changed(window=3))] == [64, 8]


def test_a_grid_leaves_sections_of_mtl_toml_to_the_strategies_that_have_such_a_model() -> None:
    base = changed(window=8)
    found = expand(grid_of('[product]\nmethod = ["joint", "separate"]\ntasks = [["va", "expr"], ["expr"]]'), base)
    assert [(one.train.method, one.head.tasks, dict(one.task)) for one in found] == [
        ("joint", ("va", "expr"), {}),
        ("joint", ("expr",), {}),
        ("separate", ("va", "expr"), {"va": {"window": 8}}),
        ("separate", ("expr",), {}),
    ]
    (own,) = expand(grid_of('[set]\nmethod = "joint"\ntask.va.window = 16'), base)
    assert "leave it out" in (problem_of(own, CONFIG) or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task.va.windw = [3]", "unknown key 'task.va.windw'.*'window'"),
        ('task.va.inputs = ["both"]', "inputs is the same for the models of all tasks; leave it out here; known after"),
        ("task.vaa.window = [3]", "'vaa'.*'va'"),
        ("task.va.window = [0]", "task.va.window: expected a whole number from 1 to"),
        ('task.va.temporal = ["grru"]', "'gru'"),
        ("task.va = [3]", "task.va: expected a section"),
        ('task.va.window = [3]\n"task.va.window" = [4]', "task.va.window: given twice"),
    ],
)
def test_bad_lines_of_a_grid_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_of(f"[product]\n{text}")


def test_stacks_budgets_and_estimates_go_by_the_models() -> None:
    progressive = SEPARATE.replace({"method": "progressive", "steps": 100}, "test")
    own = changed(progressive, steps=40, window=256, width=256)
    widths = dict.fromkeys(WIDTHS, 20)
    assert stack_key(own, CONFIG) != stack_key(progressive, CONFIG)
    assert stack_key(changed(progressive, patience=3), CONFIG) == stack_key(progressive, CONFIG)
    assert stack_key(changed(progressive, streams=list(WIDTHS)), CONFIG) == stack_key(progressive, CONFIG)
    assert work(progressive) == 400
    assert work(own) == 340
    assert head_bytes(own, CONFIG, widths) > head_bytes(progressive, CONFIG, widths)
    assert weights_bytes(own, CONFIG, widths) > weights_bytes(progressive, CONFIG, widths)
    frames = make().frames
    assert budget_of(own, frames)["task"]["va"]["steps"] == 40
    assert budget_words(budget_of(own, frames)).startswith("100 steps of 4 windows, scored every 40; va: 40 steps")
    assert budget_of(changed(progressive, temporal="gru"), frames) == budget_of(progressive, frames)


def test_words_and_columns_of_a_leaderboard() -> None:
    metrics = {part: {"P": 0.5, "num_frames.va": 1} for part in ("select", "report")}
    strategies = [SEPARATE, changed(window=8), changed(window=16), SEPARATE.replace({"method": "joint"}, "test")]
    board = make_leaderboard([Result(Trial(one, {}, one.digest), metrics, 1.0, Path(one.digest)) for one in strategies])
    assert board.varied == ("method", "task.va.window")
    assert {value_in("task.va.window", row.values) for row in board.rows} == {"64", "8", "16", "–"}
    assert field_words("task.va.window", short=True) == "VA window"
    assert strategy_words(strategies[1].flat(), board.varied) == "method separate, VA window 8"
    assert strategy_words(strategies[3].values(board.varied), board.varied) == "method joint"
    kernels = [changed(temporal=temporal, kernel=5).flat() for temporal in ("tcn", "gru")]
    assert [value_in("task.va.kernel", one) for one in kernels] == ["5", "–"]


OWN = {"task.va.window": 5, "task.va.stride": 3, "task.va.streams": ["au", "va"], "task.va.steps": 18}
OWN |= {"task.expr.temporal": "gru", "task.expr.width": 8, "task.expr.dropout": 0.1, "task.expr.causal": True}
OWN |= {"task.au.latent": 4, "task.au.lr": 0.01}


def test_a_model_trains_as_it_would_alone(small, made):
    """By the streams of all models a step is valid, so the alone one is given the same rows."""
    dataset = made.dataset()
    whole = trained(small, dataset, method="separate", own=OWN)
    alone = {
        "va": {"window": 5, "stride": 3, "streams": ["au", "va"], "steps": 18},
        "expr": {"temporal": "gru", "width": 8, "dropout": 0.1, "causal": True},
        "au": {"latent": 4, "lr": 0.01},
    }
    for model in whole.models:
        (same,) = trained(small, dataset, tasks=[model.spec.name], **alone[model.spec.name]).models
        assert [note.losses for note in model.history] == [note.losses for note in same.history]
        for key, value in same.module.state_dict().items():
            assert torch.equal(model.module.state_dict()[key], value)


@pytest.mark.parametrize("method", ["separate", "progressive"])
def test_a_run_of_such_models_is_read_back_and_predicts_the_same(small, made, tmp_path, method):
    dataset = made.dataset(failed=(0, 70))
    strategy = strategy_of(small).replace({"method": method, "frozen_steps": 3, **OWN}, "test")
    metrics = train_run(small, dataset, strategy, tmp_path / "r")
    assert "VA window 5, VA stride 3, VA streams au + va" in (tmp_path / "r" / "model_card.md").read_text()
    run, split = load_run(tmp_path / "r"), dataset.split(small.split, strategy.train.fold)
    assert run.strategy == strategy
    assert run.window == 16
    for part in ("select", "report"):
        again = score_predictions(predict_run(run, dataset, getattr(split, part)), dataset.labels, run.tasks)
        assert again == metrics[part]
