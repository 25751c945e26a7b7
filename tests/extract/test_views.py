"""Views: their names, what they do to faces, and streams of several in one pass."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from cache.store import Cache
from extract import view_names
from extract.config import Preprocessing
from extract.crops import CropEmbedder
from extract.view_names import parse_views, preprocessing_of, recipe
from extract.views import changed
from helpers import made_extraction as made


@pytest.fixture
def frames(tmp_path: Path) -> pl.DataFrame:
    return made.make_faces(tmp_path / "faces")


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "views"),
    [
        ("base", ("base",)),
        ("base, hflip,aug:3", ("base", "hflip", "aug1", "aug2", "aug3")),
        ("aug7,aug:2", ("aug7", "aug1", "aug2")),
        ("hflip,hflip", ("hflip",)),
        ("crop0.9,crop0.85", ("crop0.9", "crop0.85")),
    ],
)
def test_names(text: str, views: tuple[str, ...]) -> None:
    assert parse_views(text) == views


@pytest.mark.parametrize(
    "text", ["", ",", "flip", "aug", "aug0", "aug:0", "aug:101", "aug101", "base,../x", "Base", "crop"]
)
def test_no_such_view(text: str) -> None:
    with pytest.raises(ValueError, match=r"view.*base, hflip|--views aug:"):
        parse_views(text)


@pytest.mark.parametrize("text", ["crop1", "crop1.0", "crop0.4", "crop0.90", "crop0.999", "crop.9", "crop0.9x"])
def test_no_such_crop(text: str) -> None:
    with pytest.raises(ValueError, match=r"view 'crop.*there are base, hflip, crop0.5 to crop0.99 and"):
        parse_views(text)


def test_mirror_image(faces: torch.Tensor) -> None:
    mirrored = changed("hflip", faces, [""] * 6)
    np.testing.assert_array_equal(mirrored.numpy(), np.flip(faces.numpy(), 2))
    np.testing.assert_array_equal(changed("hflip", mirrored, [""] * 6).numpy(), faces.numpy())
    assert changed("base", faces, [""] * 6) is faces


def test_augmentation_goes_by_seed_and_video_alone(faces: torch.Tensor) -> None:
    videos = ["a", "a", "b", "b", "c", "c"]
    whole = changed("aug1", faces, videos)
    assert (whole.shape, whole.dtype) == (faces.shape, torch.uint8)
    for index in range(6):  # neither the batch nor the place in it matters
        alone = changed("aug1", faces[index : index + 1], videos[index : index + 1])
        np.testing.assert_array_equal(alone[0].numpy(), whole[index].numpy())
    same = faces[:1].expand(6, -1, -1, -1)
    a, again, b, *_ = changed("aug1", same, videos)
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert not torch.equal(a, changed("aug2", same, videos)[0])
    assert not torch.equal(a, faces[0])


def test_augmentation_keeps_the_face() -> None:
    """Mild: turned, shifted and lit otherwise, but still the same picture, mirrored or not."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    face = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC))
    batch = torch.from_numpy(face.copy())[None].expand(40, -1, -1, -1)
    found = changed("aug3", batch, [f"video {index}" for index in range(40)]).numpy()
    likeness = [
        max(np.corrcoef(each.ravel(), other.ravel())[0, 1] for other in (face, face[:, ::-1])) for each in found
    ]
    assert min(likeness) > 0.5
    mirrored = [np.corrcoef(each.ravel(), face[:, ::-1].ravel())[0, 1] > 0.5 for each in found]
    assert 8 < sum(mirrored) < 32


