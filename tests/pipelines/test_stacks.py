"""Strategies trained at once: each as alone, grouped by what they must share, one failure costing itself alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from heads.config import HeadConfig
from heads.temporal import TEMPORALS
from pipelines.config import Config, SplitConfig
from pipelines.json_files import read_json
from pipelines.strategy import Strategy, strategy_of
from pipelines.training import packing
from pipelines.training import stack as stack_module
from pipelines.training.halving import Halving
from pipelines.training.optimise import lr_at
from pipelines.training.packing import head_bytes, in_stacks, stack_key
from pipelines.training.train import Trained, TrainRequest, train_strategies, train_strategy

CPU = torch.device("cpu")
DIVERGING = 99.0
# What may differ inside a stack; the fourth stops early, so that the stack shrinks before its end.
MEMBERS = (
    {"seed": 0},
    {"seed": 1, "lr": 3e-3, "dropout": 0.0, "label_smoothing": 0.1},
    {"seed": 0, "weight_decay": 0.1, "task_weights": {"va": 3.0}, "class_weights": False, "schedule": "constant"},
    {"seed": 2, "patience": 3, "lr": 0.03, "grad_clip": 0.0},
    {"seed": 1, "fold": 1, "warmup_steps": 0, "positive_weights": False},
    {"seed": 0, "patience": 3, "lr": 1e-9},
)


@pytest.fixture
def folded(small: Config) -> Config:
    train = dataclasses.replace(small.train, steps=6, eval_steps=3, warmup_steps=3)
    return dataclasses.replace(small, split=SplitConfig(num_folds=3), train=train)


def members(config: Config, values: dict) -> list[Strategy]:
    base = strategy_of(config).replace({"fold": 0, "steps": 12, "patience": 27} | values, "test")
    return [base.replace({**each}, "test") for each in MEMBERS]


def as_alone(one: Trained, alone: Trained) -> None:
    assert [(note.model, note.step, note.best) for note in one.history] == [
        (note.model, note.step, note.best) for note in alone.history
    ]
    for note, other in zip(one.history, alone.history, strict=True):
        assert note.losses == pytest.approx(other.losses, rel=1e-4)
    for mine, theirs in zip(one.models, alone.models, strict=True):
        assert mine.spec == theirs.spec
        for (name, value), other in zip(
            mine.module.state_dict().items(), theirs.module.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(
                value, other, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
    for part, said in one.predictions.items():
        np.testing.assert_allclose(
            said.probabilities.parts["au"], alone.predictions[part].probabilities.parts["au"], rtol=1e-3, atol=1e-3
        )
    assert one.metrics["report"]["P"] == pytest.approx(alone.metrics["report"]["P"], abs=5e-3)


@pytest.mark.parametrize("temporal", sorted(TEMPORALS))
def test_a_stack_trains_each_as_alone(folded: Config, made, temporal: str) -> None:
    """Seeds, folds, rates, decay, dropout, losses' numbers and early ends of its neighbours do not matter to a head."""
    dataset = made.dataset()
    strategies = members(folded, {"temporal": temporal})
    assert len({stack_key(strategy, folded) for strategy in strategies}) == 1
    stack = train_strategies(folded, dataset, [TrainRequest(strategy=strategy) for strategy in strategies])
    for one, strategy in zip(stack, strategies, strict=True):
        assert isinstance(one, Trained)
        as_alone(one, train_strategy(folded, dataset, strategy))


@pytest.mark.parametrize("method", ["separate", "progressive", "self-training"])
def test_every_method_stacks(folded: Config, made, method: str) -> None:
    dataset = made.dataset()
    strategies = members(folded, {"temporal": "tcn", "method": method, "streams": "own", "frozen_steps": 6})
    stack = train_strategies(folded, dataset, [TrainRequest(strategy=strategy) for strategy in strategies])
    for one, strategy in zip(stack, strategies, strict=True):
        assert isinstance(one, Trained)
        as_alone(one, train_strategy(folded, dataset, strategy))


@pytest.mark.parametrize("temporal", sorted(TEMPORALS))
def test_bfloat16_trains_about_as_well(folded: Config, made, temporal: str) -> None:
    dataset = made.dataset()
    base = strategy_of(folded).replace({"fold": 0, "steps": 12, "patience": 27, "temporal": temporal}, "test")
    full, half = (
        train_strategy(folded, dataset, base.replace({"precision": precision}, "test"))
        for precision in ("float32", "bfloat16")
    )
    assert full.history[-1].losses["loss"] != half.history[-1].losses["loss"]
    assert half.history[-1].losses["loss"] == pytest.approx(full.history[-1].losses["loss"], rel=0.05)


