"""`mtl align` on drawn videos: which crops it makes, that it resumes, and what it refuses."""

import json
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extract.video.alignment import ARCFACE, Alignment
from helpers import drawn_videos as drawn
from helpers import killed_command, signalled
from helpers.cli import call, refused, typed
from helpers.drawn_videos import BLUE, GREEN, RED
from helpers.processes import environment, start
from pipelines.alignment import align as align_module
from pipelines.alignment.people import endings, num_people
from pipelines.config import read_config
from pipelines.faces import alignment_in

TOML = """\
# mine
[data]
faces = "crops"

[faces]   # how they are found
detector = "drawn"   # of the tests
"""
LEFT, MIDDLE, RIGHT = (4, 16, 28, 40), (36, 16, 60, 40), (68, 16, 92, 40)
Frames = list[np.ndarray]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with the detector that finds drawn faces."""
    monkeypatch.syspath_prepend(drawn.install(tmp_path / "packages"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mtl.toml").write_text(TOML)
    return tmp_path


def video(frames: Frames, path: str = "clip.mp4", **options: object) -> Path:
    return drawn.write_video(Path(path), frames, **options)  # type: ignore[arg-type]


def one_face(num_frames: int) -> Frames:
    return [drawn.moving(number) for number in range(num_frames)]


def aligned(*words: object) -> dict:
    """What `mtl align WORDS --out crops --json` prints of the videos."""
    found: dict = json.loads(call("align", *words, "--out", "crops", "--json"))["aligned"]["videos"]
    return found


def crops(name: str = "crops") -> dict[str, bytes]:
    return {path.relative_to(name).as_posix(): path.read_bytes() for path in sorted(Path(name).rglob("*.jpg"))}


def colour(path: str) -> int:
    """Which channel the middle of a crop has most of."""
    with Image.open(path) as image:
        return int(np.asarray(image.convert("RGB"))[40:90, 40:70].mean((0, 1)).argmax())


def test_every_frame_with_a_face_has_a_crop_of_its_number(folder: Path) -> None:
    frames = one_face(12)
    frames[3] = frames[4] = drawn.drawn([])
    video(frames)
    out = call("align", "clip.mp4", "--out", "crops")
    assert out.startswith("clip: 10 crops in clip; 12 frames\ncrops: 10 crops of 1 video; ")
    assert list(crops()) == [f"clip/{number:05d}.jpg" for number in range(1, 13) if number not in (4, 5)]
    assert {path.name for path in Path("crops").iterdir()} == {"clip", "alignment.json", ".align.lock"}
    for path in Path("crops/clip").iterdir():
        with Image.open(path) as image:
            assert image.size == (112, 112)
        assert colour(str(path)) == RED
    record = json.loads(Path("crops/alignment.json").read_text())
    alignment = Alignment.from_json(record["alignment"])
    assert (alignment.detector, alignment.template.name, alignment.long_side_px) == ("drawn", "arcface", 640)
    assert record["videos"]["clip"]["folders"] == {"clip": 10}


def test_the_face_lies_in_the_crop_where_the_template_says(folder: Path) -> None:
    """The square's corners: its points are ARCFACE's of a square from 20 to 100."""
    video([drawn.drawn([(GREEN, MIDDLE)])] * 2, codec="ffv1", pixels="bgr0", path="clip.mkv")
    aligned("clip.mkv")
    with Image.open("crops/clip/00002.jpg") as image:
        green = np.asarray(image)[..., 1] > 150
    ys, xs = np.nonzero(green)
    np.testing.assert_allclose([xs.min(), ys.min(), xs.max(), ys.max()], [20, 20, 100, 100], atol=3)


def test_a_video_without_a_face(folder: Path) -> None:
    video([drawn.drawn([])] * 5)
    assert call("align", "clip.mp4", "--out", "crops").startswith("clip: no face in 5 frames\n")
    assert not crops()
    assert aligned("clip.mp4")["clip"]["folders"] == {}


def test_one_frame(folder: Path) -> None:
    video(one_face(1))
    assert aligned("clip.mp4")["clip"]["folders"] == {"clip": 1}


def test_two_people_go_left_and_right(folder: Path) -> None:
    """Also where one of them is alone in the picture."""
    both = [drawn.drawn([(RED, RIGHT), (BLUE, LEFT)])] * 8
    video([*both, *[drawn.drawn([(RED, RIGHT)])] * 4, *both])
    found = aligned("clip.mp4")["clip"]
    assert found["folders"] == {"clip_left": 16, "clip_right": 20}
    assert {colour(f"crops/{path}") for path in crops() if "left" in path} == {BLUE}
    assert {colour(f"crops/{path}") for path in crops() if "right" in path} == {RED}


def test_three_people_go_by_their_tracks(folder: Path) -> None:
    video([drawn.drawn([(RED, LEFT), (GREEN, MIDDLE), (BLUE, RIGHT)])] * 6)
    assert aligned("clip.mp4")["clip"]["folders"] == {"clip_1": 6, "clip_2": 6, "clip_3": 6}


def test_a_person_after_a_cut_is_still_the_one_person(folder: Path) -> None:
    """The same place in another light: another track, the same folder."""
    first, second = (drawn.drawn([(RED, MIDDLE)], grey=grey) for grey in (20, 140))
    video([first] * 6 + [second] * 6)
    found = aligned("clip.mp4")["clip"]
    assert (found["num_cuts"], found["folders"]) == (1, {"clip": 12})
    assert aligned("clip.mp4", "--people", "each")["clip"]["folders"] == {"clip_1": 6, "clip_2": 6}


def test_how_many_people_may_be_said(folder: Path) -> None:
    small, large = (4, 4, 20, 20), (40, 8, 80, 48)
    video([drawn.drawn([(RED, small), (BLUE, large)])] * 6)
    assert aligned("clip.mp4", "--people", "one")["clip"]["folders"] == {"clip": 6}
    assert {colour(f"crops/{path}") for path in crops()} == {BLUE}
    assert aligned("clip.mp4", "--people", "each")["clip"]["folders"] == {"clip_1": 6, "clip_2": 6}
    assert not Path("crops/clip").exists()
    assert aligned("clip.mp4", "--people", "two")["clip"]["folders"] == {"clip_left": 6, "clip_right": 6}
    assert {path.split("/")[0] for path in crops()} == {"clip_left", "clip_right"}


def test_rare_company_makes_no_second_person() -> None:
    frames = np.r_[np.arange(100), [5, 6, 7, 8]]
    assert num_people(frames) == 1
    assert num_people(np.r_[frames, [9, 10]]) == 2
    faces = np.r_[np.ones(100, int), np.full(4, 2)]
    boxes = np.tile([0.0, 0, 10, 10], (104, 1))
    order = np.argsort(frames, kind="stable")
    ends = np.array(endings("auto", frames[order], faces[order], boxes), object)
    assert [end for end, face in zip(ends, faces[order], strict=True) if face == 2] == [None] * 4
    assert set(ends[faces[order] == 1]) == {""}


def test_two_of_one_side_are_told_apart_by_their_places() -> None:
    """Track 3 came while 1 and 2 changed places: in its frame the other one is left of it."""
    frames, faces = np.array([1, 1, 2, 2, 3, 3]), np.array([1, 2, 1, 2, 1, 3])
    x = np.array([0.0, 50, 0, 50, 60, 10])
    boxes = np.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    assert endings("two", frames, faces, boxes) == ["_left", "_right", "_left", "_right", "_right", "_left"]


def test_a_folder_of_videos_and_a_finished_one(folder: Path) -> None:
    video(one_face(4), "in/a.mp4")
    video(one_face(5), "in/b.mkv")
    assert list(aligned("in")) == ["a", "b"]
    before = {path: path.stat().st_mtime_ns for path in Path("crops").rglob("*.jpg")}
    video(one_face(6), "in/c.mp4")
    out = call("align", "in", "--out", "crops")
    assert "a: 4 crops in a; 4 frames (made before)" in out
    assert "c: 6 crops in c; 6 frames\n" in out
    assert before.items() <= {path: path.stat().st_mtime_ns for path in Path("crops").rglob("*.jpg")}.items()


def test_a_video_may_be_called_anything(folder: Path) -> None:
    for name in ("My holiday (1) [old].v2.mp4", "видео.mkv"):
        video(one_face(2), name)
        assert aligned(name)[Path(name).stem]["folders"] == {Path(name).stem: 2}
    video(one_face(2), "in/.mp4.mp4")
    assert "rename the video" in refused("align", "in/.mp4.mp4", "--out", "crops")


def test_a_video_that_is_cut_off_says_so(folder: Path) -> None:
    path = video(one_face(30), "clip.mkv")
    path.write_bytes(path.read_bytes()[:-900])
    ended = typed("align", "clip.mkv", "--out", "crops")
    assert ended.code == 1
    assert "INCOMPLETE: clip: the video is cut off" in ended.out
    assert 0 < len(crops()) < 30
    again = typed("align", "clip.mkv", "--out", "crops", "--json")
    assert again.code == 1
    assert "cut off" in json.loads(again.out)["aligned"]["videos"]["clip"]["why_ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_name_that_is_no_text_is_refused(folder: Path) -> None:
    path = os.fsdecode(b"\xff.mkv")
    os.rename(video(one_face(2), "clip.mkv"), path)
    assert "\\udcff.mkv: its name is not UTF-8; rename it" in refused("align", path, "--out", "crops")


def test_a_turned_video_is_aligned_upright(folder: Path) -> None:
    path = video([drawn.drawn([(RED, LEFT), (BLUE, RIGHT)])] * 3)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = np.array([-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    aligned("clip.mp4")
    assert colour("crops/clip_left/00001.jpg") == BLUE
    call("align", "clip.mp4", "--out", "stored", "--ignore-orientation")
    assert colour("stored/clip_left/00001.jpg") == RED


def test_a_variable_rate_and_no_duration(folder: Path) -> None:
    video(one_face(9), "vfr.mkv", times=[40 * number + number % 3 for number in range(9)])
    video(one_face(9), "live.mkv", container_options={"live": "1"})
    assert [each["num_frames"] for each in aligned("vfr.mkv", "live.mkv").values()] == [9, 9]


def sound(path: str) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("flac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "none.mp4": (lambda: None, "No such file"),
    "empty.mp4": (lambda: Path("empty.mp4").touch(), "an empty file"),
    "song.flac": (lambda: sound("song.flac"), "has sound only"),
    "list.m3u8": (lambda: Path("list.m3u8").write_text("#EXTM3U\nclip.mp4\n"), "playlist"),
    "folder": (lambda: Path("folder").mkdir(), "no videos in this folder"),
    "b/clip.mp4": (lambda: video(one_face(2), "b/clip.mp4"), "both called clip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_videos_are_refused_before_anything_is_made(folder: Path, name: str) -> None:
    video(one_face(3))
    make, words = BAD[name]
    make()
    assert words in refused("align", "clip.mp4", name, "--out", "crops")
    assert not Path("crops").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the videos"),
        (["clip.mp4"], "--out FOLDER"),
        (["--like", "crops", "--out", "other"], "no videos are named"),
        (["clip.mp4", "--out", "mtl.toml"], "--out names the folder"),
        (["clip.mp4", "--out", "packages"], "files of another origin"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=nobody"], "known: retinaface, yunet:FILE, drawn"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=drawn:broken"], "RuntimeError: out of order"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=drawn:wrong"], "wanted [n, 4], [n] and [n, 5, 2]"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=yunet"], "needs its ONNX file"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=yunet:no.onnx"], "no such ONNX file"),
        (["clip.mp4", "--out", "crops", "--set", "faces.detector=yunet:mtl.toml"], "not an ONNX file"),
        (["clip.mp4", "--out", "crops", "--set", "faces.template=arcfaec"], "known: arcface"),
        (["clip.mp4", "--out", "crops", "--set", "faces.template=[[1.0, 2.0]]"], "a template is 5 points"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(folder: Path, words: list[str], said: str) -> None:
    video(one_face(2))
    assert said in refused("align", *words)


def test_a_folder_whose_parent_is_not_there_is_made(folder: Path) -> None:
    video(one_face(2))
    call("align", "clip.mp4", "--out", "deep/down/crops")
    assert len(crops("deep/down/crops")) == 2


def test_crops_of_two_alignments_are_not_mixed(folder: Path) -> None:
    video(one_face(2))
    aligned("clip.mp4")
    for key, value in (("detector", "drawn:0"), ("size_px", "96"), ("long_side_px", "480")):
        said = refused("align", "clip.mp4", "--out", "crops", "--set", f"faces.{key}={value}")
        assert "of another alignment" in said


def test_another_video_of_the_same_name_is_refused(folder: Path) -> None:
    video(one_face(2))
    aligned("clip.mp4")
    video(one_face(3), "new/clip.mp4")
    assert "of another video called clip" in refused("align", "new/clip.mp4", "--out", "crops")
    Path("crops/other").mkdir()
    video(one_face(4), "other.mp4")
    assert "was not made from this video" in refused("align", "other.mp4", "--out", "crops")


def test_nothing_but_errors_is_said_off_a_terminal(folder: Path) -> None:
    video(one_face(3))
    code, out, err = typed("align", "clip.mp4", "--out", "crops")
    assert (code, err) == (0, "")
    assert out.count("\n") == 2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures that the detector saw, in the list's one item."""
    count, detect = [0], drawn.DrawnDetector.detect

    def counting(self: drawn.DrawnDetector, rgb: np.ndarray) -> object:
        count[0] += 1
        return detect(self, rgb)

    monkeypatch.setattr(drawn.DrawnDetector, "detect", counting)
    return count


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_same_command_resumes_in_mid_video(folder: Path, seen: list[int], number: int, code: int) -> None:
    """Stopped behind the second of three chunks: these are not detected again, and everything is as if undisturbed."""
    chunk = align_module.CHUNK_FRAMES
    frames = one_face(2 * chunk + 20)
    frames[chunk - 3 : chunk + 3] = [drawn.drawn([])] * 6  # a track that goes on across the first chunk's end
    video(frames)
    call("align", "clip.mp4", "--out", "whole")
    assert seen == [len(frames)]
    words = ["pipelines.chunk_files", "write_durably", 3, int(number), "align", "clip.mp4", "--out", "crops"]
    ended, _, err = start(signalled.main, *words, cwd=folder, env=with_packages(folder)).end()
    assert ended == code, err
    assert not crops()
    if number != signal.SIGKILL:
        assert err.splitlines()[-1] == "mtl: stopped; finished work is kept, the same command resumes from here"
    seen[0] = 0
    aligned("clip.mp4")
    assert seen == [len(frames) - 2 * chunk]
    assert crops() == crops("whole")
    assert Path("crops/alignment.json").read_bytes() == Path("whole/alignment.json").read_bytes()
    assert not list(Path("crops").glob(".work*"))