def test_views_in_one_pass(tmp_path: Path, frames: pl.DataFrame) -> None:
    """The same bytes as a pass each; the mirrored stream is that of mirrored files."""
    for name in ("one", "apart", "mirrored"):
        (tmp_path / name).mkdir()
    for name in ("one", "apart"):
        (tmp_path / name / "faces").symlink_to(tmp_path / "faces")
    views = ("base", "hflip", "aug1")
    made.run(frames, tmp_path / "one", made.tiny(), views=views)
    for view in views:
        made.run(frames, tmp_path / "apart", made.tiny(), views=(view,))
    one, apart = (Cache.open(tmp_path / name / "cache.zarr") for name in ("one", "apart"))
    assert one.streams() == apart.streams() == [("expr", "aug1"), ("expr", "base"), ("expr", "hflip")]
    for view in views:
        np.testing.assert_array_equal(one.stream("expr", view).read(), apart.stream("expr", view).read())
    table = frames.with_columns(pl.col("path").str.replace("jpg", "png"))
    for old, new in zip(frames["path"], table["path"], strict=True):
        target = tmp_path / "mirrored" / "faces" / new
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(tmp_path / "faces" / old).convert("RGB"))
        Image.fromarray(pixels[:, ::-1]).save(target)
    made.run(table, tmp_path / "mirrored", made.tiny())
    mirrored = Cache.open(tmp_path / "mirrored" / "cache.zarr").stream("expr").read()
    np.testing.assert_array_equal(one.stream("expr", "hflip").read(), mirrored)


def test_a_crop_is_the_middle_of_the_face_file(tmp_path: Path) -> None:
    """Half of 32 px at an input of 16 px is the middle as it is in the file, beside views that see the whole face."""
    frames = made.make_faces(tmp_path / "one" / "faces", size_px=2 * made.SIZE_PX)
    made.run(frames, tmp_path / "one", made.tiny(), views=("base", "hflip", "crop0.5"))
    middle, cut = slice(made.SIZE_PX // 2, 3 * made.SIZE_PX // 2), frames.with_columns(pl.col("path") + ".png")
    for old, new in zip(frames["path"], cut["path"], strict=True):
        (tmp_path / "cut" / "faces" / new).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(tmp_path / "one" / "faces" / old).convert("RGB"))
        Image.fromarray(pixels[middle, middle]).save(tmp_path / "cut" / "faces" / new)
    made.run(cut, tmp_path / "cut", made.tiny())
    cropped = Cache.open(tmp_path / "one" / "cache.zarr").stream("expr", "crop0.5")
    wanted = Cache.open(tmp_path / "cut" / "cache.zarr").stream("expr").read()
    np.testing.assert_array_equal(cropped.read(), wanted)
    assert cropped.identity.preprocessing["crop_pct"] == 0.5
    face = np.asarray(Image.open(tmp_path / "one" / "faces" / frames["path"][0]).convert("RGB"))
    embedder = CropEmbedder({("expr", "crop0.5"): made.tiny(), ("expr", "base"): made.tiny()}, torch.device("cpu"), 5)
    in_memory = embedder([face], ["v0"])["expr", "crop0.5"]
    np.testing.assert_allclose(in_memory[0], wanted[0], atol=1e-3)
    whole = Cache.open(tmp_path / "one" / "cache.zarr").stream("expr")
    assert whole.identity.preprocessing["crop_pct"] == 1
    assert not np.array_equal(whole.read(), wanted)


def test_crops_of_a_backbone_that_crops() -> None:
    base = Preprocessing(size_px=112, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.875)
    assert preprocessing_of("crop0.8", base).crop_pct == 0.7
    assert preprocessing_of("aug1", base) is preprocessing_of("hflip", base) is base
    with pytest.raises(ValueError, match=r"view .crop0.6.: crop_pct is 0.06"):
        preprocessing_of("crop0.6", Preprocessing(size_px=112, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.1))


def test_the_recipe_is_part_of_the_identity(
    tmp_path: Path, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.run(frames, tmp_path, made.tiny(), views=("base", "aug2"))
    stream = Cache.open(tmp_path / "cache.zarr").stream("expr", "aug2")
    assert stream.identity.preprocessing["augmentation"] == {"recipe": 1, "seed": 2} == recipe("aug2")
    monkeypatch.setattr(view_names, "RECIPE", 2)
    with pytest.raises(ValueError, match=r"augmentation.*mtl cache rm expr --view aug2"):
        made.run(frames, tmp_path, made.tiny(), views=("aug2",))
    assert made.run(frames, tmp_path, made.tiny(dying=True)).num_skipped == len(frames)
