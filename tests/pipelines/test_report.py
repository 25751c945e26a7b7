"""The report page: complete, offline, honest about what chose, and safe from what users call their files."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from cache.labels import ABAW
from cache.names import ACTION_UNITS, VA_COLUMNS
from helpers import stub_study as stub
from pipelines.charts import Chart, Drawn, Panel, draw
from pipelines.concerns import concerns
from pipelines.folds import NO_FOLD, Fold
from pipelines.html import Cell, Markup, safe, table, tag
from pipelines.postprocess.run_folders import Truth
from pipelines.report.leaderboards import combination_parts
from pipelines.report.model import shown_videos
from pipelines.report.pages import Figure, Pictures, draw_figures, page_of
from pipelines.report.study import best_run, compared_row, study_report
from pipelines.report.tables import Table
from pipelines.report.time_plots import broken
from pipelines.results.effects import effects_of
from pipelines.results.evidence import Reader, with_intervals
from pipelines.results.leaderboard import Leaderboard, make_leaderboard
from pipelines.search.grid import expand
from pipelines.search.loop import one_at_a_time, run_trials
from pipelines.search.record import Record
from pipelines.search.study import Study, make_trials, open_study
from pipelines.strategy import strategy_of
from pipelines.words import duration_words, strategy_words

NASTY = "<script>alert(1)</script>&"
GRID = {
    "product": {"tasks": [["va", "expr", "au"], ["va"]], "temporal": ["none", "tcn"], "fusion": ["sum", "gated"]},
    "set": {"seed": 3},
}


def make_page(study: Study, board: Leaderboard, frames: pl.DataFrame, *, drawn: bool = False) -> str:
    """The page of a study; unless `drawn` its figures have no panels."""
    truth = Truth(frames=frames, path=Path("frames.parquet"), frames_digest="", labels_digest="")
    report = study_report(study, board, effects_of(board, Reader(frames)), truth)
    names = [part.chart.name for part in report.parts if isinstance(part, Figure)]
    empty = {name: Drawn(name=name, sizes=(), insides=(), pixels=(), titles=(), columns=1) for name in names}
    return page_of(report, draw_figures(report) if drawn else Pictures(empty))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study with a failed trial and videos of nasty names; its page, and that without scripts."""
    frames, config = stub.make_frames(prefix=NASTY), stub.make_config()
    grid = stub.make_grid(GRID, path=f"grids/{NASTY.replace('/', '')}.toml")
    inputs = stub.make_inputs(frames, config)
    trials = make_trials(expand(grid, strategy_of(config)), config, inputs)

    def fail(strategy) -> None:
        if strategy.head.tasks == ("va",) and strategy.head.fusion == "sum":
            raise ValueError(f"no luck {NASTY}")

    folder = tmp_path_factory.mktemp("study") / "first study"
    with open_study(folder, grid, inputs, trials) as study:
        engine = one_at_a_time(study, stub.make_trainer(frames, config, fail))
        run_trials(study, trials, engine, Record(study, grid.fields))
        board = with_intervals(make_leaderboard(study.results()), frames)
        page = make_page(study, board, frames, drawn=True)
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return SimpleNamespace(page=page, own=own, board=board, study=study, frames=frames)


def test_the_page_says_what_was_done_and_what_came_out(made: SimpleNamespace) -> None:
    text = re.sub(r"<[^>]+>", " ", made.own)
    best = made.board.rows[0]
    for words in (
        "Strategy search: first study",
        "Heads were trained on train (4 videos, 240 frames)",
        "selected on val (4 videos",
        "from test (4 videos, 240 frames), which played no part in the selection",
        "Ranked by the selection score, never by the held-out one",
        "strategies compare within a table",
        "not the official P",
        f"{best.select['P'].mean:.3f}",
        f"{best.report['P'].mean:.3f}",
        f"{best.interval.low:.2f} – {best.interval.high:.2f}",
        "EXPR: macro F1",
        "AU: mean F1",
        "valence: CCC",
        "Tasks trained together",
        "Calibration of probabilities",
        "Error by video",
        "What helped",
        "Which tasks help each other",
        "seed 3",
        "Failed trials",
    ):
        assert words in text, words


