"""How the crops of a prediction are made, and whether a model was trained on crops made so."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from extract.video.alignment import Alignment
from extract.video.finder import FaceFinder
from pipelines.faces import read_record
from pipelines.predict.face_model import FaceModel
from pipelines.predict.sources import Source


def as_trained(finder: FaceFinder, trained: Mapping[str, Any] | None) -> FaceFinder:
    """`finder` with the template of the crops that a model was `trained` on, where it is known."""
    return finder if trained is None else replace(finder, template=Alignment.from_json(trained).template)


def alignment_notes(model: FaceModel, found: Alignment | None) -> list[str]:
    """What to know about the crops of a prediction, made by `found` (None: unknown), against those of the training."""
    if model.alignment is None:
        if found is None:
            return []
        return [
            f"crops: template {found.template.name or 'of mtl.toml'}, detector {found.detector}; how the crops that "
            f"{model.folder} was trained on were aligned is not known"
        ]
    if found is None:
        return []
    differences = Alignment.from_json(model.alignment).differences(found)
    if not differences:
        return []
    return [
        f"crops of another alignment than those that {model.folder} was trained on, so expect worse predictions: "
        f"{'; '.join(differences)}"
    ]


def alignment_of(source: Source) -> Alignment | None:
    """The alignment of an aligned source, by the record beside its crops; None where there is none."""
    record = read_record(source.folder)
    return None if record is None else Alignment.from_json(record["alignment"])
