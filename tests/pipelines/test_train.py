"""Training: every fusion and encoder, the three methods, honest selection, and numbers that repeat."""

import dataclasses
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from heads.config import HeadConfig
from heads.fusion import FUSIONS
from heads.temporal import TEMPORALS
from helpers.made_project import make
from pipelines.config import SplitConfig, TrainConfig
from pipelines.fitting.epochs import Evaluation
from pipelines.fitting.optimise import AdamW, decay_groups
from pipelines.folds import NO_FOLD
from pipelines.metrics.challenge import score_predictions
from pipelines.strategy import strategy_of
from pipelines.training import fit as fit_module
from pipelines.training import methods
from pipelines.training import stack as stack_module
from pipelines.training import train as train_module
from pipelines.training.optimise import lr_at
from pipelines.training.predict import predict
from pipelines.training.train import ALL_METHODS, train_strategy
from pipelines.training.window_sampler import make_window_source

# With these the windows of a run's predictions are those in which it was scored while it trained.
SIDE_BY_SIDE = {"window": 16, "stride": 16}


def trained(small, dataset, **values):
    return train_strategy(small, dataset, strategy_of(small).replace(values, "test"))


def same_weights(first, second) -> bool:
    pairs = zip(first.models, second.models, strict=True)
    return all(
        torch.equal(value, other.module.state_dict()[key])
        for model, other in pairs
        for key, value in model.module.state_dict().items()
    )


@pytest.mark.parametrize(
    ("fusion", "temporal"), [*((fusion, "gru") for fusion in FUSIONS), *(("concat", name) for name in TEMPORALS)]
)
def test_every_fusion_and_encoder_trains(small, made, fusion, temporal):
    result = trained(small, made.dataset(), fusion=fusion, temporal=temporal, steps=6)
    assert np.isfinite(result.metrics["select"]["P"])
    assert np.isfinite(result.metrics["report"]["P"])
    assert len(result.history) == 1


@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_method_repeats_itself_and_leaves_the_global_generator_alone(small, made, method):
    torch.manual_seed(5)
    first = trained(small, made.dataset(), method=method, seed=1)
    drawn = torch.rand(3)
    second = trained(small, made.dataset(), method=method, seed=1)
    assert first.metrics == second.metrics
    assert same_weights(first, second)
    assert [note.losses for note in first.history] == [note.losses for note in second.history]
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert not same_weights(first, trained(small, made.dataset(), method=method, seed=2))


def test_dropout_is_on_in_training_and_drawn_from_the_seed(small, made):
    with_dropout = trained(small, made.dataset(), dropout=0.5)
    assert same_weights(with_dropout, trained(small, made.dataset(), dropout=0.5))
    assert not same_weights(with_dropout, trained(small, made.dataset(), dropout=0.0))


@pytest.fixture(scope="module")
def temporal_ccc(small):
    """Held-out mean CCC of a temporal encoder where valence and arousal show one step earlier."""
    dataset = make(7, 80, shift=1, splits=("train",) * 5 + ("val", "test")).dataset()
    values = {
        "steps": 96,
        "eval_steps": 12,
        "tasks": ["va"],
        "width": 32,
        "lr": 1e-2,
        "dropout": 0.0,
        "fusion": "concat",
    }

    @cache
    def measure(temporal):
        return trained(small, dataset, temporal=temporal, **values).metrics["report"]["va.ccc_mean"]

    return measure


@pytest.mark.parametrize("temporal", [name for name in TEMPORALS if name != "none"])
def test_a_temporal_head_finds_what_a_frame_wise_one_cannot(temporal_ccc, temporal):
    assert temporal_ccc("none") < 0.25
    assert temporal_ccc(temporal) > temporal_ccc("none") + 0.3


def test_separate_models_read_their_own_streams_and_choose_their_own_weights(small, made):
    values = {**SIDE_BY_SIDE, "streams": "own", "steps": 24, "patience": 24}
    result = trained(small, made.dataset(), method="separate", **values)
    assert [model.spec.name for model in result.models] == ["va", "expr", "au"]
    assert [model.spec.streams for model in result.models] == [("va",), ("expr",), ("au",)]
    for model in result.models:
        assert [note.step for note in model.history] == [6, 12, 18, 24]
        best = max(model.history, key=lambda note: note.p)
        assert model.step == best.step
    parts = sum(max(note.p for note in model.history) for model in result.models)
    assert result.metrics["select"]["P"] == pytest.approx(parts, abs=1e-12)


