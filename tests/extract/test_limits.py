"""A part is never passed as the whole, and nothing hangs: folders, links, pipes, claims of size, videos cut off."""

import errno
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cache import regular
from extract.annotations.face_checks import check_faces
from extract.faces import listing
from extract.faces.cut import missing_bytes
from extract.faces.listing import list_faces
from extract.faces.source import FaceSource
from extract.faces.video import Video

InTime = Callable[[Callable[[], Any]], Any]


def jpeg(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)
    return path


def why(folder: Path, path: str) -> str:
    source = FaceSource(folder)
    try:
        (face,) = source.read([path])
        if isinstance(face, ValueError):
            raise face
        face.pixels()
    except ValueError as error:
        return str(error)
    finally:
        source.close()
    return "read"


# --- folders and links -------------------------------------------------------------------------------------------

LOOPS: dict[str, dict[str, str]] = {
    "to the folder itself": {"latest": "."},
    "two to the folder itself": {"latest": ".", "newest": "."},
    "two to one another": {"a/more": "../b", "b/more": "../a"},
    "every folder to every other": {f"{a}/{b}": f"../{b}" for a in "abc" for b in "xyz"} | dict.fromkeys("xyz", "."),
    "up a folder": {"a/up": ".."},
    "to itself": {"self": "self"},
}


@pytest.mark.parametrize("kind", LOOPS)
def test_links_that_lead_round_list_each_face_once(tmp_path: Path, kind: str, in_time: InTime) -> None:
    for video in "abc":
        jpeg(tmp_path / video / "00001.jpg")
    for name, target in LOOPS[kind].items():
        (tmp_path / name).symlink_to(target)
    found = in_time(lambda: list_faces(tmp_path))
    assert found.paths == ["a/00001.jpg", "b/00001.jpg", "c/00001.jpg"]
    assert found.repeated or kind == "to itself"


def test_a_link_to_faces_elsewhere_is_followed_once(tmp_path: Path) -> None:
    jpeg(tmp_path / "elsewhere" / "v" / "00001.jpg")
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("one", "two"):
        (faces / name).symlink_to(tmp_path / "elsewhere")
    found = list_faces(faces)
    assert found.paths == ["one/v/00001.jpg"]
    assert found.repeated == (f"two -> {tmp_path / 'elsewhere'}",)


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error")])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    for video in "ab":
        jpeg(tmp_path / video / "00001.jpg")
    real = os.scandir

    def scandir(place: Path) -> Any:
        if Path(place).name == "b":
            raise OSError(number, os.strerror(number), str(place))
        return real(place)

    monkeypatch.setattr(listing.os, "scandir", scandir)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'b'}: cannot be listed \({words}\)"):
        list_faces(tmp_path)


def test_a_folder_that_breaks_half_way_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg(tmp_path / "a" / "00001.jpg")
    real = os.scandir

    class Breaking:
        def __init__(self, place: Path) -> None:
            self._entries = real(place)

        def __enter__(self) -> "Breaking":
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Any:
            yield next(self._entries)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(listing.os, "scandir", Breaking)
    with pytest.raises(ValueError, match="cannot be listed"):
        list_faces(tmp_path)


# --- what has no end, and what claims much -----------------------------------------------------------------------


def make_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(20 * regular.GIB)


ENDLESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda path: os.mkfifo(path), "a pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "circle": (lambda path: path.symlink_to(path.name), "symbolic links|such file"),
}


