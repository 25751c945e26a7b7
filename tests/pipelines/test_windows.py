"""Windows: every kept row is in one, none crosses a video or a long gap, ids are compared whole."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.nearest import nearest_rows, video_codes
from pipelines.training import windows as windows_module
from pipelines.training.windows import context_rows, make_segments, make_windows, overlaps, place_windows

STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.booleans()), min_size=1, max_size=60)


def rows_of(steps):
    """(new video, gap to the step before, kept) of each row -> videos, times, keep."""
    videos = np.cumsum([new for new, _, _ in steps])
    times = np.zeros(len(steps), dtype=np.int64)
    for index in range(1, len(steps)):
        times[index] = steps[index][1] + (times[index - 1] if videos[index] == videos[index - 1] else 0)
    return videos, times, np.array([kept for _, _, kept in steps])


@settings(max_examples=300)
@given(STEPS, st.integers(1, 9), st.integers(1, 12), st.integers(1, 40), st.integers(0, 30))
def test_windows_cover_all_and_cross_nothing(steps, window, stride, max_gap, offset):
    videos, times, keep = rows_of(steps)
    windows = make_windows(videos, times, keep, window=window, stride=stride, max_gap=max_gap, offset=offset)
    assert windows.dtype == np.int64
    assert 1 <= windows.shape[1] <= window
    assert set(windows[windows >= 0]) == set(np.flatnonzero(keep))
    for row in windows:
        steps_in = row[row >= 0]
        assert len(steps_in) > 0
        assert (row[: len(steps_in)] >= 0).all(), "padding stands at the end only"
        assert len(set(videos[steps_in])) == 1
        assert (np.diff(times[steps_in]) > 0).all()
        assert (np.diff(times[steps_in]) <= max_gap).all()
        between = np.arange(steps_in[0], steps_in[-1] + 1)
        assert list(between[keep[between]]) == list(steps_in), "no kept row is skipped within a window"


@settings(max_examples=100)
@given(STEPS, st.integers(1, 9), st.integers(1, 12))
def test_only_short_segments_are_padded(steps, window, stride):
    videos, times, keep = rows_of(steps)
    windows = make_windows(videos, times, keep, window=window, stride=stride, max_gap=10_000)
    lengths = {video: int((keep & (videos == video)).sum()) for video in set(videos)}
    for row in windows:
        steps_in = row[row >= 0]
        assert len(steps_in) == min(window, lengths[videos[steps_in[0]]])


@settings(max_examples=100)
@given(STEPS, st.integers(1, 9), st.integers(1, 12), st.integers(1, 40), st.integers(0, 30), st.integers(1, 9))
def test_windows_that_are_placed_only(steps, window, stride, max_gap, offset, block):
    """As starts and lengths, found in blocks of rows: the same windows, some of them, and which hold a row."""
    videos, times, keep = rows_of(steps)
    rows = make_windows(videos, times, keep, window=window, stride=stride, max_gap=max_gap, offset=offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "BLOCK", block)
        placed = place_windows(make_segments(videos, times, keep, max_gap), window, stride, offset)
    assert np.array_equal(placed.rows(), rows)
    assert (len(placed), placed.length.tolist()) == (len(rows), (rows >= 0).sum(axis=1).tolist())
    assert np.array_equal(placed.rows(slice(1, 4)), rows[1:4])
    mask = np.arange(len(keep)) % 3 == 1
    held = np.append(mask, False)[rows].any(axis=1)
    assert np.array_equal(placed.any(mask), held)
    assert np.array_equal(placed.take(held).rows(), rows[held])


def test_starts_are_a_stride_apart_and_the_last_window_ends_with_the_segment():
    videos, times = np.zeros(10, dtype=int), np.arange(10)
    windows = make_windows(videos, times, np.ones(10, bool), window=4, stride=3, max_gap=5)
    assert windows.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    moved = make_windows(videos, times, np.ones(10, bool), window=4, stride=3, max_gap=5, offset=1)
    assert moved[:, 0].tolist() == [0, 2, 5, 6]


def test_a_gap_of_max_gap_is_spanned_and_one_more_is_not():
    videos, times, keep = np.zeros(4, dtype=int), np.array([1, 2, 302, 603]), np.ones(4, bool)
    windows = make_windows(videos, times, keep, window=8, stride=8, max_gap=300)
    assert windows.tolist() == [[0, 1, 2], [3, -1, -1]]


def test_video_ids_are_compared_whole():
    frames = pl.DataFrame({"video": ["10", "10", "100", "100", "1"], "frame": [1, 2, 3, 4, 5]})
    codes = video_codes(frames)
    assert codes[0] == codes[1] != codes[2] == codes[3]
    assert len(set(codes)) == 3
    windows = make_windows(codes, frames["frame"].to_numpy(), np.ones(5, bool), window=8, stride=8, max_gap=9)
    assert windows.tolist() == [[0, 1], [2, 3], [4, -1]]


def test_no_rows_give_no_windows():
    empty = np.zeros(0, dtype=np.int64)
    assert make_windows(empty, empty, empty.astype(bool), window=4, stride=2, max_gap=9).shape == (0, 1)
    with pytest.raises(ValueError, match="window 0"):
        make_windows(empty, empty, empty.astype(bool), window=0, stride=2, max_gap=9)


def test_context_is_unlabelled_rows_of_the_same_videos_and_never_another_split():
    frames = pl.DataFrame({"video": ["a", "a", "a", "a", "b"], "split": ["train", "none", "val", "train", "none"]})
    part = (frames["split"] == "train").to_numpy()
    assert context_rows(frames, np.array([0, 0, 0, 0, 1]), part).tolist() == [True, True, False, True, False]


@settings(max_examples=100)
@given(STEPS, st.integers(1, 9), st.integers(1, 12))
def test_overlaps_finds_every_place_of_every_row(steps, window, stride):
    videos, times, keep = rows_of(steps)
    windows = make_windows(videos, times, keep, window=window, stride=stride, max_gap=40)
    covered, places = overlaps(windows)
    assert covered.tolist() == np.flatnonzero(keep).tolist()
    flat = np.append(windows.ravel(), -9)
    for row, where in zip(covered, places, strict=True):
        used = where[where < windows.size]
        assert used.tolist() == np.flatnonzero(flat == row).tolist()


def test_nearest_rows_stay_in_the_video():
    videos, times = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([1, 2, 4, 9, 1, 2, 3])
    asked = np.arange(7)
    assert nearest_rows(videos, times, np.array([0, 3, 4]), asked).tolist() == [0, 0, 0, 3, 4, 4, -1]
    assert nearest_rows(videos, times, np.array([], dtype=np.int64), asked).tolist() == [-1] * 7


def test_codes_of_videos_are_dense_ranks_of_names_in_any_order():
    names = ["b", "b", "10", "é", "100", "10", "a", "B"]
    expected = pl.Series(names).rank("dense").to_list()
    for dtype in (pl.String, pl.Categorical):
        codes = video_codes(pl.DataFrame({"video": pl.Series(names).cast(dtype)}))
        assert (codes.dtype, codes.tolist()) == (np.int32, expected)
    assert video_codes(pl.DataFrame({"video": pl.Series([], dtype=pl.String)})).tolist() == []
