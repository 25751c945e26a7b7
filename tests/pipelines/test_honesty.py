"""Useless strategies: naive selection reports a gain where there is none, held-out scores do not.

The labels are those of other videos, so no strategy can know anything of them, and all are equally good: as good as
chance, which is the mean of their scores. Every difference between two of them is luck.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cache.names import ACTION_UNITS, TASKS, VA_COLUMNS
from heads.labels import Labels
from helpers import stub_study as stub
from pipelines.config import SplitConfig, read_config
from pipelines.folds import NO_FOLD, Fold
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.nested import nested
from pipelines.metrics.predictions import Decisions
from pipelines.results.evidence import Reader, chosen_on_held_out, with_intervals
from pipelines.results.leaderboard import Leaderboard, make_leaderboard
from pipelines.results.verdict import num_not_significant, verdict_words
from pipelines.run_files import FORMAT, write_manifest
from pipelines.search.search_plan import make_plan, make_trainer, read_strategies
from pipelines.search.study import Result, Trial, open_study
from pipelines.splits import Split, resolve_split
from pipelines.strategy import Strategy

MADE = Path(__file__).resolve().parents[1] / "fixtures" / "made"
LABELS = (*VA_COLUMNS, "expression", *ACTION_UNITS)
NUM_USELESS = 200
Parts = dict[str, tuple[np.ndarray, pl.DataFrame, Labels]]  # name -> (which rows, those rows, their labels)


def with_labels_of_others(frames: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Each video with the labels of another one, over and over where that is shorter."""
    tables = frames.partition_by("video", maintain_order=True)
    shift = int(np.random.default_rng(seed).integers(1, len(tables)))
    moved = []
    for index, table in enumerate(tables):
        other = tables[(index + shift) % len(tables)].select(LABELS)
        moved.append(table.with_columns(other[np.resize(np.arange(len(other)), len(table))]))
    return pl.concat(moved)


def useless(
    folder: Path, frames: pl.DataFrame, folds: tuple[Fold, ...], seed: int = 0, num: int = NUM_USELESS
) -> list[Result]:
    """`num` strategies whose predictions would fit each video's own labels, scored by those of others.

    Whatever a strategy says of a video it says in every fold, as the heads of one strategy err alike.
    """
    permuted = with_labels_of_others(frames, seed)
    config = stub.make_config(split=SplitConfig(num_folds=max(3, len({fold.outer for fold in folds}))))
    parts = {fold: parts_of(permuted, resolve_split(permuted, config.split, fold)) for fold in folds}
    results = []
    for number in range(num):
        said = stub.pretend(frames, 0.6, np.random.default_rng([seed, number]))
        for fold, labelled in parts.items():
            strategy = Strategy().replace({"lr": 1e-5 * (number + 1), "fold": fold}, "here")
            run = folder / strategy.digest
            run.mkdir()
            metrics = written(run, labelled, said)
            results.append(Result(Trial(strategy, {"joint": ("va",)}, strategy.digest), metrics, 1.0, run))
    return results


def parts_of(frames: pl.DataFrame, split: Split) -> Parts:
    found = {}
    for part in ("select", "report"):
        mask = getattr(split, part)
        found[part] = mask, frames.filter(mask), labels_of(frames.filter(mask))
    return found


def written(run: Path, parts: Parts, said: Decisions) -> dict[str, Any]:
    """The metrics of a run that says `said`, and its predictions in `run`."""
    tables, metrics = [], {}
    for part, (mask, rows, labels) in parts.items():
        cut = said.take(mask)
        metrics[part] = score(cut, labels, TASKS)
        tables.append(stub.as_table(rows, cut, part, TASKS))
    pl.concat(tables).write_parquet(run / "predictions.parquet")
    write_manifest(run, {"format": FORMAT})
    return metrics


def gains(board: Leaderboard) -> tuple[float, float, float, str]:
    """(naive, honest, noise): of the first place over chance on the rows that chose and on held-out ones; and words."""
    rows = board.rows
    select, report = (np.array([getattr(row, part)["P"].mean for row in rows]) for part in ("select", "report"))
    naive, honest, noise = select[0] - select.mean(), report[0] - report.mean(), report.std(ddof=1)
    words = (
        f"naive, best of {len(rows)} on the rows that chose: P {select[0]:.4f}, {naive:+.4f} over chance; honest, the "
        f"same strategy on held-out videos: P {report[0]:.4f}, {honest:+.4f} over chance (which varies by {noise:.4f})"
    )
    return naive, honest, noise, words


