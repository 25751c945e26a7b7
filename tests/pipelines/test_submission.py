"""Submissions: golden files per track, any list in its own order, filling, and a file that is wrong is not put in
place."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.labels import ABAW
from cache.names import ACTION_UNITS, TASKS
from extract.annotations.lists import read_list
from helpers.made_labels import decided, probable
from pipelines.cli.pages.submission import fill_words
from pipelines.metrics.predictions import Decisions
from pipelines.postprocess.apply import Parameters
from pipelines.predict.compound import compound_frames
from pipelines.predict.predictor import FramePredictions
from pipelines.submission.answer import answer_list
from pipelines.submission.checking import check_rows
from pipelines.submission.filling import FILLS, fill, nearest
from pipelines.submission.formats import TRACKS, cells_of, fixed, track_of
from pipelines.submission.writing import is_submission, write_list

GOLDEN = Path(__file__).parents[1] / "fixtures" / "submissions"


def predictions(
    frames: list[tuple[str, int]], seed: int = 0, invalid: tuple[int, ...] = (), parameters: Parameters | None = None
) -> FramePredictions:
    """Predictions in quarters, so that they are written the same everywhere; rows `invalid` have no embedding."""
    rng = np.random.default_rng(seed)
    table = pl.DataFrame(frames, schema={"video": pl.String, "frame": pl.Int64}, orient="row")
    valid = ~np.isin(np.arange(len(frames)), invalid)
    probabilities = probable(
        va=rng.integers(-6, 7, (len(frames), 2)) / 4,
        expr=rng.dirichlet(np.ones(8), len(frames)).round(3),
        au=rng.integers(0, 9, (len(frames), 12)) / 8,
    )
    return FramePredictions(
        frames=table.with_columns(path=pl.format("{}/{}.jpg", "video", "frame")),
        probabilities=probabilities,
        raw=probabilities,
        parameters=parameters or Parameters(),
        valid=valid,
        known=np.ones(len(frames), dtype=bool),
    )


def golden_predictions() -> FramePredictions:
    """Of four frames; written down, so that no library's random numbers are in the golden files."""
    found = predictions(
        [("104-17-720x480", 2), ("104-17-720x480", 4), ("104-17-720x480", 9), ("46-30-484x360_left", 1)]
    )
    units = ["001101100111", "010110110100", "111011000110", "110011000110"]
    return dataclasses.replace(
        found,
        probabilities=probable(
            va=np.array([[1.0, -1.25], [-1.0, -0.75], [-1.0, 1.0], [1.25, 0.25]]),
            expr=0.6 * np.eye(8)[[7, 3, 3, 5]] + 0.2 * np.eye(8)[[1, 6, 5, 1]] + 0.2 * np.eye(8)[[5, 6, 5, 1]],
            au=np.array([[float(unit) for unit in row] for row in units]),
        ),
    )


def for_track(track: str, found: FramePredictions) -> FramePredictions:
    """What a submission of `track` is made of."""
    return compound_frames(found, ABAW.group("expr"), 0) if track == "ce" else found


@pytest.mark.parametrize("track", TRACKS)
def test_golden_file(track: str, tmp_path: Path) -> None:
    """Bytes of a list with all its peculiarities: BOM, CRLF, duplicates, dummy values, frames without a crop."""
    names = read_list(GOLDEN / f"{track}_list.txt")
    answer = answer_list(TRACKS[track], names, for_track(track, golden_predictions()), "interpolate")
    write_list(tmp_path / "out.txt", TRACKS[track], names.rows["path"].to_list(), answer.cells, force=False)
    assert (tmp_path / "out.txt").read_bytes() == (GOLDEN / f"{track}.txt").read_bytes()


def test_headers_are_the_challenges() -> None:
    assert {name: (track.header, track.video_header) for name, track in TRACKS.items()} == {
        "mtl": ("image,valence,arousal,expression,aus", None),
        "va": ("image_location,valence,arousal", "valence,arousal"),
        "expr": (
            "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
            "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
        ),
        "au": (
            "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
            "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
        ),
        "ce": (
            "image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,"
            "Angrily_Surprised,Sadly_Fearful,Sadly_Angry",
            None,
        ),
    }
    assert [track.num_cells for track in TRACKS.values()] == [15, 2, 1, 12, 1]