FIGURES = ("density-va", "traces-va", "confusion-expr", "f1-au", "precision-recall-au", "calibration", "errors-video")


def test_there_is_every_figure_once(made: SimpleNamespace) -> None:
    for name in (*FIGURES, "what-helped", "tasks-together", "seeds", "selection-held-out"):
        assert made.own.count(f'<figure id="{name}"') == 1, name
    assert "plotly" not in made.page


def test_figures_take_their_colours_from_the_page_and_keep_their_text(made: SimpleNamespace) -> None:
    drawn = re.findall(r'<svg class="panel".*?</svg>', made.own, flags=re.DOTALL)
    assert len(drawn) > 30
    assert not [tag for svg in drawn for tag in re.findall(r"<[^>]*#[0-9a-f]{6}[^>]*>", svg)]
    assert all("var(--held-out)" in svg or "var(--heat)" in svg for svg in drawn)
    assert any(">precision</text>" in svg for svg in drawn)
    ids = re.findall(r' id="([^"]*)"', "".join(drawn))
    assert len(ids) == len(set(ids))


def test_the_page_needs_no_network(made: SimpleNamespace) -> None:
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=", made.own)
    assert "@import" not in made.own
    assert "cdn" not in made.own.lower()


def test_nothing_a_user_named_becomes_markup(made: SimpleNamespace) -> None:
    assert "alert(1)" in made.own
    assert "<script>alert" not in made.own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in made.own


def test_the_page_is_the_same_every_time(made: SimpleNamespace) -> None:
    assert make_page(made.study, made.board, made.frames, drawn=True) == made.page


def test_no_raw_names_of_the_code_are_shown(made: SimpleNamespace) -> None:
    text = re.sub(r"<script.*?</script>|<pre>.*?</pre>", "", made.own, flags=re.S)
    for word in ("num_heads", "ccc_mean", "f1_macro", "va.ccc", "report.P", "None", "nan"):
        assert word not in re.sub(r"<[^>]+>", " ", text), word


def test_the_run_shown_is_chosen_without_a_look_at_held_out_rows(made: SimpleNamespace) -> None:
    row = made.board.rows[0]
    assert best_run(row).metrics["select"]["P"] == max(one.metrics["select"]["P"] for one in row.results)
    other = compared_row(made.board.rankings[0])
    assert other is not None
    assert other.values["temporal"] == "none"


def test_good_middle_and_bad_videos_are_shown(made: SimpleNamespace) -> None:
    table = stub.read_part(best_run(made.board.rows[0]), made.frames, "report")
    remarks = [remark for _, remark in shown_videos(table, ABAW.tasks["va"])]
    assert remarks == ["smallest error", "median", "largest error"]


def test_traces_break_at_gaps() -> None:
    import numpy as np

    x, y = broken(np.array([1, 2, 200, 201]), np.array([0.1, 0.2, 0.3, 0.4]))
    assert np.nan_to_num(x, nan=-1).tolist() == [1, 2, -1, 200, 201]
    assert np.nan_to_num(y, nan=-1).tolist() == [0.1, 0.2, -1, 0.3, 0.4]


def test_text_is_escaped_and_markup_is_not() -> None:
    assert safe("<b>") == "&lt;b&gt;"
    assert safe(Markup("<b>")) == "<b>"
    assert tag("p", "a < b", tag("b", '"')) == "<p>a &lt; b<b>&quot;</b></p>"
    assert "&lt;i&gt;" in table([[Cell("<i>")]], [])


def test_a_study_of_one_run_has_a_report_too(tmp_path: Path) -> None:
    frames, config = stub.make_frames(6), stub.make_config()
    grid = stub.make_grid({"set": {"tasks": ["au"]}})
    inputs = stub.make_inputs(frames, config)
    trials = make_trials(expand(grid, strategy_of(config)), config, inputs)
    with open_study(tmp_path / "s", grid, inputs, trials) as study:
        engine = one_at_a_time(study, stub.make_trainer(frames, config))
        run_trials(study, trials, engine, Record(study, grid.fields))
        page = make_page(study, with_intervals(make_leaderboard(study.results()), frames), frames)
    assert 'id="f1-au"' in page
    assert 'id="density-va"' not in page
    assert "the strategy of mtl.toml" in page


