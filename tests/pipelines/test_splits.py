"""Splits: nobody on two sides, groups whole, labels even, the same every time."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cache.names import ACTION_UNITS, TASKS
from pipelines import splits
from pipelines.config import SplitConfig
from pipelines.folds import NO_FOLD, Fold, parse_fold
from pipelines.labels import labels_of
from pipelines.splits import (
    _evened,
    assign_groups,
    assignment,
    group_numbers,
    groups_of,
    resolve_split,
)
from pipelines.strategy import Strategy


def frames_of(videos: dict[str, str], per_video: int = 12, subjects: dict[str, str] | None = None) -> pl.DataFrame:
    random = np.random.default_rng(3)
    rows = []
    for number, (video, split) in enumerate(videos.items()):
        for frame in range(1, per_video + 1):
            row = {"video": video, "frame": frame, "path": f"{video}/{frame:05d}.jpg", "split": split}
            row |= {"valence": 0.1, "arousal": 0.2, "expression": int((number + frame) % 8)}
            row |= {name: int(random.random() < 0.3) for name in ACTION_UNITS}
            rows.append(row | ({"subject": subjects.get(video)} if subjects else {}))
    return pl.DataFrame(rows)


VIDEOS = {f"t{i}": "train" for i in range(9)} | {f"v{i}": "val" for i in range(6)} | {f"e{i}": "test" for i in range(4)}


def masks(split):
    return [split.train, split.select, split.report]


def test_test_is_reported_where_it_has_labels() -> None:
    frames = frames_of(VIDEOS)
    split = resolve_split(frames, SplitConfig())
    assert [set(frames.filter(mask)["split"]) for mask in masks(split)] == [{"train"}, {"val"}, {"test"}]


def test_without_test_labels_val_is_halved_by_video() -> None:
    frames = frames_of({video: split for video, split in VIDEOS.items() if split != "test"})
    split = resolve_split(frames, SplitConfig())
    chosen, scored = set(frames.filter(split.select)["video"]), set(frames.filter(split.report)["video"])
    assert chosen
    assert scored
    assert not chosen & scored
    assert chosen | scored == {f"v{i}" for i in range(6)}
    assert "half" in split.description["select"]["of"]


def test_choosing_and_reporting_on_the_same_split_is_refused() -> None:
    with pytest.raises(ValueError, match="never scored"):
        resolve_split(frames_of(VIDEOS), SplitConfig(report="val"))


def test_one_video_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="one video or subject"):
        resolve_split(frames_of({"a": "train", "b": "val"}), SplitConfig())


def test_folds_cover_train_and_val_once_and_leave_test_alone() -> None:
    frames = frames_of(VIDEOS)
    reports = np.stack([resolve_split(frames, SplitConfig(), Fold(fold)).report for fold in range(5)])
    pool = frames["split"].is_in(["train", "val"]).to_numpy()
    assert (reports.sum(axis=0) == pool).all()
    for fold in range(5):
        split = resolve_split(frames, SplitConfig(), Fold(fold))
        assert (sum(mask.astype(int) for mask in masks(split)) == pool).all()


@pytest.mark.parametrize("fold", [NO_FOLD, Fold(2, 1)])
def test_the_labels_of_a_split_are_read_once_or_given(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, read = frames_of(VIDEOS), []
    labels = labels_of(frames)

    def counted(*arguments: Any) -> Any:
        read.append(arguments)
        return labels_of(*arguments)

    monkeypatch.setattr(splits, "labels_of", counted)
    first = resolve_split(frames, SplitConfig(), fold)
    assert len(read) == 1
    again = resolve_split(frames, SplitConfig(), fold, labels=labels)
    assert len(read) == 1
    assert again.description == first.description


def test_subjects_are_never_cut() -> None:
    subjects = {video: f"s{index // 3}" for index, video in enumerate(VIDEOS)}
    frames = frames_of(VIDEOS, subjects=subjects)
    for fold in range(4):
        split = resolve_split(frames, SplitConfig(num_folds=4), Fold(fold))
        sides = [set(groups_of(frames)[mask]) for mask in masks(split)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]


def test_a_video_without_subject_is_its_own_group_and_ids_are_compared_whole() -> None:
    frames = frames_of({"10": "train", "100": "train", "1": "train"}, subjects={"10": "10"})
    assert set(groups_of(frames)) == {"subject 10", "video 100", "video 1"}


def test_folds_spread_labels_evenly() -> None:
    frames = frames_of({f"v{i}": "train" for i in range(40)})
    part = assign_groups(frames, labels_of(frames), 5, seed=0)
    positives = [labels_of(frames.filter(part == index)).values["au"].sum() for index in range(5)]
    assert np.ptp(positives) / np.mean(positives) < 0.15
    assert (np.bincount(part) == 96).all()


MADE = Path(__file__).resolve().parents[1] / "fixtures" / "made" / "frames.parquet"


def unevenness(frames: pl.DataFrame, part: np.ndarray, num_parts: int) -> np.ndarray:
    """By label (frames of a task, of an expression, positives of an AU): its largest part over its mean, minus 1."""
    labels = labels_of(frames)
    counts = [labels.labelled(task) for task in TASKS]
    for name, on in (("expr", labels.values["expr"] == np.arange(8)), ("au", labels.values["au"] > 0)):
        counts += list((labels.masks[name] & on).T)
    shares = np.array([[count[part == index].sum() for index in range(num_parts)] for count in counts])
    return shares.max(axis=1) / shares.mean(axis=1) - 1


def at_random(frames: pl.DataFrame, num_parts: int, seed: int) -> np.ndarray:
    """Groups dealt out in random order."""
    names, group = np.unique(groups_of(frames), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % num_parts)[group]


@pytest.mark.parametrize(("num_parts", "most"), [(2, 0.06), (5, 0.25)])
def test_every_fold_has_its_share_of_each_task_class_and_unit(num_parts: int, most: float) -> None:
    """120 made videos of 71 subjects: no fold has so much more than its share of a label; dealt at random, some do."""
    frames = pl.read_parquet(MADE)
    for seed in range(3):
        uneven = unevenness(frames, assign_groups(frames, labels_of(frames), num_parts, seed), num_parts)
        assert uneven.max() < most, uneven.max()
        assert uneven[:3].max() < most / 2, uneven[:3]
    dealt = [unevenness(frames, at_random(frames, num_parts, seed), num_parts) for seed in range(10)]
    assert np.median([uneven.max() for uneven in dealt]) > 2 * most
    assert min(uneven.max() for uneven in dealt) > most


def test_moves_and_exchanges_even_what_the_greedy_start_leaves() -> None:
    counts = np.array([[4.0, 0.0], [3.0, 0.0], [3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    start = np.array([0, 0, 0, 1, 1, 1])
    found = _evened(start, counts, 2)
    totals = [counts[found == part].sum(axis=0).tolist() for part in (0, 1)]
    assert totals == [[6.0, 1.0], [6.0, 1.0]]
    assert (start == [0, 0, 0, 1, 1, 1]).all()


def test_the_part_of_every_video_is_written_out_and_groups_stay_whole() -> None:
    subjects = {video: f"s{index // 3}" for index, video in enumerate(VIDEOS)}
    frames = frames_of(VIDEOS, subjects=subjects)
    config = SplitConfig(num_folds=4)
    table = assignment(frames, {fold: resolve_split(frames, config, fold) for fold in map(Fold, range(4))})
    assert table.columns == ["video", "subject", "fold 0", "fold 1", "fold 2", "fold 3"]
    assert table["video"].to_list() == list(VIDEOS)
    pooled = table.filter(~pl.col("video").str.starts_with("e"))
    for fold in range(4):
        assert set(pooled[f"fold {fold}"]) == {"train", "select", "report"}
        assert pooled.group_by("subject").agg(pl.col(f"fold {fold}").n_unique())[f"fold {fold}"].max() == 1
    assert assignment(frames, {NO_FOLD: resolve_split(frames, SplitConfig())})["part"].unique().sort().to_list() == [
        "report", "select", "train",
    ]  # fmt: skip


def test_inside_an_outer_fold_other_folds_choose() -> None:
    """What chooses in a fold neither trains nor is scored there, and every fold chooses once."""
    frames = frames_of(VIDEOS)
    splits = [resolve_split(frames, SplitConfig(), Fold(fold)) for fold in range(5)]
    for split in splits:
        groups = [set(groups_of(frames)[mask]) for mask in masks(split)]
        assert all(groups)
        assert not groups[1] & (groups[0] | groups[2])
    pool = frames["split"].is_in(["train", "val"]).to_numpy()
    assert (np.stack([split.select for split in splits]).sum(axis=0) == pool).all()


def test_inner_parts_of_a_fold_choose_in_turn_and_the_fold_itself_never() -> None:
    subjects = {video: f"s{index // 2}" for index, video in enumerate(VIDEOS)}
    frames, config = frames_of(VIDEOS, subjects=subjects), SplitConfig(num_folds=4)
    pool = frames["split"].is_in(["train", "val"]).to_numpy()
    for outer in range(4):
        inner = [resolve_split(frames, config, Fold(outer, part)) for part in range(3)]
        assert all((split.report == inner[0].report).all() for split in inner)
        assert (np.stack([split.select for split in inner]).sum(axis=0) == (pool & ~inner[0].report)).all()
        for part, split in enumerate(inner):
            sides = [set(groups_of(frames)[mask]) for mask in masks(split)]
            assert all(sides)
            assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
            assert (sum(mask.astype(int) for mask in masks(split)) == pool).all()
            assert (split.description["fold"], split.description["num_folds"]) == (str(Fold(outer, part)), 4)
        assert len({split.description["hash"] for split in inner}) == 3
        assert inner[0].description["hash"] == resolve_split(frames, config, Fold(outer)).description["hash"]
    table = assignment(frames, {fold: resolve_split(frames, config, fold) for fold in (Fold(2), Fold(2, 1))})
    assert table.columns == ["video", "subject", "fold 2", "fold 2.1"]


def test_the_split_of_a_fold_is_the_same_on_every_machine() -> None:
    """Studies resume elsewhere; a change of these hashes makes every study of folds anew."""
    frames = frames_of(VIDEOS)
    hashes = [resolve_split(frames, SplitConfig(), Fold(fold)).description["hash"] for fold in range(3)]
    assert hashes == ["0d722fa88d6cc0d9", "00a685b4727b11da", "e9a1f40539e6f728"]


def test_a_fold_has_one_written_form() -> None:
    known = {"none": NO_FOLD, "0": Fold(0), "4": Fold(4), "2.1": Fold(2, 1), "12.10": Fold(12, 10)}
    assert {text: parse_fold(text) for text in known} == known
    assert [str(fold) for fold in known.values()] == list(known)
    assert (parse_fold(4), parse_fold(Fold(2, 1))) == (Fold(4), Fold(2, 1))
    assert sorted([Fold(1), Fold(0, 1), NO_FOLD, Fold(0)]) == [NO_FOLD, Fold(0), Fold(0, 1), Fold(1)]


@pytest.mark.parametrize(
    "value", [-1, "-1", 2.1, True, None, "", "2.", ".1", "2.0", "2.1.1", "02", "1002", 1002, "two"]
)
def test_what_is_no_fold_is_refused(value: Any) -> None:
    """2.1 without quotes is a number, in which 2.1 and 2.10 are the same."""
    with pytest.raises(ValueError, match=r'fold: expected a fold such as 2, "2.1" or "none", found'):
        Strategy().replace({"fold": value}, "here")


@pytest.mark.parametrize(
    ("fold", "words"),
    [("0.4", "inner parts count from 0 to 3"), ("5.1", "folds count from 0 to 4"), ("5", "folds count from 0 to 4")],
)
def test_a_fold_or_inner_part_that_is_not_there_is_refused(fold: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_split(frames_of(VIDEOS), SplitConfig(), parse_fold(fold))


def test_the_same_seed_gives_the_same_hash_and_another_another() -> None:
    frames = frames_of(VIDEOS)
    first, again = (resolve_split(frames, SplitConfig(), Fold(0)).description["hash"] for _ in range(2))
    other = resolve_split(frames, SplitConfig(fold_seed=1), Fold(0)).description["hash"]
    assert first == again != other


@pytest.mark.parametrize(("num_folds", "fold"), [(5, 5), (2, 0), (40, 0)])
def test_impossible_folds_are_refused(num_folds: int, fold: int) -> None:
    with pytest.raises(ValueError, match="fold"):
        resolve_split(frames_of(VIDEOS), SplitConfig(num_folds=num_folds), Fold(fold))


def test_group_numbers_are_those_of_the_names() -> None:
    """Also where a video's subject changes, is missing, or comes again in another video."""
    rng = np.random.default_rng(0)
    video = np.sort(rng.integers(0, 12, 200)).astype(str)
    subject = pl.Series([None if each < 2 else f"s{each}" for each in rng.integers(0, 6, 200)], dtype=pl.String)
    for columns in ({"video": video}, {"video": video, "subject": subject}):
        frames = pl.DataFrame(columns)
        names, expected = np.unique(groups_of(frames), return_inverse=True)
        for table in (frames, frames.with_columns(pl.all().cast(pl.Categorical))):
            found = group_numbers(table)
            assert found[0].tolist() == names.tolist()
            assert found[1].tolist() == expected.tolist()
            rows = rng.random(200) < 0.2
            some, numbers = group_numbers(table, rows)
            assert some.tolist() == sorted(set(groups_of(frames.filter(rows))))
            assert some[numbers[rows]].tolist() == groups_of(frames.filter(rows)).tolist()
            assert set(numbers[~rows]) == {-1}
    assert [len(each) for each in group_numbers(frames.clear())] == [0, 0]