def test_the_best_of_200_useless_strategies_gains_on_the_rows_that_chose_and_nothing_held_out(tmp_path: Path) -> None:
    frames = stub.make_frames(30, 40)
    results = useless(tmp_path, frames, (NO_FOLD,))
    board = with_intervals(make_leaderboard(results), with_labels_of_others(frames))
    naive, honest, noise, words = gains(board)
    print(words)
    assert naive > 2.3 * noise, words  # of 200 equal ones the best is 2.7 deviations above the mean
    assert abs(honest) < 2 * noise, words
    assert num_not_significant(board.rankings[0]) == NUM_USELESS - 1, words
    assert verdict_words(board.rankings[0])[0].startswith(
        "199 of 199 other strategies do not differ significantly from #1"
    )
    assert not chosen_on_held_out(board.rows, Reader(frames))
    assert board.rows[0].stability is not None
    assert board.rows[0].stability.first < 0.5
    assert board.rows[0].optimism is not None


def test_over_many_draws_the_held_out_gain_is_none_on_average() -> None:
    """The same with nothing but numbers: fifty studies, so that a small gain would show."""
    generator, equals = np.random.default_rng(0), strategies()
    naive, honest = [], []
    for _ in range(50):
        scores = generator.normal(size=(NUM_USELESS, 2))
        results = [
            Result(Trial(one, {}, one.digest), {"select": {"P": float(p)}, "report": {"P": float(q)}}, 0.0, Path())
            for one, (p, q) in zip(equals, scores, strict=True)
        ]
        found = gains(make_leaderboard(results))
        naive.append(found[0])
        honest.append(found[1])
    assert np.mean(naive) > 2.5, np.mean(naive)
    assert abs(np.mean(honest)) < 3 / np.sqrt(50), np.mean(honest)


def strategies() -> list[Strategy]:
    return [Strategy().replace({"lr": 1e-5 * (number + 1)}, "here") for number in range(NUM_USELESS)]


def test_nested_selection_reports_no_gain_where_the_best_mean_over_the_folds_does(tmp_path: Path) -> None:
    frames = stub.make_frames(30, 24)
    board = make_leaderboard(useless(tmp_path, frames, (Fold(0), Fold(1), Fold(2)), num=100))
    group = with_intervals(board, with_labels_of_others(frames), top=30).rankings[0]
    estimate, means = group.nested, np.array([row.report["P"].mean for row in group.rows])
    assert estimate is not None
    noise = means.std(ddof=1)
    words = (
        f"naive, best mean over the outer folds: P {estimate.naive:.4f}, {estimate.naive - means.mean():+.4f} over "
        "chance; "
        f"the first place's mean over them: {means[0] - means.mean():+.4f}; nested: P {estimate.score:.4f}, "
        f"{estimate.score - means.mean():+.4f} (a mean varies by {noise:.4f})"
    )
    print(words)
    assert estimate.naive - means.mean() > 2 * noise, words
    assert means[0] - means.mean() > 2 * noise, words  # chosen by its mean over folds, which cover the same videos
    assert abs(estimate.score - means.mean()) < 2 * noise, words
    assert chosen_on_held_out(group.rows, Reader(frames))
    assert num_not_significant(group) == 29, [row.versus for row in group.rows[:30]]
    assert estimate.interval is not None
    assert estimate.interval.low <= estimate.score <= estimate.interval.high
    assert any(sentence.startswith("Nested estimate of this selection procedure") for sentence in verdict_words(group))


