"""`mtl align --like`: the template of crops that one already has, measured by the detector and stored in mtl.toml.

A detector is a little off on faces that fill the picture, in another way at each size, so every crop is looked at in
several sizes with a margin, and the median over all crops counts. Letters: n crops.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.faces.listing import list_faces
from extract.faces.source import FaceSource
from extract.video.alignment import TEMPLATES, Points, Template, similarity
from extract.video.finder import FaceFinder, resized
from pipelines.config import Config
from pipelines.faces import face_finder
from pipelines.progress import progress
from pipelines.sections import write_section

MAX_CROPS = 400
SCALES, MARGIN = (1.0, 1.5, 2.0), 0.5
ENOUGH = 0.5  # of the crops, in which a face must be found
AGREES_PX = 3.0  # at 112 px: crops of a template were measured 1.8 to 2.6 px from it, since detectors shrink faces


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The template of the crops in `folder`: the `known` one that they agree with, to `distance_px`, else the measured
    points."""

    folder: Path
    config: Path
    template: Template
    points: Points
    detector: str
    num_crops: int
    num_found: int
    known: str | None
    distance_px: float

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "config": str(self.config),
            "size_px": self.template.size_px,
            "template": self.known or [list(point) for point in self.template.points],
            "measured_points": [list(point) for point in self.points],
            "num_crops": self.num_crops,
            "num_found": self.num_found,
        }


def measure_and_store(config: Config, path: Path, folder: Path) -> Measured:
    """Measures the template of the crops in `folder`, and writes it to [faces] of the mtl.toml at `path`. Nothing is
    written to `folder`, which may be another's.

    Raises:
        ValueError: no crops there, of several sizes, or with hardly any face; or mtl.toml cannot be written.
    """
    finder = face_finder(config)
    size_px, points, num_crops = _measured(finder, folder)
    if len(points) < ENOUGH * num_crops:
        raise ValueError(
            f"{folder}: {finder.detector.name} finds a face in {len(points)} of {num_crops} crops; wanted a folder of "
            "aligned faces"
        )
    medians = np.median(points, axis=0)
    if not ((medians >= -size_px) & (medians < 2 * size_px)).all():
        raise ValueError(
            f"{folder}: {finder.detector.name} puts points of most faces far outside their crops of {size_px} px, so "
            "they have no template; another detector ([faces] detector) may see them better"
        )
    middle = tuple((round(float(x), 2), round(float(y), 2)) for x, y in medians)
    template = Template(size_px, middle)
    known, distance_px = _nearest(template)
    if known is not None:
        template = Template.named(known, size_px)
    stored: Any = known or [list(point) for point in middle]
    section = {"template": stored, "size_px": size_px, "like": str(_from(path.parent, folder))}
    write_section(path, ("faces",), lambda old: {**old, **section})
    return Measured(
        folder=folder,
        config=path,
        template=template,
        points=middle,
        detector=finder.detector.name,
        num_crops=num_crops,
        num_found=len(points),
        known=known,
        distance_px=distance_px,
    )


def _measured(finder: FaceFinder, folder: Path) -> tuple[int, np.ndarray, int]:
    """The side of the crops, the points [n, 5, 2] of those with a face, and how many were looked at."""
    paths = list_faces(folder, open_videos=False).paths
    if not paths:
        raise ValueError(f"{folder}: no crops here; wanted FOLDER/VIDEO/00001.jpg")
    chosen = [paths[row] for row in np.linspace(0, len(paths) - 1, min(MAX_CROPS, len(paths))).astype(int)]
    sizes: Counter[tuple[int, ...]] = Counter()
    points = []
    with closing(FaceSource(folder)) as source, progress("measure", len(chosen), "crops") as advance:
        for crop in _crops(source, chosen):
            sizes[crop.shape[:2]] += 1
            found = face_points(finder, crop)
            if found is not None:
                points.append(found)
            advance(1)
    if not sizes:
        raise ValueError(f"{folder}: none of {len(chosen)} crops can be read")
    (height, width), count = sizes.most_common(1)[0]
    if height != width or count != sizes.total():
        named = ", ".join(f"{w} x {h}" for (h, w), _ in sizes.most_common(3))
        raise ValueError(f"{folder}: pictures of {named} px; aligned crops are square and of one size")
    return height, np.array(points), sizes.total()


def _crops(source: FaceSource, paths: Sequence[str]) -> Iterator[np.ndarray]:
    for face in source.read(paths):
        if not isinstance(face, ValueError):
            with suppress(ValueError):
                yield face.pixels()


def face_points(finder: FaceFinder, crop: np.ndarray) -> np.ndarray | None:
    """The points [5, 2] of the face that fills the crop, the mean over several sizes; None where one shows none."""
    found = []
    for scale in SCALES:
        margin = round(MARGIN * crop.shape[0])
        wide = np.pad(crop, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        detections = finder.find(resized(wide, scale))
        if not len(detections):
            return None
        areas = (detections.boxes[:, 2:] - detections.boxes[:, :2]).prod(1)
        found.append(detections.points[areas.argmax()] / scale - margin)
    return np.mean(found, axis=0)


def _nearest(template: Template) -> tuple[str | None, float]:
    """The known template that crops with these mean points were made with, and how far its points move under the
    transform between both; None where none is near. A mean face fits no template point by point."""
    scale = 112 / template.size_px
    distances = {}
    for name in TEMPLATES:
        wanted = np.array(Template.named(name, template.size_px).points)
        matrix = similarity(np.array(template.points), wanted)
        moved = wanted @ matrix[:, :2].T + matrix[:, 2] - wanted
        distances[name] = float(np.linalg.norm(moved, axis=1).max() * scale)
    best = min(distances, key=distances.__getitem__)
    return (best if distances[best] <= AGREES_PX else None), distances[best]


def _from(home: Path, folder: Path) -> Path:
    """`folder` as mtl.toml in `home` names it: relative where it lies inside."""
    whole, inside = folder.resolve(), home.resolve()
    return whole.relative_to(inside) if whole.is_relative_to(inside) else whole
