"""The classifier of a backbone's weights, run beside the embedding that it reads: both in one forward pass.

Letters: B faces, D width, K outputs of the classifier, S side of the input in pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.backbones.origin import FETCHED
from extract.backbones.timm_models import create
from extract.backbones.weights import PREFIXES, StateDict, read_weights, weights_digest
from extract.config import BackboneConfig

WRAPPED = ("", ".0", ".1")  # in an nn.Sequential the linear map stands alone or behind a dropout
NO_SCORES = 'take "scores" out of outputs'


class WithScores(nn.Module):
    """[B, 3, S, S] -> [B, D + K]: what `backbone` gives, and behind it the logits that `classifier` makes of that."""

    def __init__(self, backbone: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, x: Tensor) -> Tensor:
        embedding = self.backbone(x)
        return torch.cat([embedding, self.classifier(embedding)], dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """K logits of a classifier, of which `classes` names the first; `weights_digest` is that of backbone and classifier
    together."""

    width: int
    classes: tuple[str, ...]
    weights_digest: str


def with_scores(
    config: BackboneConfig, backbone: Any, width: int, folder: Path, where: str
) -> tuple[WithScores, Scores]:
    """The `backbone` of a section, which gives `width` numbers, with the classifier of its weights behind it.

    Raises:
        ValueError: the weights have no classifier, or none that is one linear map of the embedding, or there are more
            `classes` than it has outputs.
    """
    classifier = _classifier(config, backbone, folder, where)
    if classifier.in_features != width:
        raise ValueError(
            f"{where}: the classifier reads {classifier.in_features} numbers and the embedding has {width}; {NO_SCORES}"
        )
    num_scores = classifier.out_features
    if len(config.classes) > num_scores:
        raise ValueError(f"{where}: {len(config.classes)} classes, but the classifier has {num_scores} outputs")
    module = WithScores(backbone, classifier).eval()
    classes = config.classes or tuple(backbone.pretrained_cfg.get("label_names") or ())[:num_scores]
    return module, Scores(width=num_scores, classes=classes, weights_digest=weights_digest(module))


def _classifier(config: BackboneConfig, backbone: Any, folder: Path, where: str) -> nn.Linear:
    """timm's own where timm fetches the weights, else that of the weights file, or of the file of outputs that `mtl
    finetune` wrote beside it."""
    name = backbone.pretrained_cfg.get("classifier")
    if not isinstance(name, str):
        raise ValueError(
            f"{where}: {config.model} has {'several classifiers' if name else 'no classifier'}; {NO_SCORES}"
        )
    if config.weights in FETCHED:
        state, origin = create(config, config.size_px, 0.0, where, whole=True).state_dict(), f"timm's {config.model}"
    else:
        path = folder / config.weights
        state, origin = read_weights(path)[0], str(path)
        if (output := path.with_suffix(".output.safetensors")).is_file():
            state = {**state, **_output_of(output, backbone, name, where)}
    for key in (f"{prefix}{name}{wrapped}" for prefix in PREFIXES for wrapped in WRAPPED):
        if (weight := state.get(f"{key}.weight")) is not None and weight.ndim == 2:
            return _linear(weight, state.get(f"{key}.bias"))
    raise ValueError(f"{where}: {origin} has no classifier ({name}.weight, a matrix); {NO_SCORES}")


def _output_of(path: Path, backbone: nn.Module, name: str, where: str) -> StateDict:
    """The outputs that `mtl finetune` trained for `backbone`, one task's behind the other's, as a classifier `name`.

    Raises:
        ValueError: they are of another backbone.
    """
    tensors, metadata = read_weights(path)
    if metadata.get("backbone") != weights_digest(backbone):
        raise ValueError(
            f"{where}: {path} has the outputs of another backbone; run `mtl finetune` again, or {NO_SCORES}"
        )
    tasks = metadata["tasks"].split(",")
    return {f"{name}.{kind}": torch.cat([tensors[f"{task}.{kind}"] for task in tasks]) for kind in ("weight", "bias")}


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    state = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
    linear.load_state_dict(state, assign=True)
    return linear.requires_grad_(False)
