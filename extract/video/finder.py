"""Faces of a picture: found by a detector in a reduced copy, and cut out aligned.

Place: above the detectors and `extract.video.alignment`; below `extract.video.faces`.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from extract.video.alignment import Alignment, Template, align
from extract.video.detectors import Detector
from extract.video.found import Detections, checked

LONG_SIDE_PX, MIN_SCORE = 640, 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceFinder:
    """A detector and how it is used: it sees pictures of `long_side_px` at most, and faces below `min_score` are left
    out. Crops go by the template."""

    detector: Detector
    template: Template = Template()
    long_side_px: int = LONG_SIDE_PX
    min_score: float = MIN_SCORE

    @property
    def alignment(self) -> Alignment:
        return Alignment(
            template=self.template,
            detector=self.detector.name,
            detector_digest=self.detector.digest,
            long_side_px=self.long_side_px,
        )

    def reduced(self, rgb: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] as the detector sees it."""
        return resized(rgb, min(1.0, self.long_side_px / max(rgb.shape[:2])))

    def find(self, rgb: np.ndarray, reduced: np.ndarray | None = None) -> Detections:
        """The faces of a picture [H, W, 3] uint8 RGB, of the highest score first; `reduced` where it is known already.

        Raises:
            ValueError: a detector of another package failed, or gave what are no detections.
        """
        small = self.reduced(rgb) if reduced is None else reduced
        found = checked(self._detected(small), self.detector.name)
        found = found.take(found.scores >= self.min_score)
        found = found.take(np.argsort(-found.scores, kind="stable"))
        return found.scaled(rgb.shape[1] / small.shape[1], rgb.shape[0] / small.shape[0])

    def _detected(self, small: np.ndarray) -> Detections:
        try:
            return self.detector.detect(small)
        except (ValueError, OSError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # another's code
            why = " ".join(str(error).split())
            raise ValueError(f"detector {self.detector.name}: {type(error).__name__}: {why}") from None

    def crop(self, rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
        """[S, S, 3] uint8 of the face with these points [5, 2]."""
        return align(rgb, points, self.template)


def resized(rgb: np.ndarray, scale: float) -> np.ndarray:
    """The picture [H, W, 3] uint8 so many times as large; itself where that is 1."""
    if scale == 1:
        return rgb
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
