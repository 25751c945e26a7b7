"""Face detectors: what one gives, and which there are. Letters: n faces of a picture of H x W pixels.

Points are the two eyes, the tip of the nose and the two corners of the mouth, left in the picture first, in pixels.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

import numpy as np

from extract.video.found import Detections
from extract.video.retinaface import load_retinaface
from extract.video.yunet import load_yunet

GROUP = "mtl.detectors"  # of entry points
Load = Callable[[str, Path], "Detector"]


class Detector(Protocol):
    """A face detector. `digest` changes whenever its weights do: other points are other crops.

    `detect` may be called by any thread, by one at a time.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def detect(self, rgb: np.ndarray) -> Detections:
        """Faces of a picture [H, W, 3] uint8 RGB, upright; each once, those of low score among them."""


def load_detector(spec: str, folder: Path) -> Detector:
    """The detector that `spec` names: `NAME` or `NAME:ARGUMENT`, such as "yunet:FILE"; a relative FILE starts at
    `folder`. Other names are entry points of the group "mtl.detectors", which are called as those of `DETECTORS` are.

    Raises:
        ValueError: an unknown name, a file or a package that is missing; says what to do.
    """
    name, _, argument = spec.partition(":")
    if name in DETECTORS:
        return DETECTORS[name](argument, folder)
    others = {each.name: each for each in entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join(["retinaface", "yunet:FILE", *sorted(others)])
        raise ValueError(f"detector {spec!r} is unknown; known: {known}")
    return _from_entry_point(others[name], argument, folder)


def _from_entry_point(entry: EntryPoint, argument: str, folder: Path) -> Detector:
    try:
        detector: Detector = entry.load()(argument, folder)
    except (ValueError, OSError):
        raise
    except (Exception, SystemExit) as error:  # another's code
        raise ValueError(f"detector {entry.name} ({entry.value}): {type(error).__name__}: {error}") from None
    for field in ("name", "digest"):
        if not isinstance(getattr(detector, field, None), str):
            raise ValueError(f"detector {entry.name} ({entry.value}): has no text {field!r}")
    return detector


DETECTORS: dict[str, Load] = {"retinaface": load_retinaface, "yunet": load_yunet}
