"""Faces for training: the pixels of extraction to the bit, however they are packed, kept, grouped and changed."""

import dataclasses
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from cache.frames import conform
from cache.store import Cache
from extract import augment, engine
from extract.augment import RandAugment
from extract.backbones.build import load_backbone
from extract.backbones.transforms import face_transform
from extract.config import BackboneConfig, Preprocessing
from extract.faces.video import Video
from extract.inputs import Inputs
from extract.jobs import Settings
from pipelines.backbones import data
from pipelines.backbones.augmentation import (
    Augmentation,
    CropDraws,
    colour_jitter,
    draw_boxes,
    erase,
    hflip,
    random_resized_crop,
)
from pipelines.backbones.data import FaceBatch, Faces, in_chunks
from pipelines.config import FinetuneConfig

PREPROCESSING = Preprocessing(size_px=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop_pct=0.9)
SIZES = [(32, 32), (32, 32), (24, 40), (32, 32), (600, 600), (16, 16)]  # most, odd and very large ones
NUM_FACES = 30
BAD = 7
GROUPS = [np.array([29, 3, 3, 12]), np.array([7, 0]), np.array([], dtype=np.int64), np.arange(30)[::-1].copy()]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(index: int) -> np.ndarray:
    size = SIZES[index % len(SIZES)]
    noise = np.random.default_rng(index).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 faces of all sizes in two folders and an archive; number BAD is damaged."""
    root = tmp_path_factory.mktemp("faces")
    for index in range(NUM_FACES):
        path = root / path_of(index)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(index)).save(path, quality=92)
    bad = root / path_of(BAD)
    bad.write_bytes(bad.read_bytes()[:100])
    with tarfile.open(root / "v2.tar", "w") as archive:
        for path in sorted((root / "v2").iterdir()):
            archive.add(path, path.name)
            path.unlink()
    (root / "v2").rmdir()
    return root


def path_of(index: int) -> str:
    return f"v{index // 10}/{index:05d}.jpg"


def opened(folder: Path, preprocessing: Preprocessing = PREPROCESSING, **options: bool) -> Faces:
    return Faces(folder, [path_of(index) for index in range(NUM_FACES)], preprocessing, 2, **options)


def nothing(count: int) -> None:
    """An `advance` for nobody."""


def by_row(batches: list[FaceBatch]) -> dict[int, np.ndarray]:
    return {int(row): face for b in batches for row, face in zip(b.rows, b.faces.numpy(), strict=True)}


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
def test_pixels_are_those_of_extraction(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpolation: str
) -> None:
    """Whether the device resizes or, for what only timm can, the loader's threads."""
    seen: list[np.ndarray] = []
    of = Inputs.of

    def spy(self: Inputs, batch, slot, wanted, videos):  # type: ignore[no-untyped-def]
        found = of(self, batch, slot, wanted, videos)
        seen.append(next(iter(found.values())).numpy().copy())
        return found

    backbone = load_backbone("expr", BackboneConfig(model="test_vit", weights="random"), tmp_path)
    wanted = dataclasses.replace(PREPROCESSING, size_px=160, interpolation=interpolation)
    backbone = dataclasses.replace(backbone, preprocessing=wanted)
    rows = [(path_of(i).split("/")[0], i, path_of(i)) for i in range(NUM_FACES)]
    frames = conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "made")
    settings = Settings(device=torch.device("cpu"), batch_size=8, num_threads=2, shard_rows=16)
    monkeypatch.setattr(Inputs, "of", spy)
    engine.extract(frames, folder, Cache.open(tmp_path / "c.zarr", create=True), [backbone], settings)
    monkeypatch.undo()
    extracted = np.concatenate(seen)
    with opened(folder, wanted) as faces:
        found = by_row(list(faces.batches(GROUPS)))
    assert sorted(found) == [row for row in range(NUM_FACES) if row != BAD]
    for row, face in found.items():
        np.testing.assert_array_equal(face, extracted[row])


def test_batches_are_as_asked(folder: Path) -> None:
    with opened(folder) as faces:
        batches = list(faces.batches(iter(GROUPS)))
    assert [b.num_asked for b in batches] == [4, 2, 0, 30]
    assert [b.rows.tolist() for b in batches[:3]] == [[29, 3, 3, 12], [0], []]
    assert [b.places.tolist() for b in batches[:3]] == [[0, 1, 2, 3], [1], []]
    assert batches[2].faces.shape == (0, 24, 24, 3)
    assert (batches[3].rows == np.delete(GROUPS[3], NUM_FACES - 1 - BAD)).all()
    assert list(faces.unreadable) == [BAD]
    assert "damaged" in faces.unreadable[BAD]
    wanted = face_transform(PREPROCESSING)
    for row, face in by_row(batches).items():
        expected = wanted(picture(row))
        assert np.corrcoef(face.ravel(), expected.ravel())[0, 1] > 0.9  # a JPEG's colours are blurred