@pytest.mark.long
def test_a_kill_at_any_change_of_the_disk_loses_nothing(folder: Path) -> None:
    video([drawn.drawn([(RED, LEFT), (BLUE, RIGHT)])] * 2)
    call("align", "clip.mp4", "--out", "whole")
    change, ended = 0, -signal.SIGKILL
    while ended:
        change += 1
        shutil.rmtree("crops", ignore_errors=True)
        words = [change, "crops", "align", "clip.mp4", "--out", "crops"]
        ended, _, err = start(killed_command.main, *words, cwd=folder, env=with_packages(folder)).end()
        assert ended in (0, -signal.SIGKILL), err
        call("align", "clip.mp4", "--out", "crops")
        assert crops() == crops("whole"), change
        assert Path("crops/alignment.json").read_bytes() == Path("whole/alignment.json").read_bytes()
        assert sorted(os.listdir("crops")) == sorted(os.listdir("whole"))
    assert change > 15


def with_packages(folder: Path) -> dict[str, str]:
    return environment(PYTHONPATH=os.pathsep.join([str(folder / "packages"), environment()["PYTHONPATH"]]))


def test_the_template_of_crops_is_measured(folder: Path) -> None:
    """Of crops made with the known template its name is stored; comments in mtl.toml stay."""
    video(one_face(12))
    aligned("clip.mp4")
    out = call("align", "--like", "crops")
    assert "drawn found the face in 12 of 12 crops" in out
    assert 'template "arcface": they agree with it to ' in out
    measured = json.loads(call("align", "--like", "crops", "--json"))["template"]["measured_points"]
    assert f"median points {', '.join(f'[{x:.1f}, {y:.1f}]' for x, y in measured)}\n" in out
    text = Path("mtl.toml").read_text()
    assert text.startswith(TOML.rstrip("\n"))
    assert tomllib.loads(text)["faces"] == {"detector": "drawn", "template": "arcface", "size_px": 112, "like": "crops"}


