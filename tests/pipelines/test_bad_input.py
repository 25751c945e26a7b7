"""Bad input, each kind tried as a user would meet it: one clear line, nothing lost, nothing half-written.

Everything goes through the entry point `mtl`. Where a command refuses, the whole working folder is compared byte for
byte with what it was: frames table, cache and marks, runs, studies, backbones and mtl.toml at once.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from zarr.storage import LocalStore

from cache import writer
from cache.store import Cache
from extract.backbones.build import build_trainable, save_backbone
from pipelines.cli import main
from pipelines.fitting import checkpoint

TOML = """# mine
[data]
faces = "data/cropped_aligned"
[cache]
shard_rows = 16
[backbones.expr]
model = "test_resnet"
weights = "random"
size_px = 32
[head]
fusion = "sum"
temporal = "none"
width = 8
depth = 1
num_heads = 2
[train]
window = 8
stride = 8
steps = 2
[finetune]
size_px = 32
epochs = 1
init = "random"
precision = "float32"
"""
GRID = '[product]\nseed = [0, 1]\n[set]\nmethod = "joint"\n'
PREPARE = [
    *["prepare", "--no-check-faces", "--subjects", "data/subjects.csv"],
    *(word for split in ("train", "val", "test") for word in (f"--{split}", f"data/{split}_set.txt")),
]
FINETUNE = ["finetune", "--model", "test_vit2", "--task"]
EXTRACT = ["extract", "--precision", "float32"]
SEARCH = ["search", "--grid", "grid.toml"]
LABELS = "0.5,0.5,0" + ",0" * 12
Result = tuple[int, str, str]
Typed = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after `mtl demo-data` and `mtl prepare`: 79 faces of 9 videos."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "mtl.toml").write_text(TOML)
    (folder / "grid.toml").write_text(GRID)
    in_folder(folder, "demo-data", "data", "--videos", "9", "--frames", "8")
    in_folder(folder, *PREPARE)
    return folder


@pytest.fixture(scope="module")
def extracted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `mtl extract`."""
    folder = tmp_path_factory.mktemp("extracted") / "work"
    shutil.copytree(prepared, folder)
    in_folder(folder, *EXTRACT)
    return folder