@pytest.mark.parametrize("name", ["a/00001.jpg", "a.tar", "a.zip", "a.mp4", "a.mkv"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_a_failed_face(tmp_path: Path, kind: str, name: str, in_time: InTime) -> None:
    (tmp_path / "a").mkdir()
    make, words = ENDLESS[kind]
    make(tmp_path / name)
    found = in_time(lambda: list_faces(tmp_path))
    checked = in_time(lambda: check_faces(["a/00001.jpg"], tmp_path, lambda count: None))
    if name.endswith(".jpg"):
        assert found.paths == ["a/00001.jpg"]
        reason = in_time(lambda: why(tmp_path, "a/00001.jpg"))
        assert any(word in reason for word in words.split("|"))
    else:
        assert len(found.faults) == 1
        assert name in found.faults[0]
        assert "a/00001.jpg" not in found.paths
    assert checked.missing or checked.unreadable


@pytest.mark.parametrize("name", ["a/00001.jpg", "a.tar", "a.zip", "a.mp4", "a.mkv"])
def test_files_of_holes_take_neither_time_nor_memory(tmp_path: Path, name: str, in_time: InTime) -> None:
    (tmp_path / "a").mkdir()
    make_sparse(tmp_path / name)
    reason = in_time(lambda: why(tmp_path, "a/00001.jpg"))
    assert reason != "read"
    if name.endswith(".jpg"):
        assert reason == "20.0 GiB is too large for a face; at most 64.0 MiB"


def make_tar_of_claims(path: Path, kind: bytes) -> None:
    """One header that claims 3 GiB, and holes in their place."""
    member = tarfile.TarInfo("00001.jpg")
    member.size, member.type = 3 * regular.GIB, kind
    with open(path, "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(3 * regular.GIB + 10240)


def make_zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("00001.jpg", "w") as member:
        for _ in range(80):
            member.write(bytes(regular.MIB))


def make_big_png(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("1", (8000, 8000)).save(path)


CLAIMS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "member": (lambda path: make_tar_of_claims(path, tarfile.REGTYPE), "a.tar", "3.0 GiB is too large for a face"),
    "long name": (lambda path: make_tar_of_claims(path, tarfile.GNUTYPE_LONGNAME), "a.tar", "no tar archive"),
    "extra fields": (lambda path: make_tar_of_claims(path, tarfile.XHDTYPE), "a.tar", "no tar archive"),
    "zip bomb": (make_zip_bomb, "a.zip", "80.0 MiB is too large for a face"),
    "picture": (make_big_png, "a/00001.jpg", "8000 x 8000 px is no face crop"),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_small_files_that_claim_much_are_refused(tmp_path: Path, kind: str, in_time: InTime) -> None:
    make, name, words = CLAIMS[kind]
    if name.endswith(".jpg"):
        make_big_png((tmp_path / name).with_suffix(".png"))
        (tmp_path / name).with_suffix(".png").rename(tmp_path / name)
    else:
        make(tmp_path / name)
    assert words in in_time(lambda: why(tmp_path, "a/00001.jpg"))


def test_an_archive_of_too_many_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.faces.archives.MAX_MEMBERS", 2)
    data = jpeg(tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").unlink()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.jpg", data)
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    faults = list_faces(tmp_path).faults
    assert [fault.split(":")[0] for fault in faults] == ["a.zip", "b.tar"]
    assert all("not one video's faces" in fault for fault in faults)


# --- videos that are cut off -------------------------------------------------------------------------------------

VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a.mkv": ("ffv1", "bgr0", {}),
    "h264.mkv": ("mpeg4", "yuv420p", {}),
    "live.mkv": ("mpeg4", "yuv420p", {"live": "1"}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "a.mp4": ("mpeg4", "yuv420p", {}),
    "front.mp4": ("mpeg4", "yuv420p", {"movflags": "faststart"}),
    "pieces.mp4": ("mpeg4", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "a.mov": ("mpeg4", "yuv420p", {}),
    "a.avi": ("mpeg4", "yuv420p", {}),
}


def make_video(path: Path, num_frames: int = 30) -> bytes:
    codec, form, options = VIDEOS[path.name]
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, form
        for _ in range(num_frames):
            small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(small), format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_cut_off_anywhere_says_so(tmp_path: Path, name: str) -> None:
    data = make_video(tmp_path / name)
    assert not missing_bytes(str(tmp_path / name))
    video = Video(str(tmp_path / name))
    assert video.names() == ([f"{number:05d}.jpg" for number in range(1, 31)], None)
    video.close()
    cut = tmp_path / f"cut{Path(name).suffix}"
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        cut.write_bytes(data[: int(len(data) * share)])
        video = Video(str(cut))
        names, fault = video.names()
        assert fault, (share, len(names))
        video.close()
    (tmp_path / name).unlink()
    assert list_faces(tmp_path).faults == (f"{cut.name}: {fault}",)
    assert why(tmp_path, f"cut{Path(name).suffix}/00040.jpg") == fault


@pytest.mark.parametrize("harm", [b"", b"\x00", b"\x1aE\xdf\xa3", b"RIFF", b"RIFF\0\0\0\0AVI ", b"\0\0\0\1ftypmp42"])
def test_no_container_has_a_traceback(tmp_path: Path, harm: bytes) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(harm)
    assert missing_bytes(str(path)) >= 0
    path.write_bytes(harm + bytes(range(256)) * 4)
    assert missing_bytes(str(path)) >= 0


def test_a_playlist_in_a_video_opens_nothing_else(tmp_path: Path, in_time: InTime) -> None:
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    assert "cannot be opened" in in_time(lambda: why(tmp_path, "a/00001.jpg"))