def test_learned_weights_stack(folded: Config, made) -> None:
    dataset = made.dataset()
    strategies = members(folded, {"weighting": "learned", "temporal": "none"})
    stack = train_strategies(folded, dataset, [TrainRequest(strategy=strategy) for strategy in strategies])
    for one, strategy in zip(stack, strategies, strict=True):
        assert isinstance(one, Trained)
        as_alone(one, train_strategy(folded, dataset, strategy))


def test_a_head_that_diverges_costs_itself_alone(folded: Config, made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stack_module, "lr_at", lambda config, progress: 1e30 if config.lr == DIVERGING else lr_at(config, progress)
    )
    dataset = made.dataset()
    good, other = members(folded, {"temporal": "none"})[:2]
    bad = good.replace({"lr": DIVERGING, "grad_clip": 0.0}, "test")
    first, failed, second = train_strategies(
        folded, dataset, [TrainRequest(strategy=each) for each in (good, bad, other)]
    )
    assert isinstance(failed, ValueError)
    assert "lower train.lr" in str(failed)
    for one, strategy in ((first, good), (second, other)):
        assert isinstance(one, Trained)
        as_alone(one, train_strategy(folded, dataset, strategy))


def test_what_cannot_be_trained_costs_itself_alone(folded: Config, made) -> None:
    good = members(folded, {"temporal": "none", "steps": 3})[0]
    bad = dataclasses.replace(good, train=dataclasses.replace(good.train, lr=-1.0))
    first, second = train_strategies(folded, made.dataset(), [TrainRequest(strategy=bad), TrainRequest(strategy=good)])
    assert isinstance(first, ValueError)
    assert isinstance(second, Trained)


@pytest.mark.parametrize(
    "values",
    [
        {"temporal": "gru"},
        {"width": 24},
        {"window": 5},
        {"steps": 15},
        {"method": "separate"},
        {"continuous_loss": "mse"},
        {"weighting": "learned"},
        {"tasks": ["va"]},
        {"streams": ["va"]},
        {"kernel": 5},
        {"precision": "bfloat16"},
        {"inputs": "both"},
        {"eval_steps": 5},
    ],
)
def test_other_shapes_are_other_stacks(folded: Config, values: dict) -> None:
    base = strategy_of(folded)
    assert stack_key(base, folded) != stack_key(base.replace(values, "test"), folded)


def test_streams_count_by_what_they_are(folded: Config) -> None:
    base = strategy_of(folded)
    named = base.replace({"streams": list(folded.backbones)}, "test")
    assert stack_key(base.replace({"streams": "all"}, "test"), folded) == stack_key(named, folded)


