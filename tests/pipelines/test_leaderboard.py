"""The leaderboard: numbers worked by hand, ranks by the selection score alone, intervals over videos."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from cache.names import ACTION_UNITS
from helpers import stub_study as stub
from pipelines.cli.pages.leaderboard import leaderboard_tables
from pipelines.config import SplitConfig
from pipelines.folds import NO_FOLD, Fold, parse_fold
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.intervals import Sample, group_sums, interval, mean_of_runs
from pipelines.metrics.nested import nested
from pipelines.metrics.sums import scores
from pipelines.results.effects import field_effects, task_effects
from pipelines.results.evidence import with_intervals
from pipelines.results.leaderboard import Spread, make_leaderboard
from pipelines.results.leaderboard_files import to_json, write_leaderboard
from pipelines.results.verdict import nested_words, num_not_significant, verdict_words
from pipelines.search.study import Result, Trial
from pipelines.splits import resolve_split
from pipelines.strategy import Strategy


def result(select: float, report: float | None, seconds: float = 1.0, **values) -> Result:
    strategy = Strategy().replace(values, "here")
    trial = Trial(strategy, {"joint": ("va",)}, strategy.digest)
    metrics = {
        part: {"P": p, "va.ccc_mean": p, "expr.f1_macro": 0.0, "au.f1_mean": 0.0, "num_frames.va": 10, "undefined": []}
        for part, p in (("select", select), ("report", report))
    }
    return Result(trial, metrics, seconds, Path("runs") / trial.digest)


def shown(board, width: int = 120) -> str:
    console = Console(width=width, height=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard_tables(board, width))
    console.file.close()
    return console.export_text()


def true_labels(table: pl.DataFrame) -> pl.DataFrame:
    """The label columns of `stub.read_part` under their own names."""
    names = [name for name in table.columns if name.startswith("true:")]
    return table.select(pl.col(name).alias(name.removeprefix("true:")) for name in names)


def test_seeds_are_put_together_by_mean_and_sample_deviation() -> None:
    results = [
        result(p, q, 2.0, fusion="sum", seed=seed) for seed, (p, q) in enumerate([(1.0, 0.7), (1.2, 0.8), (1.4, 1.2)])
    ]
    (row,) = make_leaderboard(results).rows
    assert row.select["P"] == Spread(pytest.approx(1.2), pytest.approx(0.2))
    assert row.report["P"] == Spread(pytest.approx(0.9), pytest.approx(math.sqrt(0.07)))
    assert row.optimism == pytest.approx(0.3)
    assert (row.seeds, row.folds, row.seconds) == ((0, 1, 2), (), 6.0)


def test_folds_are_averaged_within_a_seed_first() -> None:
    values = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 2.0, (1, 1): 3.0}
    results = [result(p, p, seed=seed, fold=fold) for (seed, fold), p in values.items()]
    (row,) = make_leaderboard(results).rows
    assert row.select["P"] == Spread(2.0, pytest.approx(math.sqrt(0.5)))
    (row,) = make_leaderboard(results[:2]).rows
    assert row.select["P"] == Spread(1.5, pytest.approx(math.sqrt(0.5)))


def test_one_run_has_no_spread_and_says_so() -> None:
    board = make_leaderboard([result(1.0, 0.9)])
    assert board.rows[0].select["P"].sd is None
    assert "1.000     –" in shown(board)


def test_ranks_go_by_the_selection_score_never_by_the_held_out_one() -> None:
    board = make_leaderboard([result(1.0, 3.0, fusion="sum"), result(1.1, 0.1, fusion="gated")])
    assert [(row.rank, row.values["fusion"]) for row in board.rows] == [(1, "gated"), (2, "sum")]


def test_only_equal_tasks_compare_and_the_largest_set_comes_first() -> None:
    results = [
        result(9.0, 9.0, tasks=["va"]),
        result(1.0, 1.0, fusion="sum"),
        result(2.0, 2.0, tasks=["va", "au"]),
        result(5.0, 5.0, fusion="gated"),
    ]
    board = make_leaderboard(results)
    assert [group.tasks for group in board.rankings] == [("va", "expr", "au"), ("va", "au"), ("va",)]
    assert [row.rank for row in board.rows] == [1, 2, 1, 1]
    assert board.varied == ("fusion",)
    text = shown(board)
    assert "compare within a table" in text
    assert text.count("not the official P") == 2


def test_other_streams_behind_the_same_word_are_another_row() -> None:
    first, second = result(1.0, 1.0, seed=0), result(1.2, 1.2, seed=1)
    grown = Trial(second.trial.strategy, {"joint": ("va", "expr")}, "other")
    board = make_leaderboard([first, Result(grown, second.metrics, 1.0, second.folder)])
    assert [row.streams for row in board.rows] == [("va", "expr"), ("va",)]


def test_a_held_out_score_that_does_not_exist_is_a_dash() -> None:
    board = make_leaderboard([result(1.0, None, fusion="sum"), result(0.5, 0.4, fusion="gated")])
    assert board.rows[0].optimism is None
    assert "P" not in board.rows[0].report
    assert "–" in shown(board)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal_and_shows_only_what_varies(width: int) -> None:
    results = [
        result(1.0 + 0.01 * seed, 1.0, fusion=fusion, temporal=temporal, seed=seed)
        for fusion in ("sum", "attention")
        for temporal in ("none", "transformer")
        for seed in (0, 1)
    ]
    text = shown(make_leaderboard(results), width)
    assert max(map(len, text.splitlines())) <= width
    assert "transformer" in text
    assert "attention" in text
    assert "width" not in text


def test_words_are_whole_in_80_columns() -> None:
    """A demo's search, written to a file."""
    results = [
        result(1.0, 1.0, temporal=temporal, inputs=inputs, method=method, width=width)
        for temporal in ("transformer", "none")
        for inputs in ("embedding", "deviation")
        for method in ("joint", "progressive")
        for width in (64, 128)
    ]
    text = shown(make_leaderboard(results), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("transformer", "embedding", "deviation", "progressive"))


