"""Face files: pixels as Pillow gives them, and a reason for everything that is not a whole picture."""

import errno
import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.faces import decoding
from extract.faces.decoding import decode, face_digest, read_face_bytes


def picture(seed: int = 0, size: tuple[int, int] = (112, 96)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (14, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


WHOLE = {
    "420": encoded(picture(), subsampling=2),
    "422": encoded(picture(), subsampling=1),
    "444": encoded(picture(), subsampling=0),
    "odd size": encoded(picture(size=(113, 97)), quality=60),
    "progressive": encoded(picture(), progressive=True),
    "grey": encoded(picture().convert("L")),
    "cmyk": encoded(picture().convert("CMYK")),
    "rgb jpeg": encoded(picture(), keep_rgb=True),
    "trailing bytes": encoded(picture()) + b"camera notes",
    "png": encoded(picture(), "PNG"),
    "png with alpha": encoded(picture().convert("RGBA"), "PNG"),
    "png palette": encoded(picture().convert("P"), "PNG"),
    "webp": encoded(picture(), "WEBP"),
}
JPEG, PROGRESSIVE, CMYK, PNG = (WHOLE[name] for name in ("444", "progressive", "cmyk", "png"))
BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"not a picture at all", "not an image"),
    "start of a JPEG": (JPEG[:3], "not an image"),
    "header of a JPEG": (JPEG[:200], "not an image|damaged"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "damaged JPEG"),
    "last bytes gone": (JPEG[:-2], "damaged JPEG"),
    "half a JPEG with an end": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "damaged JPEG"),
    "half zeros": (JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2), "damaged JPEG"),
    "half a CMYK JPEG": (CMYK[: len(CMYK) // 2], "damaged JPEG"),
    "half a CMYK JPEG with an end": (CMYK[: len(CMYK) // 2] + b"\xff\xd9", "damaged JPEG"),
    "half a progressive JPEG": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "damaged JPEG"),
    "half a PNG": (PNG[: len(PNG) // 2], "damaged image"),
    "16 bit": (encoded(Image.fromarray(np.full((9, 9), 40000, np.uint16)), "PNG"), "not 8 bits"),
    "huge": (encoded(Image.new("1", (9000, 9000)), "PNG"), "no face crop"),
    "postscript": (encoded(picture(), "EPS"), "not an image"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_pixels_are_pillows(name: str) -> None:
    face = decode(WHOLE[name])
    assert face.dtype == np.uint8
    np.testing.assert_array_equal(face, by_pillow(WHOLE[name]))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_has_a_short_reason(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(ValueError, match=reason) as caught:
        decode(data)
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed() -> None:
    """Whatever the byte a JPEG is cut at, no pixels come back."""
    for stop in range(len(JPEG) - 1):
        with pytest.raises(ValueError, match=r"."):
            decode(JPEG[:stop])


@pytest.mark.parametrize("name", WHOLE)
def test_out_gives_the_same_pixels(name: str) -> None:
    plain = decode(WHOLE[name])
    out = np.zeros_like(plain)
    np.testing.assert_array_equal(decode(WHOLE[name], out=out), plain)
    smaller = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(decode(WHOLE[name], out=smaller), plain)
    assert not smaller.any()


def test_out_is_filled_where_it_fits() -> None:
    out = np.zeros((96, 112, 3), np.uint8)
    decode(WHOLE["420"], out=out)
    np.testing.assert_array_equal(out, by_pillow(WHOLE["420"]))


def test_read(tmp_path: Path) -> None:
    (tmp_path / "video ü").mkdir()
    (tmp_path / "video ü" / "00001.jpg").write_bytes(b"abc")
    assert read_face_bytes(tmp_path, "video ü/00001.jpg") == b"abc"


@pytest.mark.parametrize("told", [0, 3, 9, 20])
def test_a_file_of_another_size_than_it_said_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    """As one that is written to meanwhile."""
    (tmp_path / "face").write_bytes(b"nine byte")
    status = list(os.stat(tmp_path / "face"))
    status[stat.ST_SIZE] = told
    monkeypatch.setattr(decoding.os, "fstat", lambda descriptor: os.stat_result(status))
    assert read_face_bytes(tmp_path, "face") == b"nine byte"


@pytest.mark.parametrize("path", ["../secret.jpg", "v/../../secret.jpg", "/etc/passwd", "v\\..\\x", "v/\0.jpg", ".."])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"abc")
    with pytest.raises(ValueError, match="leaves the faces folder"):
        read_face_bytes(tmp_path / "faces", path)


@pytest.mark.parametrize("path", ["v/00002.jpg", "w/1.jpg", "file/1.jpg"])
def test_missing_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="no such file"):
        read_face_bytes(tmp_path, path)


def test_a_folder_is_no_face(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        read_face_bytes(tmp_path, "v")


def test_faces_folder_gone(tmp_path: Path) -> None:
    """A disk that is unplugged must not turn every face behind it into a failed one."""
    with pytest.raises(OSError, match="gone"):
        read_face_bytes(tmp_path / "none", "v/1.jpg")


def test_machine_trouble_is_not_the_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.open", no_more_files)
    with pytest.raises(OSError, match="Too many"):
        read_face_bytes(tmp_path, "v/1.jpg")


def test_digest() -> None:
    assert len(face_digest(b"a")) == 16
    assert face_digest(b"a") == face_digest(b"a") != face_digest(b"b")
