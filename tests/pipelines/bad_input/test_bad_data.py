"""Bad data, each kind tried as a user would meet it: one clear line, nothing lost, nothing half-written.

Everything goes through the entry point `mtl`. Where a command refuses, the whole working folder is compared byte for
byte with what it was: frames table, cache and marks, runs, studies, backbones and mtl.toml at once.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from cache.store import Cache
from extract.backbones.build import build_trainable, save_backbone
from helpers.bad_input import EXTRACT, FINETUNE, PREPARE, READERS, SEARCH, Refused, face, use
from helpers.cli import typed

LABELS = "0.5,0.5,0" + ",0" * 12


class Trap:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_the_trap_is_one(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "marker"), tmp_path / "trap.pt")
    torch.load(tmp_path / "trap.pt", weights_only=False).close()
    assert (tmp_path / "marker").exists()


def unlabel(project: Path, split: str, task: str) -> None:
    """Takes the labels of `task` out of the annotations of `split`."""
    columns, mark = {"va": (range(1, 3), "-5"), "expr": (range(3, 4), "-1"), "au": (range(4, 16), "-1")}[task]
    path = project / f"data/{split}_set.txt"
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    rows = [[mark if index in columns else cell for index, cell in enumerate(row)] for row in rows]
    path.write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n")


# Annotations


@pytest.mark.parametrize("with_old_table", [True, False])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (f"video2/99999.jpg,{LABELS.replace('0.5', 'much', 1)}", "valence is 'much'; expected a number in [-1, 1]"),
        (f"video2/99999.jpg,{LABELS.replace('0.5', 'nan', 1)}", "valence is 'nan'; expected a number in [-1, 1]"),
        (f"video2/99999.jpg,{LABELS[:-1]}yes", "AU26 is 'yes'; expected 0, 1, or -1"),
        ("video2/99999.jpg,0.5,0.5", "too few columns: 3, but the header has 16"),
        (f"video2/99999.jpg,{LABELS.replace(',0,', ',8,', 1)}", "expression is '8'; expected 0 to 7"),
        (f"video2/99999.jpg,{LABELS.replace(',0,', ',Bored,', 1)}", "expression is 'Bored'; expected 0 to 7"),
        (f"../video2/99999.jpg,{LABELS}", "path is '../video2/99999.jpg', it leaves the faces folder"),
        (f"video2/../../99999.jpg,{LABELS}", "path is 'video2/../../99999.jpg', it leaves the faces folder"),
        (f"/etc/99999.jpg,{LABELS}", "path is '/etc/99999.jpg', it leaves the faces folder"),
    ],
)
def test_a_bad_annotation_row(project: Path, refused: Refused, bad: str, says: str, with_old_table: bool) -> None:
    if not with_old_table:
        (project / "frames.parquet").unlink()
    path = project / "data/val_set.txt"
    line = path.read_text().count("\n") + 1
    with path.open("a") as file:
        file.write(f"{bad}\n")
    assert refused(*PREPARE).startswith(f"mtl: error: data/val_set.txt:{line}: {says}")
    assert (project / "frames.parquet").exists() == with_old_table


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "data/val_set.txt: "),
        (b"image,valence\n", "data/val_set.txt: no rows below the header"),
        (b"\xff\xd8\xff\x00binary\x80", "data/val_set.txt"),
    ],
)
def test_a_file_that_is_no_annotation(project: Path, refused: Refused, data: bytes, says: str) -> None:
    (project / "data/val_set.txt").write_bytes(data)
    assert says in refused(*PREPARE)


def test_a_missing_annotation_file(refused: Refused) -> None:
    assert "data/nowhere.txt: no such file" in refused("prepare", "--train", "data/nowhere.txt").casefold()


@pytest.mark.parametrize("arguments", [PREPARE, EXTRACT, [*FINETUNE, "va"]])
def test_a_missing_faces_folder(project: Path, refused: Refused, arguments: list[str]) -> None:
    (project / "data/cropped_aligned").rename(project / "elsewhere")
    said = refused(*arguments)
    assert "data/cropped_aligned: no such " in said
    assert "[data]" in said


# Faces


def test_faces_that_cannot_be_read_and_faces_of_other_kinds(project: Path) -> None:
    """The unreadable are listed and stay missing; CMYK and grey are read; the others are as they were."""
    assert typed(*EXTRACT, "--set", "cache.path=whole.zarr")[0] == 0
    truncated, empty, text, lost, cmyk, grey = (face(project, index) for index in (0, 3, 5, 7, 9, 11))
    truncated.write_bytes(truncated.read_bytes()[:-200])
    empty.write_bytes(b"")
    text.write_text("no picture")
    lost.unlink()
    for path, mode in ((cmyk, "CMYK"), (grey, "L")):
        with Image.open(path) as picture:
            picture.convert(mode).save(path, quality=95)
        with Image.open(path) as picture:
            assert picture.mode == mode
    code, out, err = typed(*EXTRACT)
    assert code == 1
    assert out.startswith("79 faces into 1 stream (expr)")
    head, *listed, advice = err.splitlines()
    assert head == "4 faces failed:"
    reasons = ("damaged JPEG", "empty file", "not an image", "no such file")
    for line, path, reason in zip(listed, (truncated, empty, text, lost), reasons, strict=True):
        video, frame = path.parent.name, int(path.stem)
        assert line.startswith(f"  {video}/{path.name} (video {video}, frame {frame}): {reason}")
    assert "Put these files right and run the same command again" in advice
    stream, whole = (Cache.open(project / name).stream("expr") for name in ("cache.zarr", "whole.zarr"))
    assert np.flatnonzero(~stream.valid()).tolist() == [0, 3, 5, 7]
    difference = np.abs(stream.read().astype(np.float32) - whole.read()).max(axis=1)
    others = np.setdiff1d(np.arange(79), [0, 3, 5, 7, 9, 11])
    assert difference[others].max() == 0
    assert difference[[9, 11]].min() > 0
    assert difference[[9, 11]].max() < difference[[0, 3, 5, 7]].min()  # read as pictures, not as nothing
    assert typed("train-head")[0] == 0
    code, out, err = typed(*PREPARE, "--check-faces")
    assert code == 1
    assert "1 face of 79 not on disk" in out
    assert "3 faces of 79 cannot be decoded" in out


def test_finetune_says_which_faces_did_not_count(project: Path) -> None:
    face(project, 0).write_bytes(face(project, 0).read_bytes()[:-200])
    code, _, err = typed(*FINETUNE, "va,expr,au")
    assert code == 0
    head, line = err.splitlines()
    assert head == "mtl: 1 face could not be read and did not count:"
    assert line.startswith(f"  {face(project, 0).parent.name}/{face(project, 0).name}: damaged JPEG")


# Weights


@pytest.mark.parametrize("command", ["extract", "finetune"])
def test_a_checkpoint_of_another_architecture(project: Path, refused: Refused, command: str) -> None:
    module, preprocessing = build_trainable("test_vit", 2, 32, "random")
    save_backbone(project / "other.safetensors", module.backbone, "test_vit", preprocessing, {})
    said = refused(*with_weights(command, "other.safetensors"))
    assert "other.safetensors: " in said
    assert "tensors match test_resnet" in said
    assert "weights of another model?" in said


@pytest.mark.parametrize("command", ["extract", "finetune"])
@pytest.mark.parametrize("name", ["trap.pt", "trap.bin", "trap.safetensors", "trap.pkl"])
def test_a_pickle_that_would_run_code(project: Path, refused: Refused, command: str, name: str) -> None:
    torch.save({"state_dict": Trap(project / "marker")}, project / name)
    said = refused(*with_weights(command, name))
    assert f"{name}: " in said
    assert not (project / "marker").exists()
    if name.endswith((".pt", ".bin")):
        assert "could run code when read, so it is refused; save its state_dict() as .safetensors" in said


@pytest.mark.parametrize("command", ["extract", "finetune"])
def test_weights_that_are_not_whole_or_not_there(project: Path, refused: Refused, command: str) -> None:
    module, preprocessing = build_trainable("test_resnet", 2, 32, "random")
    save_backbone(project / "half.safetensors", module.backbone, "test_resnet", preprocessing, {})
    data = (project / "half.safetensors").read_bytes()
    (project / "half.safetensors").write_bytes(data[: len(data) // 2])
    assert "half.safetensors: not a whole safetensors file" in refused(*with_weights(command, "half.safetensors"))
    assert "none.safetensors: no such weights file" in refused(*with_weights(command, "none.safetensors"))
    (project / "folder.safetensors").mkdir()
    assert "folder.safetensors: no such weights file" in refused(*with_weights(command, "folder.safetensors"))


def with_weights(command: str, name: str) -> list[str]:
    """`command`, starting a test_resnet from the file `name`."""
    if command == "extract":
        return [*EXTRACT, "--set", f"backbones.expr.weights={name}"]
    return ["finetune", "--task", "va", "--model", "test_resnet", "--init", name]


@use("trained")
@pytest.mark.parametrize(
    ("kind", "says"), [("pickle", "damaged, or of another run"), ("half", "damaged"), ("gone", "no such file")]
)
def test_damaged_weights_of_a_run(project: Path, refused: Refused, kind: str, says: str) -> None:
    (path,) = (project / "runs/one/weights").iterdir()
    data = path.read_bytes()
    path.unlink()
    if kind == "pickle":
        torch.save(Trap(project / "marker"), path)
    elif kind == "half":
        path.write_bytes(data[:-10])
    said = refused("evaluate", "one")
    assert f"runs/one/weights/{path.name}: {says}" in said
    assert "train it again" in said
    assert not (project / "marker").exists()


# Cache and frames table


@use("trained")
def test_a_cache_of_another_frame_list(project: Path, refused: Refused) -> None:
    frames = pl.read_parquet(project / "frames.parquet")
    frames[:-1].write_parquet(project / "frames.parquet")
    for command in ("extract", "train-head", "evaluate", "search"):
        said = refused(*READERS[command])
        assert "expr" in said
        assert "frame list (cached 79 frames, wanted 78)" in said
        assert "mtl cache rm expr" in said


@use("trained")
def test_another_frame_list_of_the_same_length(project: Path, refused: Refused) -> None:
    frames = pl.read_parquet(project / "frames.parquet")
    frames.with_columns(path=pl.col("path").reverse()).write_parquet(project / "frames.parquet")
    for command in ("extract", "train-head", "evaluate", "search"):
        assert "frame list" in refused(*READERS[command])


@use("trained")
@pytest.mark.parametrize("command", ["finetune", "extract", "train-head", "evaluate", "search"])
def test_a_missing_or_damaged_frames_table(project: Path, refused: Refused, command: str) -> None:
    path = project / "frames.parquet"
    data = path.read_bytes()
    for text in (data[: len(data) // 2], b"", b"video,frame\n"):
        path.write_bytes(text)
        assert "frames.parquet: " in refused(*READERS[command])
    path.unlink()
    said = refused(*READERS[command])
    assert "frames.parquet: no frames table" in said
    assert "`mtl prepare`" in said


@pytest.mark.parametrize("command", ["train-head", "search", "cache ls", "cache verify"])
def test_no_cache_yet(refused: Refused, command: str) -> None:
    said = refused(*READERS[command])
    assert "cache.zarr: there is no cache here" in said
    assert "`mtl extract`" in said


# Labels


@use("extracted")
@pytest.mark.parametrize(("split", "task"), [("train", "va"), ("train", "expr"), ("val", "expr"), ("val", "au")])
def test_no_labelled_frame_for_a_task(project: Path, refused: Refused, split: str, task: str) -> None:
    unlabel(project, split, task)
    assert typed(*PREPARE)[0] == 0
    for arguments in ([*FINETUNE, "va,expr,au"], [*FINETUNE, task], ["train-head"], SEARCH):
        said = refused(*arguments)
        assert f"task {task}: no labelled frame in {split}" in said
        assert "leave" in said


@use("extracted")
def test_no_frame_in_the_split_that_chooses(refused: Refused) -> None:
    assert typed("prepare", "--train", "data/train_set.txt", "--context", "--no-check-faces")[0] == 0
    for arguments in ([*FINETUNE, "va"], ["train-head", "--tasks", "va"], SEARCH):
        assert "no frame of the frames table is in split val" in refused(*arguments)


@use("trained")
def test_no_label_where_a_run_is_to_be_scored(project: Path, refused: Refused) -> None:
    for task in ("va", "expr", "au"):
        unlabel(project, "test", task)
    assert typed(*PREPARE)[0] == 0
    said = refused("evaluate", "one", "--split", "test")
    assert "no frame of split test has a label for va, expr, au; choose another --split" in said