def test_progressive_starts_at_exactly_the_separate_score_and_never_ends_below(small, made):
    dataset = made.dataset()
    values = {**SIDE_BY_SIDE, "streams": "own", "steps": 18}
    separate = trained(small, dataset, method="separate", **values)
    result = trained(small, dataset, method="progressive", **values, frozen_steps=6)
    joint = [note for note in result.history if note.model == "joint"]
    assert joint[0].step == 0
    assert joint[0].p == separate.metrics["select"]["P"]
    assert result.metrics["select"]["P"] >= separate.metrics["select"]["P"]
    assert [model.spec.name for model in result.models] == ["joint"]


def test_a_joint_phase_that_only_ruins_the_heads_keeps_the_start(small, made, monkeypatch):
    dataset = made.dataset()
    separate = trained(small, dataset, method="separate")
    monkeypatch.setattr(methods, "train_separate", lambda setups: [list(separate.models)])
    monkeypatch.setattr(stack_module, "lr_at", lambda config, progress: -1.0)
    result = trained(small, dataset, method="progressive", frozen_steps=0, steps=18)
    scores = [note.p for note in result.history if note.model == "joint"]
    assert max(scores[1:]) < scores[0]
    assert result.models[0].step == 0
    assert result.metrics["select"] == separate.metrics["select"]


def test_trunks_stand_still_while_frozen(small, made):
    dataset = made.dataset()
    separate = trained(small, dataset, method="separate", steps=12)
    frozen = trained(small, dataset, method="progressive", steps=12, frozen_steps=12)
    thawed = trained(small, dataset, method="progressive", steps=12, frozen_steps=0, patience=54)

    def trunk(result):
        state = result.models[0].module.state_dict()
        return {key: value for key, value in state.items() if ".fusion." in key or ".temporal." in key}

    before = {
        f"heads.{model.spec.name}.{key}": value
        for model in separate.models
        for key, value in model.module.state_dict().items()
    }
    assert all(torch.equal(value, before[key]) for key, value in trunk(frozen).items())
    if thawed.models[0].step > 0:
        assert not all(torch.equal(value, before[key]) for key, value in trunk(thawed).items())


def test_the_weights_left_in_the_model_are_those_that_earned_the_score(small, made, monkeypatch):
    """Not those of one evaluation later, as in code released for this challenge."""
    dataset, scores = made.dataset(), iter([0.1, 0.4, 0.3, 0.2])
    monkeypatch.setattr(fit_module, "evaluate", lambda predictions, source: {"va": next(scores)})
    result = trained(small, dataset, steps=24, patience=24)
    model = result.models[0]
    assert model.step == 12
    reader = dataset.reader(result.streams, result.streams, result.strategy.head, ["base"])
    plan = dataset.plan(result.split.select, result.strategy.train, result.streams)
    again = predict(model.module, model.spec.tasks, reader, plan)
    assert score_predictions(again, dataset.labels, model.spec.tasks) == result.metrics["select"]


def test_early_stopping_waits_for_patience(small, made):
    result = trained(small, made.dataset(), steps=120, patience=18, lr=1e-12)
    scores = [note.p for note in result.history]
    assert len(scores) == int(np.argmax(scores)) + 1 + 3  # evaluations of six steps
    assert len(scores) < 20


def test_report_rows_are_scored_exactly_once_and_after_the_last_epoch(small, made, monkeypatch):
    dataset, events = made.dataset(), []
    split = dataset.split(small.split, NO_FOLD)
    report = np.flatnonzero(split.report)
    real = train_module.score_predictions

    def counted(predictions, *rest):
        if np.isin(report, predictions.rows).any():
            events.append("report")
        return real(predictions, *rest)

    def no_report(predictions, source):
        assert not np.isin(report, predictions.rows).any()
        return evaluated(predictions, source)

    evaluated = fit_module.evaluate
    monkeypatch.setattr(train_module, "score_predictions", counted)
    monkeypatch.setattr(fit_module, "evaluate", no_report)
    strategy = strategy_of(small).replace({"method": "progressive", "steps": 12}, "test")
    train_strategy(small, dataset, strategy, on_evaluation=lambda note: events.append(note.model))
    assert events.count("report") == 1
    assert events[-1] == "report"


