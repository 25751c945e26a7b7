"""The engine: timm's own embeddings, whatever the threads, the kills and the faces."""

import contextlib
import dataclasses
import errno
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from cache import frames as frames_module
from cache import frames_file
from cache.frames import conform, open_frames, write_frames
from cache.store import Cache
from cache.stream import Stream
from extract import jobs
from extract.backbones.build import load_backbone
from extract.backbones.runtime import Runtime
from extract.config import BackboneConfig, Preprocessing
from extract.faces import source
from extract.faces.source import FaceSource
from extract.loading import Batch, FaceLoader, Rows
from helpers import made_extraction as made
from helpers.processes import program


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another spinning, which takes minutes where tests share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def frames(tmp_path: Path) -> pl.DataFrame:
    return made.make_faces(tmp_path / "faces")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the faces that are read, one by one."""
    paths: list[str] = []
    real = source.read_face_bytes

    def counted(folder: Path | str, path: str) -> bytes:
        paths.append(path)
        return real(folder, path)

    monkeypatch.setattr(source, "read_face_bytes", counted)
    return paths


def stream_of(folder: Path, name: str = "expr") -> Stream:
    return Cache.open(folder / "cache.zarr").stream(name)


def each_once(reads: list[str]) -> set[str]:
    """The paths read, each once but for the one whose size was looked at first."""
    assert len(reads) <= len(set(reads)) + 1
    return set(reads)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but the locks: path -> bytes."""
    root = folder / "cache.zarr"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def stopped_after(num_faces: int) -> Callable[[int], None]:
    """An `advance` that behaves like Ctrl-C after so many faces."""
    left = [num_faces]

    def advance(count: int) -> None:
        left[0] -= count
        if left[0] <= 0:
            raise KeyboardInterrupt

    return advance


def naive(model: str, paths: list[Path], module: torch.nn.Module) -> torch.Tensor:
    """The loop everyone writes: Pillow, timm's evaluation transform, the model."""
    config = resolve_model_data_config(module)
    transform = create_transform(**config, is_training=False)
    with torch.inference_mode():
        faces = [transform(Image.open(path).convert("RGB")) for path in paths]
        return torch.cat([module(torch.stack(faces[start : start + 7])) for start in range(0, len(faces), 7)])


