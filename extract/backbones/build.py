"""Backbones: a timm model without its classifier, or an ONNX model; its weights; how a face becomes its input.

Letters: B faces, D width, K outputs, S side of the input in pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from timm.data import resolve_model_data_config
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from cache.identity import StreamIdentity
from extract.backbones.classifier import Scores, with_scores
from extract.backbones.matching import Match
from extract.backbones.onnx_model import ARCHITECTURE, POOLING, load_onnx
from extract.backbones.origin import check_file
from extract.backbones.rename import PRESETS, Rules
from extract.backbones.timm_models import create, first_line, plain_name, seeded, size_error
from extract.backbones.transforms import face_transform, normalise
from extract.backbones.weights import StateDict, load_into, read_weights, save_backbone, weights_digest
from extract.config import CLASSES, BackboneConfig, Preprocessing

__all__ = [
    "Backbone",
    "TrainableBackbone",
    "build_trainable",
    "face_transform",
    "load_backbone",
    "normalise",
    "read_weights",
    "save_backbone",
]

DTYPE = "float16"
FETCHED = ("pretrained", "random")
OVERRIDES = ("size_px", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """One section `[backbones.NAME]` ready to run. `module` maps [B, 3, S, S] to [B, D], and with `scores` to
    [B, D + K], in evaluation mode. `dtype` is what embeddings are stored in."""

    name: str
    config: BackboneConfig
    module: nn.Module
    architecture: str
    preprocessing: Preprocessing
    pooling: str
    width: int
    weights_digest: str
    scores: Scores | None = None
    dtype: str = DTYPE

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of its streams."""
        return tuple(self.config.streams(self.name))

    @property
    def is_torch(self) -> bool:
        """Whether torch runs `module`; else the precision is the model's own: no autocast, and no compiling."""
        return not self.config.is_onnx

    def columns(self, stream: str) -> slice:
        """Where the vectors of `stream` are in what `module` gives."""
        return slice(self.width, None) if self._scores_of(stream) else slice(self.width)

    def identity(self, frames_digest: str, num_frames: int, view: str = "base", stream: str = "") -> StreamIdentity:
        """The identity of one of its streams, the embedding where none is named, over a frame list. The section's name
        is no part of it."""
        scores = self._scores_of(stream) if stream else None
        classes = scores.classes if scores else self.config.classes if self.config.is_onnx else ()
        return StreamIdentity(
            backbone=self.architecture,
            weights=scores.weights_digest if scores else self.weights_digest,
            preprocessing=self.preprocessing.to_json() | ({CLASSES: list(classes)} if classes else {}),
            pooling="logits" if scores else self.pooling,
            dtype=self.dtype,
            view=view,
            frames=frames_digest,
            num_frames=num_frames,
            width=scores.width if scores else self.width,
        )

    def _scores_of(self, stream: str) -> Scores | None:
        return self.scores if self.config.streams(self.name)[stream] == "scores" else None


class TrainableBackbone(nn.Module):
    """A headless backbone [B, 3, S, S] -> [B, D] and one linear output [B, D] -> [B, K].

    `matched` tells what of a weights file the backbone started from; None where there was no file.
    """

    def __init__(self, backbone: nn.Module, output: nn.Linear, matched: Match | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.output = output
        self.matched = matched

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.backbone(x))


def load_backbone(name: str, config: BackboneConfig, folder: Path) -> Backbone:
    """The backbone of section `[backbones.NAME]`; a relative file of weights or of ONNX starts at `folder`.

    Raises:
        ValueError: unknown model, weights missing, unreadable, of another model or not those that were registered, or
            an input size it cannot take.
    """
    where = f"[backbones.{name}]"
    if config.is_onnx:
        return _onnx_backbone(name, config, folder, where)
    check_file(config, folder, where)
    backbone, preprocessing, _ = _load(config, folder, where)
    module, scores, width = backbone, None, _width(backbone, preprocessing.size_px, config.model, where)
    if config.has_scores:
        module, scores = with_scores(config, backbone, width, folder, where)
    return Backbone(
        name=name,
        config=config,
        module=module,
        architecture=backbone.pretrained_cfg.get("architecture") or plain_name(config.model),
        preprocessing=preprocessing,
        pooling=_pooling(backbone),
        width=width,
        weights_digest=weights_digest(backbone),
        scores=scores,
    )


def _onnx_backbone(name: str, config: BackboneConfig, folder: Path, where: str) -> Backbone:
    """The file's name is no part of what identifies it: its digest is."""
    loaded = load_onnx(config, folder, where)
    if len(config.classes) > loaded.width:
        raise ValueError(f"{where}: {len(config.classes)} classes, but the output is {loaded.width} wide")
    return Backbone(
        name=name,
        config=config,
        module=loaded.module,
        architecture=ARCHITECTURE,
        preprocessing=loaded.preprocessing,
        pooling=POOLING,
        width=loaded.width,
        weights_digest=loaded.digest,
    )


