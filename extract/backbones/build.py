"""Backbones: a timm model without its classifier, or an ONNX model; its weights; how a face becomes its input.

Letters: B faces, D width, K outputs, S side of the input in pixels.
"""

import contextlib
import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from cache.identity import StreamIdentity
from extract.backbones.onnx_model import ARCHITECTURE, POOLING, load_onnx
from extract.backbones.transforms import face_transform, normalise
from extract.backbones.weights import StateDict, load_into, read_weights, save_backbone, weights_digest
from extract.config import BackboneConfig, Preprocessing

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
HUB = "hf-hub:"
FETCHED = ("pretrained", "random")
OVERRIDES = ("size_px", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """One section `[backbones.NAME]` ready to run. `module` maps [B, 3, S, S] to [B, D], in evaluation mode."""

    name: str
    config: BackboneConfig
    module: nn.Module
    architecture: str
    preprocessing: Preprocessing
    pooling: str
    width: int
    weights_digest: str

    @property
    def is_torch(self) -> bool:
        """Whether torch runs `module`; else the precision is the model's own: no autocast, and no compiling."""
        return not self.config.is_onnx

    def identity(self, frames_digest: str, num_frames: int, view: str = "base") -> StreamIdentity:
        """The identity of this backbone's stream over a frame list. The section's name is no part of it."""
        return StreamIdentity(
            backbone=self.architecture,
            weights=self.weights_digest,
            preprocessing=self.preprocessing.to_json(),
            pooling=self.pooling,
            dtype=DTYPE,
            view=view,
            frames=frames_digest,
            num_frames=num_frames,
            width=self.width,
        )


class TrainableBackbone(nn.Module):
    """A headless backbone [B, 3, S, S] -> [B, D] and one linear output [B, D] -> [B, K]."""

    def __init__(self, backbone: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.backbone(x))


def load_backbone(name: str, config: BackboneConfig, folder: Path) -> Backbone:
    """The backbone of section `[backbones.NAME]`; a relative file of weights or of ONNX starts at `folder`.

    Raises:
        ValueError: unknown model, weights missing, unreadable or of another model, or an input size it cannot take.
    """
    where = f"[backbones.{name}]"
    if config.is_onnx:
        return _onnx_backbone(name, config, folder, where)
    module, preprocessing = _load(config, folder, where)
    return Backbone(
        name=name,
        config=config,
        module=module,
        architecture=module.pretrained_cfg.get("architecture") or _plain_name(config.model),
        preprocessing=preprocessing,
        pooling=_pooling(module),
        width=_width(module, preprocessing.size_px, config.model, where),
        weights_digest=weights_digest(module),
    )


def _onnx_backbone(name: str, config: BackboneConfig, folder: Path, where: str) -> Backbone:
    """The file's name is no part of what identifies it: its digest is."""
    loaded = load_onnx(config, folder, where)
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
    model: str, num_outputs: int, size_px: int | None, init: str, seed: int = 0, folder: Path = Path()
) -> tuple[TrainableBackbone, Preprocessing]:
    """A backbone with a fresh output of `num_outputs`, in training mode, and the preprocessing it expects.

    `init` is "pretrained", "random" or a weights file seen from `folder`; `seed` makes what is drawn here the same
    each time. `size_px` None or 0 keeps the weights' own input size. `save_backbone(path, trainable.backbone, ...)`
    keeps it without the output.

    Raises:
        ValueError: as `load_backbone`.
    """
    config = BackboneConfig(model=model, weights=init, seed=seed, size_px=size_px or None)
    module, preprocessing = _load(config, folder, model)
    width = _width(module, preprocessing.size_px, model, model)
    with _seeded(seed):
        output = nn.Linear(width, num_outputs)
    return TrainableBackbone(module, output).train(), preprocessing