def test_a_study_of_folds_shows_what_choosing_earns_first(tmp_path: Path) -> None:
    frames, config = stub.make_frames(24, 30), stub.make_config()
    grid = stub.make_grid({"product": {"temporal": ["none", "tcn"], "fold": [0, 1, 2, 3, 4]}})
    inputs = stub.make_inputs(frames, config, folds=tuple(map(Fold, range(5))))
    trials = make_trials(expand(grid, strategy_of(config)), config, inputs)
    with open_study(tmp_path / "s", grid, inputs, trials) as study:
        engine = one_at_a_time(study, stub.make_trainer(frames, config))
        run_trials(study, trials, engine, Record(study, grid.fields))
        board = with_intervals(make_leaderboard(study.results()), frames)
        text = re.sub(r"<[^>]+>", " ", make_page(study, board, frames))
    nested = board.rankings[0].nested
    assert nested is not None
    for words in (
        "nested estimate of held-out P, 5 outer folds",
        f"Nested estimate of this selection procedure: P = {nested.score:.3f} ({nested.interval.low:.3f} to",
        "the best mean over the same folds, selected on the rows that score it",
        "this is the first of them",
    ):
        assert words in text, words


def reported(
    folder: Path, frames: pl.DataFrame, document: dict, folds: tuple[Fold, ...] = (NO_FOLD,), inner: int = 1
) -> str:
    """The text of the report of a search over `document`."""
    config = stub.make_config()
    grid, inputs = stub.make_grid(document), stub.make_inputs(frames, config, folds=folds)
    trials = make_trials(expand(grid, strategy_of(config), inner), config, inputs)
    with open_study(folder, grid, inputs, trials) as study:
        engine = one_at_a_time(study, stub.make_trainer(frames, config))
        run_trials(study, trials, engine, Record(study, grid.fields))
        board = with_intervals(make_leaderboard(study.results()), frames)
        return " ".join(re.sub(r"<[^>]+>", " ", make_page(study, board, frames)).split())


def test_a_study_of_inner_folds_says_so(tmp_path: Path) -> None:
    folds = tuple(Fold(outer, inner) for outer in range(3) for inner in range(2))
    document = {"product": {"temporal": ["none", "tcn"], "fold": [0, 1, 2]}}
    text = reported(tmp_path / "s", stub.make_frames(24, 30), document, folds, inner=2)
    assert "nested estimate of held-out P, 3 outer folds of 2 inner parts" in text
    assert "The study has 6 splits (3 outer folds, 2 inner parts each); this is the first of them." in text
    assert "selected on the mean over 2 inner parts" in text


def test_with_train_and_val_alone_the_report_says_which_part_of_val_chose_and_which_was_scored(tmp_path: Path) -> None:
    frames = stub.make_frames(18, 30)
    labelled = [name for name in frames.columns if name in (*VA_COLUMNS, "expression", *ACTION_UNITS)]
    blind = frames.with_columns(pl.when(pl.col("split") != "test").then(pl.col(name)).alias(name) for name in labelled)
    text = reported(tmp_path / "s", blind, {"product": {"temporal": ["none", "tcn"]}})
    assert "Weights and strategies were selected on half of the videos of val (3 videos, 90 frames)" in text
    assert (
        "The held-out score is from the other half of val (3 videos, 90 frames), which played no part in the selection."
        in text
    )
    assert "Nothing but val has labels to select and to score by, so it was split in two" in text
    assert "splits.csv in the study's folder names the half of every video" in text.replace("&#x27;", "'")
    with_test = reported(tmp_path / "t", frames, {"product": {"temporal": ["none", "tcn"]}})
    assert "cut in two" not in with_test