def test_numbers_are_clipped_and_have_six_digits() -> None:
    values = np.array([-1.7, -1.0, -0.9999999, -1e-9, 0.0, 0.25, 1 / 3, 1.0000001, 9.0])
    assert fixed(values) == [
        "-1.000000", "-1.000000", "-1.000000", "0.000000", "0.000000", "0.250000", "0.333333", "1.000000", "1.000000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "track"),
    [
        ("image,valence,arousal,expression,aus", "mtl"),
        ("image,valence,arousal,expression," + ",".join(ACTION_UNITS), "mtl"),
        ("image_location,valence,arousal", "va"),
        ("Image_Location,Valence,Arousal,", "va"),
        ("image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,"
         "Angrily_Surprised,Sadly_Fearful,Sadly_Angry", "ce"),
        ("image", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_lists_header_names_its_track(header: str, track: str | None) -> None:
    assert track_of(header) == track


# --- filling -------------------------------------------------------------------------------------------------------


def test_valence_is_interpolated_over_frame_numbers_and_held_at_the_ends() -> None:
    found = predictions([("a", 10), ("a", 20), ("a", 60)])
    va = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.5]])
    found.probabilities.parts["va"][:] = va
    asked = pl.DataFrame({"video": ["a"] * 6, "frame": [1, 10, 12, 15, 40, 99]})
    filled = fill(found, asked, "interpolate")
    assert filled.probabilities.parts["va"][:, 0] == pytest.approx([0.0, 0.0, 0.2, 0.5, 0.0, -1.0])
    assert filled.own.tolist() == [False, True, False, False, False, False]
    assert not filled.empty.any()
    near = [0, 0, 0, 0, 1, 2]  # of two equally near the earlier one
    assert (filled.probabilities.parts["au"] == found.probabilities.parts["au"][near]).all()
    assert (filled.probabilities.parts["expr"] == found.probabilities.parts["expr"][near]).all()
    assert (fill(found, asked, "nearest").probabilities.parts["va"] == va[near]).all()
    assert fill(found, asked, "linear").probabilities.parts["au"][3] == pytest.approx(
        found.probabilities.parts["au"][:2].mean(axis=0)
    )


@pytest.mark.parametrize(
    ("rule", "tasks", "words"),
    [
        ("interpolate", ("va",), "valence and arousal interpolated over frame numbers"),
        ("interpolate", ("au",), "action units as the nearest frame of the video"),
        (
            "interpolate",
            ("va", "expr"),
            "valence and arousal interpolated over frame numbers, expressions as the nearest frame of the video",
        ),
        ("nearest", TASKS, "all as the nearest frame of the video"),
        ("linear", ("expr", "au"), "expressions and action units interpolated over frame numbers"),
    ],
)
def test_only_the_tasks_of_the_track_are_said_to_be_filled(rule: str, tasks: tuple[str, ...], words: str) -> None:
    assert fill_words(rule, tasks) == words


def test_a_frame_without_an_embedding_is_filled_as_one_without_a_crop() -> None:
    asked = pl.DataFrame({"video": ["a"] * 3, "frame": [1, 2, 3]})
    found = predictions([("a", 1), ("a", 2), ("a", 3)], invalid=(1,))
    without = predictions([("a", 1), ("a", 3)])
    for name in TASKS:
        without.probabilities.parts[name][:] = found.probabilities.parts[name][[0, 2]]
    for rule in FILLS:
        one, other = fill(found, asked, rule), fill(without, asked, rule)
        assert one.own.tolist() == other.own.tolist() == [True, False, True]
        assert all((one.probabilities.parts[n] == other.probabilities.parts[n]).all() for n in TASKS)


@pytest.mark.parametrize("rule", FILLS)
def test_a_model_of_valence_alone_is_filled_too(rule: str) -> None:
    """Beside a track of expressions a run may predict one column of another group."""
    found = predictions([("a", 1), ("a", 5)])
    parts = {"valence": np.array([[0.0], [1.0]]), "expr": found.probabilities.parts["expr"]}
    found = dataclasses.replace(found, probabilities=probable(**parts))
    filled = fill(found, pl.DataFrame({"video": ["a"] * 3, "frame": [1, 2, 5]}), rule)
    assert filled.probabilities.parts["valence"][1, 0] == (0.0 if rule == "nearest" else 0.25)
    assert cells_of(TRACKS["expr"], filled.decide(Parameters()))[0] in "01234567"


def test_an_empty_video_is_neutral_whatever_the_thresholds() -> None:
    found = predictions(
        [("a", 1)], parameters=Parameters(thresholds={"au": (0.0,) * 12}, offsets={"expr": (-50.0, *[0.0] * 7)})
    )
    filled = fill(found, pl.DataFrame({"video": ["b", "a", "b"], "frame": [1, 1, 2]}), "interpolate")
    assert filled.empty.tolist() == [True, False, True]
    cells = cells_of(TRACKS["mtl"], filled.decide(found.parameters))
    assert cells[0] == cells[2] == "0.000000,0.000000,0" + ",0" * 12
    assert cells[1].endswith(",1" * 12)


def test_one_video_never_fills_another_whatever_its_name() -> None:
    found = predictions([("10", 1), ("100", 5), ("10-30", 9)])
    filled = fill(found, pl.DataFrame({"video": ["100", "10", "10-30", "1"], "frame": [1, 9, 1, 1]}), "nearest")
    assert (filled.probabilities.parts["va"][:3] == found.probabilities.parts["va"][[1, 0, 2]]).all()
    assert filled.empty.tolist() == [False, False, False, True]


def test_accents_may_be_written_in_two_ways() -> None:
    found = predictions([("caf\u00e9", 1)])
    filled = fill(found, pl.DataFrame({"video": ["cafe\u0301"], "frame": [1]}), "nearest")
    assert filled.own.tolist() == [True]