def build_trainable(
    model: str,
    num_outputs: int,
    size_px: int | None,
    init: str,
    seed: int = 0,
    folder: Path = Path(),
    *,
    crop_pct: float | None = None,
    drop_path: float = 0.0,
    rename: Rules | None = None,
) -> tuple[TrainableBackbone, Preprocessing]:
    """A backbone with a fresh output of `num_outputs`, in training mode, and the preprocessing it expects.

    `init` is "pretrained", "random" or a weights file seen from `folder`, of whose tensors most must fit, by their
    names or by the rules of `rename`: `matched` of the result tells which. `seed` makes what is drawn here the same
    each time. `size_px` None or 0 keeps the weights' own input size, `crop_pct` None their own crop. `drop_path` is the
    probability by which the last block is skipped, falling to 0 at the first. `save_backbone(path,
    trainable.backbone, ...)` keeps it without the output.

    Raises:
        ValueError: as `load_backbone`, a model that cannot skip blocks, or rules without a file.
    """
    config = BackboneConfig(model=model, weights=init, seed=seed, size_px=size_px or None, crop_pct=crop_pct)
    if rename is not None and init in FETCHED:
        raise ValueError(f"{model}: --rename is for a file of weights, and --init is {init!r}; take one of them out")
    if not 0 <= drop_path < 1:
        raise ValueError(f"{model}: drop_path is {drop_path}, and a probability below 1 is wanted")
    module, preprocessing, matched = _load(config, folder, model, drop_path, rename, partial=True)
    width = _width(module, preprocessing.size_px, model, model)
    with seeded(seed):
        output = nn.Linear(width, num_outputs)
    return TrainableBackbone(module, output, matched).train(), preprocessing


def _load(
    config: BackboneConfig,
    folder: Path,
    where: str,
    drop_path: float = 0.0,
    rename: Rules | None = None,
    *,
    partial: bool = False,
) -> tuple[Any, Preprocessing, Match | None]:
    """The headless module in evaluation mode, its weights loaded, its preprocessing, and what of a file matched."""
    if config.is_audio:
        raise ValueError(f"{where}: a model of sound; name one of faces")
    if config.is_imported:
        raise ValueError(f"{where}: {config.model} was imported and cannot be run; `mtl cache import` fills its stream")
    if config.is_onnx:
        raise ValueError(f"{where}: an ONNX model cannot be trained, only extracted; name a timm model")
    if config.output:
        raise ValueError(f'{where}: output goes with model = "onnx:FILE"; take it out')
    path = None if config.weights in FETCHED else folder / config.weights
    if config.rename is not None:
        if path is None:
            raise ValueError(f"{where}: rename goes with a file under weights; take it out")
        rename = PRESETS[config.rename]
    state, saved = _saved(path)
    module = create(config, config.size_px or saved.get("size_px"), drop_path, where)
    matched = None if path is None else load_into(module, state, path, config.model, rename, partial=partial)
    return module.eval(), _preprocessing(module, config, saved, where), matched


def _saved(path: Path | None) -> tuple[StateDict, Mapping[str, Any]]:
    """The checkpoint's tensors and the preprocessing that `save_backbone` put beside them, empty where it did not."""
    if path is None:
        return {}, {}
    state, metadata = read_weights(path)
    try:
        saved = json.loads(metadata.get("preprocessing", "{}"))
        known = {key: saved[key] for key in OVERRIDES if key in dict(saved)}
        kinds = {"size_px": int, "mean": list, "std": list, "crop_pct": float}
        wrong = [key for key, value in known.items() if not isinstance(value, kinds.get(key, str))]
    except (ValueError, TypeError):
        wrong = ["all of it"]
    if wrong:
        raise ValueError(f"{path}: the preprocessing in its metadata is damaged ({wrong[0]}); save it again")
    return state, known


def _preprocessing(module: Any, config: BackboneConfig, saved: Mapping[str, Any], where: str) -> Preprocessing:
    """timm's own for these weights, over it what was saved beside them, over it the section's fields."""
    values = dict(resolve_model_data_config(module))
    channels, height, width = values.pop("input_size")
    wanted = {key: getattr(config, key) for key in OVERRIDES if getattr(config, key) is not None}
    values = {**values, "size_px": height, **saved, **wanted}
    if channels != 3 or (height != width and "size_px" not in {**saved, **wanted}):
        raise ValueError(f"{where}: {config.model} wants {channels} x {height} x {width} input; set size_px")
    if values["interpolation"] not in get_args(Preprocessing.__annotations__["interpolation"]):
        raise ValueError(f"{where}: interpolation {values['interpolation']!r} is not supported; set interpolation")
    try:
        colours = {key: tuple(map(float, values[key])) for key in ("mean", "std")}
        return Preprocessing(**{key: values[key] for key in OVERRIDES} | colours)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: this preprocessing cannot be used: {first_line(error)}") from None


def _width(module: nn.Module, size_px: int, model: str, where: str) -> int:
    """D, by one forward pass, which also shows that the model takes faces of this size."""
    try:
        with torch.inference_mode():
            embedding = module(torch.zeros(1, 3, size_px, size_px))
    except (RuntimeError, AssertionError) as error:
        raise size_error(model, size_px, error, where) from None
    if embedding.ndim != 2:
        raise ValueError(f"{where}: {model} does not give one vector a face but {list(embedding.shape[1:])}")
    return embedding.shape[1]


def _pooling(module: nn.Module) -> str:
    """How timm pools the last map into the embedding: avg, token, ...; "model" where it does not say."""
    pooling = getattr(module, "global_pool", None)
    if isinstance(pooling, str):
        return pooling
    layers = [layer for layer in module.modules() if isinstance(layer, SelectAdaptivePool2d)]
    return layers[-1].pool_type or "none" if layers else "model"