# The same embeddings as timm


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet"])
def test_embeddings_are_timms(tmp_path: Path, model: str) -> None:
    frames = made.make_faces(tmp_path / "faces", num_faces=20, size_px=112)
    backbone = load_backbone("expr", BackboneConfig(model=model, weights="random"), tmp_path)
    report = made.run(frames, tmp_path, backbone, precision="float32", exact=True)
    assert (report.num_done, report.num_skipped, report.failed) == (20, 0, [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(model, num_classes=0).eval()
    expected = naive(model, [tmp_path / "faces" / path for path in frames["path"]], module).numpy()
    found = stream_of(tmp_path).read().astype(np.float32)
    assert len(np.unique(found, axis=0)) == 20
    # Half a unit in the last place of float16 is 2**-11; the rest is float32 in another order.
    np.testing.assert_allclose(found, expected, rtol=2**-11 + 1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size_px", [16, 24])
def test_bfloat16_is_near(tmp_path: Path, frames: pl.DataFrame, size_px: int) -> None:
    made.run(frames, tmp_path, made.tiny("full", size_px=size_px), precision="float32")
    made.run(frames, tmp_path, made.tiny("half", size_px=size_px), precision="bfloat16")
    full, half = (stream_of(tmp_path, name).read().astype(np.float32) for name in ("full", "half"))
    assert (full != half).any()
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999


# The same bytes


def test_a_table_that_stays_in_its_file(tmp_path: Path, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(tmp_path / "faces", frames)
    report = made.run(frames, tmp_path, made.tiny())
    expected = files_of(tmp_path)
    shutil.rmtree(tmp_path / "cache.zarr")
    write_frames(frames, tmp_path / "frames.parquet")
    monkeypatch.setattr(frames_module, "LARGE_ROWS", 1)
    monkeypatch.setattr(frames_file, "BLOCK_ROWS", 9)
    opened = open_frames(tmp_path / "frames.parquet")
    assert isinstance(opened, frames_file.FramesFile)
    found = made.run(opened, tmp_path, made.tiny())
    assert (files_of(tmp_path), found.failed) == (expected, report.failed)
    assert made.run(opened, tmp_path, made.tiny(dying=True)).num_done == 0


def test_threads_do_not_matter(tmp_path: Path, frames: pl.DataFrame) -> None:
    for threads in (1, 4):
        (tmp_path / str(threads)).mkdir()
        (tmp_path / str(threads) / "faces").symlink_to(tmp_path / "faces")
        made.run(frames, tmp_path / str(threads), made.tiny(), made.tiny("va", seed=1, size_px=24), num_threads=threads)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "4")


def test_several_backbones_in_one_pass(tmp_path: Path, frames: pl.DataFrame, reads: list[str]) -> None:
    """Two of them with one preprocessing, one with another: the same bytes as three passes, each face read once."""
    backbones = [made.tiny("a"), made.tiny("b", seed=1, width=9), made.tiny("c", seed=2, size_px=24)]
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "faces").symlink_to(tmp_path / "faces")
    made.run(frames, tmp_path / "one", *backbones)
    assert each_once(reads) == set(frames["path"])
    for backbone in backbones:
        made.run(frames, tmp_path / "three", backbone)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")


@pytest.mark.parametrize("num_faces", [1, 16, 17, 40, 69])
def test_ctrl_c_and_again(tmp_path: Path, frames: pl.DataFrame, reads: list[str], num_faces: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "faces").symlink_to(tmp_path / "faces")
    made.run(frames, tmp_path / "whole", made.tiny())
    with own_threads() as started, pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny(), advance=stopped_after(num_faces))
    assert started
    assert [thread for thread in started if thread.is_alive()] == []
    done = len(frames) - sum(
        np.diff(stream_of(tmp_path).rows(shard))[0] for shard in stream_of(tmp_path).missing_shards()
    )
    assert done >= num_faces // 16 * 16 - 16
    reads.clear()
    report = made.run(frames, tmp_path, made.tiny())
    assert (report.num_done, report.num_skipped) == (len(frames) - done, done)
    assert len(each_once(reads)) == report.num_done
    assert files_of(tmp_path) == files_of(tmp_path / "whole")


def test_killed_and_again(tmp_path: Path) -> None:
    """SIGKILL at three random moments, then to the end: the bytes of an undisturbed run."""
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    moments = np.random.default_rng(7).integers(60, 220, 3)
    assert program(made.main, tmp_path / "killed", *moments).strip() == "3"
    frames = made.make_faces(tmp_path / "whole" / "faces")
    made.run(frames, tmp_path / "whole", made.tiny("expr"), made.tiny("va", seed=1, width=3))
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_done_is_done(tmp_path: Path, frames: pl.DataFrame, reads: list[str]) -> None:
    made.run(frames, tmp_path, made.tiny())
    before = files_of(tmp_path)
    reads.clear()
    advanced: list[int] = []
    report = made.run(frames, tmp_path, made.tiny(dying=True), advance=advanced.append)
    assert (report.num_done, report.num_skipped, reads, advanced) == (0, len(frames), [], [])
    assert files_of(tmp_path) == before


def test_a_second_backbone_leaves_the_first_alone(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames, tmp_path, made.tiny("expr"))
    with pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny("va", seed=1), advance=stopped_after(40))
    advanced: list[int] = []
    report = made.run(frames, tmp_path, made.tiny("expr", dying=True), made.tiny("va", seed=1), advance=advanced.append)
    assert 0 < sum(advanced) == report.num_done <= len(frames) - 32
    assert stream_of(tmp_path, "va").is_complete