@pytest.mark.parametrize("way", ["whole", "native", "disk"])
def test_kept_faces_are_the_same_and_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with opened(folder) as faces:
        streamed = list(faces.batches(GROUPS))
    with opened(folder, augmented=way == "native") as faces:
        advanced: list[int] = []
        faces.load(advanced.append, tmp_path if way == "disk" else None)
        assert sum(advanced) == NUM_FACES
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr(type(faces._source), "read", None)  # nothing is read again
        for _ in range(2):
            for one, other in zip(faces.batches(GROUPS), streamed, strict=True):
                assert torch.equal(one.faces, other.faces)
                assert (one.rows.tolist(), one.places.tolist()) == (other.rows.tolist(), other.places.tolist())
        assert list(faces.unreadable) == [BAD]


def test_a_batch_may_be_kept_and_left(folder: Path) -> None:
    """No batch shares memory with a later one, and an iteration that is left or nested disturbs no other."""
    groups = in_chunks(np.arange(NUM_FACES), 3)
    same = dataclasses.replace(PREPROCESSING, size_px=32, crop_pct=1.0)  # most faces go through untouched
    with opened(folder, same) as faces:
        wanted = [b.faces.clone() for b in faces.batches(groups)]
        assert all(torch.equal(a, b.faces) for a, b in zip(wanted, list(faces.batches(groups)), strict=True))
        for _ in range(6):  # more than there are slots
            next(iter(faces.batches(groups)))
        for number, batch in enumerate(faces.batches(groups)):
            inner = next(iter(faces.batches([groups[0]])))
            assert torch.equal(inner.faces, wanted[0])
            assert torch.equal(batch.faces, wanted[number])


def test_num_bytes_is_what_is_kept(folder: Path) -> None:
    with opened(folder) as faces:
        assert faces.num_bytes == NUM_FACES * 24 * 24 * 3
        assert faces.fit_in(faces.num_bytes)
        assert not faces.fit_in(faces.num_bytes - 1)
    with opened(folder, augmented=True) as faces:
        assert faces.num_bytes == NUM_FACES * 32 * 32 * 3


def test_videos_that_do_not_fit_go_to_the_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faces, "are_in_videos", property(lambda self: True))
    with opened(folder) as faces:
        faces.keep(0, tmp_path)
        assert faces._kept is not None
        assert faces._kept._file is not None
    monkeypatch.setattr(data.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with opened(folder) as faces, pytest.raises(ValueError, match=r"has room for only 0\.0 GiB.*unpack the videos"):
        faces.keep(0, tmp_path)
    monkeypatch.undo()
    with opened(folder) as faces:
        faces.keep(0, tmp_path)  # files may be read in any order
        assert faces._kept is None
        assert faces._resident is None


def test_frames_of_a_video_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are on the disk, each is decoded once, whatever the order and the number of epochs."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)  # keeps every pixel
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        for index in range(NUM_FACES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(6 * index), format="rgb24")))
        container.mux(stream.encode(None))
    decoded: list[int] = []
    frame_of = Video._frame

    def counted(self: Video, number: int) -> object:
        decoded.append(number)
        return frame_of(self, number)

    monkeypatch.setattr(Video, "_frame", counted)
    same = dataclasses.replace(PREPROCESSING, size_px=32, crop_pct=1.0)
    with Faces(tmp_path, [f"v/{index + 1:05d}.jpg" for index in range(NUM_FACES)], same, 2) as faces:
        assert faces.are_in_videos
        faces.keep(0, tmp_path)
        for _ in range(2):
            rows = np.random.default_rng(0).permutation(NUM_FACES)
            found = by_row(list(faces.batches(in_chunks(rows, 7))))
            assert all((found[row] == picture(6 * row)).all() for row in range(NUM_FACES))
        assert faces._kept is not None
        assert faces._kept.groups(faces.paths) == [(None, range(NUM_FACES))]
    assert decoded == [1, *range(1, NUM_FACES + 1)]  # the first also for its size