@pytest.mark.parametrize(("width", "there"), [(200, True), (85, False)])
def test_in_a_narrow_terminal_a_field_that_follows_from_another_goes_first(width: int, there: bool) -> None:
    results = [
        result(1.0 + 0.01 * depth, 1.0, temporal=temporal, depth=depth, inputs=inputs)
        for temporal, depth in (("none", 2), ("gru", 1), ("tcn", 3))
        for inputs in ("embedding", "both")
    ]
    text = shown(make_leaderboard(results), width)
    assert ("depth" in text) is there
    assert all(word in text for word in ("inputs", "temporal", "interval"))


def test_a_field_is_compared_where_it_alone_differs() -> None:
    results = [
        result(1.0, 0.0, temporal="gru", num_heads=4),
        result(2.0, 1.0, temporal="transformer", num_heads=4),
        result(4.0, 3.0, temporal="transformer", num_heads=8),
    ]
    (group,) = make_leaderboard(results).rankings
    heads = {effect.label: effect.report for effect in field_effects(group, "num_heads")}
    assert heads == {"8": (3.0,), "4": (1.0,)}


def test_each_tasks_score_is_compared_over_what_it_was_learnt_with() -> None:
    alone = result(1.2, 0.1, tasks=["va"], fusion="gated")
    board = make_leaderboard([result(1.0, 0.9), result(1.1, 0.8, tasks=["va"]), alone])
    assert [(one.label, one.report) for one in task_effects(board, "va")] == [
        ("VA + EXPR + AU", (0.9,)),
        ("VA", (0.8,)),
    ]


def finished(folder: Path, num_videos: int = 12, num_frames: int = 60, **values) -> tuple[pl.DataFrame, Result]:
    frames, config = stub.make_frames(num_videos, num_frames), stub.make_config()
    strategy = Strategy().replace(values, "here")
    run = folder / "runs" / strategy.digest
    stub.write_run(run, strategy, frames, config)
    return frames, Result(
        Trial(strategy, {"joint": ("va",)}, strategy.digest), json.loads((run / "metrics.json").read_text()), 1.0, run
    )


@pytest.mark.parametrize("tasks", [["va", "expr", "au"], ["va"], ["expr", "au"]])
def test_sums_over_videos_give_the_metrics_of_the_run(tmp_path: Path, tasks: list[str]) -> None:
    frames, run = finished(tmp_path, tasks=tasks)
    table = stub.read_part(run, frames, "report")
    sums = group_sums(table, labels_of(true_labels(table)))
    whole = scores({name: part.sum(0) for name, part in sums.parts.items()}, tasks, sums.schema)["P"]
    assert float(whole) == pytest.approx(run.metrics["report"]["P"], abs=1e-9)
    assert set(sums.groups) == set(frames.filter(pl.col("split") == "test")["video"])