def test_nested_selection_over_inner_parts_reports_no_gain_either(tmp_path: Path) -> None:
    """Every other fold chooses in turn, and what they choose together is worth nothing on the fold they never saw."""
    frames = stub.make_frames(30, 24)
    folds = tuple(Fold(outer, inner) for outer in range(3) for inner in range(2))
    board = make_leaderboard(useless(tmp_path, frames, folds, num=60))
    group = with_intervals(board, with_labels_of_others(frames), top=2).rankings[0]
    estimate, means = group.nested, np.array([row.report["P"].mean for row in group.rows])
    assert estimate is not None
    assert (estimate.num_inner, len(estimate.chosen), group.rows[0].num_inner) == (2, 3, 2)
    noise = means.std(ddof=1)
    words = (
        f"naive: P {estimate.naive:.4f}, {estimate.naive - means.mean():+.4f} over chance; nested over 2 inner parts: "
        f"P {estimate.score:.4f}, {estimate.score - means.mean():+.4f} (a mean varies by {noise:.4f})"
    )
    print(words)
    assert estimate.naive - means.mean() > 2 * noise, words
    assert abs(estimate.score - means.mean()) < 2 * noise, words
    assert estimate.interval is not None
    assert estimate.interval.low <= estimate.score <= estimate.interval.high
    assert estimate.interval.sample.words == "20 videos"  # of train and val, each counted once


def test_more_inner_parts_choose_better_where_strategies_differ_and_never_gain_where_they_do_not() -> None:
    """Numbers alone: 20 strategies, 5 outer folds, a select score that is noisier than the strategies differ."""
    generator, ranks = np.random.default_rng(0), list(range(1, 21))
    found: dict[tuple[float, int], list[float]] = {}
    for _ in range(60):
        for spread in (0.0, 0.5):
            quality = spread * generator.normal(size=20)
            for num in (1, 4):
                numbers = [Fold(outer, inner) for outer in range(5) for inner in range(num)]
                select, report = ([{k: q + generator.normal() for k in numbers} for q in quality] for _ in range(2))
                estimate = nested(select, report, ranks)
                assert estimate is not None
                found.setdefault((spread, num), []).append(estimate.score)
    means = {key: float(np.mean(values)) for key, values in found.items()}
    assert means[0.5, 4] > means[0.5, 1] + 0.15, means
    assert max(abs(means[0.0, num]) for num in (1, 4)) < 0.15, means


@pytest.mark.slow
def test_short_trainings_on_labels_of_other_videos_gain_nothing_held_out(tmp_path: Path) -> None:
    """24 real strategies through the real search, apart in nothing but luck."""
    folder = tmp_path / "made"
    shutil.copytree(MADE, folder)
    permuted = with_labels_of_others(pl.read_parquet(folder / "frames.parquet"))
    permuted.write_parquet(folder / "frames.parquet")
    (folder / "useless.toml").write_text(USELESS)
    board = searched(folder)
    naive, honest, noise, words = gains(board)
    print(words)
    optimism = np.mean([row.optimism for row in board.rows if row.optimism is not None])
    assert len(board.rows) == 24
    assert naive > noise, words
    assert honest < naive, words
    assert abs(honest) < 2.5 * noise, words
    first = board.rows[0].interval
    chance = float(np.mean([row.report["P"].mean for row in board.rows]))
    assert first is not None
    assert first.low < chance, (words, first)
    print(f"mean selection minus held-out score: {optimism:+.4f}; chance held out: {chance:.4f}; interval {first}")


USELESS = """
[product]
fusion = ["concat", "sum"]
temporal = ["none", "gru", "tcn"]
lr = [0.001, 0.002, 0.005, 0.01]
[set]
width = 16
depth = 1
steps = 12
window = 32
"""


def searched(folder: Path) -> Leaderboard:
    """The leaderboard of the grid in `folder`, trained."""
    from pipelines.search.loop import one_at_a_time, run_trials
    from pipelines.search.record import Record

    config, grid, chosen = read_strategies(read_config(folder / "mtl.toml"), folder / "useless.toml")
    plan: Any = make_plan(config, grid, chosen)
    with open_study(plan.folder, grid, plan.inputs, plan.trials) as study:
        run_trials(study, plan.trials, one_at_a_time(study, make_trainer(plan, "cpu")), Record(study, grid.fields))
        assert json.loads((plan.folder / "study.json").read_text())["splits"]
        return with_intervals(make_leaderboard(study.results()), plan.frames)