# Changes


def drawn(num: int, seed: int = 0, **settings: object) -> Augmentation:
    return Augmentation.draw(FinetuneConfig(**settings), num, np.random.default_rng(seed))  # type: ignore[arg-type]


def test_parts_are_of_the_whole() -> None:
    whole = drawn(9, erase=0.5, rand_augment="rand-m9")
    for index in (slice(2, 5), np.array([2, 3, 4])):
        part = whole.part(index)
        for name in ("flip", "brightness", "contrast", "erase", "seeds"):
            assert (getattr(part, name) == getattr(whole, name)[2:5]).all()
        assert part.rand_augment == "rand-m9"
    crops = CropDraws.draw(9, np.random.default_rng(0), flip=0.5)
    assert torch.equal(crops.part(slice(2, 5)).boxes, crops.boxes[2:5])


def test_one_change_does_not_decide_about_another() -> None:
    plain, erased = drawn(200, erase=0.0), drawn(200, erase=0.3)
    assert torch.equal(plain.flip, erased.flip)
    assert not plain.erase[:, 2].any()
    assert 0.2 < (erased.erase[:, 2] > 0).mean() < 0.4
    again = np.random.default_rng(0)
    for config in (FinetuneConfig(erase=0.3), FinetuneConfig(erase=0.0)):
        Augmentation.draw(config, 7, again)
    assert again.random() == pytest.approx(_after_two(), abs=0)


def _after_two() -> float:
    rng = np.random.default_rng(0)
    for _ in range(2):
        Augmentation.draw(FinetuneConfig(rand_augment="rand-m5"), 7, rng)
    return rng.random()


