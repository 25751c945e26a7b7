"""Faces that cannot be had: damaged, cut off, encrypted or elsewhere, each with a short reason."""

import contextlib
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from extract.annotations.readers import scan_faces
from extract.faces import decoder
from extract.faces.decoding import MissingFace, face_digest
from extract.faces.listing import list_faces
from extract.faces.source import FaceSource
from extract.faces.video import Video
from helpers.made_sources import (
    FACES,
    NAMES,
    PACKED,
    PATHS,
    Sourced,
    jpeg,
    make_tar,
    make_video,
    make_zip,
    picture,
    pixels,
    reasons,
)
from helpers.processes import python

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
    monkeypatch.setattr("extract.faces.decoder.STRICT", {})
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

    real = decoder.decoded
    monkeypatch.setattr(
        decoder,
        "decoded",
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