def test_stacks_hold_every_item_once_and_fit(folded: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    base = strategy_of(folded)
    widths = dict.fromkeys(folded.backbones, 24)
    items = [
        (base.replace({"temporal": temporal, "seed": seed}, "test"), (temporal, seed))
        for seed in range(16)
        for temporal in ("none", "gru")
    ]
    found = in_stacks(items, folded, widths, CPU)
    assert sorted(item for stack in found for _, item in stack) == sorted(item for _, item in items)
    assert [len(stack) for stack in found] == [8, 8, 8, 8]
    assert all(len({stack_key(strategy, folded) for strategy, _ in stack}) == 1 for stack in found)
    monkeypatch.setattr(packing, "CPU_BYTES", 3 * head_bytes(base, folded, widths) + 1)
    assert max(len(stack) for stack in in_stacks(items, folded, widths, CPU)) == 3
    monkeypatch.setattr(packing, "CPU_BYTES", 0)
    assert all(len(stack) == 1 for stack in in_stacks(items, folded, widths, CPU))


def test_runs_of_a_stack_are_ordinary_runs(folded: Config, made, tmp_path: Path) -> None:
    from pipelines.training.run import load_run, predict_run, train_runs

    dataset = made.dataset()
    strategies = members(folded, {"temporal": "gru", "steps": 6})[:3]
    pairs = [(strategy, tmp_path / str(index)) for index, strategy in enumerate(strategies)]
    assert train_runs(folded, dataset, pairs) == [None, None, None]
    for strategy, folder in pairs:
        run = load_run(folder)
        assert run.strategy == strategy
        split = dataset.split(folded.split, strategy.train.fold)
        said = predict_run(run, dataset, split.report)
        alone = train_strategy(folded, dataset, strategy)
        np.testing.assert_allclose(
            said.probabilities.parts["va"], alone.predictions["report"].probabilities.parts["va"], rtol=1e-3, atol=1e-3
        )


# Successive halving


def test_rungs() -> None:
    halving = Halving(factor=3, first=20)

    def rungs(num_steps: int, every: int) -> list[int]:
        steps = range(every, num_steps + 1, every)
        return [step for step in steps if halving.is_rung(step - every, step, num_steps)]

    assert rungs(540, 20) == [20, 60, 180]
    assert rungs(180, 20) == [20, 60]
    assert rungs(540, 50) == [50, 100, 200]
    assert rungs(540, 100) == [100, 200]  # two of them lie before the first evaluation


def test_halving_ends_what_is_behind_and_keeps_the_winner(folded: Config, made) -> None:
    """Nine learning rates with two seeds each: a third goes on at each rung, both seeds of a rate together."""
    base = strategy_of(folded).replace({"fold": 0, "steps": 27, "patience": 297, "temporal": "none"}, "test")
    rates = [1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    strategies = [base.replace({"lr": lr, "seed": seed}, "test") for lr in rates for seed in (0, 1)]
    dataset, requests = made.dataset(), [TrainRequest(strategy=strategy) for strategy in strategies]
    whole = train_strategies(folded, dataset, requests)
    halved = train_strategies(folded, dataset, requests, Halving(factor=3, first=3))
    ends = {}
    for one, strategy in zip(halved, strategies, strict=True):
        assert isinstance(one, Trained)
        ends.setdefault(strategy.train.lr, []).append((len(one.history), one.metrics["halted"]))
    assert all(len(set(seeds)) == 1 for seeds in ends.values())
    assert sorted(seeds[0] for seeds in ends.values()) == [(1, 3)] * 6 + [(3, 9)] * 2 + [(9, 0)]
    for one, alone in zip(halved, whole, strict=True):
        if not one.metrics["halted"]:
            as_alone(one, alone)
        else:
            as_begun(one, alone)


def as_begun(one: Trained, alone: Trained) -> None:
    """What was trained of it is what it would have been."""
    assert [note.scores for note in one.history] == [
        pytest.approx(note.scores, abs=1e-2) for note in alone.history[: len(one.history)]
    ]


def test_halted_trials_are_trained_to_their_end_where_halving_is_off(folded: Config, made, tmp_path: Path) -> None:
    from pipelines.training.run import train_runs

    base = strategy_of(folded).replace({"fold": 0, "steps": 12, "patience": 297, "temporal": "none"}, "test")
    pairs = [(base.replace({"lr": lr}, "test"), tmp_path / f"{lr}") for lr in (1e-6, 1e-3)]
    assert train_runs(folded, made.dataset(), pairs, halving=Halving(factor=2, first=3)) == [None, None]
    halted = [read_json(folder / "metrics.json")["halted"] for _, folder in pairs]
    assert halted == [3, 0]


# Views


def test_training_draws_windows_from_every_view(folded: Config, made) -> None:
    """With a copy of the base as the other view nothing but the draw differs; with noise there, the noise is learnt
    from, and neither is scored."""
    dataset = made.dataset()
    noise = torch.Generator().manual_seed(0)
    for name in made.streams:
        base = dataset.resident.streams[name, "base"]
        views = {"same": base.clone(), "noise": torch.randn(base.shape, generator=noise).half()}
        for view, stream in views.items():
            dataset.resident.streams[name, view] = stream
            dataset.resident.valid[name, view] = dataset.resident.valid[name, "base"]
            dataset.resident.identities[name, view] = dataset.resident.identities[name, "base"]
    base = strategy_of(folded).replace({"fold": 0, "steps": 12, "temporal": "none", "patience": 27}, "test")
    plain, same, noisy = (
        train_strategy(folded, dataset, base.replace({"augment": augment}, "test"))
        for augment in ([], ["same", "same"], ["noise", "noise", "noise"])
    )
    losses = [result.history[-1].losses["loss"] for result in (plain, same, noisy)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[2] > losses[0] + 0.05
    again = train_strategy(folded, dataset, base.replace({"augment": ["noise"]}, "test"))
    stack = train_strategies(
        folded,
        dataset,
        [TrainRequest(strategy=base.replace({"augment": ["noise"], "seed": seed}, "test")) for seed in (0, 1)],
    )
    assert isinstance(stack[0], Trained)
    as_alone(stack[0], again)


def test_a_reader_gives_each_row_in_its_view(made) -> None:
    dataset = made.dataset()
    for name in made.streams:
        dataset.resident.streams[name, "other"] = dataset.resident.streams[name, "base"] + 100
        dataset.resident.valid[name, "other"] = np.arange(len(made.frames)) != 3
        dataset.resident.identities[name, "other"] = made.identity(name)
    reader = dataset.reader(["va", "au"], ["va", "au"], HeadConfig(), ["base", "other"])
    size = len(made.frames) + 1
    rows = torch.tensor([[[2, 3, size - 1], [size + 2, size + 3, 2 * size - 1]]])
    streams, valid, times = reader(rows)
    assert valid.tolist() == [[[True, True, False], [True, False, False]]]
    assert torch.equal(times[0, 0], times[0, 1])
    difference = streams["va"][0, 1, 0] - streams["va"][0, 0, 0]
    torch.testing.assert_close(difference, torch.full_like(difference, 100), atol=0.1, rtol=0)
    assert torch.equal(reader.in_table(rows)[0, 1], rows[0, 0])
