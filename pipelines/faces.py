"""How faces are found and aligned: the section [faces] as a finder, and alignment.json beside crops.

alignment.json says which alignment the crops of a folder have and, where `mtl align` made them, of which videos. A run
keeps the alignment of the crops that its embeddings are of, so that faces aligned otherwise do not pass for them.
"""

from pathlib import Path
from typing import Any

from cache.durable import write_durably
from cache.seals import read_sealed_json, sealed_json
from extract.video.alignment import Alignment, Template
from extract.video.detectors import load_detector
from extract.video.finder import FaceFinder
from pipelines.config import Config

FILE = "alignment.json"
FORMAT = 1


def face_finder(config: Config) -> FaceFinder:
    """The detector and the template of [faces].

    Raises:
        ValueError: the detector is unknown or not installed, or the template is none; says what to do.
    """
    faces = config.faces
    return FaceFinder(
        detector=load_detector(faces.detector, config.folder),
        template=template_of(config),
        long_side_px=faces.long_side_px,
        min_score=faces.min_score,
    )


def template_of(config: Config) -> Template:
    """That of [faces]; raises ValueError where it is none."""
    faces = config.faces
    try:
        if isinstance(faces.template, str):
            return Template.named(faces.template, faces.size_px)
        return Template(faces.size_px, faces.template)
    except ValueError as error:
        raise ValueError(f"{config.folder / 'mtl.toml'}: [faces] template: {error}") from None


def read_record(folder: Path) -> dict[str, Any] | None:
    """alignment.json of the crops in `folder`: "alignment", and "videos" by name; None where there is none.

    Raises:
        ValueError: it is damaged or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = "remove it (the alignment is unknown then), or make the crops again"
    record = read_sealed_json(path, remedy)
    if record.get("format") != FORMAT:
        raise ValueError(f"{path}: format {record.get('format')}, this program reads {FORMAT}; {remedy}")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """alignment.json in `folder`, durably."""
    write_durably(folder / FILE, sealed_json({"format": FORMAT, **record}))


def alignment_in(config: Config) -> dict[str, Any] | None:
    """The alignment of the crops in the faces folder, for run.json: that of alignment.json beside them, or of [faces]
    where it was measured from them. None where nobody knows it."""
    folder, like = config.at(config.data.faces), config.faces.like
    record = read_record(folder)
    if record is not None:
        return Alignment.from_json(record["alignment"]).to_json()
    if like is None or config.at(like).resolve() != folder.resolve():
        return None
    try:
        detector = load_detector(config.faces.detector, config.folder)
        name, digest = detector.name, detector.digest
    except ValueError:  # not installed here, which is no reason not to train
        name, digest = config.faces.detector.partition(":")[0], ""
    measured = Alignment(
        template=template_of(config),
        detector=name,
        detector_digest=digest,
        long_side_px=config.faces.long_side_px,
    )
    return measured.to_json()