def test_the_interval_resamples_videos_not_frames(tmp_path: Path) -> None:
    frames, run = finished(tmp_path, num_videos=12)
    board = with_intervals(make_leaderboard([run]), frames)
    between = board.rows[0].interval
    assert between is not None
    assert between.sample == Sample(4, "video", 4)
    table = stub.read_part(run, frames, "report")
    # The same frames, each called a video of its own: far more evidence than there is.
    frame_wise = table.with_columns(video=pl.concat_str("video", pl.lit("/"), "frame"))
    sums = group_sums(frame_wise, labels_of(true_labels(frame_wise)))
    narrow = interval({NO_FOLD: {0: sums}}, ("va", "expr", "au"))
    assert narrow is not None
    assert narrow.high - narrow.low < between.high - between.low
    assert between.low <= board.rows[0].report["P"].mean <= between.high


def test_the_interval_is_that_of_each_video_alone_when_there_are_two() -> None:
    """Two videos: a resample is one of them twice, or both; its P is one of three values."""
    table = pl.DataFrame(
        {
            "video": ["a"] * 4 + ["b"] * 4,
            "frame": [1, 2, 3, 4] * 2,
            "valence": [0.0, 0.5, 1.0, -1.0, 0.3, 0.3, -0.4, 0.9],
            "arousal": [0.1, 0.2, -0.5, 0.0, 1.0, -1.0, 0.5, 0.2],
        }
    )
    truth = table.select(valence=pl.col("arousal"), arousal=pl.col("valence"), expression=pl.lit(None, pl.Int8))
    truth = truth.with_columns(pl.lit(None, pl.Int8).alias(name) for name in ACTION_UNITS)
    sums = group_sums(table, labels_of(truth))

    def p(rows: pl.Series) -> float:
        said = stub.Decisions(parts={"va": table.filter(rows).select("valence", "arousal").to_numpy()})
        return score(said, labels_of(truth.filter(rows)), ["va"])["P"]

    alone = [p(table["video"] == name) for name in ("a", "b")] + [p(table["video"] != "")]
    found = interval({NO_FOLD: {0: sums}}, ["va"])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(min(alone)), pytest.approx(max(alone)))


def test_one_video_gives_no_interval_and_the_same_seed_the_same_one(tmp_path: Path) -> None:
    frames, run = finished(tmp_path)
    table = stub.read_part(run, frames, "report")
    sums = group_sums(table, labels_of(true_labels(table)))
    assert interval({NO_FOLD: {0: sums}}, ("va",)) == interval({NO_FOLD: {0: sums}}, ("va",))
    one = table.filter(pl.col("video") == table["video"][0])
    assert interval({NO_FOLD: {0: group_sums(one, labels_of(true_labels(one)))}}, ("va",)) is None


def finished_pair(folder: Path, num_videos: int = 20) -> tuple[pl.DataFrame, list[Result]]:
    """Two strategies of two seeds each, the second one worse."""
    frames, config = stub.make_frames(num_videos, 30), stub.make_config()
    results = []
    for temporal in ("tcn", "none"):
        for seed in (0, 1):
            strategy = Strategy().replace({"temporal": temporal, "seed": seed}, "here")
            path = folder / "runs" / strategy.digest
            stub.write_run(path, strategy, frames, config)
            metrics = json.loads((path / "metrics.json").read_text())
            results.append(Result(Trial(strategy, {"joint": ("va",)}, strategy.digest), metrics, 1.5, path))
    return frames, results


def test_each_row_says_whether_it_differs_from_the_first_and_how_stable_its_rank_is(tmp_path: Path) -> None:
    frames, results = finished_pair(tmp_path)
    board = with_intervals(make_leaderboard(results), frames)
    first, second = board.rows
    assert first.versus is None
    assert second.versus is not None
    assert second.versus.significant
    assert second.versus.difference.value == pytest.approx(first.report["P"].mean - second.report["P"].mean)
    assert (first.stability.first, first.stability.low, first.stability.high) == (1.0, 1, 1)
    assert (first.stability.sample.words, first.interval.sample.words) == ("7 videos", "6 videos")
    text = " ".join(shown(board).split())
    assert "from #1" in text
    assert "The other strategy differs significantly from #1 on the held-out videos" in text
    assert "#1 ranks first in 100 %; 95 % interval of its rank: 1." in text
    record = to_json(board, {})["rankings"][0]
    assert record["num_not_significant"] == 0
    assert record["nested"] is None
    assert record["rows"][1]["versus_first"]["significant"] is True
    assert record["rows"][1]["stability"]["first"] == 0.0


def test_with_few_videos_no_difference_is_significant_and_the_table_says_why(tmp_path: Path) -> None:
    frames, results = finished_pair(tmp_path, num_videos=12)
    group = with_intervals(make_leaderboard(results), frames).rankings[0]
    assert num_not_significant(group) == 1
    assert "with 4 videos, no difference can be significant" in verdict_words(group)[0]