def test_streams_with_other_shards(tmp_path: Path, frames: pl.DataFrame) -> None:
    """Two streams begun under different settings and then finished together keep their own shards."""
    for name, rows in (("expr", 16), ("va", 24)):
        with pytest.raises(KeyboardInterrupt):
            made.run(frames, tmp_path, made.tiny(name), shard_rows=rows, advance=stopped_after(40))
    made.run(frames, tmp_path, made.tiny("expr"), made.tiny("va"))
    np.testing.assert_array_equal(stream_of(tmp_path, "expr").read(), stream_of(tmp_path, "va").read())


# Faces that cannot be read


def spoil(faces: Path, frames: pl.DataFrame) -> dict[str, str]:
    """Damages five faces, each in another way; path -> the reason expected."""
    paths = [frames["path"][row] for row in (3, 17, 18, 40, 69)]
    (faces / paths[0]).write_bytes(b"")
    whole = (faces / paths[1]).read_bytes()
    (faces / paths[1]).write_bytes(whole[: len(whole) - 30])
    (faces / paths[2]).unlink()
    (faces / paths[3]).write_bytes(b"GIF89a no")
    (faces / paths[4]).write_bytes(whole[: len(whole) - 30] + b"\xff\xd9")
    reasons = ("empty file", "damaged JPEG", "no such file", "not an image", "damaged JPEG")
    return dict(zip(paths, reasons, strict=True))


def test_bad_faces_fail_alone(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames, tmp_path, made.tiny("whole"))
    wanted = spoil(tmp_path / "faces", frames)
    report = made.run(frames, tmp_path, made.tiny("expr"), made.tiny("va", seed=1))
    assert {failure.path: failure.reason for failure in report.failed}.keys() == wanted.keys()
    assert all(failure.reason.startswith(wanted[failure.path]) for failure in report.failed)
    assert [(failure.video, failure.frame) for failure in report.failed] == sorted(
        (failure.video, failure.frame) for failure in report.failed
    )
    stream = stream_of(tmp_path)
    bad = np.isin(frames["path"].to_numpy(), list(wanted))
    np.testing.assert_array_equal(stream.valid(), ~bad)
    embeddings = stream.read()
    assert not embeddings[bad].any()
    np.testing.assert_array_equal(embeddings[~bad], stream_of(tmp_path, "whole").read()[~bad])


def test_failures_are_told_again(tmp_path: Path, frames: pl.DataFrame) -> None:
    spoil(tmp_path / "faces", frames)
    first = made.run(frames, tmp_path, made.tiny())
    again = made.run(frames, tmp_path, made.tiny(dying=True))
    assert (again.num_done, again.failed) == (0, first.failed)


def test_a_face_put_right_is_extracted(tmp_path: Path, frames: pl.DataFrame, reads: list[str]) -> None:
    good = {path: (tmp_path / "faces" / path).read_bytes() for path in frames["path"]}
    made.run(frames, tmp_path, made.tiny("whole"))
    for path in spoil(tmp_path / "faces", frames):
        assert len(made.run(frames, tmp_path, made.tiny()).failed) == 5
        reads.clear()
        (tmp_path / "faces" / path).write_bytes(good[path])
        report = made.run(frames, tmp_path, made.tiny())
        assert path not in [failure.path for failure in report.failed]
        looked_at = 5 + 1  # the failed faces, and one for its size
        assert 0 < len(reads) <= 16 + looked_at
        break
    for path, data in good.items():
        (tmp_path / "faces" / path).write_bytes(data)
    assert made.run(frames, tmp_path, made.tiny()).failed == []
    np.testing.assert_array_equal(stream_of(tmp_path).read(), stream_of(tmp_path, "whole").read())


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_other_colours(tmp_path: Path, frames: pl.DataFrame, mode: str) -> None:
    path = tmp_path / "faces" / frames["path"][5]
    image = Image.open(path).convert(mode)
    image.save(path, quality=95)
    rgb = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    report = made.run(frames, tmp_path, made.tiny("odd"))
    rgb.save(path, "PNG")
    made.run(frames, tmp_path, made.tiny("plain"))
    assert report.failed == []
    np.testing.assert_array_equal(stream_of(tmp_path, "odd").read(), stream_of(tmp_path, "plain").read())