def _load(config: BackboneConfig, folder: Path, where: str) -> tuple[Any, Preprocessing]:
    """The headless module in evaluation mode, its weights loaded, and its preprocessing."""
    if config.is_imported:
        raise ValueError(f"{where}: {config.model} was imported and cannot be run; `mtl cache import` fills its stream")
    if config.is_onnx:
        raise ValueError(f"{where}: an ONNX model cannot be trained, only extracted; name a timm model")
    if config.output:
        raise ValueError(f'{where}: output goes with model = "onnx:FILE"; take it out')
    path = None if config.weights in FETCHED else folder / config.weights
    state, saved = _saved(path)
    module = _create(config, config.size_px or saved.get("size_px"), where)
    if path is not None:
        load_into(module, state, path, config.model)
    return module.eval(), _preprocessing(module, config, saved, where)


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


def _create(config: BackboneConfig, size_px: int | None, where: str) -> Any:
    """timm's model without classifier, built for faces of `size_px` where its architecture fixes the size."""
    default = _check_name(config, where)
    if size_px in (None, default):
        return _timm_model(config, {}, where)
    try:
        return _timm_model(config, {"img_size": size_px}, where)
    except TypeError:  # no such argument: a ConvNet, which takes any size
        return _timm_model(config, {}, where)


def _check_name(config: BackboneConfig, where: str) -> int | None:
    """The side of the input that the model is built for, in pixels; None for models of the hub, unknown so far."""
    if ":" in config.model:
        return None
    plain = _plain_name(config.model)
    if not timm.is_model(plain):
        close = difflib.get_close_matches(plain, timm.list_models(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; or {HUB}OWNER/NAME for one of the Hugging Face hub"
        raise ValueError(f"{where}: timm has no model {plain!r}{hint}")
    try:
        defaults = timm.get_pretrained_cfg(config.model)
    except RuntimeError:
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{plain}.*")]
        raise ValueError(f"{where}: {config.model}: timm's weights of {plain} are {', '.join(tags)}") from None
    if config.weights == "pretrained" and not (defaults and defaults.has_weights):
        raise ValueError(f'{where}: timm has no weights for {config.model}; set weights to a file or to "random"')
    return defaults.input_size[-1] if defaults else None


def _timm_model(config: BackboneConfig, options: Mapping[str, Any], where: str) -> Any:
    """Runs timm's factory; what is drawn at random there comes from the section's seed.

    Raises:
        TypeError: the model has no such option.
        ValueError: the weights cannot be fetched, or the model cannot be built for this size.
    """
    pretrained = config.weights == "pretrained"
    try:
        with _quiet_hub(), _seeded(config.seed):
            return timm.create_model(config.model, pretrained=pretrained, num_classes=0, **options)
    except TypeError:
        raise
    except Exception as error:  # the hub's client, timm and torch each raise their own
        if isinstance(error, AssertionError) or not (pretrained or ":" in config.model):
            raise _size_error(config.model, options.get("img_size"), error, where) from None
        raise ValueError(
            f"{where}: cannot get {config.model}: {_reason(error)} "
            f'To do without the network, name a weights file: weights = "FILE.safetensors"'
        ) from None


def _size_error(model: str, size_px: Any, error: Exception, where: str) -> ValueError:
    return ValueError(f"{where}: {model} cannot take faces of {size_px} px ({_reason(error)}); change size_px")


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
        raise ValueError(f"{where}: the weights' preprocessing cannot be used ({_reason(error)})") from None


def _width(module: nn.Module, size_px: int, model: str, where: str) -> int:
    """D, by one forward pass, which also shows that the model takes faces of this size."""
    try:
        with torch.inference_mode():
            embedding = module(torch.zeros(1, 3, size_px, size_px))
    except (RuntimeError, AssertionError) as error:
        raise _size_error(model, size_px, error, where) from None
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


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed` inside, as it was before afterwards: timm draws from no other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keeps retries and hints of timm and the hub's client off the terminal; what matters becomes an error here."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _plain_name(model: str) -> str:
    return model.partition(".")[0]


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
