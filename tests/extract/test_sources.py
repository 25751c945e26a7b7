"""Faces from files, archives and videos: the same pixels and digests from each."""

import shutil
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cache.store import Cache
from extract.annotations.face_checks import check_faces
from extract.annotations.readers import scan_faces
from extract.faces.containers import OpenContainers
from extract.faces.decoding import decode, face_digest, read_face_bytes
from extract.faces.listing import list_faces
from extract.faces.video import Video, frame_number
from helpers import made_extraction as made
from helpers.made_sources import (
    FACES,
    NAMES,
    NUM_FACES,
    PACKED,
    PATHS,
    Sourced,
    descriptors,
    jpeg,
    make_files,
    make_tar,
    make_video,
    make_zip,
    picture,
    pixels,
    reasons,
)

# --- the same faces from each ------------------------------------------------------------------------------------


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