def test_what_float16_cannot_hold_fails(tmp_path: Path, frames: pl.DataFrame) -> None:
    """The backbone overflows on the brighter faces only; no infinity gets into the cache."""
    huge, tame = made.tiny("huge"), made.tiny("tame")
    made.run(frames, tmp_path, tame)
    plain = stream_of(tmp_path, "tame").read().astype(np.float32)
    limit = np.median(np.abs(plain).max(1))
    with torch.no_grad():
        huge.module.layer.weight *= 65504 / limit
        huge.module.layer.bias *= 65504 / limit
    report = made.run(frames, tmp_path, huge)
    stream = stream_of(tmp_path, "huge")
    assert 0 < len(report.failed) < len(frames)
    assert all("huge is too large for float16" in failure.reason for failure in report.failed)
    assert report.is_backbones_fault
    assert report.notes == (
        f"huge: {len(report.failed)} of its embeddings are too large for float16; "
        'set dtype = "float32" under [cache] in mtl.toml',
    )
    assert len(report.failed) == (~stream.valid()).sum()
    assert np.isfinite(stream.read()).all()


def test_float32_holds_what_float16_cannot(tmp_path: Path, frames: pl.DataFrame) -> None:
    """The same embeddings whatever their scale; at 1e-9 and 1e9 times float16 says what is lost."""
    made.run(frames, tmp_path, dataclasses.replace(made.tiny("plain"), dtype="float32"))
    plain = stream_of(tmp_path, "plain").read()
    assert plain.dtype == np.float32
    for name, scale, words in (("small", 2.0**-30, "all its values are 0 in float16"), ("large", 2.0**30, "too large")):
        backbone = made.tiny(name)
        with torch.no_grad():
            backbone.module.layer.weight *= scale
            backbone.module.layer.bias *= scale
        report = made.run(frames, tmp_path, dataclasses.replace(backbone, name=f"{name}-32", dtype="float32"))
        assert not report.failed
        assert not report.notes
        np.testing.assert_allclose(stream_of(tmp_path, f"{name}-32").read(), plain * scale, rtol=1e-4)
        (note,) = made.run(frames, tmp_path, backbone).notes
        assert words in note
        assert 'set dtype = "float32" under [cache]' in note
        with pytest.raises(ValueError, match=r"dtype \(cached float16, wanted float32\)"):
            made.run(frames, tmp_path, dataclasses.replace(backbone, dtype="float32"))


def test_weights_that_are_no_numbers_are_not_the_faces_fault(tmp_path: Path, frames: pl.DataFrame) -> None:
    broken = made.tiny("broken")
    with torch.no_grad():
        broken.module.layer.weight[0, 0] = torch.nan
    report = made.run(frames, tmp_path, broken)
    assert report.notes == (f"broken: {len(frames)} of its embeddings are not numbers; check its weights",)
    assert report.is_backbones_fault


# Trouble


