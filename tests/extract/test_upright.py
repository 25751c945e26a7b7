"""Faces as a person sees them: EXIF orientations 1 to 8 and the rotation of videos, followed unless told not to."""

import io
import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cache.store import Cache
from extract.faces.decoding import decode
from extract.faces.orientation import Orientations, orientation_of, orientation_of_matrix, turned
from extract.faces.source import FaceSource
from extract.faces.video import Video
from extract.report import Report
from helpers import made_extraction as made

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
FORMATS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}
# The element (a, b, c, d) of a track's matrix: a picture's (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def encoded(orientation: int, form: str = "JPEG", pixels: np.ndarray = PIXELS) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, form, exif=exif.tobytes(), **FORMATS[form])
    return buffer.getvalue()


def seen(data: bytes) -> np.ndarray:
    """As Pillow turns it."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation: int, form: str) -> None:
    data = encoded(orientation, form)
    assert orientation_of(data) == orientation
    face = decode(data)
    np.testing.assert_array_equal(face, seen(data))
    assert face.flags.c_contiguous
    out = np.zeros_like(face)
    assert decode(data, out) is out
    np.testing.assert_array_equal(out, face)
    stored = decode(data, None, Orientations(follow=False))
    assert stored.shape == PIXELS.shape
    np.testing.assert_array_equal(turned(stored, orientation), face)


@given(st.integers(1, 8), st.sampled_from([*FORMATS]), st.binary(max_size=40), st.integers(0, 200))
def test_a_damaged_note_is_none(orientation: int, form: str, harm: bytes, place: int) -> None:
    data = bytearray(encoded(orientation, form))
    data[place : place + len(harm)] = harm
    assert 1 <= orientation_of(bytes(data)) <= 8
    assert 1 <= orientation_of(bytes(data[:place])) <= 8


@pytest.mark.parametrize("kind", ["files", "tar", "zip"])
def test_however_they_are_packed(tmp_path: Path, kind: str) -> None:
    faces = {f"{orientation:05d}.jpg": encoded(orientation) for orientation in range(1, 9)}
    if kind == "files":
        (tmp_path / "a").mkdir()
        for name, data in faces.items():
            (tmp_path / "a" / name).write_bytes(data)
    elif kind == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, data in faces.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            for name, data in faces.items():
                packed.writestr(name, data)
    for follow in (True, False):
        source = FaceSource(tmp_path, follow_orientation=follow)
        for face, data in zip(source.read([f"a/{name}" for name in faces]), faces.values(), strict=True):
            assert not isinstance(face, ValueError)
            wanted = seen(data) if follow else decode(data, None, Orientations(follow=False))
            np.testing.assert_array_equal(face.pixels(), wanted)
        assert source.orientations.num_turned == (7 if follow else 0)
        source.close()


def make_mp4(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Three frames of quarters that lossy codecs keep apart, and a track that is to be shown by `matrix`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(stream.encode(None))
    data, (a, b, c, d) = bytearray(path.read_bytes()), matrix
    place = data.index(b"tkhd") + 4 + 40
    assert int.from_bytes(data[place : place + 4], "big") == 1 << 16
    for index, value in ((0, a), (1, b), (3, c), (4, d)):
        data[place + 4 * index : place + 4 * index + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def quarters() -> np.ndarray:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32] = (220, 40, 40), (40, 200, 40), (40, 40, 220)
    return pixels


@pytest.mark.parametrize("orientation", MATRICES)
def test_videos_are_turned_as_players_turn_them(tmp_path: Path, orientation: int) -> None:
    make_mp4(tmp_path / "a.mp4", MATRICES[orientation])
    video, stored = Video(str(tmp_path / "a.mp4")), Video(str(tmp_path / "a.mp4"), Orientations(follow=False))
    face, wanted = video.face("00002.jpg").pixels(), turned(quarters(), orientation)
    assert face.shape == wanted.shape
    assert np.abs(face.astype(int) - wanted).mean() < 12
    assert np.abs(stored.face("00002.jpg").pixels().astype(int) - quarters()).mean() < 12
    video.close()
    stored.close()


@pytest.mark.parametrize(
    "matrix", [np.zeros((3, 3)), [[7, 7, 0], [-7, 7, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0], [0] * 3]]
)
def test_a_matrix_of_no_quarter_turn_is_left(matrix: np.ndarray) -> None:
    assert orientation_of_matrix(np.asarray(matrix)) == 1


def test_the_orientation_is_part_of_the_identity(tmp_path: Path) -> None:
    frames = made.make_faces(tmp_path / "faces", num_faces=6)
    path = tmp_path / "faces" / frames["path"][1]
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path.write_bytes(encoded(6, pixels=pixels))

    def run(name: str, **options: bool) -> Report:
        return made.run(frames, tmp_path, made.tiny(name), **options)

    assert any("1 faces turned as their EXIF" in note for note in run("a").lines)
    with pytest.raises(ValueError, match=r"orientation .cached followed, wanted nothing"):
        run("a", follow_orientation=False)
    assert not any("turned" in note for note in run("b", follow_orientation=False).lines)
    with pytest.raises(ValueError, match=r"orientation .cached nothing, wanted followed; --ignore-orientation takes"):
        run("b")
    assert not run("b", follow_orientation=False).num_done
    cache = Cache.open(tmp_path / "cache.zarr")
    a, b = (cache.stream(name).read() for name in ("a", "b"))
    same = [np.array_equal(*rows) for rows in zip(a, b, strict=True)]
    assert [row for row, equal in enumerate(same) if not equal] == [1]


@pytest.mark.real
def test_a_sideways_face_has_the_embedding_of_the_upright_one(real_data: Path) -> None:
    """Cosine by a photo backbone: turned as noted it is the same picture, as stored it is another."""
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", num_classes=0)
    state = load_file(real_data / "weights" / "mobilenetv2_100.imagenet.safetensors")
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("classifier.")})
    model.eval()
    paths = sorted((real_data / "talking" / "cropped_aligned").rglob("*.jpg"))[::200][:4]

    def embedding(pixels: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]

    for path in paths:
        upright = decode(path.read_bytes())
        for orientation, undo in ((3, 3), (6, 8), (8, 6)):
            data = encoded(orientation, "PNG", turned(upright, undo))
            followed, stored = decode(data), decode(data, None, Orientations(follow=False))
            same, other = (
                float(torch.cosine_similarity(embedding(upright), embedding(pixels), dim=0))
                for pixels in (followed, stored)
            )
            assert same > 0.9999
            assert other < 0.97, (path, orientation)
