"""Greedy selection on made libraries whose best members are known, and an ensemble that beats its best run."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from cache.labels import ABAW
from heads.labels import Labels
from helpers import stub_runs as stub
from helpers.made_labels import abaw_labels, probable
from pipelines.config import read_config
from pipelines.ensemble.candidates import find_runs, read_library
from pipelines.ensemble.diversity import diversity_of
from pipelines.ensemble.members import Library, Mix, _out_of_fold, choose, make_ensemble
from pipelines.ensemble.selection import SCORERS, Scorer, mean_of, select_greedily
from pipelines.metrics.challenge import score
from pipelines.postprocess.parts import folds_of
from pipelines.postprocess.run_folders import read_truth

KEYS = {"va": "va.ccc_mean", "expr": "expr.f1_macro", "au": "au.f1_mean"}


def random_labels(num: int = 200, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    va, va_mask = rng.uniform(-1, 1, (num, 2)).astype(np.float32), rng.random((num, 2)) < 0.8
    expr, expr_mask = rng.integers(0, 8, num), rng.random(num) < 0.7
    au, au_mask = (rng.random((num, 12)) < 0.3).astype(np.float32), rng.random((num, 12)) < 0.9
    return abaw_labels(num, {"va": va_mask, "expr": expr_mask, "au": au_mask}, va=va, expr=expr, au=au)


def scorer_for(task: str, said: np.ndarray, labels: Labels) -> Scorer:
    return SCORERS[ABAW.group(task).kind](ABAW.tasks[task], said, labels)


def random_library(task: str, labels: Labels, num: int = 6, seed: int = 1) -> np.ndarray:
    """[M, R, K] float32: labels and noise."""
    rng = np.random.default_rng(seed)
    values = labels.values
    true = {"va": values["va"], "expr": np.eye(8)[values["expr"][:, 0]], "au": values["au"]}[task]
    said = true + rng.normal(0, 1.0, (num, *true.shape))
    return (said if task == "va" else 1 / (1 + np.exp(-said))).astype(np.float32)


@pytest.mark.parametrize("task", KEYS)
def test_a_scorer_scores_as_the_metrics_do(task: str) -> None:
    labels = random_labels()
    said = random_library(task, labels)
    scorer = scorer_for(task, said, labels)
    for counts in (np.zeros(6, int), np.array([2, 0, 1, 0, 0, 1])):
        found = scorer(counts, np.arange(6))
        for member in range(6):
            more = counts + (np.arange(6) == member)
            decided = probable(**{task: mean_of(more / more.sum(), said)}).decide()
            assert found[member] == pytest.approx(score(decided, labels, [task])[KEYS[task]], abs=1e-6)


def test_the_pair_that_cancels_out_is_found() -> None:
    """B = y + e and C = y - e, together y; A is the best alone and stands there three times. All weight goes to B, C.

    The mean of the best three is three times A, and gains nothing.
    """
    rng = np.random.default_rng(0)
    labels = random_labels()
    true = labels.values["va"]
    error, own = rng.normal(0, 0.5, true.shape), rng.normal(0, 0.3, true.shape)
    best = true + own
    said = np.stack([best, best, best, true + error, true - error]).astype(np.float32)
    scorer = scorer_for("va", said, labels)
    found = select_greedily(scorer, 5, 30)
    assert np.argmax(found.alone) in (0, 1, 2)
    assert found.score > found.alone.max() + 0.02
    assert found.counts[3] == pytest.approx(found.counts[4], abs=1)
    assert found.weights[:3].sum() < 0.2
    pair = select_greedily(scorer_for("va", said[3:], labels), 2, 2)
    assert pair.counts.tolist() == [1, 1]
    assert pair.score == pytest.approx(1.0, abs=1e-6)


def test_a_vote_decides_the_class() -> None:
    """Three members, each wrong on another third, and surest there: of two the wrong one prevails, three are right."""
    labels = random_labels(num=90)
    said = np.tile(np.eye(8)[labels.values["expr"][:, 0]] * 0.9, (3, 1, 1))
    for member in range(3):
        rows = np.arange(90) % 3 == member
        said[member, rows] = np.eye(8)[(labels.values["expr"][rows, 0] + 1) % 8]
    found = select_greedily(scorer_for("expr", said.astype(np.float32), labels), 3, 6)
    assert found.counts.tolist() == [1, 1, 1]
    assert found.score == pytest.approx(1.0)
    assert found.alone.max() < 0.8


def test_of_equal_classes_the_first_counts() -> None:
    labels = random_labels()
    labels.values["expr"][:] = 0
    said = np.full((1, 200, 8), 0.125, np.float32)
    assert scorer_for("expr", said, labels)(np.zeros(1, int), np.array([0])).tolist() == [1 / 8]


def test_the_search_begins_with_the_best_few_not_with_five() -> None:
    """Errors e, 1.1 e four times, and -1.2 e: the second to fifth only make the first worse, the last mends it."""
    labels = random_labels()
    true = labels.values["va"]
    error = np.random.default_rng(0).normal(0, 0.5, true.shape)
    said = np.stack([true + factor * error for factor in (1.0, 1.1, 1.1, 1.1, 1.1, -1.2)]).astype(np.float32)
    found = select_greedily(scorer_for("va", said, labels), 6, 6)
    assert np.argsort(-found.alone)[[0, -1]].tolist() == [0, 5]
    assert found.counts[0] > 0
    assert found.counts[1:5].tolist() == [0, 0, 0, 0]
    assert found.score > 0.99


def test_a_single_perfect_member_stays_alone() -> None:
    labels = random_labels()
    said = random_library("au", labels)
    said[4] = labels.values["au"]
    found = select_greedily(scorer_for("au", said, labels), 6, 20)
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 0]
    assert select_greedily(scorer_for("au", said, labels), 6, 1).counts.sum() == 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Six runs, the last of VA alone."""
    folder = tmp_path_factory.mktemp("project")
    frames = stub.make_frames()
    stub.write_project(folder, (1.0, 1.1, 1.2, 1.3, 1.4), frames)
    only_va = stub.predict(frames, 0.6, 9, tasks=("va",))
    stub.write_run(folder / "studies" / "s" / "runs" / "run9", frames, only_va)
    truth = read_truth(read_config(folder / "mtl.toml"))
    found = find_runs([folder / "studies" / "s"], truth, runs=folder, studies=folder)
    return read_library(found, truth)[0]