@contextlib.contextmanager
def own_threads() -> Iterator[list[threading.Thread]]:
    """The threads that are started inside by this thread or by one of them.

    Others of the process come and go, and zarr keeps its own.
    """
    family, started = {threading.current_thread()}, []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if threading.current_thread() in family and not thread.name.startswith("zarr"):
            family.add(thread)
            started.append(thread)
        real(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield started


def test_disk_full(tmp_path: Path, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third shard does not fit: one OSError, no thread left, two shards kept, the same command resumes."""
    real, written = Stream.write_shard, []

    def write_shard(stream: Stream, shard: int, *args: object) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "cache.zarr")
        real(stream, shard, *args)
        written.append(shard)

    with monkeypatch.context() as patch, own_threads() as started:
        patch.setattr(Stream, "write_shard", write_shard)
        with pytest.raises(OSError, match="No space left"):
            made.run(frames, tmp_path, made.tiny())
    assert started
    assert [thread for thread in started if thread.is_alive()] == []
    assert stream_of(tmp_path).missing_shards() == [2, 3, 4]
    report = made.run(frames, tmp_path, made.tiny())
    assert (report.num_skipped, report.failed) == (32, [])


def test_faces_folder_vanishes(tmp_path: Path, frames: pl.DataFrame) -> None:
    """An unplugged disk stops the extraction; it does not make failed faces."""

    def unplug(count: int) -> None:
        if (tmp_path / "faces").exists():
            (tmp_path / "faces").rename(tmp_path / "unplugged")

    with pytest.raises(OSError, match="gone"):
        made.run(frames, tmp_path, made.tiny(), advance=unplug)
    assert stream_of(tmp_path).failed() == {}
    with pytest.raises(ValueError, match="no such folder of faces"):
        made.run(frames, tmp_path, made.tiny())


def test_the_wrong_faces_folder(tmp_path: Path, frames: pl.DataFrame) -> None:
    (tmp_path / "faces" / "v0").rename(tmp_path / "v0")
    for video in ("v1", "v2"):
        (tmp_path / "faces" / video).rename(tmp_path / video)
    with pytest.raises(ValueError, match=r"has none of .* faces looked for, such as v0/00000\.jpg"):
        made.run(frames, tmp_path, made.tiny())
    assert stream_of(tmp_path).failed() == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda frames: frames[:50], "frame list"),
        (lambda frames: frames.with_columns(pl.col("frame") + 1), "frame list"),
        (lambda frames: frames.with_columns(pl.lit("train").alias("split")), None),
    ],
    ids=["fewer frames", "other numbers", "other labels"],
)
def test_another_frame_list_is_refused(
    tmp_path: Path, frames: pl.DataFrame, change: Callable, says: str | None
) -> None:
    made.run(frames, tmp_path, made.tiny())
    other = conform(change(frames), "test")
    if says is None:
        assert made.run(other, tmp_path, made.tiny(dying=True)).num_done == 0
        return
    with pytest.raises(ValueError, match=f"differs in: {says}.*mtl cache rm expr"):
        made.run(other, tmp_path, made.tiny())


def test_other_weights_are_refused(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames, tmp_path, made.tiny())
    for other, says in ((made.tiny(seed=1), "weights"), (made.tiny(size_px=24), "preprocessing size_px")):
        with pytest.raises(ValueError, match=f"differs in: {says}"):
            made.run(frames, tmp_path, other)


def test_a_second_writer_is_refused(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames[:20], tmp_path, made.tiny())
    with stream_of(tmp_path).writer_lock(), pytest.raises(ValueError, match="is being written by process"):
        made.run(frames[:20], tmp_path, made.tiny())


def test_no_rows(tmp_path: Path, frames: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="no rows"):
        made.run(frames[:0], tmp_path, made.tiny())


# Precision


def test_precision_is_settled_once(tmp_path: Path, frames: pl.DataFrame) -> None:
    with pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny(), precision="bfloat16", advance=stopped_after(30))
    assert stream_of(tmp_path).provenance["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="begun with precision bfloat16, not float32; resume without"):
        made.run(frames, tmp_path, made.tiny(), precision="float32")
    made.run(frames, tmp_path, made.tiny())
    made.run(frames, tmp_path, made.tiny("half"), precision="bfloat16")
    np.testing.assert_array_equal(stream_of(tmp_path).read(), stream_of(tmp_path, "half").read())
    assert made.run(frames, tmp_path, made.tiny(dying=True), precision="float32").num_done == 0


def test_a_runtime_that_cannot_be_had_where_a_stream_is_resumed(
    tmp_path: Path, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--runtime eager` would be refused, so it is not advised."""
    with pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny(), advance=stopped_after(30))
    monkeypatch.setattr(jobs, "_kept_runtime", lambda stream: Runtime(mode="graph"))
    with pytest.raises(
        ValueError, match="begun with runtime graph: resume where that can be had, or type `mtl"
    ) as caught:
        made.run(frames, tmp_path, made.tiny())
    assert str(caught.value).startswith("a CUDA graph needs a CUDA device, and this is cpu; ")
    assert "eager" not in str(caught.value)


def test_provenance(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames, tmp_path, made.tiny())
    provenance = stream_of(tmp_path).provenance
    assert provenance["versions"].keys() == set(jobs.VERSIONS)
    assert (provenance["precision"], provenance["device"], provenance["model"]) == ("float32", "cpu", "tiny")


# Loading


def test_loading_stays_within_its_slots(tmp_path: Path, frames: pl.DataFrame, reads: list[str]) -> None:
    """Memory does not grow with the frames: no face is decoded before there is a free slot for it."""
    preprocessing = Preprocessing(size_px=8, mean=(0, 0, 0), std=(1, 1, 1))
    options = {"batch_size": 5, "num_threads": 2, "num_slots": 3, "pin_memory": False}
    loader = FaceLoader(FaceSource(tmp_path / "faces"), frames["path"], [preprocessing], **options)
    batches = [
        Batch(shard=0, start=start, stop=start + 5, inputs=(preprocessing,)) for start in range(0, len(frames), 5)
    ]
    for num_done, (batch, slot) in enumerate(loader.load(batches)):
        assert batch.start == num_done * 5
        assert len(reads) <= (num_done + 3) * 5
        loader.release(slot)
    loader.close()
    assert len(reads) == len(frames)


def test_a_loader_that_is_left_gives_back_its_slots(frames: pl.DataFrame, tmp_path: Path) -> None:
    """Those of the batches ahead, and only once no thread writes into them; the next iteration has them all."""
    preprocessing = Preprocessing(size_px=8, mean=(0, 0, 0), std=(1, 1, 1))
    options = {"batch_size": 5, "num_threads": 2, "num_slots": 3, "pin_memory": False}
    loader = FaceLoader(FaceSource(tmp_path / "faces"), frames["path"], [preprocessing], **options)
    rows = [Rows(rows=np.array([4, 1, start]), inputs=(preprocessing,)) for start in range(9)]
    found = []
    for stop in (1, 4, 9):
        with contextlib.closing(loader.load(rows)) as loaded:
            for number, (batch, slot) in enumerate(loaded, 1):
                found.append((batch.rows[2], slot.ready[preprocessing][:3].clone()))
                loader.release(slot)
                if number == stop:
                    break
        assert len(loader._free) == 3
    loader.close()
    assert [row for row, _ in found] == [0, *range(4), *range(9)]
    assert all(torch.equal(faces[2], found[-9:][row][1][2]) for row, faces in found)
    assert all(torch.equal(faces[:2], found[0][1][:2]) for _, faces in found)


# Real faces


@pytest.mark.real
@pytest.mark.parametrize("model", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_real_faces(real_data: Path, tmp_path: Path, model: str) -> None:
    """Real weights, a hundred real faces of several videos."""
    faces = real_data / "talking" / "cropped_aligned"
    paths = sorted(faces.glob("*/*.jpg"))
    rows = [
        (path.parent.name, int(path.stem), f"{path.parent.name}/{path.name}") for path in paths[:: len(paths) // 100]
    ]
    frames = conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "real faces")
    (tmp_path / "faces").symlink_to(faces)
    weights = real_data / "weights" / f"{model}.imagenet.safetensors"
    backbone = load_backbone("expr", BackboneConfig(model=model, weights=str(weights)), tmp_path)
    report = made.run(frames, tmp_path, backbone, batch_size=32, shard_rows=100, precision="float32", exact=True)
    assert (report.num_done, report.failed) == (len(frames), [])
    module = timm.create_model(model, checkpoint_path=str(weights)).eval()
    module.reset_classifier(0)
    expected = naive(model, [faces / path for path in frames["path"]], module).numpy()
    found = stream_of(tmp_path).read().astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=2**-11 + 1e-4, atol=1e-4 * np.abs(expected).max())
