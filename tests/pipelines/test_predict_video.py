"""`mtl predict MODEL SOURCE` of videos and pictures: faces found and tracked, time, kills, overlays, errors."""

import dataclasses
import json
import os
import re
import signal
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from extract.video import detectors
from extract.video.alignment import Alignment, Template
from extract.video.frames import VideoFrame
from extract.video.live import LiveFrame
from helpers import face_videos
from helpers.cli import call, invoke, refused, typed
from helpers.face_project import make_face_project
from helpers.face_videos import SIDE, Squares, make_face_video, one_face, picture
from helpers.processes import start
from pipelines.config import read_config
from pipelines.postprocess.apply import Parameters
from pipelines.postprocess.smoothing import Smoothing
from pipelines.predict import live
from pipelines.predict.alignments import alignment_notes
from pipelines.predict.face_model import TrainedFaceModel
from pipelines.predict.live import LivePredictor
from pipelines.predict.predictor import Predictor, load_predictor

FACES = '\n[faces]\ndetector = "squares"\nsize_px = 32\n'
CHUNK = 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_face_project(folder)
    with open(folder / "mtl.toml", "a") as file:
        file.write(FACES)
    make_face_video(folder / "one.mkv", 50)
    return folder


@pytest.fixture
def project(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(videos)
    monkeypatch.setitem(detectors.DETECTORS, "squares", lambda argument, folder: Squares())
    return videos


def predicted(*words: object, code: int = 0) -> tuple[dict[str, Any], pl.DataFrame]:
    done = json.loads(invoke("predict", *words, "--force", "--json", code=code).stdout)
    return done, pl.read_parquet(done["out"])


def test_every_frame_of_a_video_is_a_row(project: Path) -> None:
    done, table = predicted("gru", "one.mkv")
    assert (done["source_kind"], done["num_frames"], done["num_faces"], done["num_tracks"]) == ("videos", 50, 50, 1)
    assert table["video"].unique().to_list() == ["one"]
    assert table["frame"].to_list() == list(range(1, 51))
    assert table["time_s"].to_numpy() == pytest.approx(np.arange(50) / 30, abs=1e-3)
    assert table["face"].unique().to_list() == [1]
    assert table["x0"].to_list() == [20 + number % 10 for number in range(1, 51)]
    assert set(table["y1"]) == {15 + SIDE}
    assert table["detection_score"][0] == pytest.approx(0.9)
    assert table["valence"].null_count() == 0
    assert table["valid"].all()
    csv = project / "one.csv"
    call("predict", "gru", "one.mkv", "--out", csv, "--force")
    assert pl.read_csv(csv)["p_AU26"].to_numpy() == pytest.approx(table["p_AU26"].to_numpy(), abs=1e-6)


def test_crops_are_embedded_as_faces_on_disk(project: Path, tmp_path: Path) -> None:
    """What the backbone sees of a video is the crop by the template: saved as a file it predicts the same."""
    from extract.video.finder import FaceFinder

    (tmp_path / "crops").mkdir()
    finder = FaceFinder(detector=Squares(), template=Template.named("arcface", 32))
    for number in range(1, 21):
        pixels = picture(one_face(number), (72, 160), number)
        found = finder.find(pixels)
        Image.fromarray(finder.crop(pixels, found.points[0])).save(tmp_path / "crops" / f"{number:05d}.png")
    _, of_video = predicted("none", make_face_video(tmp_path / "clip.mkv", 20))
    _, of_files = predicted("none", tmp_path / "crops")
    assert of_video["valence"].to_numpy() == pytest.approx(of_files["valence"].to_numpy(), abs=1e-4)


def two_then_none(number: int) -> list[tuple[int, int, int]]:
    """Two faces, one of which leaves after frame 10; none after frame 15."""
    return [] if number > 15 else [(5, 10, 0), (100, 12, 3)] if number <= 10 else [(5, 10, 0)]


def test_people_and_frames_without_a_face(project: Path, tmp_path: Path) -> None:
    done, table = predicted("both", make_face_video(tmp_path / "two.mkv", 20, two_then_none))
    assert (done["num_frames"], done["num_faces"], done["num_tracks"], len(table)) == (20, 25, 2, 30)
    assert table.group_by("face").len().sort("face").rows() == [(None, 5), (1, 15), (2, 10)]
    empty = table.filter(pl.col("face").is_null())
    assert empty["frame"].to_list() == [16, 17, 18, 19, 20]
    assert empty["valid"].any() is False
    assert all(empty[name].null_count() == 5 for name in ("x0", "valence", "expression", "expression_name", "AU1"))
    assert empty["time_s"].null_count() == 0
    done, table = predicted("gru", make_face_video(tmp_path / "nobody.mkv", 5, lambda number: []))
    assert (done["num_faces"], len(table), table["valence"].null_count()) == (0, 5, 5)
    assert "no face found: every row is empty" in call("predict", "gru", tmp_path / "nobody.mkv", "--force")


def test_heads_count_real_time(project: Path, tmp_path: Path) -> None:
    """At 60 frames per second two frames are one step, of which the first is seen; at 30 each is a step. Gaps count."""
    _, slow = predicted("gru", make_face_video(tmp_path / "slow.mkv", 10, rate=30))
    _, fast = predicted("gru", make_face_video(tmp_path / "fast.mkv", 10, rate=60))
    assert slow["valence"].n_unique() == 10
    assert fast["valence"].n_unique() in (5, 6)  # times are whole milliseconds in Matroska
    _, twice = predicted("gru", tmp_path / "fast.mkv", "--set", "data.fps=60")
    assert twice["valence"].n_unique() == 10
    times_s = [0.0, 0.1, 0.15, 1.0, 20.0, 20.1]
    _, uneven = predicted("gru", make_face_video(tmp_path / "uneven.mkv", 6, times_s=times_s))
    assert uneven["time_s"].to_list() == pytest.approx(times_s)
    # A gap of more than [train] max_gap frames: what is behind it does not matter.
    _, before = predicted("gru", make_face_video(tmp_path / "before.mkv", 4, times_s=times_s[:4]), "--no-post")
    _, whole = predicted("gru", tmp_path / "uneven.mkv", "--no-post")
    assert whole["valence"][:4].to_numpy() == pytest.approx(before["valence"].to_numpy(), abs=1e-4)


def test_a_video_of_one_frame(project: Path, tmp_path: Path) -> None:
    done, table = predicted("gru", make_face_video(tmp_path / "still.mkv", 1))
    assert (done["num_frames"], table["valence"].null_count()) == (1, 0)


def test_a_folder_of_videos_names_the_bad_ones(project: Path, tmp_path: Path) -> None:
    make_face_video(tmp_path / "a.mkv", 4)
    make_face_video(tmp_path / "a.avi", 3)
    make_face_video(tmp_path / "deep" / "b.mkv", 2)
    (tmp_path / "c.mp4").write_bytes(b"#EXTM3U\n")
    done, table = predicted("gru", tmp_path, code=1)
    assert table.group_by("video", maintain_order=True).len().rows() == [("a.avi", 3), ("a.mkv", 4), ("deep/b", 2)]
    assert len(done["incomplete"]) == 1
    assert "c.mp4: an HLS or M3U playlist" in done["incomplete"][0]


def test_a_video_that_is_cut_off_is_said(project: Path, tmp_path: Path) -> None:
    whole = make_face_video(tmp_path / "whole.mkv", 40)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    ended = typed("predict", "gru", cut, "--out", tmp_path / "cut.parquet")
    assert ended.code == 1
    assert "INCOMPLETE: " in ended.out
    assert "the video is cut off" in ended.out
    part = pl.read_parquet(tmp_path / "cut.parquet")
    assert 5 < len(part) < 40
    done, again = predicted("gru", whole)
    assert done["incomplete"] == []
    assert part["frame"].equals(again["frame"][: len(part)])


def test_faces_in_pictures(project: Path, tmp_path: Path) -> None:
    for name, faces in (("first", one_face(1)), ("second", [(5, 10, 0), (100, 12, 3)]), ("third", [])):
        Image.fromarray(picture(faces, (72, 160), 1)).save(tmp_path / f"{name}.png")
    (tmp_path / "fourth.png").write_bytes(b"no picture")
    done, table = predicted("gru", tmp_path, code=1)
    assert (done["source_kind"], done["num_unreadable"]) == ("pictures", 1)
    assert "160 x 72 px" in done["why"]
    assert table.select("video", "frame", "face", "valid").rows() == [
        *(("first", 1, 1, True), ("fourth", 1, None, False)),
        *(("second", 1, 1, True), ("second", 1, 2, True), ("third", 1, None, False)),
    ]
    assert table["valence"].is_null().to_list() == [False, True, False, False, True]
    done, _ = predicted("gru", tmp_path / "first.png", "--detect")
    assert done["num_faces"] == 1


# --- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "number"), [(1, signal.SIGKILL), (3, signal.SIGKILL), (3, signal.SIGINT)])
def test_a_killed_prediction_resumes_to_the_same_bytes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, number: int
) -> None:
    """One file of work is the origin, then one per chunk: killed before the first chunk, and after the second."""
    monkeypatch.setattr("pipelines.predict.observe.CHUNK_FRAMES", CHUNK)
    whole, resumed = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    words = ("predict", "gru", "one.mkv", "--device", "cpu")
    call(*words, "--out", whole)
    code, out, err = start(face_videos.main, calls, int(number), CHUNK, *words, "--out", resumed, cwd=project).end()
    assert code == (-number if number == signal.SIGKILL else 130), (out, err)
    assert ("the same command resumes" in err) == (number == signal.SIGINT)
    assert not resumed.exists()
    assert (tmp_path / ".resumed.parquet.work").is_dir()
    done = json.loads(call(*words, "--out", resumed, "--json"))
    assert done["num_resumed"] == CHUNK * (calls - 1)
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["resumed.parquet", "whole.parquet"]