def test_a_run_serves_the_tasks_it_has(library: Library) -> None:
    assert library.has["va"].tolist() == [0, 1, 2, 3, 4, 5]
    assert library.has["au"].tolist() == [0, 1, 2, 3, 4]
    assert library.complete.tolist() == [True] * 5 + [False]
    mixes = choose(library, np.ones(len(library.select.table), bool), 10)
    assert mixes["ensemble"].weights["va"][5] > 0.3
    assert mixes["ensemble"].weights["au"][5] == 0
    assert mixes["single"].weights["va"].tolist() == [1, 0, 0, 0, 0, 0]
    assert mixes["top"].weights["au"].tolist() == [0.2] * 5 + [0]
    assert all(weights.sum() == pytest.approx(1) for mix in mixes.values() for weights in mix.weights.values())


def test_the_ensemble_beats_the_best_run_held_out(library: Library) -> None:
    made = make_ensemble(library, 10)
    scores = {name: outcome.metrics for name, outcome in made.outcomes.items()}
    assert scores["ensemble"]["report"]["P"] > scores["single"]["report"]["P"] + 0.2
    assert scores["ensemble"]["out_of_fold"]["P"] > scores["single"]["out_of_fold"]["P"] + 0.2
    assert made.differences["single"].low > 0
    posted = made.outcomes["ensemble"]
    assert posted.post["report"]["P"] > scores["ensemble"]["report"]["P"]
    assert made.outcomes["top"].fitted is None


def test_members_are_as_strong_and_as_alike_as_they_were_made(library: Library) -> None:
    """Of four runs the first two err independently, the third as the first by half, the last against it. A run that
    does not count is not named."""
    select, rows = library.select, len(library.select.table)
    true = select.labels.values["va"].astype(np.float64)
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 0.4, (2, *true.shape))
    said = np.stack([true + one, true + two, true + 0.5 * one, true - one]).astype(np.float32)
    given = dataclasses.replace(
        library, runs=library.runs[:4], has={"va": np.arange(4)}, predicted={"va": said}, select=select
    )
    counts = np.array([1, 0, 3, 2])
    found = diversity_of(given, Mix({"va": counts / counts.sum()}, {"va": counts}))["va"]
    assert found.runs.tolist() == [2, 3, 0]
    np.testing.assert_allclose(found.errors, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]], atol=1e-6)
    np.testing.assert_allclose(found.correlation, [0, -1, 0], atol=1e-6)
    decided = probable(va=said[0]).decide()
    assert found.scores[2] == pytest.approx(score(decided, select.labels, ["va"])["va.ccc_mean"], abs=1e-6)
    two_alone = diversity_of(given, Mix({"va": np.eye(4)[1]}, {"va": np.array([0, 5, 0, 0])}))["va"]
    assert two_alone.runs.tolist() == [1]
    assert np.isnan(two_alone.correlation).all()
    apart = diversity_of(given, Mix({"va": np.array([0.5, 0.5, 0, 0])}, {"va": np.array([1, 1, 0, 0])}))["va"]
    assert abs(apart.correlation[0]) < 4 / np.sqrt(rows)


def test_out_of_fold_never_uses_its_own_labels(library: Library) -> None:
    """Labels of one fold turned over: what its rows are told does not change, what others are told does."""
    fold, num = folds_of(library.select)
    labels = library.select.labels
    va = np.where((fold == 0)[:, None], -labels.values["va"], labels.values["va"])
    select = dataclasses.replace(library.select, labels=Labels({**labels.values, "va": va}, labels.masks))
    turned = dataclasses.replace(library, select=select)
    before = _out_of_fold(library, fold, num, 10)["ensemble"].parts["va"]
    after = _out_of_fold(turned, fold, num, 10)["ensemble"].parts["va"]
    np.testing.assert_array_equal(before[fold == 0], after[fold == 0])
    assert (before[fold != 0] != after[fold != 0]).any()


def test_report_rows_choose_nothing(library: Library) -> None:
    def shuffled(place: int):  # type: ignore[no-untyped-def]
        part = library.read_report(place)
        return dataclasses.replace(part, labels=part.labels.take(np.arange(len(part.labels))[::-1]))

    one, two = make_ensemble(library, 5), make_ensemble(dataclasses.replace(library, read_report=shuffled), 5)
    for name in one.outcomes:
        for task in library.tasks:
            weights = [made.outcomes[name].mix.weights[task] for made in (one, two)]
            np.testing.assert_array_equal(*weights)


def test_predictions_of_the_ensemble_are_the_weighted_mean(library: Library) -> None:
    outcome = make_ensemble(library, 5).outcomes["ensemble"]
    table, weights = outcome.report.table, outcome.mix.weights["va"]
    runs = [pl.read_parquet(run / "predictions.parquet").filter(pl.col("part") == "report") for run in library.runs]
    expected = sum(w * run["valence"].to_numpy().astype(float) for w, run in zip(weights, runs, strict=True))
    np.testing.assert_allclose(table["valence"].to_numpy(), expected, atol=1e-6)
    assert table.columns == runs[0].columns
