"""`mtl submit` through the command: what it writes is what `mtl predict` predicts; lists that do not fit; places."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from cache.names import ACTION_UNITS
from helpers.cli import call
from pipelines.submission.formats import TRACKS

VIDEOS = {"clip4": "test", "100": "val"}


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    """A project whose test video has no labels: runs of all tasks and of VA alone, and an ensemble of a task each."""
    frames = read_frames(shared / "frames.parquet")
    labels = [name for name in frames.columns if name not in ("video", "frame", "path", "split")]
    blind = [pl.when(pl.col("split") == "test").then(None).otherwise(pl.col(name)).alias(name) for name in labels]
    write_frames(frames.with_columns(blind), shared / "frames.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        call("train-head", "--name", "all")
        call("postprocess", "all")
        for tasks in ("va", "expr", "au"):
            call("train-head", "--name", f"only-{tasks}", "--tasks", tasks)
        call("ensemble", "only-va", "only-expr", "only-au", "--name", "tasks")
    return shared


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def names_of(video: str, last: int) -> list[str]:
    return [f"{video}/{frame:05d}.jpg" for frame in range(1, last + 1)]


def write_list(path: Path, names: list[str], header: str = "image") -> Path:
    path.write_text("\n".join([header, *(f"{name}," for name in names)]) + "\n")
    return path


def last_frame(project: Path, video: str) -> int:
    return int(read_frames(project / "frames.parquet").filter(pl.col("video") == video)["frame"].max())


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("model", ["all", "tasks"])
def test_a_submission_says_what_predict_predicts(project: Path, tmp_path: Path, track: str, model: str) -> None:
    call(
        "predict",
        model,
        "--list",
        str(write_list(tmp_path / "v.txt", names_of("clip4", 999))),
        "--out",
        "p.csv",
        "--compound",
        "--force",
    )
    predicted = {row["frame"]: row for row in pl.read_csv("p.csv").iter_rows(named=True)}
    names = names_of("clip4", last_frame(project, "clip4") + 3)
    names = [*names, names[5], names[0]]
    path = write_list(tmp_path / "list.txt", names, TRACKS[track].header)
    done = json.loads(
        call("submit", model, "--track", track, "--list", str(path), "--out", f"{tmp_path}/o.txt", "--json")
    )
    header, *lines = (tmp_path / "o.txt").read_text().splitlines()
    assert header == TRACKS[track].header
    assert [line.split(",")[0] for line in lines] == names
    assert done["num_rows"] == len(names) == done["num_frames"] + 2
    assert done["num_filled"] == done["num_filled_not_in_table"] == done["num_frames"] - len(predicted)
    for name, line in zip(names, lines, strict=True):
        row = predicted.get(int(name[-9:-4]))
        cells = line.split(",")[1:]
        if row is not None and "va" in TRACKS[track].tasks:
            assert [float(cell) for cell in cells[:2]] == pytest.approx([row["valence"], row["arousal"]], abs=2e-6)
            cells = cells[2:]
        if row is not None and "expr" in TRACKS[track].tasks:
            assert int(cells.pop(0)) == row["expression"]
        if row is not None and "ce" in TRACKS[track].tasks:
            assert cells == [str(row["compound"])]
        if row is not None and "au" in TRACKS[track].tasks:
            assert [int(cell) for cell in cells] == [row[unit] for unit in ACTION_UNITS]


def test_what_was_done_is_said(project: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", [*names_of("clip4", 20), "clip4/00002.jpg"])
    said = call("submit", "all", "--track", "mtl", "--list", str(path), "--out", str(tmp_path / "o.txt"))
    assert "21 rows of 1 video, 1 of them repeated" in said
    assert "frames filled (" in said
    assert "valence and arousal interpolated over frame numbers" in said
    assert re.search("post-processing: (applied as stored: |none was kept when fitted)", said)
    assert "not looked for: crops" in said  # there is no faces folder here
    assert said.splitlines()[-1] == f"{tmp_path / 'o.txt'}: read back, every row in the list's order"


@pytest.mark.parametrize("rule", ["interpolate", "nearest", "linear"])
def test_the_rule_of_filling_is_asked_for(project: Path, tmp_path: Path, rule: str) -> None:
    path = write_list(tmp_path / "list.txt", names_of("clip4", last_frame(project, "clip4")))
    call("submit", "all", "--track", "va", "--list", str(path), "--out", str(tmp_path / "o.txt"), "--fill", rule)
    values = np.array([line.split(",")[1] for line in (tmp_path / "o.txt").read_text().splitlines()[1:]], dtype=float)
    there = read_frames(project / "frames.parquet").filter(pl.col("video") == "clip4")["frame"].to_numpy()
    frames = np.arange(1, len(values) + 1)
    if rule == "nearest":
        assert set(values) == set(values[there - 1])
    else:
        assert values == pytest.approx(np.interp(frames, there, values[there - 1]), abs=2e-6)


# --- lists that do not fit -----------------------------------------------------------------------------------------


def test_a_video_without_any_crop_is_answered_only_where_asked(project: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", [*names_of("clip4", 5), "blank/00001.jpg", "blank/00002.jpg"])
    words = ("submit", "all", "--track", "mtl", "--list", str(path), "--out", str(tmp_path / "o.txt"))
    with pytest.raises(ValueError, match=r"list.txt:7: video 'blank' has no row in .*frames.parquet \(1 such video\)"):
        call(*words)
    assert [one.name for one in tmp_path.iterdir()] == ["list.txt"]
    assert "1 video without any crop answered neutrally, as asked: blank" in call(*words, "--fill-empty-videos")
    last = (tmp_path / "o.txt").read_text().splitlines()[-1]
    assert last == "blank/00002.jpg,0.000000,0.000000,0" + ",0" * 12


def test_a_crop_that_the_frames_table_lacks_is_named(project: Path, tmp_path: Path) -> None:
    """Filling it would pass a guess for a prediction that `mtl prepare` and `mtl extract` can give."""
    there = set(read_frames(project / "frames.parquet").filter(pl.col("video") == "clip4")["frame"])
    lost = next(frame for frame in range(1, 99) if frame not in there)
    faces = tmp_path / "faces"
    (faces / "clip4").mkdir(parents=True)
    (faces / "clip4" / f"{lost:05d}.jpg").touch()
    path = write_list(tmp_path / "list.txt", names_of("clip4", 60))
    words = ("submit", "all", "--track", "va", "--list", str(path), "--out", str(tmp_path / "o.txt"))
    words = (*words, "--set", f"data.faces={faces}")
    with pytest.raises(ValueError, match=rf"list.txt:{lost + 1}: video 'clip4' frame {lost} has a crop in .*test-list"):
        call(*words)
    assert "not looked for" in call(*words, "--fill-unprepared")
    (faces / "clip4" / f"{lost:05d}.jpg").unlink()
    assert "not looked for" not in call(*words, "--force")


@pytest.mark.parametrize(
    ("lines", "words", "error"),
    [
        (["x/00001.jpg", "y/00001.jpg"], [], r"list.txt:1: 'x/00001.jpg' is not in .*nor is any other of the 2 rows"),
        (["clip4/00001.jpg"], ["--track", "ec"], "--track ec: unknown track; known: mtl, va, expr, au, ce"),
        (["clip4/00001.jpg"], ["--box", "3"], r"--box averages compound expressions \(--track ce\); leave it out"),
        (["clip4"], ["--track", "ce"], "a list of videos, but the track ce is handed in by a list of frames"),
        (["clip4/00001.jpg"], ["--fill", "mean"], "--fill mean: unknown rule; known: interpolate, nearest, linear"),
        (["image_location,valence,arousal", "clip4/00001.jpg"], [], "the header is that of the track va, not mtl"),
        (["clip4"], [], "a list of videos, but the track mtl is handed in by a list of frames"),
        (["clip4"], ["--track", "va"], r"list.txt:1: a list of videos: .*give --num-frames FILE"),
        (['"clip4,x/00001.jpg"'], [], "has a comma or a quote, which the format cannot say"),
        (["clip4/00001.jpg"], ["--list", "none.txt"], "none.txt: no such file"),
        (["clip4/00001.jpg"], ["--num-frames", "n.csv"], "--num-frames is for a list of videos, but list.txt names"),
        (["clip4/00001.jpg"], ["--out", "runs"], "runs: a folder; name a file"),
        (["clip4/00001.jpg"], ["--out", "mtl.toml"], "mtl.toml is there already"),
        (["clip4/00001.jpg"], ["--out", "mtl.toml", "--force"], "mtl.toml: not a file of this command"),
        (["clip4/00001.jpg"], ["--out", "list.txt", "--force"], "list.txt: not a file of this command"),
    ],
)
def test_errors_are_one_line(project: Path, lines: list[str], words: list[str], error: str) -> None:
    (project / "list.txt").write_text("\n".join(lines) + "\n")
    before = {path.name for path in project.iterdir()}
    with pytest.raises(ValueError, match=error) as caught:
        call("submit", "all", "--track", "mtl", "--list", "list.txt", "--out", "o.txt", *words)
    assert "\n" not in str(caught.value)
    assert {path.name for path in project.iterdir()} == before


def test_a_box_averages_compounds_over_frames_of_a_video(project: Path, tmp_path: Path) -> None:
    """As `mtl predict --compound --box` has it; a wide box says the same of every frame."""
    path = write_list(tmp_path / "list.txt", names_of("clip4", last_frame(project, "clip4")), TRACKS["ce"].header)
    for name, words in {"plain": (), "wide": ("--box", "500")}.items():
        call("submit", "all", "--track", "ce", "--list", str(path), "--out", str(tmp_path / name), *words)
    call("predict", "all", "--list", str(path), "--compound", "--box", "500", "--out", str(tmp_path / "p.csv"))
    table = pl.read_csv(tmp_path / "p.csv")
    wide = {line.split(",")[1] for line in (tmp_path / "wide").read_text().splitlines()[1:]}
    assert wide == {str(value) for value in table["compound"]}
    assert len(wide) == 1
    assert table.select(pl.col("^p_.*_(Surprised|Fearful|Angry)$")).std().row(0) == pytest.approx([0] * 7, abs=1e-6)


def test_a_run_without_a_task_of_the_track_is_refused(project: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", names_of("clip4", 5))
    with pytest.raises(ValueError, match=r"predicts va, but the track mtl needs expr, au too; combine it with a run"):
        call("submit", "only-va", "--track", "mtl", "--list", str(path), "--out", str(tmp_path / "o.txt"))
    call("submit", "only-va", "--track", "va", "--list", str(path), "--out", str(tmp_path / "o.txt"))


def test_an_earlier_submission_is_replaced_only_where_asked(project: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", names_of("clip4", 5))
    words = ("submit", "all", "--track", "va", "--list", str(path), "--out", str(tmp_path / "o.txt"))
    call(*words)
    before = (tmp_path / "o.txt").read_bytes()
    with pytest.raises(ValueError, match=r"o.txt is there already; --force replaces it"):
        call(*words, "--no-post")
    assert (tmp_path / "o.txt").read_bytes() == before
    call(*words, "--no-post", "--force")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["list.txt", "o.txt"]


# --- the per-video form of ABAW3 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("track", ["va", "expr", "au"])
def test_a_list_of_videos_gives_a_file_each(project: Path, tmp_path: Path, track: str) -> None:
    counts = {video: last_frame(project, video) + 7 for video in VIDEOS}
    (tmp_path / "videos.txt").write_text("".join(f"{video}\n" for video in VIDEOS))
    (tmp_path / "counts.csv").write_text("video,num_frames\n" + "".join(f"{v},{n}\n" for v, n in counts.items()))
    words = ("--list", str(tmp_path / "videos.txt"), "--num-frames", str(tmp_path / "counts.csv"))
    call("submit", "all", "--track", track, *words, "--out", str(tmp_path / "out"))
    for video, num in counts.items():
        header, *lines = (tmp_path / "out" / f"{video}.txt").read_text().splitlines()
        assert header == TRACKS[track].video_header
        assert len(lines) == num
        path = write_list(tmp_path / "list.txt", names_of(video, num))
        call("submit", "all", "--track", track, "--list", str(path), "--out", str(tmp_path / "o.txt"), "--force")
        assert lines == [line.split(",", 1)[1] for line in (tmp_path / "o.txt").read_text().splitlines()[1:]]
    with pytest.raises(ValueError, match="out is there already"):
        call("submit", "all", "--track", track, *words, "--out", str(tmp_path / "out"), "--force")


@pytest.mark.parametrize(
    ("videos", "counts", "error"),
    [
        ("clip4\nclip4", "clip4,900", "videos.txt:2: video 'clip4' is named a second time"),
        ("clip4", "100,900", r"videos.txt:1: video 'clip4' is not in .*counts.csv; add how many frames it has"),
        ("clip4", "clip4,3", r"counts.csv: video 'clip4' has 3 frames, but the frames table has its frame"),
        ("clip4", "clip4", "counts.csv:1: 'clip4'; expected video,num_frames such as 140,2675"),
        ("clip4", "clip4,-1", "counts.csv:1: 'clip4,-1'; expected"),
        ("clip4", "clip4,9000\nclip4,9001", "counts.csv:2: video 'clip4' is named a second time"),
        ("clip4", "clip4,99999999999999", "counts.csv:1"),
    ],
)
def test_counts_that_do_not_fit_are_one_line(
    project: Path, tmp_path: Path, videos: str, counts: str, error: str
) -> None:
    (tmp_path / "videos.txt").write_text(videos)
    (tmp_path / "counts.csv").write_text(counts)
    words = ("--list", str(tmp_path / "videos.txt"), "--num-frames", str(tmp_path / "counts.csv"))
    with pytest.raises(ValueError, match=error) as caught:
        call("submit", "all", "--track", "va", *words, "--out", str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