def test_work_of_something_else_is_not_taken(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another video, other crops, other backbones; and a chunk in which a bit changed is made again."""
    monkeypatch.setattr("pipelines.predict.observe.CHUNK_FRAMES", CHUNK)
    out = tmp_path / "out.parquet"

    def killed(*words: object) -> None:
        start(face_videos.main, 3, int(signal.SIGKILL), CHUNK, *words, "--out", out, cwd=project).end()

    def resumed(*words: object) -> int:
        done = json.loads(call(*words, "--out", out, "--json", "--force"))
        return int(done["num_resumed"])

    killed("predict", "gru", "one.mkv")
    assert resumed("predict", "none", "one.mkv") == 0
    killed("predict", "gru", "one.mkv")
    assert resumed("predict", "gru", "one.mkv", "--set", "faces.size_px=48") == 0
    killed("predict", "gru", "one.mkv")
    os.utime("one.mkv")
    assert resumed("predict", "gru", "one.mkv") == 0
    killed("predict", "gru", "one.mkv", "--force")
    (chunk,) = (tmp_path / ".out.parquet.work" / "00000").glob("00001-*")
    data = bytearray(chunk.read_bytes())
    data[-5] ^= 1
    chunk.write_bytes(data)
    assert resumed("predict", "gru", "one.mkv") == CHUNK


# --- pictures of predictions --------------------------------------------------------------------------------------


def test_an_overlay_shows_every_frame(project: Path, tmp_path: Path) -> None:
    make_face_video(tmp_path / "two.mkv", 20, two_then_none, size=(180, 320))
    drawn, page = tmp_path / "drawn.mp4", tmp_path / "page.html"
    words = (
        "predict",
        "gru",
        tmp_path / "two.mkv",
        "--out",
        tmp_path / "out.csv",
        "--overlay",
        drawn,
        "--timeline",
        page,
    )
    assert str(drawn) in call(*words)
    with av.open(str(drawn)) as container:
        frames = list(container.decode(video=0))
        pixels = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
    assert len(frames) == 20
    assert [float(frame.time) for frame in frames] == pytest.approx([n / 30 for n in range(20)], abs=2e-3)
    assert pixels[0].shape[1] == 320
    assert pixels[0].shape[0] > 180  # two rows of traces and bars below
    blue = np.array([86, 180, 233])
    edge = pixels[4][30, 5:7]  # of the first face's box, over its white edge
    assert (abs(edge - blue).max(axis=1) < 60).any(), edge
    assert (abs(pixels[18][:170] - face_videos.GROUND) < 12).all()  # nobody is there any more
    text = page.read_text()
    assert text.count('class="timeline-data"') == 2  # two faces
    assert "Predictions of the run gru." in text
    before = drawn.read_bytes(), page.read_bytes()
    call(*words, "--force")
    drawn.write_bytes(b"another's")
    assert "drawn.mp4: not a file of this command" in refused(*words, "--force")
    assert drawn.read_bytes() == b"another's"
    assert before[1]


def test_a_timeline_as_a_picture(project: Path, tmp_path: Path) -> None:
    picture_path = tmp_path / "t.png"
    said = call("predict", "gru", "faces", "--out", tmp_path / "o.csv", "--timeline", picture_path)
    assert "t.png shows v" in said
    with Image.open(picture_path) as image:
        assert image.width > 1000


# --- errors -------------------------------------------------------------------------------------------------------


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_files_that_are_no_video_are_one_line(project: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.wav")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\nhttp://example.org/a.ts\n")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    for name, why in (
        ("sound.wav", "has sound only, no video"),
        ("list.m3u8", "an HLS or M3U playlist, no video"),
        ("noise.mp4", "cannot be opened: damaged, or no video"),
    ):
        assert f"{name}: {why}" in refused("predict", "gru", tmp_path / name, "--out", tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.m3u8", "noise.mp4", "sound.wav"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["one.mkv", "--overlay", "x.avi"], "x.avi: --overlay writes a video; give it the ending .mp4"),
        (["one.mkv", "--timeline", "x.pdf"], "x.pdf: --timeline writes a page or a picture"),
        (["faces", "--overlay", "x.mp4"], "--overlay draws into one video, and faces is aligned faces"),
        (["--overlay", "x.mp4"], "--overlay and --timeline go with a SOURCE; name one"),
        (["one.mkv", "--set", 'faces.detector="nobody"'], "detector 'nobody' is unknown; known: retinaface"),
    ],
)
def test_errors_are_one_line(project: Path, words: list[str], error: str) -> None:
    assert error in refused("predict", "gru", *words, "--force")


def test_a_file_in_a_folder_that_is_not_there(project: Path, tmp_path: Path) -> None:
    call("predict", "gru", "one.mkv", "--out", tmp_path / "new" / "deep" / "out.csv")
    assert (tmp_path / "new" / "deep" / "out.csv").is_file()


def test_crops_of_another_alignment_are_said() -> None:
    alignment = Alignment(template=Template(), detector="yunet", detector_digest="1", long_side_px=640)
    other = Alignment(template=Template(), detector="retinaface", detector_digest="2", long_side_px=640)

    def notes(trained: Alignment | None, found: Alignment | None) -> str:
        model: Any = SimpleNamespace(folder="runs/a", alignment=None if trained is None else trained.to_json())
        return " ".join(alignment_notes(model, found))

    assert notes(alignment, alignment) == notes(alignment, None) == notes(None, None) == ""
    assert "another alignment than those that runs/a was trained on" in notes(alignment, other)
    assert "detector yunet, not retinaface" in notes(alignment, other)
    assert "how the crops that runs/a was trained on were aligned is not known" in notes(None, other)


# --- live ---------------------------------------------------------------------------------------------------------


def test_a_playing_video_is_predicted_live(project: Path, tmp_path: Path) -> None:
    """A video of 1.5 s takes as long; the final prediction is of `--delay` steps ago, and close to `mtl predict`'s."""
    make_face_video(tmp_path / "clip.mkv", 45)
    began_s = time.monotonic()
    *updates, summary = map(
        json.loads, call("live", "none", tmp_path / "clip.mkv", "--delay", 6, "--json").splitlines()
    )
    assert time.monotonic() - began_s > 1.4
    assert (summary["delay_steps"], summary["delay_s"]) == (6, pytest.approx(0.2))
    assert summary["num_frames"] + summary["num_dropped"] in (44, 45)  # the last one may come as it ends
    held_back = [update for update in updates if update["latency_s"] is None]
    updates = updates[: -len(held_back)]
    assert len(updates) == summary["num_updates"] >= 2
    assert 0 < summary["latency_s"]["median"] < 5
    _, whole = predicted("none", tmp_path / "clip.mkv")
    for update in updates:
        (face,) = update["faces"]
        assert face["box"][0] == 20 + update["frame"] % 10
        assert face["prompt"]["valence"] == pytest.approx(whole["valence"][update["frame"] - 1], abs=1e-2)
        assert all(final["time_s"] <= update["time_s"] - 0.19 for final in face["finals"])
    finals = [final for update in (*updates, *held_back) for final in update["faces"][0]["finals"]]
    times_s = [final["time_s"] for final in finals]
    assert times_s == sorted(set(times_s))
    assert len(times_s) == summary["num_frames"], "one of every frame that was seen"
    for final in finals:
        assert final["columns"]["valence"] == pytest.approx(whole["valence"][round(final["time_s"] * 30)], abs=1e-2)
    assert times_s[-1] == pytest.approx(held_back[-1]["time_s"], abs=1e-2)
    lines = call("live", "gru", tmp_path / "clip.mkv").splitlines()
    assert "face 1: valence " in lines[0]
    assert "a prediction is final after 0.5 s" in lines[-1]
    assert re.search(r", median latency \d+ ms \(95th percentile \d+ ms\); ", lines[-1])


def test_a_clip_shorter_than_the_delay_ends_with_a_final_prediction_per_frame(project: Path, tmp_path: Path) -> None:
    make_face_video(tmp_path / "clip.mkv", 20)
    *updates, summary = map(
        json.loads, call("live", "gru", tmp_path / "clip.mkv", "--delay", 60, "--json").splitlines()
    )
    _, whole = predicted("gru", tmp_path / "clip.mkv")
    assert not any(face["finals"] for each in updates if each["latency_s"] is not None for face in each["faces"])
    finals = [final for each in updates for face in each["faces"] for final in face["finals"]]
    assert len(finals) == summary["num_frames"]
    if not summary["num_dropped"]:  # else the head saw other steps
        values = [final["columns"]["valence"] for final in finals]
        assert values == pytest.approx(whole["valence"].to_list()[: len(values)], abs=1e-2)


@pytest.mark.parametrize(
    ("delay", "every_s"), [(16, 0.1), (3, 0.1), (3, 0.6), (0, 0.5)], ids=["held back", "each", "several", "causal"]
)
def test_every_step_of_a_face_has_one_final_prediction_in_order(
    monkeypatch: pytest.MonkeyPatch, delay: int, every_s: float
) -> None:
    """One face in 10 frames, then 3 s without any; the predictions are the numbers of the steps."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    here = SimpleNamespace(boxes=np.array([[0, 0, 4, 4]]), scores=np.array([0.9]), points=np.zeros((1, 5, 2)))
    nobody = SimpleNamespace(boxes=np.zeros((0, 4)), scores=np.zeros(0), points=np.zeros((0, 5, 2)))
    found = iter([here] * 10 + [nobody] * 30)
    finder: Any = SimpleNamespace(
        reduced=lambda pixels: pixels, find=lambda pixels, small: next(found), crop=lambda pixels, points: pixels
    )
    model: Any = SimpleNamespace(
        batch_size=8,
        embed=lambda crops, videos: {"s": np.zeros((len(crops), 2))},
        predict=lambda tracks, steps, embeddings, valid: SimpleNamespace(columns={"valence": steps.astype(float)}),
    )
    monkeypatch.setattr(live, "EVERY_S", every_s - 0.01)
    predictor = LivePredictor(model=model, finder=finder, fps=10.0, window=2, delay=delay)
    frames = [LiveFrame(VideoFrame(number, (number - 1) / 10, pixels), number / 10) for number in range(1, 41)]
    updates = list(predictor.updates(frames))
    finals = [final.columns["valence"] for update in updates for face in update.faces for final in face.finals]
    assert finals == list(map(float, range(10)))
    seen = [update for update in updates if update.latency_s is not None and update.faces]
    for update in seen:
        assert all(final.time_s <= update.time_s - delay / 10 + 1e-9 for final in update.faces[0].finals)
        newest = [final for each in updates[: updates.index(update) + 1] for final in each.faces[0].finals]
        assert len(newest) == max(0, round(update.time_s * 10) - delay + 1), "as soon as they are final"
    held_back = [update for update in updates if update.latency_s is None]
    assert len(held_back) == (len(finals) > sum(len(update.faces[0].finals) for update in seen))
    for update in held_back:
        assert (update.frame, update.time_s) == (10, 0.9)
        assert update.faces[0].prompt == {"valence": 9.0}
        assert updates.index(update) < len(updates) - 1  # before the frames end
    assert updates[-1].faces == ()


def test_what_a_live_prediction_waits_for(project: Path) -> None:
    """Heads of windows for one; frame-wise and causal heads for nothing but what smoothing takes in."""
    config = read_config(project / "mtl.toml")
    framewise, windowed = (load_predictor(project / "runs" / name, CPU) for name in ("none", "gru"))

    def lookahead(predictor: Predictor, **parameters: Any) -> int:
        fitted = Parameters(schema=predictor.schema, **parameters)
        return TrainedFaceModel(dataclasses.replace(predictor, parameters=fitted), config, CPU).lookahead

    assert lookahead(framewise) == 0
    assert lookahead(framewise, smoothing={"va": Smoothing("gaussian", 2.5), "au": Smoothing("box", 5)}) == 7
    assert lookahead(windowed) == windowed.runs[0].run.strategy.train.window
    (one,) = windowed.runs
    strategy = dataclasses.replace(one.run.strategy, head=dataclasses.replace(one.run.strategy.head, causal=True))
    causal = dataclasses.replace(one, run=dataclasses.replace(one.run, strategy=strategy))
    assert lookahead(dataclasses.replace(windowed, runs=(causal,)), smoothing={"expr": Smoothing("median", 3)}) == 3


def test_live_says_that_a_video_is_cut_off(project: Path, tmp_path: Path) -> None:
    whole = make_face_video(tmp_path / "whole.mkv", 40)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    ended = typed("live", "none", cut)
    assert ended.code == 1
    assert "INCOMPLETE: the video is cut off" in ended.out


def test_an_empty_source_is_refused(project: Path) -> None:
    """As an unset variable of a shell gives it: it is not the working folder."""
    assert "SOURCE is empty; name faces, pictures, a video" in refused("predict", "gru", "")


def test_live_says_what_is_not_there(project: Path) -> None:
    assert "nothing.mp4: no such video; name one, or the number of a camera" in refused("live", "gru", "nothing.mp4")
    assert "camera 93 (" in refused("live", "gru", "93")
    assert "--delay -5: a number of steps from 0 to 10,000" in refused("live", "gru", "one.mkv", "--delay", "-5")
