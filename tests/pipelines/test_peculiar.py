"""The made data set in the challenge's handwriting, from its files to a submission for every track.

NOTES.md of the folder says what each file holds and what is made of it; here it is held to that.
"""

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cache.frames import read_frames
from cache.names import ACTION_UNITS, LABEL_COLUMNS
from extract.annotations.readers import read_annotations
from extract.made.dataset import MadeParameters, make_data, make_plan
from extract.made.peculiar import spell
from helpers.cli import call
from pipelines.predict.listed import first_crop_without_row
from pipelines.submission.formats import TRACKS

SIZE = {"seed": 2, "num_videos": 10, "frames_per_video": 6}
TOML = """
[data]
faces = "data/cropped_aligned"
[backbones.expr]
model = "test_resnet"
weights = "random"
size_px = 32
[head]
width = 8
depth = 1
temporal = "none"
[train]
window = 8
stride = 8
steps = 2
"""
ANNOTATIONS = ["--train", "data/train_set.txt", "--val", "data/val_set.txt"]
LISTS = {
    "test_list": "mtl",
    "lists/mtl_bare": "mtl",
    "lists/mtl_short_rows": "mtl",
    "lists/mtl_commas": "mtl",
    "lists/va_commas": "va",
    "lists/va_dummies": "va",
    "lists/expr_dummies": "expr",
    "lists/au_dummies": "au",
}