@pytest.fixture(scope="module")
def trained(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `mtl train-head`, the run called `one`."""
    folder = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(extracted, folder)
    in_folder(folder, "train-head", "--name", "one")
    return folder


@pytest.fixture
def project(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the prepared working folder, or of the one that a test names by `use`, typed in."""
    folder = tmp_path / "work"
    shutil.copytree(request.getfixturevalue(getattr(request, "param", "prepared")), folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("MTL_DEBUG", raising=False)
    return folder


def use(name: str) -> pytest.MarkDecorator:
    """The test's `project` is a copy of that folder."""
    return pytest.mark.parametrize("project", [name], indirect=True)


@pytest.fixture
def mtl(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs `mtl ARGUMENTS`; gives the exit code, standard output and standard error."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["mtl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def refused(mtl: Typed, project: Path) -> Refused:
    """Runs `mtl ARGUMENTS`, which must fail with one line and leave every file as it was; gives that line."""

    def run(*arguments: str) -> str:
        before = contents(project)
        code, out, err = mtl(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("mtl: error: ")
        assert (err.count("\n"), err[-1]) == (1, "\n")
        assert contents(project) == before
        return err

    return run


def in_folder(folder: Path, *arguments: str) -> None:
    """Runs `mtl ARGUMENTS` in `folder`, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mtl", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`; folders, with nothing in them, too."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


def face(project: Path, index: int) -> Path:
    """The face of the row `index` of the frames table."""
    return project / "data/cropped_aligned" / pl.read_parquet(project / "frames.parquet")["path"][index]


def unlabel(project: Path, split: str, task: str) -> None:
    """Takes the labels of `task` out of the annotations of `split`."""
    columns, mark = {"va": (range(1, 3), "-5"), "expr": (range(3, 4), "-1"), "au": (range(4, 16), "-1")}[task]
    path = project / f"data/{split}_set.txt"
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    rows = [[mark if index in columns else cell for index, cell in enumerate(row)] for row in rows]
    path.write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n")


def no_space() -> OSError:
    """As writing raises it: without a file's name."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def no_room() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes: what the system then does is what a full disk does, but
    for the words ("File too large")."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


def test_faces_that_cannot_be_read_and_faces_of_other_kinds(project: Path, mtl: Typed) -> None:
    """The unreadable are listed and stay missing; CMYK and grey are read; the others are as they were."""
    assert mtl(*EXTRACT, "--set", "cache.path=whole.zarr")[0] == 0
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
    code, out, err = mtl(*EXTRACT)
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
    assert mtl("train-head")[0] == 0
    code, out, err = mtl(*PREPARE, "--check-faces")
    assert code == 0
    assert "1 face of 79 not on disk" in out
    assert "3 faces of 79 cannot be decoded" in out


def test_finetune_says_which_faces_did_not_count(project: Path, mtl: Typed) -> None:
    face(project, 0).write_bytes(face(project, 0).read_bytes()[:-200])
    code, _, err = mtl(*FINETUNE, "va,expr,au")
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


# Grids and mtl.toml


@use("extracted")
@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ('[product]\nfusoin = ["sum"]\n', "did you mean 'fusion'?"),
        ("[prodct]\nseed = [0]\n", "did you mean 'product'?"),
        ('[product]\ntemporal = ["gruu"]\n', "did you mean 'gru'?"),
        ("[product]\nseed = [0\n", "not valid TOML"),
        ('[product]\nstreams = [["expt"]]\n', "expt"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_grid_with_a_mistake(project: Path, refused: Refused, grid: str, says: str, dry_run: bool) -> None:
    (project / "grid.toml").write_text(grid)
    said = refused(*SEARCH, *(["--dry-run"] if dry_run else []))
    assert said.startswith("mtl: error: grid.toml: ")
    assert says in said


def test_a_grid_that_is_not_there(refused: Refused) -> None:
    said = refused("search", "--grid", "grids/jont.toml")
    assert "grids/jont.toml: no such file (did you mean 'joint.toml'?)" in said


READERS = {
    "prepare": PREPARE,
    "finetune": [*FINETUNE, "va"],
    "extract": EXTRACT,
    "train-head": ["train-head"],
    "evaluate": ["evaluate", "one"],
    "search": SEARCH,
    "cache ls": ["cache", "ls"],
    "cache verify": ["cache", "verify"],
}


@use("trained")
@pytest.mark.parametrize("command", [name for name in READERS if name != "prepare"])
def test_a_broken_configuration(project: Path, refused: Refused, command: str) -> None:
    said = refused(*READERS[command], "--set", "train.step=3")
    assert "step" in said
    assert "did you mean 'steps'?" in said
    assert "no_section" in refused(*READERS[command], "--set", "no_section.key=3")
    assert "steps" in refused(*READERS[command], "--set", "train.steps=many")
    broken_files(project, refused, READERS[command])


@use("trained")
def test_a_broken_configuration_of_prepare(project: Path, refused: Refused) -> None:
    broken_files(project, refused, PREPARE)


def broken_files(project: Path, refused: Refused, arguments: list[str]) -> None:
    path = project / "mtl.toml"
    for text in (b"[train\n", b"\xff\xfe", TOML.encode()[:40]):
        path.write_bytes(text)
        assert refused(*arguments).startswith("mtl: error: mtl.toml: not valid TOML: ")
    path.write_text(TOML.replace("steps", "step", 1))
    assert "mtl.toml: [train]: unknown key 'step' (did you mean 'steps'?)" in refused(*arguments)
    path.write_text(f"train = 3\n{TOML.replace('[train]', '[other]')}")
    assert "mtl.toml: " in refused(*arguments)
    path.unlink()
    assert refused(*arguments) == "mtl: error: mtl.toml: no such file; `mtl init` writes one\n"


def test_init_keeps_a_configuration(refused: Refused) -> None:
    assert "mtl.toml is there already; --force writes over it" in refused("init")


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


# A disk that fills up


@pytest.fixture(params=["rows", "sync", "mark"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Makes the disk full where the second shard is written: half of its rows, all but their sync, or all but its
    mark are there by then."""
    patch = pytest.MonkeyPatch()
    real_set, real_sync, real_fsync = LocalStore.set, writer.sync, os.fsync

    async def set_half(store: LocalStore, key: str, value: Any) -> None:
        if key == "c/1/0":
            await real_set(store, key, type(value).from_bytes(value.to_bytes()[: len(value) // 2]))
            raise no_space()
        await real_set(store, key, value)

    def sync(path: Path) -> None:
        if path.match("state/c/1"):
            raise no_space()
        real_sync(path)

    def fsync(descriptor: int) -> None:
        if "00000001.json" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise no_space()
        real_fsync(descriptor)

    def fill() -> Callable[[], None]:
        if request.param == "rows":
            patch.setattr(LocalStore, "set", set_half)
        elif request.param == "sync":
            patch.setattr(writer, "sync", sync)
        else:
            patch.setattr(os, "fsync", fsync)
        return patch.undo

    yield fill
    patch.undo()


def test_a_disk_that_fills_up(project: Path, mtl: Typed, full_disk: Callable[[], Callable[[], None]]) -> None:
    """The shard before it stays; with room again the same command goes on, to what an undisturbed one makes."""
    assert mtl(*EXTRACT, "--set", "cache.path=whole.zarr")[0] == 0
    kept = {name: data for name, data in contents(project).items() if not name.startswith("cache.zarr")}
    make_room = full_disk()
    code, out, err = mtl(*EXTRACT)
    make_room()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mtl: error: ")
    assert "cache.zarr/expr/base" in err
    assert ": No space left on device; make room and type the same command again, nothing finished is lost" in err
    half = contents(project / "cache.zarr")
    assert [name for name in half if "marks/0" in name] == ["expr/base/embedding/marks/00000000.json"]
    whole = contents(project / "whole.zarr")
    assert {name: whole[name] for name in half} == half  # nothing of the second shard is left
    assert {name: data for name, data in contents(project).items() if not name.startswith("cache.zarr")} == kept
    code, out, err = mtl("train-head")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "mtl extract --backbone expr" in err
    code, out, err = mtl(*EXTRACT)
    assert (code, err) == (0, "")
    assert out.startswith("63 faces into 1 stream (expr)")
    assert "16 faces were in 1 stream (expr) already" in out
    assert contents(project / "cache.zarr") == whole
    assert mtl("cache", "verify")[0] == 0


@use("extracted")
@pytest.mark.parametrize("target", ["e.h5", "e.npy", "e.parquet", "e"])
def test_a_disk_that_is_full_when_a_stream_is_exported(
    project: Path, mtl: Typed, refused: Refused, no_room: Callable[[int], None], target: str
) -> None:
    """HDF5's own writing would have ended the process with a segmentation fault."""
    words = ("cache", "export", "expr", "--to", target, *(["--per-video"] if target == "e" else []))
    no_room(300)
    assert f"{target}: File too large" in refused(*words)
    no_room(10**9)
    assert mtl(*words)[0] == 0


def test_a_disk_that_is_full_when_a_project_is_begun(
    project: Path, mtl: Typed, no_room: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "new").mkdir()
    monkeypatch.chdir(project / "new")
    no_room(100)
    code, out, err = mtl("init")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "File too large" in err
    assert not [path for path in Path().rglob("*") if path.is_file()]
    no_room(10**9)
    assert mtl("init")[0] == 0
    assert all(path.stat().st_size for path in Path("grids").iterdir())


@pytest.mark.parametrize("file", ["va.checkpoint.safetensors", "va.safetensors"])
def test_a_disk_that_is_full_when_weights_are_saved(
    project: Path,
    mtl: Typed,
    refused: Refused,
    no_room: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    """Earlier weights and the section of mtl.toml stay, whether a checkpoint or the weights find no room."""
    assert mtl(*FINETUNE, "va")[0] == 0
    if file == "va.safetensors":
        monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *_: None)
    no_room(4096)
    assert f"backbones/{file}: File too large" in refused(*FINETUNE, "va", "--set", "finetune.lr=0.1")


@use("trained")
@pytest.mark.parametrize("num_bytes", [100, 3000, 10000])
def test_a_disk_that_is_full_when_a_run_is_saved(
    project: Path, refused: Refused, no_room: Callable[[int], None], num_bytes: int
) -> None:
    no_room(num_bytes)
    assert "runs/two: File too large" in refused("train-head", "--seed", "1", "--name", "two")
    assert "runs/one: File too large" in refused("train-head", "--seed", "1", "--name", "one", "--force")


def test_a_disk_that_is_full_when_the_frames_table_is_saved(refused: Refused, no_room: Callable[[int], None]) -> None:
    no_room(100)
    assert "frames.parquet: File too large" in refused(*PREPARE)


# Labels


@use("extracted")
@pytest.mark.parametrize(("split", "task"), [("train", "va"), ("train", "expr"), ("val", "expr"), ("val", "au")])
def test_no_labelled_frame_for_a_task(project: Path, mtl: Typed, refused: Refused, split: str, task: str) -> None:
    unlabel(project, split, task)
    assert mtl(*PREPARE)[0] == 0
    for arguments in ([*FINETUNE, "va,expr,au"], [*FINETUNE, task], ["train-head"], SEARCH):
        said = refused(*arguments)
        assert f"task {task}: no labelled frame in {split}" in said
        assert "leave" in said


@use("extracted")
def test_no_frame_in_the_split_that_chooses(mtl: Typed, refused: Refused) -> None:
    assert mtl("prepare", "--train", "data/train_set.txt", "--context", "--no-check-faces")[0] == 0
    for arguments in ([*FINETUNE, "va"], ["train-head", "--tasks", "va"], SEARCH):
        assert "no frame of the frames table is in split val" in refused(*arguments)


@use("trained")
def test_no_label_where_a_run_is_to_be_scored(project: Path, mtl: Typed, refused: Refused) -> None:
    for task in ("va", "expr", "au"):
        unlabel(project, "test", task)
    assert mtl(*PREPARE)[0] == 0
    said = refused("evaluate", "one", "--split", "test")
    assert "no frame of split test has a label for va, expr, au; choose another --split" in said


# Names


@use("trained")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*EXTRACT, "--backbone", "exprr"], "--backbone exprr: not in mtl.toml (did you mean 'expr'?); there: expr"),
        ([*EXTRACT, "--set", "backbones.expr.model=test_resnt"], "did you mean 'test_resnet'"),
        (["finetune", "--task", "va", "--model", "test_vitt"], "timm has no model 'test_vitt'; did you mean"),
        (["finetune", "--task", "emotion", "--model", "test_vit"], "expected one or several of va, expr, au"),
        (["train-head", "--streams", "exprr"], "exprr"),
        (["train-head", "--fusion", "summ"], "expected one of 'concat', 'sum', 'gated', 'attention', found 'summ'"),
        (["train-head", "--tasks", "va,emotion"], "emotion"),
        (["evaluate", "two"], "runs/two: no finished run here (no run.json); `mtl train-head` makes one"),
        (["evaluate", "one", "--split", "vall"], "--split vall: unknown split; known: train, val, test"),
        (["cache", "info", "exprr"], "no stream exprr; there: expr"),
        (["cache", "rm", "exprr", "--yes"], "no stream exprr; there: expr"),
        (["score", "none.csv", "data/val_set.txt"], "none.csv: no such file"),
    ],
)
def test_an_unknown_name(refused: Refused, arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


@use("trained")
@pytest.mark.parametrize("command", ["finetune", "extract", "train-head", "evaluate", "search"])
def test_an_unknown_device(refused: Refused, command: str) -> None:
    arguments = [*READERS[command], "--device"]
    assert refused(*arguments, "tpu") == "mtl: error: --device tpu: expected auto, cpu, cuda or cuda:N\n"
    if not torch.cuda.is_available():
        assert "--device cuda:7: PyTorch finds no CUDA GPU here; use --device cpu" in refused(*arguments, "cuda:7")


# Ctrl-C and help


@use("trained")
@pytest.mark.parametrize(
    ("arguments", "inside"),
    [
        (PREPARE, "extract.annotations.gather.merge"),
        ([*FINETUNE, "va"], "pipelines.backbones.finetuning.finetune.train_backbone"),
        ([*FINETUNE, "va"], "cache.frames.read_frames"),
        (EXTRACT, "pipelines.extraction.run.read_frames"),
        (["train-head", "--seed", "1"], "pipelines.training.run.train_strategy"),
        (["evaluate", "one"], "pipelines.results.evaluate.predict_run"),
        (["cache", "verify"], "cache.verify.verify_named"),
        (["score", "data/val_set.txt", "data/val_set.txt"], "pipelines.results.score.score_tables"),
        (["demo-data", "more"], "extract.made.dataset.make_data"),
    ],
)
def test_stopped_by_the_user(
    project: Path, mtl: Typed, monkeypatch: pytest.MonkeyPatch, arguments: list[str], inside: str
) -> None:
    monkeypatch.setattr(inside, interrupt)
    before = contents(project)
    code, out, err = mtl(*arguments)
    assert (code, out) == (130, "")
    assert err.strip("\n").count("\n") == 0
    assert err.strip("\n").startswith("mtl: stopped; ")
    assert contents(project) == before


@use("extracted")
def test_a_search_stopped_by_the_user(project: Path, mtl: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.training.run.train_strategies", interrupt)
        patch.setattr("pipelines.search.plan.train_run", interrupt, raising=False)
        code, out, err = mtl(*SEARCH)
    assert (code, err) == (130, "")
    assert "stopped by Ctrl-C: 2 trials left; the same command goes on" in out
    assert not list((project / "studies/grid/runs").glob("*/run.json"))
    assert mtl(*SEARCH)[0] == 0


def interrupt(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt


HELP = """
import contextlib, io, json, sys
import typer
from pipelines.cli import app, main

def names(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from names(child, (*path, name))

found = {}
for path in names(typer.main.get_command(app)):
    sys.argv = ["mtl", *path, "--help"]
    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        main()
    heavy = [name for name in ("torch", "timm", "polars", "zarr", "optuna", "plotly") if name in sys.modules]
    found[" ".join(path)] = ["Usage" in shown.getvalue(), heavy]
print(json.dumps(found))
"""


def test_help_is_quick() -> None:
    """No command's help loads what takes seconds to load."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"", "demo", "init", "prepare", "finetune", "extract", "train-head", "evaluate", "cache verify"} <= set(
        found
    )
    assert {name: value for name, value in found.items() if value != [True, []]} == {}
