"""Ordinary videos as frames with times: variable rate, rotation, 10 bits, no duration; damage; what is no video."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extract.faces.orientation import Orientations
from extract.video.frames import VideoFrame, open_video
from helpers.drawn_videos import HEIGHT, WIDTH, moving, write_video

FRAMES = [moving(number) for number in range(30)]
NEEDED = {"ten.mp4": "libx264", "raw.h264": "libx264", "a.webm": "libvpx"}


def read(path: Path) -> tuple[list[VideoFrame], str | None]:
    with open_video(path) as reader:
        return list(reader), reader.why_ended


def reason(path: Path) -> str:
    """Why the file is no video: one line that begins with its name."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (its words are the test's subject)
        read(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def make(path: Path) -> Path:
    """A video of `FRAMES` in the form that its name says."""
    options: dict[str, dict] = {
        "a.mp4": {},
        "a.avi": {},
        "a.mkv": {"codec": "ffv1", "pixels": "bgr0"},
        "a.webm": {"codec": "libvpx"},
        "ten.mp4": {"codec": "libx264", "pixels": "yuv420p10le"},
        "ten.mkv": {"codec": "ffv1", "pixels": "yuv444p10le"},
        "live.mkv": {"container_options": {"live": "1"}},
        "raw.h264": {"codec": "libx264", "form": "h264"},
        "raw.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p", "form": "mjpeg"},
    }
    if NEEDED.get(path.name) and NEEDED[path.name] not in av.codecs_available:
        pytest.skip(f"this PyAV has no {NEEDED[path.name]}")
    return write_video(path, FRAMES, **options[path.name])


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "a.avi", "a.mkv", "a.webm", "ten.mp4", "ten.mkv", "live.mkv", "raw.h264", "raw.mjpeg"],
)
def test_every_frame_comes_with_its_number_and_time(tmp_path: Path, name: str) -> None:
    """In all containers, with 10 bits, without a duration, and without any times (raw streams)."""
    found, why = read(make(tmp_path / name))
    assert why is None
    assert [frame.number for frame in found] == list(range(1, 31))
    np.testing.assert_allclose([frame.time_s for frame in found], np.arange(30) / 25, atol=1e-3)
    for frame, shown in zip(found, FRAMES, strict=True):
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
        assert frame.pixels.dtype == np.uint8
        assert np.abs(frame.pixels.astype(int) - shown).mean() < 12


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    with open_video(make(tmp_path / "a.mp4")) as reader:
        assert (reader.rate, reader.num_frames, reader.size) == (25.0, 30, (HEIGHT, WIDTH))
    with open_video(make(tmp_path / "live.mkv")) as reader:
        assert reader.num_frames is None


def test_times_are_those_of_a_variable_rate(tmp_path: Path) -> None:
    """Also where the first frame is not at 0."""
    times = [500 + 40 * number + 13 * (number % 3) for number in range(30)]
    found, _ = read(write_video(tmp_path / "a.mkv", FRAMES, times=times))
    np.testing.assert_allclose([frame.time_s for frame in found], np.array(times) / 1000, atol=1e-6)


def test_frames_from_a_number_on_are_the_same(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    whole, _ = read(path)
    with open_video(path) as reader:
        rest = list(reader.frames(21))
    assert [frame.number for frame in rest] == list(range(21, 31))
    for frame, wanted in zip(rest, whole[20:], strict=True):
        assert frame.time_s == wanted.time_s
        np.testing.assert_array_equal(frame.pixels, wanted.pixels)


def test_frames_are_turned_as_players_turn_them(tmp_path: Path) -> None:
    """A quarter turn in the track's header, unless rotation is ignored."""
    path = make(tmp_path / "a.mp4")
    stored, _ = read(path)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of version 0
    data[matrix : matrix + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    found, _ = read(path)
    assert len(found) == 30
    np.testing.assert_array_equal(found[3].pixels, np.rot90(stored[3].pixels, -1))
    with open_video(path, Orientations(follow=False)) as reader:
        np.testing.assert_array_equal(next(iter(reader)).pixels, stored[0].pixels)


def test_one_frame(tmp_path: Path) -> None:
    found, why = read(write_video(tmp_path / "a.mp4", FRAMES[:1]))
    assert ([frame.number for frame in found], why) == ([1], None)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write_video(tmp_path / name, FRAMES, container_options=options)
    whole, _ = read(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    found, why = read(path)
    assert 1 < len(found) < 30
    assert "the video is cut off" in str(why)
    for frame, wanted in zip(found, whole, strict=False):
        np.testing.assert_array_equal(frame.pixels, wanted.pixels)


def test_damage_ends_a_video(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(30)]
    path = write_video(tmp_path / "a.mkv", noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    found, why = read(path)
    assert 1 < len(found) < 30
    assert why == f"the video is damaged from frame {len(found) + 1} on"


def test_a_video_without_one_whole_frame_is_refused(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv", FRAMES[:1], codec="ffv1", pixels="bgr0", options={"level": "3", "slicecrc": "1"}
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    assert reason(path) == "the video is damaged from frame 1 on"


def test_a_video_whose_index_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off" in reason(path)


def sound(path: Path, cover: bool) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=8000)
        picture = container.add_stream("png", rate=1) if cover else None
        if picture is not None:
            picture.width = picture.height = 16
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        if picture is not None:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


NO_VIDEOS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "sound": ("a.flac", lambda path: sound(path, cover=False), "has sound only"),
    "sound with a cover": ("a.flac", lambda path: sound(path, cover=True), "has sound only"),
    "playlist": ("a.m3u8", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nb.ts\n"), "an HLS or M3U playlist"),
    "playlist called .mp4": ("a.mp4", lambda path: path.write_text("#EXTM3U\nhttp://a/b.ts\n"), "playlist"),
    "list for ffmpeg": ("a.mp4", lambda path: path.write_text("ffconcat version 1.0\nfile b.ts\n"), "a list of files"),
    "manifest": ("a.mpd", lambda path: path.write_text('<?xml version="1.0"?>\n<MPD/>\n'), "a DASH manifest"),
    "picture": ("a.jpg", lambda path: Image.fromarray(FRAMES[0]).save(path), "no video"),
    "text": ("a.mp4", lambda path: path.write_text("hello"), "no video"),
    "nothing in it": ("a.mp4", lambda path: path.touch(), "an empty file"),
    "nothing there": ("a.mp4", lambda path: None, "No such file"),
    "folder": ("a.mp4", lambda path: path.mkdir(), "a folder"),
}


@pytest.mark.parametrize("what", NO_VIDEOS)
def test_what_is_no_video_is_refused(tmp_path: Path, what: str) -> None:
    name, write, words = NO_VIDEOS[what]
    write(tmp_path / name)
    assert words in reason(tmp_path / name)


def test_a_list_that_ffmpeg_knows_and_we_do_not_is_not_followed(tmp_path: Path) -> None:
    """By the demuxers that are allowed: numbered pictures and their like are none of them."""
    for number in (1, 2, 3):
        Image.fromarray(FRAMES[number]).save(tmp_path / f"{number:05d}.png")
    assert "No such file" in reason(tmp_path / "%05d.png")