def test_boxes_are_of_the_area_and_shape_asked() -> None:
    boxes = draw_boxes(4000, np.random.default_rng(0), (0.02, 1 / 3), (0.3, 1 / 0.3))
    area, ratio = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    assert 0.02 <= area.min() < 0.021
    assert 0.33 < area.max() <= 1 / 3
    assert 0.3 <= ratio.min() < 0.31
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def test_erasing_puts_noise_into_a_rectangle() -> None:
    augmentation = drawn(64, erase=0.5)
    pixels = torch.full((64, 3, 40, 40), 7.0)
    found = erase(pixels.clone(), augmentation)
    is_erased = torch.from_numpy(augmentation.erase[:, 2] > 0)
    hit = (found != 7).any(dim=1)
    assert torch.equal(hit.any(dim=(1, 2)), is_erased)
    for face in np.flatnonzero(is_erased):
        rows, columns = (torch.nonzero(hit[face].any(dim=dim)).ravel() for dim in (1, 0))
        box = hit[face, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()  # one rectangle, whole
        assert len(rows) == pytest.approx(augmentation.erase[face, 2] * 40, abs=1)
        assert len(columns) == pytest.approx(augmentation.erase[face, 3] * 40, abs=1)
    noise = found[hit.unsqueeze(1).expand_as(found)]
    assert noise.mean().abs() < 0.1
    assert 0.9 < noise.std() < 1.1
    half = erase(pixels[:30].clone(), augmentation.part(slice(0, 30)))
    assert torch.equal(half, found[:30])


def test_a_crop_is_a_crop() -> None:
    """A box of whole pixels, a quarter of the face, against torch's own bicubic enlargement."""
    faces = torch.from_numpy(np.stack([np.asarray(Image.fromarray(picture(i)).resize((32, 32))) for i in range(4)]))
    whole = CropDraws(boxes=torch.tensor([[0.3, 0.8, 1.0, 1.0]] * 4), flip=torch.tensor([False, True, False, True]))
    found = random_resized_crop(faces, whole)
    assert torch.equal(found[0], faces[0])
    assert torch.equal(found[1], faces[1].flip(1))
    boxes = torch.tensor([[0.5, 0.25, 0.5, 0.5]] * 4)
    found = random_resized_crop(faces, CropDraws(boxes=boxes, flip=torch.zeros(4, dtype=torch.bool)))
    part = faces[:, 8:24, 4:20].permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(part, (32, 32), mode="bicubic", align_corners=False)
    expected = expected.round().clamp(0, 255).permute(0, 2, 3, 1)
    inside = (slice(None), slice(4, 28), slice(4, 28))  # at its sides the crop sees the face beyond it
    assert (found[inside].float() - expected[inside]).abs().max() <= 1
    draws = CropDraws.draw(2000, np.random.default_rng(0))
    area = draws.boxes[:, 2] * draws.boxes[:, 3]
    assert 0.2 <= area.min() < 0.21
    assert area.max() > 0.95


# RandAugment


def test_rand_augment_is_timms() -> None:
    """The operations are timm's own: with timm's random numbers set alike, one operation a face is the same."""
    face = picture(0)
    words = "rand-m9-n1-p1"
    ours = RandAugment(words)
    timms = auto_augment.rand_augment_transform(words, {"img_mean": (128, 128, 128)})
    assert repr(ours._change) == repr(timms)
    made = {ours(face, seed).tobytes() for seed in range(400)}
    state, draws = np.random.get_state(), random.getstate()
    try:
        random.seed(0)
        np.random.seed(0)
        theirs = {np.asarray(timms(Image.fromarray(face))).tobytes() for _ in range(400)}
    finally:
        np.random.set_state(state)
        random.setstate(draws)
    assert made == theirs  # 15 operations, some of them in two directions and two interpolations
    assert auto_augment.random is random
    assert auto_augment.np is np


@pytest.mark.parametrize(
    "words", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-tweights", "rand-t3a", "rand-m8-t3aw-p0.9", "rand-m12-mmax12-mstd101"]
)
def test_rand_augment_knows_timms_words(words: str) -> None:
    """Whatever it draws; of no bits of colour, a newer Pillow makes no picture."""
    face, change = picture(0), RandAugment(words)
    made = [change(face, seed) for seed in range(150)]
    assert {each.shape for each in made} == {face.shape}
    assert len({each.tobytes() for each in made}) >= 5  # auto contrast, equalising and the like know no magnitude


def test_a_weighted_choice_is_without_replacement() -> None:
    augment._draws.local.rng = random.Random(0)
    chosen = [tuple(augment._draws.choice("abcd", 2, replace=False, p=[0, 0.6, 0.3, 0.1])) for _ in range(2000)]
    assert {frozenset(each) for each in chosen} == {frozenset(each) for each in ("bc", "bd", "cd")}
    assert np.mean([first == "b" for first, _ in chosen]) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("words", ["rand-", "m9", "rand-m", "rand-k3", "augmix-m3", "rand-m9 -n2"])
def test_rand_augment_knows_no_other(words: str) -> None:
    with pytest.raises(ValueError, match="expected timm's words"):
        RandAugment(words)


@pytest.mark.parametrize("kept", [False, True])
def test_rand_augment_depends_on_the_draws_alone(folder: Path, kept: bool) -> None:
    """Not on threads, on how a batch is cut into parts, nor on whether faces are kept; and not once it is off."""
    augmentation = drawn(NUM_FACES, rand_augment="rand-m9-n2-p1-mstd0.5-inc1")
    rows = np.random.default_rng(1).permutation(NUM_FACES)
    made = []
    for num_threads in (1, 4):
        with Faces(folder, [path_of(i) for i in range(NUM_FACES)], PREPROCESSING, num_threads, augmented=kept) as faces:
            if kept:
                faces.load(nothing)
            (batch,) = faces.batches([(rows, augmentation)])
            made.append(by_row([batch]))
            halves = [(rows[half], augmentation.part(half)) for half in (slice(0, 13), slice(13, None))]
            made.append(by_row(list(faces.batches(halves))))
            plain = by_row(list(faces.batches([rows])))
            assert batch.augmentation is not None
            assert (batch.augmentation.seeds == augmentation.seeds[batch.places]).all()
            off = by_row(list(faces.batches([(rows, dataclasses.replace(augmentation, rand_augment=""))])))
    for other in made[1:]:
        assert all((made[0][row] == other[row]).all() for row in plain)
    assert sum((made[0][row] != plain[row]).any() for row in plain) > NUM_FACES // 2
    assert all((off[row] == plain[row]).all() for row in plain)


def test_light_and_mirror_are_of_the_parts(folder: Path) -> None:
    augmentation = drawn(6, flip=0.5, brightness=0.3, contrast=0.3)
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = colour_jitter(pixels, augmentation, PREPROCESSING)
    assert torch.equal(colour_jitter(pixels[2:4], augmentation.part(slice(2, 4)), PREPROCESSING), whole[2:4])
    faces = torch.arange(6 * 4 * 4 * 3).view(6, 4, 4, 3)
    assert torch.equal(hflip(faces[2:4], augmentation.part(slice(2, 4))), hflip(faces, augmentation)[2:4])