def test_a_run_whose_predictions_are_gone_has_no_interval_and_the_others_have(tmp_path: Path) -> None:
    frames, results = finished_pair(tmp_path)
    for one in results[2:]:
        (one.folder / "predictions.parquet").unlink()
    board = with_intervals(make_leaderboard(results), frames)
    assert [row.interval is None for row in board.rows] == [False, True]
    assert [row.versus for row in board.rows] == [None, None]


def with_subjects(frames: pl.DataFrame, a_subject: int = 2, known: int = 10**6) -> pl.DataFrame:
    """`a_subject` videos of each split belong to one person; of videos after the first `known` nobody is known."""
    number = pl.col("video").str.slice(-2).cast(pl.Int64)
    name = pl.format("{}-{}", "split", number // 3 // a_subject)
    return frames.with_columns(subject=pl.when(number < known).then(name))


def test_the_method_is_a_column_also_where_it_follows_from_another_field() -> None:
    pairs = (("none", "separate"), ("gru", "joint"), ("tcn", "progressive"))
    results = [
        result(1.0, 1.0, temporal=temporal, method=method, inputs=inputs, lr=lr)
        for temporal, method in pairs
        for inputs in ("embedding", "both")
        for lr in (1e-3, 3e-4)
    ]
    board = make_leaderboard(results)
    assert "method" in board.varied
    narrow = shown(board, 70)
    assert all(word in narrow for word in ("method", "separate", "joint", "progressive"))
    assert "temporal" not in narrow
    assert "temporal" in shown(board, 200)


def test_subjects_are_resampled_where_they_are_known(tmp_path: Path) -> None:
    """The interval is that of the same rows with each subject's videos called one video."""
    frames, results = finished_pair(tmp_path, num_videos=36)
    known = with_subjects(frames)
    by_video, by_subject = (with_intervals(make_leaderboard(results), table).rows[0] for table in (frames, known))
    assert by_video.interval.sample == Sample(12, "video", 12)
    assert by_subject.interval.sample == Sample(6, "subject", 12)
    assert by_subject.stability.sample == Sample(6, "subject", 12)
    runs = {NO_FOLD: {}}
    for one in by_subject.results:
        table = stub.read_part(one, known, "report")
        merged = table.with_columns(video=pl.col("true:subject"))
        runs[NO_FOLD][one.trial.strategy.train.seed] = group_sums(merged, labels_of(true_labels(table)))
    expected = interval(runs, ("va", "expr", "au"))
    assert (by_subject.interval.low, by_subject.interval.high) == (expected.low, expected.high)
    assert (by_subject.interval.low, by_subject.interval.high) != (by_video.interval.low, by_video.interval.high)


def test_subjects_are_named_wherever_an_interval_is_shown(tmp_path: Path) -> None:
    frames, results = finished_pair(tmp_path, num_videos=36)
    board = with_intervals(make_leaderboard(results), with_subjects(frames))
    text = " ".join(shown(board).split())
    assert "significantly from #1 on the held-out subjects" in text
    assert "Over resamples of the 6 selection subjects, with the same runs" in text
    assert "Intervals are from resampling 6 held-out subjects (of 12 videos), whole, never single frames." in text
    found = to_json(board, {})
    assert found["interval"]["unit"] == "subject"
    assert found["test"]["method"].startswith("subjects swapped")
    first = found["rankings"][0]["rows"][0]
    assert {key: first["interval"][key] for key in ("num_groups", "unit", "num_videos")} == {
        "num_groups": 6,
        "unit": "subject",
        "num_videos": 12,
    }
    assert first["stability"]["unit"] == "subject"
    mixed = with_intervals(make_leaderboard(results), with_subjects(frames, known=18))
    assert mixed.rows[0].interval.sample.unit == "subject, else video"
    assert "9 held-out subjects or videos (of 12 videos)" in " ".join(shown(mixed).split())
    plain = " ".join(shown(with_intervals(make_leaderboard(results), frames)).split())
    assert "Intervals are from resampling 12 held-out videos, whole, never single frames." in plain


def by_fold(values: dict[float, float]) -> dict[Fold, float]:
    """{0.1: 3.0}: what is scored in fold 0 with its second inner part."""
    return {parse_fold(str(fold)): value for fold, value in values.items()}


def test_nested_selection_by_hand() -> None:
    """Fold 0 chooses the second, fold 1 the first; a strategy without fold 1 does not compare."""
    select = [by_fold({0: 1.0, 1: 3.0}), by_fold({0: 2.0, 1: 1.0}), by_fold({0: 9.0})]
    report = [by_fold({0: 0.5, 1: 0.7}), by_fold({0: 0.1, 1: 0.2}), by_fold({0: 9.0})]
    found = nested(select, report, [1, 2, 3])
    assert found is not None
    assert found.chosen == {0: 2, 1: 1}
    assert found.score == pytest.approx(0.4)
    assert (found.naive, found.naive_rank, found.num_strategies) == (pytest.approx(0.6), 1, 2)
    assert nested([by_fold({0: 1.0})], [by_fold({0: 1.0})], [1]) is None
    assert nested([{NO_FOLD: 1.0}], [{NO_FOLD: 1.0}], [1]) is None


def test_nested_selection_goes_by_the_mean_over_inner_parts() -> None:
    """In fold 0 the first is best with one inner part, the second over both; each fold's score is of its runs' mean."""
    select = [by_fold({0: 3.0, 0.1: 0.0, 1: 2.0, 1.1: 2.0}), by_fold({0: 2.0, 0.1: 2.0, 1: 1.0, 1.1: 1.0})]
    report = [by_fold({0: 0.0, 0.1: 0.0, 1: 0.6, 1.1: 0.8}), by_fold({0: 0.2, 0.1: 0.4, 1: 0.0, 1.1: 0.0})]
    found = nested(select, report, [1, 2])
    assert found is not None
    assert (found.chosen, found.num_inner) == ({0: 2, 1: 1}, 2)
    assert found.score == pytest.approx((0.3 + 0.7) / 2)
    assert (found.naive, found.naive_rank) == (pytest.approx(0.35), 1)
    one = nested(
        [{k: s[k] for k in (Fold(0), Fold(1))} for s in select],
        [{k: s[k] for k in (Fold(0), Fold(1))} for s in report],
        [1, 2],
    )
    assert one is not None
    assert (one.chosen, one.num_inner) == ({0: 1, 1: 1}, 1)
    lacking = nested([select[0], {k: v for k, v in select[1].items() if k != Fold(1, 1)}], report, [1, 2])
    assert lacking is not None
    assert lacking.num_strategies == 1
    assert "selected on the mean over 2 inner parts" in nested_words(found)
    assert "selected on inner videos" in nested_words(one)


def test_a_fold_with_several_inner_parts_counts_once() -> None:
    """Its score is the mean of its runs; the spread is over folds, not over inner parts."""
    values = {"0": 1.0, "0.1": 3.0, "1": 4.0, "1.1": 6.0}
    results = [result(p, p, fold=fold) for fold, p in values.items()]
    (row,) = make_leaderboard(results).rows
    assert (row.folds, row.num_inner) == ((0, 1), 2)
    assert row.select["P"] == Spread(3.5, pytest.approx(math.sqrt(4.5)))
    weighted = mean_of_runs({fold: {0: np.array([p])} for fold, p in by_fold({0: 1.0, 0.1: 3.0, 1: 4.0}).items()})
    assert weighted == pytest.approx([3.0])


def test_the_table_says_which_part_of_val_chose_and_which_was_scored() -> None:
    frames = stub.make_frames(12).filter(pl.col("split") != "test")
    split = resolve_split(frames, SplitConfig()).description
    console = Console(width=200, height=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard_tables(make_leaderboard([result(1.0, 0.9)]), 200, splits=[split]))
    console.file.close()
    words = "Selected on half of the videos of val (2 videos, 120 frames), scored on the other half of val (2 videos,"
    text = console.export_text()
    assert words in text
    assert "splits.csv says which video is in which" in text


def test_csv_and_json_keep_selection_and_held_out_apart(tmp_path: Path) -> None:
    frames, run = finished(tmp_path)
    board = with_intervals(make_leaderboard([run, result(0.1, 0.1, fusion="sum")]), frames, top=1)
    write_leaderboard(board, tmp_path, {"study": "s"})
    table = pl.read_csv(tmp_path / "leaderboard.csv")
    assert {"rank", "tasks", "fusion", "num_seeds", "optimism", "seconds", "report.P.low", "runs"} < set(table.columns)
    assert table["select.P"][0] == pytest.approx(run.metrics["select"]["P"])
    assert table["report.P"][0] == pytest.approx(run.metrics["report"]["P"])
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    first = document["rankings"][0]["rows"][0]
    assert document["study"] == "s"
    assert first["report"]["P"] == {"mean": pytest.approx(run.metrics["report"]["P"]), "sd": None}
    assert first["interval"]["num_videos"] == 4
    assert (tmp_path / first["runs"][0] / "run.json").exists()
    assert document["rankings"][0]["rows"][1]["interval"] is None
    assert np.isfinite(first["optimism"])