def test_the_report_names_subjects_where_they_were_resampled(tmp_path: Path) -> None:
    frames = stub.make_frames(24, 30)
    number = pl.col("video").str.slice(-2).cast(pl.Int64)
    known = frames.with_columns(subject=pl.format("{}-{}", "split", number // 6))
    text = reported(tmp_path / "s", known, {"product": {"temporal": ["none", "tcn"]}})
    for words in (
        "its 95 % interval, 4 subjects resampled",
        "500 resamples of held-out subjects, not frames",
        "Whole subjects are swapped between the two",
        "two videos of one face are not independent",
        "mean held-out score over resampled subjects",
        "Intervals are from resampling 4 held-out subjects (of 8 videos)",
        "on the held-out subjects: with 4 subjects, no difference can be significant",
    ):
        assert words in text, words
    assert "videos resampled" not in text
    plain = reported(tmp_path / "v", frames, {"product": {"temporal": ["none", "tcn"]}})
    assert "its 95 % interval, 8 videos resampled" in plain
    assert "subject" not in plain.split("How to reproduce it")[0].replace("videos or subjects", "")


def test_the_report_says_how_far_to_trust_the_first_rank(made: SimpleNamespace) -> None:
    text = re.sub(r"<[^>]+>", " ", made.own)
    assert "other strategies do not differ significantly from #1 on the held-out videos" in text
    assert "Over resamples of the 4 selection videos, with the same runs, #1 ranks first in" in text
    assert "with 4 videos, no difference can be significant" in text
    assert re.search(r"no \(\d", text)
    assert "statistically different from #1 (p)" in text
    assert "95 % rank interval" in text


def test_words_for_readers() -> None:
    assert [duration_words(s) for s in (1.24, 42, 200, 7500)] == ["1.2 s", "42 s", "3 min 20 s", "2 h 5 min"]
    values = {"temporal": "gru", "fusion": "sum", "num_heads": 8, "lr": 0.001}
    assert not concerns("num_heads", values)
    assert strategy_words(values, list(values)) == "temporal GRU, fusion sum, learning rate 0.001"


def test_names_in_figures_are_shown_as_written_not_as_markup() -> None:
    def draw_name(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], label='$a$ <b> #0072b2 id="x" 0.12345')
        axes.set_xlabel("<script>alert(1)</script>")
        axes.legend()

    (drawn,) = draw([Chart(name="c", panels=(Panel(draw=draw_name, title='"><i>'),))])
    page = drawn.inline()
    assert '>$a$ &lt;b&gt; #0072b2 id="x" 0.12345</text>' in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<i>" not in page
    assert "<script" not in page


def test_tasks_trained_together_are_a_row_per_set(made: SimpleNamespace) -> None:
    (table,) = combination_parts(made.board)
    assert isinstance(table, Table)
    names = [column.key for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [row["tasks"] for row in rows] == ["VA + EXPR + AU", "VA"]
    for row, ranking in zip(rows, made.board.rankings, strict=True):
        assert row["va"] == ranking.rows[0].report["va.ccc_mean"]
        assert row["va.interval"] == ranking.rows[0].intervals["va"]
    assert rows[1]["expr"] is None
    assert combination_parts(replace(made.board, rankings=made.board.rankings[:1])) == ()
    apart = [replace(row, values={**row.values, "method": "separate"}) for row in made.board.rankings[0].rows]
    first = replace(made.board.rankings[0], rows=tuple(apart))  # a model per task: nothing is trained together
    assert combination_parts(replace(made.board, rankings=(first, made.board.rankings[1]))) == ()


def test_effects_are_differences_of_counterparts_with_intervals(made: SimpleNamespace) -> None:
    effects = effects_of(made.board, Reader(made.frames))
    best, other = effects.fields["temporal"]
    assert best.difference is None
    assert other.difference is not None
    assert other.difference.num_pairs == 2
    rows = made.board.rankings[0].rows
    by_value = {(row.values["temporal"], row.values["fusion"]): row.report["P"].mean for row in rows}
    names = list(dict.fromkeys(row.values["temporal"] for row in rows))
    lost = [by_value[names[1], fusion] - by_value[names[0], fusion] for fusion in ("sum", "gated")]
    assert other.difference.value == pytest.approx(sum(lost) / 2)
    between = other.difference.interval
    assert between is not None
    assert between.low < other.difference.value < between.high
    assert between.sample.words == "4 videos"
    assert best.interval is not None
    assert best.interval.low < sum(best.report) / 2 < best.interval.high
    without = effects_of(made.board)
    assert without.fields["temporal"][1].difference.value == other.difference.value
    assert without.fields["temporal"][1].difference.interval is None