def prepared(*words: str, out: str = "other.parquet") -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
    """The table that `mtl prepare` writes, and its findings by code (of several of a code, the last)."""
    told = json.loads(call("prepare", *words, "--out", out, "--no-check-faces", "--json"))
    return read_frames(Path(out)), {finding["code"]: finding for finding in told["findings"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Peculiar data and plain data of one seed; of the former a frames table with its findings, a cache and a run."""
    folder = tmp_path_factory.mktemp("peculiar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_data(folder / "plain", **SIZE)
        sizes = [f"--{name.replace('num_', '').replace('_per_video', '')}={value}" for name, value in SIZE.items()]
        assert "NOTES.md" in call("demo-data", "data", *sizes, "--peculiar")
        (folder / "mtl.toml").write_text(TOML)
        options = [*ANNOTATIONS, "--test-list", "data/test_list.txt", "--subjects", "data/subjects.csv"]
        _, findings = prepared(*options, out="frames.parquet")
        (folder / "findings.json").write_text(json.dumps(findings))
        call("extract", "--precision", "float32")
        call("train-head", "--name", "one", "--tasks", "va,expr,au")
    return folder


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def labels(table: pl.DataFrame, *splits: str) -> pl.DataFrame:
    return table.filter(pl.col("split").is_in(splits)).select("video", "frame", "split", *LABEL_COLUMNS)


def plain_labels(*splits: str) -> pl.DataFrame:
    """The labels of the plain data set, its videos called what they are called in the peculiar one."""
    plans = make_plan(MadeParameters(**SIZE))
    spelt = spell([plan.split for plan in plans])
    names = {plan.name: unicodedata.normalize("NFC", spelt[plan.index].listed) for plan in plans}
    tables = [read_annotations(Path(f"plain/{split}_set.txt"), split)[0] for split in splits]
    table = pl.concat(tables).with_columns(pl.col("video").replace_strict(names))
    return labels(table, *splits).sort("video", "frame")


def test_faces_and_labels_are_those_of_the_plain_data(project: Path) -> None:
    plain, odd = (
        sorted(path.read_bytes() for path in (project / name / "cropped_aligned").rglob("*") if path.is_file())
        for name in ("plain", "data")
    )
    assert plain == odd
    assert labels(read_frames(Path("frames.parquet")), "train", "val").equals(plain_labels("train", "val"))
    told, ours = (json.loads((project / name / "made.json").read_text()) for name in ("plain", "data"))
    assert list(told) == ["seed", "num_videos", "frames_per_video", "recipe"]
    assert ours == {**told, "peculiar": True}


def test_one_choice_does_not_pass_for_the_other(project: Path) -> None:
    assert make_data(Path("data"), **SIZE, peculiar=True).reused
    for folder, peculiar in (("data", False), ("plain", True)):
        with pytest.raises(ValueError, match="other parameters"):
            make_data(Path(folder), **SIZE, peculiar=peculiar)


def test_the_findings_are_those_of_the_notes(project: Path) -> None:
    notes = (project / "data" / "NOTES.md").read_text()
    found = json.loads((project / "findings.json").read_text())
    frames = read_frames(Path("frames.parquet"))
    twice, without = re.search(r"(\d+) of\s+them twice, (\d+) without a crop", notes).groups()  # type: ignore[union-attr]
    assert found["duplicate_rows"]["count"] == int(re.search(r"header; (\d+) rows twice", notes)[1]) >= 2  # type: ignore[index]
    assert found["list_rows_repeated"]["count"] == int(twice) >= 2
    assert found["frames_without_face"]["count"] == int(without) >= 2
    assert f"-> {frames.filter(split='train').height} rows" in notes
    assert found["ids_are_two_sides"]["count"] == 1
    assert found["ids_share_prefix"]["count"] == 2
    assert {"faces_under_other_names"} <= set(found)
    assert not any(finding["severity"] == "error" for finding in found.values())
    endings = frames["path"].str.extract(r"/([^0-9]*)[0-9]").unique().to_list()
    assert set(endings) == {"", "frame_"}
    assert any(path.endswith(".JPG") for path in frames["path"])
    assert any(not unicodedata.is_normalized("NFC", path) for path in frames["path"])


def test_per_track_folders_hold_the_same_labels(project: Path) -> None:
    table, found = prepared("--tracks", "data/tracks")
    assert labels(table, "train", "val").equals(plain_labels("train", "val"))
    assert found["frames_without_face"]["count"] > 0


def test_rows_that_disagree_are_refused_and_both_lines_named(project: Path) -> None:
    pairs = re.findall(r"lines (\d+) and (\d+)", (project / "data" / "NOTES.md").read_text())
    with pytest.raises(ValueError, match="--on-conflict first, last or missing") as refused:
        prepared("--train", "data/train_set_disagreeing.txt")
    assert f"train_set_disagreeing.txt:{pairs[0][1]}: " in str(refused.value)
    assert f"in line {pairs[0][0]};" in str(refused.value)


@pytest.mark.parametrize("choice", ["first", "last", "missing"])
def test_rows_that_disagree_are_settled_as_asked(project: Path, choice: str) -> None:
    lines = (project / "data" / "train_set_disagreeing.txt").read_text().splitlines()
    pairs = re.findall(r"lines (\d+) and (\d+)", (project / "data" / "NOTES.md").read_text())
    table, found = prepared("--train", "data/train_set_disagreeing.txt", "--on-conflict", choice)
    assert found["conflicting_rows"]["count"] == len(pairs) == 3
    usual, settled = plain_labels("train"), labels(table, "train")
    if choice == "first":
        assert settled.equals(usual)
        return
    assert settled.height == usual.height
    differ = [row for row in range(usual.height) if settled.row(row) != usual.row(row)]
    assert len(differ) == 3
    lower = {lines[int(second) - 1] for _, second in pairs}
    for row in differ:
        of_list = next(
            line for line in lower if line.startswith(f"{settled['video'][row]}/{settled['frame'][row]:05d}")
        )
        told = [float(cell) for cell in of_list.split(",")[1:]]
        changed = [name for name in LABEL_COLUMNS if settled[name][row] != usual[name][row]]
        assert len(changed) == 1
        value, wanted = settled[changed[0]][row], told[LABEL_COLUMNS.index(changed[0])]
        assert value is None if choice == "missing" or wanted == -1 else value == pytest.approx(wanted)


@pytest.mark.parametrize("task", ["va", "expr", "au"])
def test_dummy_values_are_no_labels(project: Path, task: str) -> None:
    with pytest.raises(ValueError, match="dummy values, not labels"):
        prepared(*ANNOTATIONS, "--test", f"data/lists/{task}_dummies.txt")


@pytest.mark.parametrize("name", [*LISTS, "lists/ce_dummies", "lists/videos"])
def test_every_list_asks_for_the_same_faces(project: Path, name: str) -> None:
    table, _ = prepared(*ANNOTATIONS, "--test-list", f"data/{name}.txt")
    usual = read_frames(Path("frames.parquet"))
    assert table.select("path", "split", *LABEL_COLUMNS).equals(usual.select("path", "split", *LABEL_COLUMNS))


@pytest.fixture(scope="module")
def predicted(trained: Path) -> Callable[[str], dict[str, Any]]:
    """What `mtl predict` says of a frame that a list names, None where it has no crop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        call("predict", "one", "--list", "data/test_list.txt", "--out", "predicted.parquet", "--force")
    rows = pl.read_parquet(trained / "predicted.parquet").iter_rows(named=True)
    found = {f"{row['video']}/{row['frame']:05d}.jpg": row for row in rows}
    return lambda name: found.get(unicodedata.normalize("NFC", name))


@pytest.mark.parametrize("name", LISTS)
def test_a_submission_has_the_rows_of_its_list(
    project: Path, tmp_path: Path, predicted: Callable[[str], Any], name: str
) -> None:
    track = TRACKS[LISTS[name]]
    out, path = tmp_path / "out.txt", project / "data" / f"{name}.txt"
    done = json.loads(call("submit", "one", "--track", track.name, "--list", str(path), "--out", str(out), "--json"))
    names = [line.split(",")[0] for line in path.read_text("utf-8-sig").splitlines() if "/" in line]
    header, *rows = out.read_bytes().decode().removesuffix("\n").split("\n")
    assert header == track.header
    assert [row.split(",")[0] for row in rows] == names
    assert {row.count(",") for row in rows} == {track.num_cells}
    assert done["num_rows"] - done["num_frames"] == len(names) - len(set(names))
    assert done["num_filled"] == sum(predicted(listed) is None for listed in set(names)) > 0
    for listed, row in zip(names, rows, strict=True):
        if (said := predicted(listed)) is None:
            continue
        cells = row.split(",")[1:]
        if "va" in track.tasks:
            assert float(cells.pop(0)) == pytest.approx(said["valence"], abs=2e-6)
            assert float(cells.pop(0)) == pytest.approx(said["arousal"], abs=2e-6)
        if "expr" in track.tasks:
            assert int(cells.pop(0)) == said["expression"]
        assert [int(cell) for cell in cells] == [said[unit] for unit in ACTION_UNITS][: len(cells)]


@pytest.mark.parametrize("track", ["va", "expr", "au"])
def test_a_list_of_videos_is_answered_with_a_folder(project: Path, tmp_path: Path, track: str) -> None:
    counts = ["--num-frames", "data/lists/num_frames.csv"]
    call("submit", "one", "--track", track, "--list", "data/lists/videos.txt", *counts, "--out", f"{tmp_path}/out")
    for line in (project / "data" / "lists" / "num_frames.csv").read_text().splitlines()[1:]:
        video, num = line.rsplit(",", 1)
        assert len((tmp_path / "out" / f"{video}.txt").read_text().splitlines()) == 1 + int(num)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_crop_is_seen_however_its_video_is_written(project: Path, tmp_path: Path, form: str) -> None:
    """The video of train that lies on the disk as NFD: its frames have crops, but no row in this table."""
    video = unicodedata.normalize(form, next(name for name in os.listdir("data/cropped_aligned") if "\u0301" in name))
    usual = read_frames(Path("frames.parquet"))
    faces = project / "data" / "cropped_aligned"
    absent = usual.filter(pl.col("video") == unicodedata.normalize("NFC", video)).with_row_index("row")
    absent = absent.select(pl.col("row").cast(pl.Int64), video=pl.lit(video), frame="frame")
    assert absent.height
    assert first_crop_without_row(faces, absent) == (absent.height, 0)


def test_the_list_of_compound_expressions_is_of_its_own_track(project: Path, tmp_path: Path) -> None:
    options = ["--list", "data/lists/ce_dummies.txt", "--out", str(tmp_path / "out.txt")]
    with pytest.raises(ValueError, match="the header is that of the track ce"):
        call("submit", "one", "--track", "expr", *options)
    call("submit", "one", "--track", "ce", *options)
    listed, written = (Path(path).read_text().splitlines() for path in (options[1], options[3]))
    assert [line.split(",")[0] for line in written] == [line.split(",")[0] for line in listed]
    assert written[0] == listed[0]


@pytest.mark.parametrize(("num_videos", "seed"), [(3, 0), (4, 1), (40, 2)])
def test_names_are_different_whatever_the_size(num_videos: int, seed: int) -> None:
    plans = make_plan(MadeParameters(seed, num_videos, 4))
    spelt = spell([plan.split for plan in plans])
    assert len({unicodedata.normalize("NFC", one.listed).casefold() for one in spelt}) == num_videos
    assert all(unicodedata.normalize("NFC", one.listed) == unicodedata.normalize("NFC", one.folder) for one in spelt)
    assert sum(one.listed != one.folder for one in spelt) == 2
