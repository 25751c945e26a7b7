"""bundle.json: all that the runner needs beside the ONNX files, as `runtime/mtl_runtime.py` reads it. K outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import nn

from cache.labels import Group, Task
from extract.view_names import BASE, stream_title
from heads.config import AGE
from pipelines.config import Config
from pipelines.export.heads import widths_of
from pipelines.export.streams import BundleStream, StreamKey
from pipelines.fitting.runs import Spec, commit, versions
from pipelines.postprocess.apply import Parameters, default_cuts
from pipelines.postprocess.outside import class_columns
from pipelines.postprocess.smoothing import Smoothing
from pipelines.predict.face_model import common_alignment, follows_orientation
from pipelines.predict.predictor import Predictor, WeightedRun
from runtime.mtl_runtime import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleModel:
    """A model of a run that counts for some task, and the ONNX file it is to be in."""

    file: str
    one: WeightedRun
    spec: Spec
    module: nn.Module

    def to_json(self) -> dict[str, Any]:
        """Its entry in bundle.json."""
        strategy = self.one.run.strategy.model(self.spec.name)
        head, train = strategy.head, strategy.train
        return {
            "run": self.one.run.folder.name,
            "file": self.file,
            "streams": {f"stream_{name}": _embeddings(name, train.view) for name in widths_of(self.spec)},
            "needs": [stream_title(name, train.view) for name in self.one.run.streams],
            "inputs": head.inputs,
            "mean_frames": head.mean_frames,
            "causal": self.one.run.is_causal,
            "window": train.window,
            "stride": train.stride,
            "max_gap": train.max_gap,
            "outputs": {name: list(self.spec.schema.tasks[name].output_columns) for name in self.spec.tasks},
            "weights": self.weights,
        }

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each of its outputs that counts, by column."""
        own = [name for task in self.spec.tasks for name in self.spec.schema.tasks[task].output_columns]
        weighed = {
            name: weight
            for task, weight in self.one.weights.items()
            for (scored,) in [self.spec.schema.scored([task])]
            for name in scored.output_columns
        }
        return {name: weighed[name] for name in own if name in weighed}


def _embeddings(name: str, view: str) -> str:
    """What the runner calls the values of an input of a head: a stream's, or the ages of its rows."""
    stream = name.removesuffix(AGE)
    return stream_title(stream, view) + name[len(stream) :]


def bundle_models(predictor: Predictor) -> list[BundleModel]:
    """The models of the predictor's runs that count for some task, once per view."""
    found: list[BundleModel] = []
    files: dict[int, str] = {}  # of modules; the views of a run share them
    for one in predictor.runs:
        for spec, module in one.run.models:
            file = files.get(id(module), f"head-{len(files) + 1}.onnx")
            model = BundleModel(file=file, one=one, spec=spec, module=module)
            if model.weights:
                files[id(module)] = file
                found.append(model)
    return found


def bundle_record(
    predictor: Predictor,
    config: Config,
    streams: Mapping[StreamKey, BundleStream],
    models: list[BundleModel],
    face_px: int | None,
) -> dict[str, Any]:
    """bundle.json, but for the digests of the files and what the check found."""
    parameters = predictor.parameters or Parameters(schema=predictor.schema)
    return {
        "format": FORMAT,
        "name": predictor.folder.name,
        "kind": predictor.kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": predictor.schema.to_mapping(),
        "tasks": [_task_json(task, parameters) for task in predictor.schema.scored(predictor.tasks)],
        "face_px": face_px,
        "alignment": common_alignment(predictor),
        "fps": config.data.fps,
        "follow_orientation": follows_orientation(predictor),
        "streams": {stream_title(*key): stream.to_json() for key, stream in streams.items()},
        "models": [model.to_json() for model in models],
        "commit": commit(),
        "versions": versions(),
    }


def _task_json(task: Task, parameters: Parameters) -> dict[str, Any]:
    """What is predicted of a label group, how it is smoothed and decided; `affine` are scale and shift of continuous
    columns, `cuts` offsets of classes or thresholds of binary columns."""
    group = task.group
    affine = parameters.affine_of(group) if group.kind == "continuous" else ()
    smoothing = parameters.smoothing.get(group.name, Smoothing())
    cuts = {"classes": parameters.offsets, "binary": parameters.thresholds}.get(group.kind, {})
    return {
        "name": task.name,
        "group": group.name,
        "kind": group.kind,
        "columns": list(task.columns),
        "outputs": list(task.output_columns),
        "classes": list(group.classes),
        "range": [group.low, group.high] if group.kind == "continuous" else None,
        "smoothing": {"kernel": smoothing.kernel, "width": smoothing.width},
        "affine": [list(affine[index]) for index in task.indices] if affine else None,
        "outside": _outside_json(parameters, group),
        "cuts": list(cuts.get(group.name, default_cuts(group))),
    }


def _outside_json(parameters: Parameters, group: Group) -> dict[str, Any] | None:
    """The outside classifier of a group of classes: for each class its column in the stream, -1 for none, and how many
    of the first columns are of classes."""
    one = parameters.outside.get(group.name)
    if one is None:
        return None
    columns = class_columns(one.classes, group)
    stream, threshold = stream_title(one.stream, BASE), one.threshold
    return {"stream": stream, "columns": columns, "num_classes": len(one.classes), "threshold": threshold}
