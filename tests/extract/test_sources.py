"""Faces from files, archives and videos: the same pixels and digests from each, and a reason for what is damaged."""

import contextlib
import io
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from cache.store import Cache
from extract.annotations.face_checks import check_faces
from extract.annotations.readers import scan_faces
from extract.faces import video as video_module
from extract.faces.containers import OpenContainers
from extract.faces.decoding import MissingFace, decode, face_digest, read_face_bytes
from extract.faces.listing import list_faces
from extract.faces.source import FaceSource
from extract.faces.video import Video, frame_number
from helpers import made_extraction as made
from helpers.processes import python

NUM_FACES = 12
NAMES = [f"{number:05d}.jpg" for number in range(1, NUM_FACES + 1)]
PATHS = [f"a/{name}" for name in NAMES]
Sourced = Callable[..., FaceSource]


def picture(number: int, size: int = 32) -> np.ndarray:
    """[size, size, 3] that differs from number to number, smooth enough for lossy codecs."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BILINEAR))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "JPEG")
    return buffer.getvalue()


FACES = {name: jpeg(number) for number, name in enumerate(NAMES, 1)}


def make_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path: Path, members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def make_files(folder: Path, faces: dict[str, bytes] = FACES) -> Path:
    folder.mkdir(parents=True)
    for name, data in faces.items():
        (folder / name).write_bytes(data)
    return folder


def make_video(
    path: Path,
    num_frames: int = NUM_FACES,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    show: Callable[[int], np.ndarray] = picture,
    **more: str,
) -> Path:
    """Frame n shows `show(n)`; ffv1 keeps every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=more)
        stream.width = stream.height = 32
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1  # the same file each time
        for number in range(1, num_frames + 1):
            frame = av.VideoFrame.from_ndarray(show(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    return tmp_path / "faces"


@pytest.fixture
def sourced(folder: Path) -> Iterator[Sourced]:
    """A `FaceSource` of `folder`, closed at the end."""
    made: list[FaceSource] = []

    def make(num_open: int = 64) -> FaceSource:
        made.append(FaceSource(folder, num_open))
        return made[-1]

    yield make
    for source in made:
        source.close()


def pixels(source: FaceSource, paths: list[str]) -> list[np.ndarray | str]:
    """What is read, decoded; reasons as texts, each of one short line."""
    found: list[np.ndarray | str] = []
    for face in source.read(paths):
        try:
            if isinstance(face, ValueError):
                raise face
            found.append(face.pixels())
        except ValueError as error:
            found.append(str(error))
    assert all("\n" not in why and len(why) < 120 for why in found if isinstance(why, str))
    return found


def reasons(source: FaceSource, paths: list[str]) -> list[str | None]:
    return [each if isinstance(each, str) else None for each in pixels(source, paths)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- the same faces from each ------------------------------------------------------------------------------------

PACKED: dict[str, Callable[[Path], Path]] = {
    "files": lambda folder: make_files(folder / "a"),
    "tar": lambda folder: make_tar(folder / "a.tar", FACES.items()),
    "tar with a folder": lambda folder: make_tar(folder / "a.tar", [(f"a/{n}", data) for n, data in FACES.items()]),
    "tar with a dot": lambda folder: make_tar(folder / "a.tar", [(f"./{n}", data) for n, data in FACES.items()]),
    "tar with both": lambda folder: make_tar(folder / "a.tar", [(f"./a/{n}", data) for n, data in FACES.items()]),
    "old tar": lambda folder: make_tar(folder / "a.tar", FACES.items(), tarfile.USTAR_FORMAT),
    "gnu tar": lambda folder: make_tar(folder / "a.tar", FACES.items(), tarfile.GNU_FORMAT),
    "TAR": lambda folder: make_tar(folder / "a.TAR", FACES.items()),
    "zip": lambda folder: make_zip(folder / "a.zip", FACES.items()),
    "zip, deflated": lambda folder: make_zip(folder / "a.zip", FACES.items(), zipfile.ZIP_DEFLATED),
    "zip with a folder": lambda folder: make_zip(folder / "a.zip", [(f"a/{n}", data) for n, data in FACES.items()]),
    "zip of Windows": lambda folder: make_zip(folder / "a.zip", [(f"a\\{n}", data) for n, data in FACES.items()]),
}


@pytest.mark.parametrize("kind", PACKED)
def test_files_and_archives_give_the_same(folder: Path, sourced: Sourced, kind: str) -> None:
    PACKED[kind](folder)
    source = sourced()
    shuffled = [PATHS[index] for index in np.random.default_rng(0).permutation(NUM_FACES)]
    for path, face in zip(shuffled, source.read(shuffled), strict=True):
        data = FACES[path.removeprefix("a/")]
        assert not isinstance(face, ValueError)
        assert face.digest == source.digest(path) == face_digest(data)
        np.testing.assert_array_equal(face.pixels(), decode(data))
        out = np.zeros((32, 32, 3), np.uint8)
        assert np.shares_memory(face.pixels(out), out)
        np.testing.assert_array_equal(out, decode(data))
        assert source.exists(path)
    assert list(source.digests(PATHS)) == [face_digest(FACES[name]) for name in NAMES]
    assert source.groups(PATHS) == [(None, range(NUM_FACES))]
    assert list_faces(folder).paths == PATHS
    assert list_faces(folder).faults == ()


def test_a_lossless_video_gives_its_frames(folder: Path, sourced: Sourced) -> None:
    make_video(folder / "deep/a.mkv")
    paths = [f"deep/{path}" for path in PATHS]
    for number, face in enumerate(pixels(sourced(), paths), 1):
        np.testing.assert_array_equal(face, picture(number))
    (face,) = sourced().read(paths[4:5])
    assert not isinstance(face, ValueError)
    out = np.zeros((32, 32, 3), np.uint8)
    assert face.pixels(out) is out
    np.testing.assert_array_equal(out, picture(5))
    smaller = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(face.pixels(smaller), picture(5))
    assert not smaller.any()


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mpeg4"), (".avi", "mpeg4"), (".mp4", "libx264")])
def test_frames_of_a_lossy_video_are_in_order(folder: Path, sourced: Sourced, suffix: str, codec: str) -> None:
    """With frames that the file holds in another order than they are shown in."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    make_video(folder / f"a{suffix}", 40, codec, "yuv420p", bf="2", b="4000000")
    paths = [f"a/{number:05d}.jpg" for number in range(1, 41)]
    for number, face in enumerate(pixels(sourced(), paths), 1):
        assert isinstance(face, np.ndarray), face
        apart = [np.abs(face.astype(int) - picture(other)).mean() for other in range(1, 41)]
        assert np.argmin(apart) == number - 1
    assert list_faces(folder).paths == paths


def test_a_frame_rate_that_varies_does_not_count(folder: Path, sourced: Sourced) -> None:
    with av.open(str(folder / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "bgr0"
        for number, time in enumerate((0, 1, 9, 10, 50), 1):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = pixels(sourced(), PATHS[:6])
    for number, face in enumerate(found[:5], 1):
        np.testing.assert_array_equal(face, picture(number))
    assert found[5] == "the video has only 5 frames"


def test_frames_in_any_order(folder: Path, sourced: Sourced) -> None:
    make_video(folder / "a.mkv")
    numbers = [5, 2, 12, 12, 1, 3, 11, 4]
    for number, face in zip(numbers, pixels(sourced(), [f"a/{n:05d}.jpg" for n in numbers]), strict=True):
        np.testing.assert_array_equal(face, picture(number))


def test_each_frame_is_decoded_once_in_ascending_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video(str(make_video(folder / "a.mkv")))
    opened: list[int] = []
    real = Video._open
    monkeypatch.setattr(Video, "_open", lambda self: (opened.append(1), real(self))[1])
    for number in (1, 2, 7, 12, 13, 14):
        video.face(f"{number}.jpg")
    assert len(opened) == 1
    video.face("3.jpg")
    assert len(opened) == 2
    video.close()


@pytest.mark.parametrize(("name", "number"), [("00001.jpg", 1), ("12.png", 12), ("cam2_f0007.x.jpg", 7), ("9", 9)])
def test_the_number_of_a_frame(name: str, number: int) -> None:
    assert frame_number(name) == number


@pytest.mark.parametrize("name", ["00000.jpg", "face.jpg", ".jpg", "face.mp4"])
def test_names_of_no_frame(folder: Path, sourced: Sourced, name: str) -> None:
    make_video(folder / "a.mkv", 2)
    assert "counted from 1" in str(reasons(sourced(), [f"a/{name}"])[0])
    assert sourced().digest(f"a/{name}") is None
    assert not sourced().exists(f"a/{name}")


def test_the_digest_of_a_frame_is_of_the_file_and_its_number(folder: Path, sourced: Sourced) -> None:
    make_video(folder / "a.mkv")
    (folder / "b.mkv").write_bytes((folder / "a.mkv").read_bytes())
    source = sourced()
    read = [face.digest for face in source.read(PATHS) if not isinstance(face, ValueError)]
    assert len(set(read)) == NUM_FACES
    assert read == list(sourced().digests(PATHS)) == list(source.digests([path.replace("a/", "b/") for path in PATHS]))
    with (folder / "a.mkv").open("ab") as file:
        file.write(b"\0")
    assert not set(read) & set(sourced().digests(PATHS))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_give_the_cache_of_the_files(tmp_path: Path, kind: str) -> None:
    """Byte for byte: the stream's identity, embeddings, digests and marks."""
    for name in ("files", "packed"):
        frames = made.make_faces(tmp_path / name / "faces")
    for video in sorted(set(frames["video"])):
        shutil.make_archive(str(tmp_path / "packed/faces" / video), kind, tmp_path / "packed/faces" / video)
        shutil.rmtree(tmp_path / "packed/faces" / video)
    reports = [made.run(frames, tmp_path / name, made.tiny()) for name in ("files", "packed")]
    assert [report.failed for report in reports] == [[], []]
    files, packed = (stream_files(tmp_path / name / "cache.zarr/expr") for name in ("files", "packed"))
    assert len(files) > 10
    assert files == packed


def test_a_video_gives_the_embeddings_of_its_pictures(tmp_path: Path) -> None:
    for name in ("files", "packed"):
        (tmp_path / name / "faces/a").mkdir(parents=True)
    for number in range(1, 41):
        Image.fromarray(picture(number)).save(tmp_path / f"files/faces/a/{number:05d}.png")
    (tmp_path / "packed/faces/a").rmdir()
    make_video(tmp_path / "packed/faces/a.mkv", 40)
    frames = scan_faces(tmp_path / "files/faces")
    for name in ("files", "packed"):
        assert not made.run(frames, tmp_path / name, made.tiny(), num_threads=4).failed
    files, packed = (Cache.open(tmp_path / name / "cache.zarr").stream("expr") for name in ("files", "packed"))
    np.testing.assert_array_equal(files.read(), packed.read())
    assert len(np.unique(packed.face_digests(), axis=0)) == 40


def stream_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- which of several ---------------------------------------------------------------------------------------------


def test_the_order_in_which_faces_are_looked_for(folder: Path, sourced: Sourced) -> None:
    """File, tar, zip, video: each is taken away in turn, and the next one answers."""
    make_files(folder / "a", {NAMES[0]: jpeg(101)})
    make_tar(folder / "a.tar", [(NAMES[0], jpeg(102))])
    make_zip(folder / "a.zip", [(NAMES[0], jpeg(103))])
    make_video(folder / "a.mkv", 1)
    for number, there in enumerate(("a/00001.jpg", "a.tar", "a.zip"), 101):
        (face,) = pixels(sourced(), PATHS[:1])
        np.testing.assert_array_equal(face, decode(jpeg(number)))
        (folder / there).unlink()
    (face,) = pixels(sourced(), PATHS[:1])
    np.testing.assert_array_equal(face, picture(1))


def test_what_a_folder_lacks_is_in_its_archive(folder: Path, sourced: Sourced) -> None:
    make_tar(folder / "a.tar", FACES.items())
    make_files(folder / "a", {name: FACES[name] for name in NAMES[:3]})
    assert reasons(sourced(), PATHS) == [None] * NUM_FACES
    assert list_faces(folder).paths == PATHS


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_the_top_of_an_archive_goes_before_its_folder(
    folder: Path, sourced: Sourced, make: Callable[..., Path]
) -> None:
    """And of two members of one name the later, as when an archive is unpacked."""
    members = [("1.jpg", jpeg(7)), ("./1.jpg", jpeg(1)), ("a/1.jpg", jpeg(2)), ("a/2.jpg", jpeg(3))]
    make(folder / "a.tar" if make is make_tar else folder / "a.zip", members)
    assert list(sourced().digests(["a/1.jpg", "a/2.jpg"])) == [face_digest(jpeg(1)), face_digest(jpeg(3))]


def test_one_archive_a_video(folder: Path, sourced: Sourced) -> None:
    """What the first container lacks is missing: it is not taken from the next."""
    make_tar(folder / "a.tar", list(FACES.items())[:1])
    make_zip(folder / "a.zip", FACES.items())
    make_video(folder / "a.mkv")
    assert reasons(sourced(), PATHS[:2]) == [None, "no 00002.jpg in a.tar"]
    assert list_faces(folder).paths == PATHS[:1]


def test_a_video_beside_a_folder_of_its_crops_is_left_alone(folder: Path, sourced: Sourced) -> None:
    """A missing crop must not become a frame of the film that the others were cut from."""
    make_files(folder / "a", {NAMES[0]: FACES[NAMES[0]]})
    make_video(folder / "a.mkv")
    source = sourced()
    assert reasons(source, PATHS[:2]) == [None, "no such file"]
    assert [source.exists(path) for path in PATHS[:2]] == [True, False]
    assert source.groups(PATHS) == [(None, range(NUM_FACES))]
    assert list_faces(folder).paths == PATHS[:1]


def test_a_path_may_name_the_video_file(folder: Path, sourced: Sourced) -> None:
    make_files(folder / "a")
    make_video(folder / "a.mkv")
    (face,) = pixels(sourced(), ["a.mkv/00003.jpg"])
    np.testing.assert_array_equal(face, picture(3))


def test_groups_name_the_videos_that_have_an_order(folder: Path, sourced: Sourced) -> None:
    make_files(folder / "a", {NAMES[0]: b""})
    make_tar(folder / "b.tar", FACES.items())
    make_video(folder / "c.mkv", 3)
    make_video(folder / "d.mkv", 3)
    paths = [f"{video}/{name}" for video in "abcdnc" for name in NAMES[:3]]
    film = {name: str(folder / f"{name}.mkv") for name in "cd"}
    assert sourced().groups(paths) == [
        (None, range(0, 6)),
        (film["c"], range(6, 9)),
        (film["d"], range(9, 12)),
        (None, range(12, 15)),
        (film["c"], range(15, 18)),
    ]
    assert sourced().groups([]) == []


# --- what cannot be had -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../a/1.jpg", "../b/1.jpg", "/a/1.jpg", "a/../../b/1.jpg", "a\\1.jpg"])
def test_paths_stay_inside(folder: Path, sourced: Sourced, path: str) -> None:
    make_tar(folder.parent / "a.tar", [("1.jpg", jpeg(1))])
    make_video(folder.parent / "b.mkv", 2)
    assert reasons(sourced(), [path]) == ["the path leaves the faces folder"]
    assert not sourced().exists(path)
    assert sourced().digest(path) is None
    assert sourced().groups([path]) == [(None, range(1))]


def test_nothing_there_is_as_it_was(folder: Path, sourced: Sourced) -> None:
    (found,) = sourced().read(["a/1.jpg"])
    assert isinstance(found, MissingFace)
    assert str(found) == "no such file"
    assert reasons(sourced(), ["1.jpg"]) == ["no such file"]
    folder.rmdir()
    with pytest.raises(OSError, match="the faces folder is gone"):
        list(sourced().read(["a/1.jpg"]))
    with pytest.raises(OSError, match="the faces folder is gone"):
        sourced().digest("a/1.jpg")


def link_in_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(NAMES[0])
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    return path


def round_for_ever(path: Path) -> Path:
    """A size below zero: the next header is this one."""
    member = tarfile.TarInfo(NAMES[0])
    member.size = -tarfile.BLOCKSIZE
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    return path


def link_in_zip(path: Path) -> Path:
    info = zipfile.ZipInfo(NAMES[0])
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    return path


def encrypted(path: Path) -> Path:
    """The mark alone is enough: nobody asks for a password."""
    data = bytearray(make_zip(path, [(NAMES[0], jpeg(1))]).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(data)
    return path


def wrong_checksum(path: Path) -> Path:
    data = bytearray(make_zip(path, [(NAMES[0], jpeg(1))]).read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


ELSEWHERE = [(f"other/{NAMES[0]}", b"x"), (f"../{NAMES[0]}", b"x"), (f"/{NAMES[0]}", b"x"), (f"a/../{NAMES[0]}", b"x")]
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tar without it": (lambda f: make_tar(f / "a.tar", [("x.jpg", b"")]), "no 00001.jpg in a.tar"),
    "zip without it": (lambda f: make_zip(f / "a.zip", [("x.jpg", b"")]), "no 00001.jpg in a.zip"),
    "tar, elsewhere": (lambda f: make_tar(f / "a.tar", ELSEWHERE), "neither at its top nor in a folder a"),
    "zip, elsewhere": (lambda f: make_zip(f / "a.zip", ELSEWHERE), "neither at its top nor in a folder a"),
    "link in a tar": (lambda f: link_in_tar(f / "a.tar"), "a link in the archive"),
    "link in a zip": (lambda f: link_in_zip(f / "a.zip"), "a link in the archive"),
    "folder in a tar": (lambda f: make_tar(f / "a.tar", [(f"{NAMES[0]}/x", b"")]), "neither at its top"),
    "empty face": (lambda f: make_tar(f / "a.tar", [(NAMES[0], b"")]), "empty file"),
    "no picture": (lambda f: make_zip(f / "a.zip", [(NAMES[0], b"text")]), "not an image"),
    "tar.gz": (lambda f: make_tar(f / "a.tar.gz", FACES.items(), mode="w:gz"), "make a plain .tar (JPEGs do not"),
    "tgz": (lambda f: make_tar(f / "a.tgz", FACES.items(), mode="w:gz"), "make a plain .tar (JPEGs do not"),
    "gz named tar": (lambda f: make_tar(f / "a.tar", FACES.items(), mode="w:gz"), "make a plain .tar (JPEGs do not"),
    "xz named tar": (lambda f: make_tar(f / "a.tar", FACES.items(), mode="w:xz"), "make a plain .tar (JPEGs do not"),
    "empty tar": (lambda f: written(f / "a.tar", b""), "no tar archive"),
    "text named tar": (lambda f: written(f / "a.tar", b"text " * 500), "no tar archive"),
    "size below zero": (lambda f: round_for_ever(f / "a.tar"), "no tar archive"),
    "empty zip": (lambda f: written(f / "a.zip", b""), "cut off or damaged"),
    "encrypted": (lambda f: encrypted(f / "a.zip"), "encrypted"),
    "checksum": (lambda f: wrong_checksum(f / "a.zip"), "damaged in the archive"),
    "empty video": (lambda f: written(f / "a.mp4", b""), "cannot be opened: damaged, or no video"),
    "text named mp4": (lambda f: written(f / "a.mp4", b"text " * 500), "cannot be opened: damaged, or no video"),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_has_a_short_reason(folder: Path, sourced: Sourced, name: str) -> None:
    make, reason = BAD[name]
    make(folder)
    source = sourced()
    for found in (*reasons(source, PATHS[:1]), *reasons(source, PATHS[:1])):  # the second time as the first
        assert found is not None
        assert reason in found
    assert (source.digest(PATHS[0]) is None) == all(isinstance(face, ValueError) for face in source.read(PATHS[:1]))


@pytest.mark.parametrize("kind", ["tar", "zip, deflated"])
@pytest.mark.parametrize("harm", ["cut", "bytes"])
def test_no_damage_gives_another_face_or_a_traceback(folder: Path, kind: str, harm: str) -> None:
    path = PACKED[kind](folder)
    whole = path.read_bytes()
    wanted = [face_digest(FACES[name]) for name in NAMES]
    others = {*wanted}
    random = np.random.default_rng(3)
    num_refused = 0
    for _ in range(150):
        data = bytearray(whole)
        place = int(random.integers(0, len(data)))
        if harm == "cut":
            del data[place:]
        else:
            data[place : place + 4] = bytes(random.integers(0, 256, min(4, len(data) - place), dtype=np.uint8))
        path.write_bytes(data)
        source = FaceSource(folder)
        for want, face in zip(wanted, source.read(PATHS), strict=True):
            if isinstance(face, ValueError):
                num_refused += 1
                assert "\n" not in str(face)
            elif face.digest != want:  # a tar has no checksum of its contents; the picture's decoder looks
                assert face.digest not in others
                assert kind == "tar"
        list_faces(folder)
        source.close()
    assert num_refused > 100


def test_a_tar_that_is_cut_off_gives_what_is_whole(folder: Path, sourced: Sourced) -> None:
    path = PACKED["tar"](folder)
    with tarfile.open(path) as archive:
        end = archive.getmember(NAMES[5]).offset_data + 10
    os.truncate(path, end)
    assert reasons(sourced(), PATHS) == [None] * 5 + ["the archive is cut off or damaged"] * 7
    listing = list_faces(folder)
    assert listing.paths == PATHS[:6]
    assert listing.faults == ("a.tar: the archive is cut off or damaged",)


def test_a_damaged_header_hides_what_is_behind(folder: Path, sourced: Sourced) -> None:
    path = PACKED["tar"](folder)
    with tarfile.open(path) as archive:
        header = archive.getmember(NAMES[3]).offset
    data = bytearray(path.read_bytes())
    data[header] ^= 1
    path.write_bytes(data)
    assert reasons(sourced(), PATHS) == [None] * 3 + ["the archive is cut off or damaged"] * 9


def test_a_damaged_video_gives_what_is_before(folder: Path, sourced: Sourced) -> None:
    path = make_video(folder / "a.mp4", 40, "mpeg4", "yuv420p")
    paths = [f"a/{number:05d}.jpg" for number in range(1, 41)]
    clean = pixels(sourced(), paths)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 24] = bytes(24)
    path.write_bytes(data)
    source = sourced()
    found = pixels(source, paths)
    num_whole = sum(isinstance(face, np.ndarray) for face in found)
    assert 1 < num_whole < 40
    for before, now in zip(clean[:num_whole], found, strict=False):
        np.testing.assert_array_equal(before, now)
    assert set(found[num_whole:]) == {f"the video is damaged from frame {num_whole + 1} on"}
    assert list(source.digests(paths)) == [
        face.digest for face in source.read(paths) if not isinstance(face, ValueError)
    ]
    np.testing.assert_array_equal(pixels(source, paths[:1])[0], clean[0])
    listing = list_faces(folder)
    assert listing.paths == paths[:num_whole]
    assert listing.faults == (f"a.mp4: the video is damaged from frame {num_whole + 1} on",)


def test_less_damage_goes_unnoticed_than_the_decoder_alone_lets_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    path = make_video(folder / "a.mp4", 100, "libx264", "yuv420p", moving)
    strict = num_wrong_in_damaged(path)
    monkeypatch.setattr("extract.faces.video.STRICT", {})
    assert strict < num_wrong_in_damaged(path)


@pytest.mark.parametrize(("packet", "frame"), [(True, False), (False, True)])
def test_what_ffmpeg_marks_as_damaged_ends_a_video(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packet: bool, frame: bool
) -> None:
    """A packet cut off, or a frame guessed in part, where the decoder goes on as if nothing were."""
    video = Video(str(make_video(folder / "a.mkv", 4)))
    marked = SimpleNamespace(is_corrupt=packet, decode=lambda: [SimpleNamespace(is_corrupt=frame)])

    def demux(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[object]:
        yield from [next(packets := container.demux(stream)), next(packets), marked]

    real = video_module._decoded
    monkeypatch.setattr(
        video_module,
        "_decoded",
        lambda container, stream: real(SimpleNamespace(demux=lambda stream: demux(container, stream)), stream),
    )
    names, fault = video.names()
    assert (names, fault) == (["00001.jpg", "00002.jpg"], "the video is damaged from frame 3 on")
    with pytest.raises(ValueError, match="damaged from frame 3 on"):
        video.face("00004.jpg").pixels()
    np.testing.assert_array_equal(video.face("00002.jpg").pixels(), picture(2))
    video.close()


def num_wrong_in_damaged(path: Path) -> int:
    """How many of 40 videos, with a few bytes changed, give frames that are not the original's."""
    names = [f"{number:05d}.jpg" for number in range(1, 101)]
    whole, random, num_wrong = path.read_bytes(), np.random.default_rng(4), 0
    clean = frames_of(path, names)
    assert len(clean) == 100
    for _ in range(40):
        data = bytearray(whole)
        place = int(random.integers(len(data) // 10, len(data) // 10 * 8))
        data[place : place + 8] = bytes(random.integers(0, 256, 8, dtype=np.uint8))
        path.write_bytes(data)
        found = frames_of(path, names)
        num_wrong += any(not np.array_equal(now, before) for now, before in zip(found, clean, strict=False))
    path.write_bytes(whole)
    return num_wrong


def moving(number: int) -> np.ndarray:
    """One picture that moves: a frame takes few bytes, as in most videos."""
    return np.roll(picture(1), number, axis=1)


def frames_of(path: Path, names: list[str]) -> list[np.ndarray]:
    """Those before the first that cannot be had."""
    video, found = Video(str(path)), []
    with contextlib.suppress(ValueError):
        found += (video.face(name).pixels() for name in names)
    video.close()
    return found


def test_a_video_that_is_cut_off(folder: Path, sourced: Sourced) -> None:
    path = make_video(folder / "a.mkv", 40)
    paths = [f"a/{number:05d}.jpg" for number in range(1, 41)]
    for share in (0.1, 0.5, 0.9):
        data = path.read_bytes()
        (folder / "b.mkv").write_bytes(data[: int(len(data) * share)])
        found = pixels(sourced(), [path.replace("a/", "b/") for path in paths])
        num_whole = sum(isinstance(face, np.ndarray) for face in found)
        assert abs(num_whole / 40 - share) < 0.1
        for number, face in enumerate(found[:num_whole], 1):
            np.testing.assert_array_equal(face, picture(number))
        assert len(set(found[num_whole:])) == 1


def test_frames_behind_the_end(folder: Path, sourced: Sourced) -> None:
    make_video(folder / "a.mkv", 3)
    source = sourced()
    assert reasons(source, ["a/00009.jpg", PATHS[2], PATHS[3]]) == [
        "the video has only 3 frames",
        None,
        "the video has only 3 frames",
    ]
    assert not source.exists("a/00009.jpg")
    assert source.exists(PATHS[0])


def test_without_pyav_the_reason_says_what_to_install(
    folder: Path, sourced: Sourced, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(folder / "a.mkv", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    source = sourced()
    said = 'frames of a video need PyAV: pip install "mtl-affect[video]"'
    assert reasons(source, PATHS[:2]) == [said, said]
    assert source.digest(PATHS[0]) is None
    with pytest.raises(ValueError, match="need PyAV"):
        list(source.digests(PATHS))
    with pytest.raises(ValueError, match=r"a\.mkv: frames of a video need PyAV"):
        scan_faces(folder)
    monkeypatch.undo()
    assert source.exists(PATHS[0])


def test_out_of_descriptors_is_not_the_faces(folder: Path, sourced: Sourced, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be opened for want of descriptors must not mark its faces as failed."""
    PACKED["tar"](folder)
    PACKED["zip"](folder).rename(folder / "b.zip")

    def no_more(*arguments: object, **named: object) -> None:
        raise OSError(24, "Too many open files")

    make_video(folder / "c.mkv", 2)
    monkeypatch.setattr(av, "open", no_more)
    monkeypatch.setattr("extract.faces.archives.os.open", no_more)
    monkeypatch.setattr("extract.faces.archives.zipfile.ZipFile", no_more)
    for path in (PATHS[0], "b/00001.jpg", "c/00001.jpg"):
        with pytest.raises(OSError, match="Too many"):
            list(sourced().read([path]))


def test_nothing_is_printed_about_damaged_videos(folder: Path) -> None:
    for name, size in (("a.mp4", 40), ("b.mp4", 4000)):
        path = make_video(folder / name, 30, "mpeg4", "yuv420p")
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + size] = bytes(size)
        path.write_bytes(data)
    make_video(folder / "c.mkv")
    (folder / "c.mkv").write_bytes((folder / "c.mkv").read_bytes()[:-300])
    code = (
        "import sys; from pathlib import Path; from extract.annotations.face_checks import check_faces\n"
        "paths = [f'{video}/{number}.jpg' for video in 'abc' for number in range(1, 31)]\n"
        "found = check_faces(paths, Path(sys.argv[1]), lambda count: None)\n"
        "sys.exit(not found.unreadable)\n"
    )
    done = python("-W", "error", "-c", code, folder, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- many threads, few descriptors --------------------------------------------------------------------------------


def test_threads_read_different_videos_at_once(folder: Path, sourced: Sourced) -> None:
    """More videos and threads than may be open: each gets its own faces."""
    packers = (make_tar, make_zip)
    for number in range(12):
        if number % 3 == 2:
            make_video(folder / f"{number}.mkv")
        else:
            shifted = [(name, jpeg(100 * number + index)) for index, name in enumerate(NAMES, 1)]
            packers[number % 3](folder / f"{number}{('.tar', '.zip')[number % 3]}", shifted)
    source = sourced(3)

    def check(number: int) -> int:
        for index, face in enumerate(pixels(source, [f"{number}/{name}" for name in NAMES]), 1):
            wanted = picture(index) if number % 3 == 2 else decode(jpeg(100 * number + index))
            np.testing.assert_array_equal(face, wanted)
        return number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(check, [*range(12)] * 3)) == sorted([*range(12)] * 3)


def test_threads_read_one_archive_at_once(folder: Path, sourced: Sourced) -> None:
    many = {f"{number}.jpg": jpeg(number) for number in range(200)}
    make_zip(folder / "a.zip", many.items(), zipfile.ZIP_DEFLATED)
    source = sourced()
    parts = [[f"a/{number}.jpg" for number in range(first, 200, 8)] for first in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for part, found in zip(parts, pool.map(lambda part: pixels(source, part), parts), strict=True):
            for path, face in zip(part, found, strict=True):
                np.testing.assert_array_equal(face, decode(many[path.removeprefix("a/")]))


@pytest.mark.parametrize("kind", [".tar", ".zip", ".mkv"])
def test_few_are_open_at_once(folder: Path, sourced: Sourced, kind: str) -> None:
    make = {".tar": make_tar, ".zip": make_zip}.get(kind)
    for number in range(40):
        path = folder / f"{number}{kind}"
        make_video(path, 2) if make is None else make(path, FACES.items())
    source = sourced(5)
    before, most = descriptors(), 0
    for _ in range(2):
        for number in range(40):
            assert reasons(source, [f"{number}/00001.jpg"]) == [None]
            most = max(most, descriptors() - before)
    assert 1 <= most <= 5
    source.close()
    assert descriptors() == before


def test_the_least_recently_used_is_closed(folder: Path) -> None:
    containers = OpenContainers(2)
    seen = []
    for name in ("0.tar", "1.tar", "0.tar", "2.tar", "0.tar", "1.tar"):
        with containers.use(str(folder / name)) as container:
            seen.append(container)
    assert seen[0] is seen[2] is seen[4]
    assert seen[1] is not seen[5]


def test_one_in_use_is_not_closed(folder: Path) -> None:
    for number in range(4):
        make_tar(folder / f"{number}.tar", FACES.items())
    containers = OpenContainers(2)
    order: list[str] = []
    with containers.use(str(folder / "0.tar")) as first:
        assert first.has(NAMES[0])
        for number in (1, 2, 3):
            with containers.use(str(folder / f"{number}.tar")) as other:
                assert other.has(NAMES[0])
        assert first.digest(NAMES[1]) == face_digest(FACES[NAMES[1]])
        with containers.use(str(folder / "1.tar")):

            def wait() -> None:
                with containers.use(str(folder / "2.tar")):
                    order.append("third")

            thread = threading.Thread(target=wait)
            thread.start()
            thread.join(0.2)
            order.append("first two")
    thread.join()
    assert order == ["first two", "third"]
    containers.close()


# --- listing and checking -----------------------------------------------------------------------------------------


def test_listing_mixes_files_archives_and_videos(folder: Path) -> None:
    make_files(folder / "files", {NAMES[1]: b"", NAMES[0]: b""})
    make_tar(folder / "deep/tar.v2.tar", [("notes.txt", b""), ("._1.jpg", b""), ("2.jpg", b""), ("10.png", b"")])
    make_zip(folder / "zip.zip", [("zip/", b""), ("zip/3.jpg", b""), ("__MACOSX/zip/3.jpg", b"")])
    make_video(folder / "film.mkv", 3)
    make_tar(folder / ".hidden.tar", [("1.jpg", b"")])
    (folder / "old.tar.gz").write_bytes(b"\x1f\x8b")
    frames = scan_faces(folder)
    assert frames.select("video", "frame").rows() == [
        ("deep/tar.v2", 2),
        ("deep/tar.v2", 10),
        ("files", 1),
        ("files", 2),
        ("film", 1),
        ("film", 2),
        ("film", 3),
        ("zip", 3),
    ]
    assert frames["path"][4:7].to_list() == ["film/00001.jpg", "film/00002.jpg", "film/00003.jpg"]
    (fault,) = list_faces(folder).faults
    assert fault.startswith("old.tar.gz: the tar is compressed: unpack it")


@pytest.mark.parametrize("open_faces", [True, False])
def test_the_face_check_looks_into_archives_and_videos(
    folder: Path, open_faces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    real = Video._open
    monkeypatch.setattr(Video, "_open", lambda self: (opened.append(1), real(self))[1])
    make_files(folder / "a", {NAMES[0]: FACES[NAMES[0]]})
    make_tar(folder / "b.tar", [(NAMES[0], FACES[NAMES[0]]), (NAMES[2], b"text")])
    make_video(folder / "c.mkv", 400)
    paths = [*PATHS[:2], *(path.replace("a", "b", 1) for path in PATHS[:3])]
    paths += [f"c/{number:05d}.jpg" for number in range(1, 402)]
    done: list[int] = []
    found = check_faces(paths, folder, done.append, open_faces=open_faces, num_threads=4)
    assert sum(done) == len(paths)
    assert len(opened) == 1  # by one thread, front to back, though it has more faces than a chunk
    assert found.missing == (1, 3)
    if not open_faces:
        return
    assert found.unreadable == ((4, "not an image"), (405, "the video has only 400 frames"))
    assert found.sizes == {(32, 32): 402}
    np.testing.assert_array_equal(found.digests[0], found.digests[2])
    assert len(np.unique(found.digests[5:405], axis=0)) == 400


def test_a_face_read_by_hand_and_by_the_source(folder: Path, sourced: Sourced) -> None:
    make_files(folder / "a")
    for path, face in zip(PATHS, sourced().read(PATHS), strict=True):
        data = read_face_bytes(folder, path)
        assert not isinstance(face, ValueError)
        assert face.digest == face_digest(data)
