"""Auxiliary tasks: trained beside the targets, and never selected, scored or ranked by."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.parsing import parse_toml
from heads.config import HeadConfig, head_problem
from pipelines.config import parse_config
from pipelines.export.heads import WholeHead
from pipelines.fitting.runs import Spec
from pipelines.labels import tasks_of
from pipelines.report.leaderboards import combination_parts
from pipelines.results.effects import task_effects
from pipelines.results.leaderboard import make_leaderboard
from pipelines.search.grid import check, expand, parse_grid
from pipelines.search.study import Result, Trial
from pipelines.strategy import Strategy, problem_of, strategy_of
from pipelines.training.manifest import run_name
from pipelines.training.run import load_run, train_run
from pipelines.training.train import train_strategy

# The paper's "EXPR from AU + EXPR (0.25) + V" (arXiv 2407.16945) as one line of a grid.
LINE = 'list = [{ targets = ["expr"], tasks = ["valence", "expr", "au"], task_weights = { expr = 0.25 } }]'
AUXILIARY = {"tasks": ["va", "expr", "au"], "targets": ["expr"], "steps": 6, "eval_steps": 3}


def grid_of(text: str):
    return parse_grid(parse_toml(text), Path("grid.toml"), text)


def trained(config, dataset, **values):
    return train_strategy(config, dataset, strategy_of(config).replace(values, "test"))


def test_the_papers_combination_is_one_line_of_a_grid(small) -> None:
    (strategy,) = expand(grid_of(LINE), strategy_of(small))
    check([strategy], small, "grid.toml")
    assert strategy.head.tasks == ("valence", "expr", "au")
    assert strategy.head.predicted == ("expr",)
    assert strategy.head.auxiliary == ("valence", "au")
    assert strategy.loss.task_weights == {"expr": 0.25}
    assert run_name(strategy, "0" * 16).startswith("concat-ssm-joint-expr-with-valence-au-s0-")


def test_targets_that_are_all_tasks_are_the_strategy_without_targets(small) -> None:
    grid = grid_of('[product]\ntasks = [["va", "au"]]\ntargets = [[], ["au", "va"], ["au"]]')
    assert [one.head.targets for one in expand(grid, strategy_of(small))] == [(), ("au",)]


@pytest.mark.parametrize("method", ["joint", "progressive"])
def test_targets_alone_are_predicted_scored_and_selected_by(small, made, method) -> None:
    found = trained(small, made.dataset(), method=method, frozen_steps=3, **AUXILIARY)
    for part in ("select", "report"):
        assert list(found.predictions[part].probabilities.parts) == ["expr"]
        assert found.metrics[part]["P"] == found.metrics[part]["expr.f1_macro"]
        assert "va.ccc_mean" not in found.metrics[part]
    assert found.metrics["tasks"] == ["expr"]
    joint = [note for note in found.history if note.model == "joint"]
    assert all(list(note.scores) == ["expr"] for note in joint)
    assert all(note.losses["loss.va"] > 0 for note in joint if note.step)  # and yet it is trained


def test_auxiliary_tasks_teach_the_trunk(small, made) -> None:
    """The trunk moves with the weight of an auxiliary task; a weight of 0 leaves the target alone."""
    dataset, values = made.dataset(), {**AUXILIARY, "dropout": 0.0}
    weights = [{"va": 0.0, "au": 0.0}, {"va": 0.0, "au": 0.0}, {"va": 1.0, "au": 0.0}]
    first, same, other = (trained(small, dataset, **values, task_weights=each).models[0].module for each in weights)
    at = "fusion.projection.weight"
    assert torch.equal(first.state_dict()[at], same.state_dict()[at])
    assert not torch.equal(first.state_dict()[at], other.state_dict()[at])


def test_an_auxiliary_task_needs_no_label_to_choose_on(small, made) -> None:
    dataset = made.dataset()
    select = dataset.split(small.split, strategy_of(small).train.fold).select
    labels = dataset.labels.map(np.copy)
    labels.arrays["va"][select] = np.nan
    unlabelled = dataclasses.replace(dataset, labels=labels, _kept=dict(dataset._kept))
    assert np.isfinite(trained(small, unlabelled, **AUXILIARY).metrics["select"]["P"])
    with pytest.raises(ValueError, match="task va: no labelled frame"):
        trained(small, unlabelled, **{**AUXILIARY, "targets": []})
    with pytest.raises(ValueError, match="task va: no labelled frame"):  # its own model chooses by it
        trained(small, unlabelled, **AUXILIARY, method="progressive")


def test_a_run_keeps_its_targets(small, made, tmp_path: Path) -> None:
    dataset, strategy = made.dataset(), strategy_of(small).replace(AUXILIARY, "test")
    train_run(small, dataset, strategy, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.tasks == ("expr",)
    assert run.strategy.head.auxiliary == ("va", "au")
    ((spec, module),) = run.models
    assert (spec.tasks, spec.predicted) == (("va", "expr", "au"), ("expr",))
    assert "|expr" in (tmp_path / "run" / "model_card.md").read_text().replace("| ", "|").lower()
    windows = tuple(torch.zeros(2, 5, width) for width in spec.parts["joint"].values())
    head = WholeHead(
        module, tuple(spec.parts["joint"]), [(name, tasks_of(spec.schema)[name]) for name in spec.predicted]
    )
    (expr,) = head(windows, torch.ones(2, 5, dtype=torch.bool), torch.arange(5).expand(2, 5))
    assert expr.shape == (2, 5, 8)


def result(p: float, **values) -> Result:
    strategy = Strategy().replace(values, "here")
    metrics = {part: {"P": p, "expr.f1_macro": p} for part in ("select", "report")}
    return Result(Trial(strategy, {"joint": ("va",)}, strategy.digest), metrics, 1.0, Path("runs") / strategy.digest)


def test_the_leaderboard_ranks_by_targets_and_names_what_is_trained_beside() -> None:
    board = make_leaderboard(
        [
            result(0.4, tasks=["expr"]),
            result(0.6, tasks=["va", "expr"], targets=["expr"]),
            result(0.5, tasks=["va", "expr"], targets=["expr"], task_weights={"va": 0.5}),
        ]
    )
    (ranking,) = board.rankings
    assert ranking.tasks == ("expr",)
    assert [row.auxiliary for row in ranking.rows] == [("va",), ("va",), ()]
    assert board.varied == ("auxiliary", "task_weights")
    (table,) = combination_parts(board)
    assert [row[0] for row in table.rows] == ["EXPR with VA", "EXPR"]
    effects = {effect.label: effect for effect in task_effects(board, "expr")}
    assert effects["EXPR"].difference.value == pytest.approx(-0.2)  # against the one with the same weights


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tasks": ["va"], "targets": ["expr"]}, r"targets = \['expr'\]: name some of tasks = \['va'\]"),
        ({"targets": ["va", "va"]}, "each once"),
        ({"targets": ["va"], "method": "separate"}, "the auxiliary expr, au would help no target"),
    ],
)
def test_targets_that_cannot_be(small, values, words) -> None:
    strategy = strategy_of(small).replace(values, "test")
    found = problem_of(strategy, small)
    assert found is not None
    assert re.search(words, found), found


def test_an_unknown_target_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[head\] targets: .*'exp'.*expr"):
        parse_config({"head": {"targets": ["exp"]}}, tmp_path, "mtl.toml")
    with pytest.raises(ValueError, match=r"\[product\] targets: .*'exp'.*expr"):
        grid_of('[product]\ntargets = [["exp"]]')


def test_a_heads_check_says_so_too() -> None:
    assert head_problem(HeadConfig(targets=("va",))) is None
    assert "targets" in (head_problem(HeadConfig(tasks=("au",), targets=("va",))) or "")


def test_a_spec_without_targets_predicts_all_its_tasks() -> None:
    assert Spec(name="joint", kind="head", tasks=("va", "au"), parts={}).predicted == ("va", "au")
