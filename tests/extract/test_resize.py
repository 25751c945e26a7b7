"""Faces resized on the device: Pillow's pixels to a level or two, whatever else is in their batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor

from cache.frames import conform
from cache.store import Cache
from extract.backbones import resize
from extract.backbones.build import load_backbone
from extract.backbones.resize import batch_resizer
from extract.backbones.transforms import face_transform
from extract.config import BackboneConfig, Preprocessing
from helpers import made_extraction as made

SIZES = [(112, 112), (96, 128), (130, 90), (300, 200)]


def preprocessing(**changes: object) -> Preprocessing:
    return Preprocessing(**{"size_px": 64, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), **changes})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with a hard edge: [H, W, 3] uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    face = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)).copy()
    face[: height // 3, : width // 3] = 255
    return face


def in_two_passes(x: Tensor, size: list[int], mode: object, antialias: bool) -> Tensor:
    assert antialias
    return resize._in_two_passes(x, size, resize.MODES[mode])  # type: ignore[index]


@pytest.mark.parametrize("kernel", ["uint8", "floats"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "changes",
    [
        {"crop_pct": 0.9},
        {"interpolation": "bilinear"},
        {"size_px": 224},
        {"size_px": 120, "crop_pct": 0.875, "crop_mode": "squash"},
    ],
)
def test_pixels_are_pillows(
    monkeypatch: pytest.MonkeyPatch, kernel: str, size: tuple[int, int], changes: dict[str, object]
) -> None:
    """The kernel for uint8 that the CPU takes, and the two passes in floats that a GPU takes, both run here."""
    if kernel == "floats":
        monkeypatch.setattr(resize, "resize", in_two_passes)
    face, wanted = picture(*size), preprocessing(**changes)
    run = batch_resizer(wanted)
    assert run is not None
    found = run(torch.from_numpy(face)[None])[0].numpy().astype(int)
    expected = face_transform(wanted)(face).astype(int)
    assert found.shape == expected.shape == (wanted.size_px, wanted.size_px, 3)
    assert np.abs(found - expected).max() <= 4  # at hard edges, where bicubic overshoots
    assert np.abs(found - expected).mean() < 0.05


def test_a_face_of_the_right_size_is_untouched() -> None:
    faces = torch.from_numpy(picture(64, 64))[None]
    run = batch_resizer(preprocessing())
    assert run is not None
    assert run(faces) is faces


@pytest.mark.parametrize("changes", [{"interpolation": "nearest"}, {"crop_mode": "border", "crop_pct": 0.9}])
def test_what_only_timm_can(changes: dict[str, object]) -> None:
    assert batch_resizer(preprocessing(**changes)) is None


def faces_of_all_sizes(folder: Path, sizes: list[tuple[int, int]]) -> pl.DataFrame:
    rows = []
    for index, size in enumerate(sizes):
        path = folder / "v" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size, seed=index)).save(path)
        rows.append(("v", index, f"v/{path.name}"))
    return conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "made faces")


def read(folder: Path, name: str = "expr", view: str = "base") -> np.ndarray:
    return Cache.open(folder / "cache.zarr").stream(name, view).read().astype(np.float32)


def test_sizes_may_be_mixed(tmp_path: Path) -> None:
    """An embedding does not depend on the sizes of the faces beside it; very large faces go by timm's transform."""
    sizes = [(24, 24), (40, 30), (24, 24), (16, 16), (600, 700), (40, 30), (24, 24)]
    frames = faces_of_all_sizes(tmp_path / "faces", sizes)
    made.run(frames, tmp_path, made.tiny(), made.tiny("large", size_px=48))
    made.run(frames, tmp_path, made.tiny("exact"), exact=True)
    np.testing.assert_allclose(read(tmp_path), read(tmp_path, "exact"), atol=0.02)
    for index in range(len(sizes)):
        alone = tmp_path / f"alone{index}"
        alone.mkdir()
        (alone / "faces").symlink_to(tmp_path / "faces")
        made.run(frames[index : index + 1], alone, made.tiny(), made.tiny("large", size_px=48))
        for name in ("expr", "large"):
            np.testing.assert_array_equal(read(alone, name)[0], read(tmp_path, name)[index])


def test_nothing_but_large_faces(tmp_path: Path) -> None:
    frames = faces_of_all_sizes(tmp_path / "faces", [(600, 700)] * 3)
    made.run(frames, tmp_path, made.tiny())
    made.run(frames, tmp_path, made.tiny("exact"), exact=True)
    np.testing.assert_array_equal(read(tmp_path), read(tmp_path, "exact"))


def test_exact_is_settled_once(tmp_path: Path, stop: Callable[[int], None]) -> None:
    frames = made.make_faces(tmp_path / "faces", size_px=20)
    with pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny(), advance=stop)
    with pytest.raises(ValueError, match=r"begun with faces resized on the device.*without --exact, or type `mtl"):
        made.run(frames, tmp_path, made.tiny(), exact=True)
    with pytest.raises(KeyboardInterrupt):
        made.run(frames, tmp_path, made.tiny("exact"), exact=True, advance=stop)
    made.run(frames, tmp_path, made.tiny(), made.tiny("exact"))  # each in its own way, in one command
    made.run(frames, tmp_path, made.tiny("undisturbed"), exact=True)
    np.testing.assert_array_equal(read(tmp_path, "exact"), read(tmp_path, "undisturbed"))
    assert (read(tmp_path) != read(tmp_path, "exact")).any()


@pytest.fixture
def stop() -> Callable[[int], None]:
    """Like Ctrl-C in the third shard, each time."""
    left = [40]

    def advance(count: int) -> None:
        left[0] -= count
        if left[0] <= 0:
            left[0] = 40
            raise KeyboardInterrupt

    return advance


@pytest.mark.real
@pytest.mark.parametrize("model", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_real_faces(real_data: Path, tmp_path: Path, model: str) -> None:
    """The cosine between embeddings resized on the device and by timm is at least 0.9999."""
    faces = real_data / "talking" / "cropped_aligned"
    paths = sorted(faces.glob("*/*.jpg"))
    rows = [
        (path.parent.name, int(path.stem), f"{path.parent.name}/{path.name}") for path in paths[:: len(paths) // 200]
    ]
    frames = conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "real faces")
    (tmp_path / "faces").symlink_to(faces)
    weights = real_data / "weights" / f"{model}.imagenet.safetensors"
    backbones = [load_backbone(name, BackboneConfig(model=model, weights=str(weights)), tmp_path) for name in "ab"]
    made.run(frames, tmp_path, backbones[0], batch_size=32, shard_rows=100, precision="float32")
    made.run(frames, tmp_path, backbones[1], batch_size=32, shard_rows=100, precision="float32", exact=True)
    one, other = read(tmp_path, "a"), read(tmp_path, "b")
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(f"{model}: cosine from {cosine.min():.7f}, mean {cosine.mean():.7f}")
    assert cosine.min() >= 0.9999