@given(
    times=st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True),
    frames=st.lists(st.integers(0, 70), min_size=1, max_size=20),
)
def test_nearest_is_the_nearest(times: list[int], frames: list[int]) -> None:
    times = sorted(times)
    chosen = nearest(np.array(frames), np.array(times), np.array(times, dtype=float)[:, None])[:, 0]
    for frame, time in zip(frames, chosen, strict=True):
        assert time == min(times, key=lambda other: (abs(other - frame), other))


# --- any list ------------------------------------------------------------------------------------------------------


PLACES = st.tuples(st.sampled_from(["a", "a-1", "video45_1", "a_left"]), st.integers(1, 30))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(PLACES, min_size=1, max_size=40),
    there=st.lists(PLACES, min_size=1, max_size=40, unique=True),
    track=st.sampled_from(list(TRACKS)),
    rule=st.sampled_from(list(FILLS)),
    seed=st.integers(0, 9),
)
def test_any_list_is_answered_row_by_row_in_its_order(
    tmp_path: Path, rows: list, there: list, track: str, rule: str, seed: int
) -> None:
    paths = [f"{video}/{frame:05d}.jpg" for video, frame in rows]
    (tmp_path / "list.txt").write_text("\n".join(["image", *paths]) + "\n")
    names = read_list(tmp_path / "list.txt")
    found = for_track(track, predictions(there, seed=seed))
    answer = answer_list(TRACKS[track], names, found, rule)
    write_list(tmp_path / "out.txt", TRACKS[track], paths, answer.cells, force=True)
    header, *lines = (tmp_path / "out.txt").read_text().splitlines()
    assert header == TRACKS[track].header
    assert [line.split(",")[0] for line in lines] == paths
    said = cells_of(TRACKS[track], found.decide())
    of_path: dict[str, str] = {}
    for (video, frame), line in zip(rows, lines, strict=True):
        path, cells = line.split(",", 1)
        assert of_path.setdefault(path, cells) == cells  # the same frame, the same answer
        if (video, frame) in there:
            assert cells == said[there.index((video, frame))]


# --- reading back --------------------------------------------------------------------------------------------------


def written(tmp_path: Path, track: str = "mtl") -> tuple[Path, list[str]]:
    rows = [("a", 1), ("a", 2), ("b", 1)]
    paths = [f"{video}/{frame:05d}.jpg" for video, frame in rows]
    cells = cells_of(TRACKS[track], predictions(rows).decide())
    write_list(tmp_path / "out.txt", TRACKS[track], paths, cells, force=False)
    return tmp_path / "out.txt", paths


DAMAGE = {
    "a row is gone": lambda t: t.replace(t.splitlines(keepends=True)[2], ""),
    "a row too many": lambda t: t + t.splitlines(keepends=True)[1],
    "two rows are exchanged": lambda t: "".join(np.array(t.splitlines(keepends=True))[[0, 2, 1, 3]]),
    "the header differs": lambda t: t.replace("aus", "AUs"),
    "no header": lambda t: t.split("\n", 1)[1],
    "a cell is gone": lambda t: t.replace(",", ";", 6).replace(";", ",", 5),
    "a cell too many": lambda t: t.removesuffix("\n") + ",0\n",
    "a space": lambda t: t.replace(".jpg,", ".jpg, ", 1),
    "a quote": lambda t: t.replace("a/00001.jpg", '"a/00001.jpg"'),
    "CRLF": lambda t: t.replace("\n", "\r\n"),
    "the last line is cut": lambda t: t[:-1],
    "beyond 1": lambda t: t.replace("a/00001.jpg,", "a/00001.jpg,1.500000,").replace(",0\n", "\n", 1),
    "another number of digits": lambda t: t.replace("0000,", "000,", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_differs_when_read_back_is_refused(damage: str, tmp_path: Path) -> None:
    path, paths = written(tmp_path)
    track, text = TRACKS["mtl"], path.read_text()
    check_rows(path, track, track.header, paths, 3)
    assert DAMAGE[damage](text) != text
    path.write_bytes(DAMAGE[damage](text).encode())
    with pytest.raises(ValueError, match="read back, the submission is wrong") as caught:
        check_rows(path, track, track.header, paths, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("decided", "track"),
    [
        (decided(va=np.array([[0.5, np.nan]])), "va"),
        (decided(expr=np.array([8])), "expr"),
        (decided(au=np.full((1, 12), 2)), "au"),
        (decided(au=np.full((1, 11), 1)), "au"),
    ],
)
def test_what_is_out_of_range_is_not_put_in_place(decided: Decisions, track: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the file was not put in place"):
        write_list(tmp_path / "out.txt", TRACKS[track], ["a/00001.jpg"], cells_of(TRACKS[track], decided), force=False)
    assert list(tmp_path.iterdir()) == []


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path, paths = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        write_list(path, TRACKS["expr"], paths, ["1"] * 3, force=False)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["out.txt"]
    write_list(path, TRACKS["expr"], paths, ["1"] * 3, force=True)
    assert is_submission(path)
    assert not is_submission(tmp_path)
    (tmp_path / "other.txt").write_text("image,valence\n")
    assert not is_submission(tmp_path / "other.txt")
