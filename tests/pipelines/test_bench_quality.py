"""The rivals of `make bench ONLY=Q1,Q2`: fair, masked rightly, and scored as our own runs are."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from bench import (
    quality,
    quality_data,
    quality_entries,
    rival_abaw11,
    rival_frames,
    rival_heads,
    rival_linear,
    rival_post,
    rival_training,
    rival_trees,
)
from cache.names import TASKS
from helpers.made_labels import decided
from pipelines.metrics.challenge import score

ROOT = Path(__file__).resolve().parents[2]
RIVALS = ("linear", "trees", *rival_heads.RECIPES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The fixture's cached streams as a rival's arrays, every third video, and their rows of the frames table."""
    folder = tmp_path_factory.mktemp("made") / "made"
    shutil.copytree(ROOT / "tests/fixtures/made", folder)
    config, dataset = quality_data.read_project(folder)
    frames = quality_data.frames_of(config, dataset)
    kept = frames.video % 3 == 0
    parts = {name: getattr(frames, name)[kept] for name in frames.__dataclass_fields__}
    return SimpleNamespace(frames=dataclasses.replace(frames, **parts), table=dataset.frames.filter(kept))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals of one epoch and one penalty."""
    recipes = {name: dataclasses.replace(each, epochs=1) for name, each in rival_heads.RECIPES.items()}
    monkeypatch.setattr(rival_heads, "RECIPES", recipes)
    monkeypatch.setattr(rival_linear, "ALPHAS", (1e2,))
    monkeypatch.setattr(rival_linear, "INVERSES", (1e-3,))
    monkeypatch.setattr(rival_trees, "NUM_TREES", 2)
    monkeypatch.setattr(rival_trees, "NUM_COMPONENTS", 4)
    monkeypatch.setattr(rival_abaw11, "WIDTH", 32)


def test_the_heads_of_a_published_entry_see_embeddings_alone_as_its_script_does() -> None:
    assert quality_entries.rival_names("embedding") == list(RIVALS)
    assert not [name for name in quality_entries.rival_names("both") if name.startswith("abaw11")]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_never_sees_what_is_held_out(made: SimpleNamespace, name: str) -> None:
    frames = made.frames
    hidden = {
        "va": np.where(frames.report[:, None], 0.5, frames.va),
        "expr": np.where(frames.report, 3, frames.expr),
        "au": np.where(frames.report[:, None], 1.0, frames.au),
    }
    first = rival_heads.fit_rival(name, frames, 0)
    second = rival_heads.fit_rival(name, dataclasses.replace(frames, **hidden), 0)
    rows = frames.select | frames.report
    for task in TASKS:
        one, other = getattr(first, task)[rows], getattr(second, task)[rows]
        assert np.isfinite(one).all()
        assert one.std(axis=0).max() > 0
        np.testing.assert_array_equal(one, other)
    post, cuts = rival_post.post_process(first, frames)
    again, same = rival_post.post_process(second, dataclasses.replace(frames, **hidden))
    np.testing.assert_array_equal(cuts, same)
    np.testing.assert_array_equal(post.va[rows], again.va[rows])


@pytest.mark.parametrize("name", ["gru", "latent", "tcn", "tcn-multi", "transformer", "ssm"])
def test_padding_changes_nothing_at_real_steps(name: str) -> None:
    torch.manual_seed(0)
    model = rival_heads.RECIPES[name].model(5).eval()
    x, valid = torch.randn(1, 9, 5), torch.arange(9)[None] < 6
    padded, alone = model(x, valid), model(x[:, :6], valid[:, :6])
    for task in TASKS:
        torch.testing.assert_close(padded[task][:, :6], alone[task])


def test_a_missing_label_has_no_part_in_the_loss(made: SimpleNamespace) -> None:
    for leading in (False, True):
        losses = rival_training.Losses(made.frames, leading)
        outputs = {"va": torch.zeros(2, 4, 2), "expr": torch.zeros(2, 4, 8), "au": torch.zeros(2, 4, 12)}
        outputs = {task: value.requires_grad_() for task, value in outputs.items()}
        va, expr, au = torch.rand(2, 4, 2), torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, 12)
        va[0], expr[0], au[0] = torch.nan, -1, torch.nan
        losses(outputs, va, expr, au).backward()
        for value in outputs.values():
            assert (value.grad[0] == 0).all()
            assert value.grad[1].abs().sum() > 0


@pytest.mark.parametrize("drawn", [False, True])
def test_windows_stay_within_a_video_and_between_gaps(made: SimpleNamespace, drawn: bool) -> None:
    frames, generator = made.frames, np.random.default_rng(0) if drawn else None
    rows = rival_frames.windows(frames, frames.train, 16, 8, generator)
    for window in rows:
        inside = window[window >= 0]
        assert frames.train[inside].all()
        assert len(np.unique(frames.video[inside])) == 1
        step = np.diff(frames.frame[inside])
        assert ((step > 0) & (step <= rival_frames.LONGEST_GAP)).all()
    if not drawn:
        assert set(rows[rows >= 0].tolist()) == set(np.flatnonzero(frames.train).tolist())


def test_smoothing_counts_real_frames_and_keeps_parts_apart(made: SimpleNamespace) -> None:
    frames = made.frames
    place = np.flatnonzero(frames.report)[5]
    values = np.zeros((len(frames.frame), 1))
    values[place] = 1.0
    found = rival_post.smoothed(values, frames, "box", 8)[:, 0]
    near = (frames.video == frames.video[place]) & (np.abs(frames.frame - frames.frame[place]) <= 8)
    np.testing.assert_array_equal(found > 0, near)


def test_ours_and_a_rival_are_scored_by_one_function(made: SimpleNamespace) -> None:
    frames, table = made.frames, made.table.filter(made.frames.report)
    rng = np.random.default_rng(0)
    decisions = decided(
        va=rng.uniform(-1, 1, (len(table), 2)),
        expr=rng.integers(0, 8, len(table)),
        au=rng.integers(0, 2, (len(table), 12)).astype(np.int8),
    )
    theirs = quality_entries.held_out(decisions, table)
    columns = {
        "part": ["report"] * len(table),
        "valence": decisions.parts["va"][:, 0],
        "arousal": decisions.parts["va"][:, 1],
        "expression": decisions.parts["expr"],
    }
    units = {name: decisions.parts["au"][:, k] for k, name in enumerate(c for c in table.columns if c[:2] == "AU")}
    run = table.select("video", "frame").with_columns(**{k: pl.Series(v) for k, v in (columns | units).items()})
    ours = quality_entries.held_out_table(run.sample(fraction=1.0, shuffle=True, seed=0), table)
    assert ours.metrics == theirs.metrics
    assert ours.metrics["P"] == score(decisions, quality_entries.labels_of(table))["P"]
    with pytest.raises(AssertionError, match="other rows"):
        quality_entries.held_out_table(run.head(-1), table)
    entry = quality_entries.Entry(
        name="one", inputs="embedding", held={0: ours, 1: theirs}, num_parameters=1, seconds=[1.0]
    )
    assert quality_entries.ratio(entry, entry) == (1.0, 1.0, 1.0)
    assert entry.interval().low < entry.mean < entry.interval().high
    assert len(frames.x) == len(made.table)


@pytest.mark.usefixtures("short")
def test_kept_predictions_are_used_only_for_the_same_data(made: SimpleNamespace, tmp_path: Path) -> None:
    def held(frames: object) -> object:
        return quality_entries.rival_held(tmp_path, "mlp", "embedding", frames, made.table, 0)

    first = held(made.frames)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    assert held(made.frames).plain.metrics == first.plain.metrics
    assert path.stat().st_mtime_ns == before
    held(dataclasses.replace(made.frames, x=made.frames.x + 1))
    assert path.stat().st_mtime_ns != before


def test_the_grid_with_other_seeds() -> None:
    grid = "[set]\nwidth = 64\n[product]\nseed = [0, 1]\nlr = [0.1]\n"
    assert quality.shifted(grid, 2) == grid.replace("[0, 1]", "[4, 5]")
    assert quality.shifted(quality.GRID.read_text(), 1) != quality.GRID.read_text()