def test_another_template_is_measured_and_used(folder: Path) -> None:
    """Crops of a template of one's own, of 96 px, made anew with what was measured of them, are those crops."""
    own = [[round(0.6 * x + 15, 2), round(0.6 * y + 4, 2)] for x, y in ARCFACE]
    video(one_face(12), "clip.mkv", codec="ffv1", pixels="bgr0")
    call("align", "clip.mkv", "--out", "given", "--set", f"faces.template={own}", "--set", "faces.size_px=96")
    Path("given/alignment.json").unlink()
    measured = json.loads(call("align", "--like", "given", "clip.mkv", "--out", "crops", "--json"))
    template = measured["template"]
    assert template["size_px"] == 96
    np.testing.assert_allclose(template["template"], own, atol=1.5)
    for name in crops():
        both = [np.asarray(Image.open(f"{where}/{name}").convert("RGB"), float) for where in ("given", "crops")]
        assert np.abs(both[0] - both[1]).mean() < 6
    assert "given" in Path("mtl.toml").read_text()


def test_crops_without_a_template_are_refused(folder: Path) -> None:
    Path("crops/a").mkdir(parents=True)
    assert "no crops here" in refused("align", "--like", "crops")
    assert "no such faces folder" in refused("align", "--like", "nowhere")
    Image.fromarray(drawn.drawn([], (64, 64))).save("crops/a/00001.png")
    assert "finds a face in 0 of 1 crops" in refused("align", "--like", "crops")
    Image.fromarray(drawn.moving(1)).save("crops/a/00002.png")
    assert "square and of one size" in refused("align", "--like", "crops")
    Path("crops/a/00001.png").write_bytes(b"no picture")
    Path("crops/a/00002.png").write_bytes(b"no picture")
    assert "none of 2 crops can be read" in refused("align", "--like", "crops")
    assert Path("mtl.toml").read_text() == TOML


def test_a_run_knows_the_alignment_of_its_crops(folder: Path) -> None:
    """From alignment.json beside them, or from [faces] where that was measured from them."""
    assert alignment_in(read_config(folder / "mtl.toml")) is None
    video(one_face(4))
    aligned("clip.mp4")
    made = json.loads(Path("crops/alignment.json").read_text())["alignment"]
    assert alignment_in(read_config(folder / "mtl.toml")) == made
    Path("crops/alignment.json").unlink()
    assert alignment_in(read_config(folder / "mtl.toml")) is None
    call("align", "--like", "crops")
    assert alignment_in(read_config(folder / "mtl.toml")) == made
    elsewhere = ["data.faces=other"]
    assert alignment_in(read_config(folder / "mtl.toml", elsewhere)) is None
    without = alignment_in(read_config(folder / "mtl.toml", ["faces.detector=yunet:gone.onnx"]))
    assert without == {**made, "detector": "yunet", "detector_digest": ""}


def test_a_damaged_record_is_refused(folder: Path) -> None:
    video(one_face(2))
    aligned("clip.mp4")
    path = Path("crops/alignment.json")
    path.write_text(path.read_text().replace("112", "113"))
    assert "damaged or changed" in refused("align", "clip.mp4", "--out", "crops")