def test_a_report_split_without_labels_has_no_score(small, made):
    unlabelled = dataclasses.replace(
        made, frames=made.frames.with_columns(expression=pl.when(pl.col("split") != "test").then("expression"))
    )
    config = dataclasses.replace(small, split=SplitConfig(report="test"))
    report = trained(config, unlabelled.dataset()).metrics["report"]
    assert report["P"] is None
    assert report["unscored"] == ["expr"]
    assert report["expr.f1_macro"] is None
    assert report["num_frames.expr"] == 0
    assert report["va.ccc_mean"] is not None


@pytest.mark.parametrize(("split", "words"), [("train", "train to learn from"), ("val", "val to choose weights on")])
def test_a_task_without_a_label_is_named_with_the_split(small, made, split, words):
    masked = made.frames.with_columns(
        pl.when(pl.col("split") != split).then(name).alias(name) for name in made.frames.columns if name[:2] == "AU"
    )
    dataset = dataclasses.replace(made, frames=masked).dataset()
    with pytest.raises(ValueError, match=f"task au: no labelled frame in {words}"):
        trained(small, dataset, method="separate")
    assert trained(small, dataset, tasks=["va", "expr"], steps=6).metrics["select"]["P"] is not None


def test_rows_that_do_not_train_teach_nothing(small, made):
    """Other splits' labels and embeddings, even where a split cuts through a video, change no weight."""
    split = pl.Series(["train", "val", "test", "train"] * (len(made.frames) // 4)).alias("split")
    cut = dataclasses.replace(made, frames=made.frames.with_columns(split))
    train = (split == "train").to_numpy()
    spoiled = dataclasses.replace(
        cut, streams={name: np.where(train[:, None], x, 7).astype(np.float16) for name, x in cut.streams.items()}
    )
    one_epoch = {"steps": 6, "tasks": ["va"]}
    result = trained(small, cut.dataset(), **one_epoch)
    assert same_weights(result, trained(small, spoiled.dataset(), **one_epoch))
    labels = made.frames["valence"].to_numpy().copy()
    labels[~train] *= -1
    relabelled = dataclasses.replace(cut, frames=cut.frames.with_columns(valence=pl.Series(labels)))
    assert same_weights(result, trained(small, relabelled.dataset(), **one_epoch))


def test_hidden_labels_are_masked(made):
    dataset = made.dataset()
    rows = np.zeros(len(made.frames), bool)
    rows[5] = True
    reader = dataset.reader(["va"], ["va"], HeadConfig(), ["base"])
    source = make_window_source(dataset, reader, rows, ("va", "expr", "au"), TrainConfig())
    targets = dataset.targets.take(torch.arange(len(rows) + 1)).hide(source.hidden)
    for mask in targets.masks.values():
        assert len(mask) == len(rows) + 1
        assert not mask[np.append(~rows, True)].any()
    assert targets.masks["va"][5].all()


def test_rows_without_an_embedding_are_invalid_and_borrow_the_nearest_prediction(small, made):
    failed = (*np.flatnonzero(made.frames["split"] == "val")[[3, 4]], 0, 1)
    spoiled = {name: x.copy() for name, x in made.streams.items()}
    for x in spoiled.values():
        x[list(failed)] = 9
    labels = made.frames["valence"].to_numpy().copy()
    labels[[0, 1]] = -1
    other = dataclasses.replace(made, streams=spoiled, frames=made.frames.with_columns(valence=pl.Series(labels)))
    first, second = trained(small, made.dataset(failed)), trained(small, other.dataset(failed))
    assert same_weights(first, second), "neither embedding nor label of a failed training row may matter"
    said = first.predictions["select"]
    at = {row: index for index, row in enumerate(said.rows)}
    times = made.frames["frame"].to_numpy()
    row = failed[0]
    near = row - 1 if times[row] - times[row - 1] <= times[row + 2] - times[row] else row + 2
    assert (said.probabilities.parts["va"][at[row]] == said.probabilities.parts["va"][at[near]]).all()
    assert first.metrics["select"]["num_frames.va"] == int((made.frames["split"] == "val").sum())


class Echo(torch.nn.Module):
    """Says the number of real steps in the window as valence, whatever it sees."""

    def forward(self, streams, valid, times):
        count = valid.sum(dim=2, keepdim=True).expand(valid.shape).float()
        return {"va": torch.stack([count, times.float()], dim=-1)}


def test_overlapping_predictions_are_averaged():
    made = make(1, 10, splits=("val",))
    dataset = made.dataset()
    train = TrainConfig(window=4, stride=3, max_gap=300)
    plan = dataset.plan(np.ones(10, bool), train, ["va"])
    said = predict(Echo(), ("va",), dataset.reader(["va"], ["va"], HeadConfig(), ["base"]), plan)
    assert said.probabilities.parts["va"][:, 0].tolist() == [4.0] * 10
    assert said.probabilities.parts["va"][:, 1].tolist() == made.frames["frame"].to_list()

    class Index(torch.nn.Module):
        def forward(self, streams, valid, times):
            window = torch.arange(valid.shape[1]).view(1, -1, 1).expand(valid.shape).float()
            return {"va": torch.stack([window, window], dim=-1)}

    said = predict(Index(), ("va",), dataset.reader(["va"], ["va"], HeadConfig(), ["base"]), plan)
    assert said.probabilities.parts["va"][:, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1.5, 2, 2, 2]
    side_by_side = dataset.plan(np.ones(10, bool), train, ["va"], overlapping=False)
    said = predict(Index(), ("va",), dataset.reader(["va"], ["va"], HeadConfig(), ["base"]), side_by_side)
    assert said.probabilities.parts["va"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1.5, 1.5, 2, 2]


def test_watch_is_told_of_every_epoch_and_should_stop_ends_a_model(small, made):
    told: list[Evaluation] = []
    strategy = strategy_of(small).replace({"steps": 30, "patience": 54, "method": "separate"}, "test")
    result = train_strategy(
        small, made.dataset(), strategy, on_evaluation=told.append, should_stop=lambda note: note.step == 12
    )
    assert [(note.model, note.step) for note in told] == [(t, e) for t in ("va", "expr", "au") for e in (6, 12)]
    assert list(result.history) == told


def test_folds_train_on_other_videos_than_they_score(small, made):
    config = dataclasses.replace(small, split=SplitConfig(num_folds=3))
    result = train_strategy(config, made.dataset(), strategy_of(config).replace({"fold": 0, "steps": 6}, "test"))
    videos = made.frames["video"].to_numpy()
    groups = [set(videos[part]) for part in (result.split.train, result.split.select, result.split.report)]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_training_that_breaks_down_says_what_to_do(small, made, monkeypatch):
    monkeypatch.setattr(stack_module, "lr_at", lambda config, progress: 1e30)
    with pytest.raises(ValueError, match=r"lower train\.lr"):
        trained(small, made.dataset(), grad_clip=0.0, tasks=["va"])


def test_impossible_values_are_refused_before_training(small, made):
    with pytest.raises(ValueError, match="eval_steps"):
        trained(small, made.dataset(), eval_steps=0)


def test_learned_task_weights_train(small, made):
    result = trained(small, made.dataset(), weighting="learned")
    assert not same_weights(result, trained(small, made.dataset()))


def test_own_adamw_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,), ())]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    decay = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    mine = AdamW(decay_groups(zip("abc", ours, strict=True), 0.1))
    reference = torch.optim.AdamW(decay, lr=0.0)
    for step in range(5):
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        mine.step(0.1 / (step + 1))
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_learning_rate_over_the_steps():
    config = TrainConfig(lr=2.0, steps=30, warmup_steps=6)
    values = [lr_at(config, progress) for progress in (0, 3, 6, 18, 30)]
    assert values == pytest.approx([0, 1, 2, 1, 0])
    constant = dataclasses.replace(config, schedule="constant")
    assert [lr_at(constant, progress) for progress in (3, 6, 29.5)] == pytest.approx([1, 2, 2])


def test_batches_are_gathered_row_for_row_whatever_came_before(made):
    dataset = made.dataset(failed=(5,))
    reader, num = dataset.reader(["va", "au"], ["va"], HeadConfig(), ["base"]), len(made.frames)
    for rows in ([[0, 5, num]], [[7, 8, 9], [num - 1, num, num]], [[3, 2, 1]]):
        index = torch.tensor(rows)
        streams, valid, times = reader(index)
        assert valid.tolist() == [[row not in (5, num) for row in window] for window in rows]
        for name in ("va", "au"):
            expected = torch.from_numpy(made.streams[name])[index[valid]].float()
            assert streams[name].shape == (*index.shape, made.streams[name].shape[1])
            assert torch.equal(streams[name][valid], expected)
        assert times[valid].tolist() == made.frames["frame"].to_numpy()[index[valid].numpy()].tolist()
