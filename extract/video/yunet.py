"""YuNet (Wu et al. 2023, libfacedetection) by onnxruntime and NumPy: an ONNX file with three scales of outputs.

Input [1, 3, H, W] BGR, 0 to 255, sides multiples of 32; outputs `cls_S`, `obj_S`, `bbox_S`, `kps_S` for strides S of 8,
16 and 32. Letters: P places of one scale.
"""

from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones.onnx_session import digest_of, read_onnx
from extract.video.found import NONE, Detections, without_overlap
from extract.video.session import detector_session

STRIDES = (8, 16, 32)
OUTPUTS = [f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox", "kps")]
LEAST_SCORE, MOST_OVERLAP = 0.3, 0.3
MAX_FACES = 1000  # places above the least score that are looked at


class YuNet:
    """The detector; `size` is (H, W) where the file takes one size alone: smaller pictures are padded."""

    name = "yunet"

    def __init__(self, session: Any, digest: str, size: tuple[int | None, int | None]) -> None:
        self._session, self.digest, self._size = session, digest, size

    def detect(self, rgb: np.ndarray) -> Detections:
        height, width = (_padded(side, fixed) for side, fixed in zip(rgb.shape[:2], self._size, strict=True))
        picture = np.zeros((1, 3, height, width), np.float32)
        picture[0, :, : rgb.shape[0], : rgb.shape[1]] = rgb[..., ::-1].transpose(2, 0, 1)
        outputs = self._session.run(OUTPUTS, {self._session.get_inputs()[0].name: picture})
        scales = [_of_scale(stride, width // stride, outputs[4 * at : 4 * at + 4]) for at, stride in enumerate(STRIDES)]
        found = Detections(*(np.concatenate(parts) for parts in zip(*scales, strict=True)))
        best = np.argsort(-found.scores, kind="stable")[:MAX_FACES]
        return without_overlap(found.take(best), MOST_OVERLAP) if len(best) else NONE


def load_yunet(argument: str, folder: Path) -> YuNet:
    """YuNet of the file `argument`.

    Raises:
        ValueError: no file is named, it is missing or not YuNet's, or onnxruntime is not installed.
    """
    if not argument:
        raise ValueError('detector "yunet" needs its ONNX file: "yunet:FILE", such as face_detection_yunet.onnx')
    where, path = f"detector yunet:{argument}", folder / Path(argument).expanduser()
    data = read_onnx(path, where, 'detector = "yunet:FILE"')
    session = detector_session(data, path.name, where)
    (port, *more), names = session.get_inputs(), {each.name for each in session.get_outputs()}
    if more or not names.issuperset(OUTPUTS) or len(port.shape) != 4 or port.shape[1] != 3:
        raise ValueError(f"{where}: {path.name} is no YuNet: wanted one input [1, 3, H, W] and outputs {OUTPUTS[0]} ..")
    height, width = (side if isinstance(side, int) else None for side in port.shape[2:])
    return YuNet(session, digest_of(data), (height, width))


def _padded(side: int, fixed: int | None) -> int:
    """The side of the input that a picture's `side` goes into."""
    if fixed is not None and side > fixed:
        raise ValueError(f"this YuNet takes pictures of at most {fixed} px a side, found {side}; set long_side_px")
    return fixed or -(-side // STRIDES[-1]) * STRIDES[-1]


def _of_scale(stride: int, columns: int, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and points at the places of one scale that score enough."""
    classes, objects, boxes, points = (each[0] for each in outputs)  # [P, 1], [P, 1], [P, 4], [P, 10]
    scores = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    rows = np.flatnonzero(scores > LEAST_SCORE)
    place = np.stack([rows % columns, rows // columns], axis=1)
    centre, half = (place + boxes[rows, :2]) * stride, np.exp(boxes[rows, 2:]) * stride / 2
    around = (points[rows].reshape(-1, 5, 2) + place[:, None]) * stride
    return np.concatenate([centre - half, centre + half], axis=1, dtype=np.float32), scores[rows], around.astype("f4")
