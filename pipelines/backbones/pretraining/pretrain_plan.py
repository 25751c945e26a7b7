"""A masked pretraining before its first step: settings checked, faces found, the model as it begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extract.backbones.build import build_trainable
from extract.backbones.mae import MaskedAutoencoder, check_vit
from extract.backbones.matching import Match
from extract.backbones.weights import weights_digest
from extract.config import Preprocessing
from heads.ranges import range_problem
from pipelines.backbones.data import memory_for_faces
from pipelines.backbones.pretraining.pretrain_state import step_faces
from pipelines.backbones.pretraining.unlabelled import Unlabelled, choose_faces
from pipelines.backbones.register import check_section_name
from pipelines.backbones.task_model import FOLDER
from pipelines.config import Config, PretrainConfig
from pipelines.fitting.checkpoint import identity_of
from pipelines.fitting.optimise import seeded
from pipelines.typed import to_mapping

KEPT_VALUES = 20  # measured on a CPU: 1.46 GiB for 256 faces of 112 px, a ViT-Ti and a decoder of 4 x 256
UNSEEN = ("checkpoint_minutes", "init")  # of [pretrain], what changes no number; init is told apart by its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainRequest:
    """What is to be pretrained: a timm `model`, to be called `name`.

    `init` is "random", "pretrained" or a file of weights. `faces` is a folder in the place of that of mtl.toml;
    `splits` names whose faces to take. `restart` begins anew whatever is there.
    """

    model: str
    name: str
    init: str
    device: str = "auto"
    faces: Path | None = None
    splits: str = ""
    restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The files of a pretraining called `name` in the `folder` of mtl.toml."""

    folder: Path
    name: str

    @property
    def weights(self) -> Path:
        return self.folder / FOLDER / f"{self.name}.safetensors"

    @property
    def report(self) -> Path:
        """The folder of report, pictures, history and, while it trains, the checkpoint."""
        return self.folder / FOLDER / f"{self.name}.pretraining"

    @property
    def checkpoint(self) -> Path:
        return self.report / "checkpoint.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainPlan:
    """A pretraining before its first step: the model as it begins, the faces, and what identifies it.

    `matched` says what of a weights file the encoder begins from.
    """

    request: PretrainRequest
    config: PretrainConfig
    model: MaskedAutoencoder
    preprocessing: Preprocessing
    faces: Unlabelled
    paths: Paths
    identity: str
    matched: Match | None

    @property
    def num_steps(self) -> int:
        _, counts = np.unique(self.faces.videos[self.faces.train], return_counts=True)
        most = self.config.max_faces_per_video or len(self.faces.train)
        return self.config.epochs * -(-int(np.minimum(counts, most).sum()) // step_faces(self.config))

    def to_json(self) -> dict[str, Any]:
        parts = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        return {
            "model": self.request.model,
            "init": self.request.init,
            "matched": None if self.matched is None else self.matched.to_json(),
            "faces_folder": str(self.faces.folder),
            "splits": self.faces.splits,
            "num_faces": len(self.faces.train),
            "num_videos": len(np.unique(self.faces.videos[self.faces.train])),
            "num_held_out": len(self.faces.held_out),
            "num_left_out": self.faces.num_scored,
            "size_px": self.preprocessing.size_px,
            "pretrain": to_mapping(self.config),
            "patches": self.model.num_patches,
            "visible_patches": self.model.num_visible,
            "epochs": self.config.epochs,
            "steps": self.num_steps,
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
            "memory_bytes": memory_bytes(self),
            "weights": str(self.paths.weights),
            "report": str(self.paths.report / "report.html"),
        }


def make_request(
    config: Config,
    model: str,
    name: str,
    init: str = "",
    device: str = "auto",
    faces: Path | None = None,
    splits: str = "",
    restart: bool = False,
) -> PretrainRequest:
    """What the command line asks for. A file given by `init` is seen from where the command is typed, one in mtl.toml
    from there."""
    configured = config.pretrain.init
    if configured not in ("pretrained", "random"):
        configured = str(config.at(configured))
    return PretrainRequest(
        model=model,
        name=name,
        init=init or configured,
        device=device,
        faces=faces,
        splits=splits,
        restart=restart,
    )


def make_plan(config: Config, request: PretrainRequest) -> PretrainPlan:
    """Finds the faces and builds the model as it begins; nothing is written.

    Raises:
        ValueError: a setting out of its range, no such model or none that can be pretrained so, too few faces.
    """
    check_section_name(request.name)
    check_settings(config.pretrain)
    faces = choose_faces(config, request.faces, request.splits)
    model, preprocessing, matched = build(config.pretrain, request)
    return PretrainPlan(
        request=request,
        config=config.pretrain,
        model=model,
        preprocessing=preprocessing,
        faces=faces,
        paths=Paths(folder=config.folder, name=request.name),
        identity=_identity(config, request, model, faces),
        matched=matched,
    )


def _identity(config: Config, request: PretrainRequest, model: MaskedAutoencoder, faces: Unlabelled) -> str:
    """Other weights at the start, other faces or another setting make it another training."""
    return identity_of(
        {
            "model": request.model,
            "weights at the start": weights_digest(model.encoder),
            "num_faces": len(faces.train),
            "faces": faces.digest,
            "pretrain": {key: value for key, value in to_mapping(config.pretrain).items() if key not in UNSEEN},
            **({"ignore_orientation": True} if config.data.ignore_orientation else {}),
        }
    )


def check_settings(config: PretrainConfig) -> None:
    """Raises `ValueError` for a setting of [pretrain] that is out of its range; says which it is."""
    if problem := range_problem(config):
        raise ValueError(f"pretrain.{problem}")


def build(config: PretrainConfig, request: PretrainRequest) -> tuple[MaskedAutoencoder, Preprocessing, Match | None]:
    """The model as it begins, the same for the same seed, how its faces are prepared, and what of a file matched.

    Raises:
        ValueError: no such model, not a ViT, weights that do not fit, or patches that do not.
    """
    trainable, preprocessing = build_trainable(
        request.model, 1, config.size_px or None, request.init, seed=config.seed, crop_pct=config.crop_pct
    )
    check_vit(trainable.backbone, request.model, preprocessing.size_px)
    with seeded(config.seed, torch.device("cpu")):
        model = MaskedAutoencoder(
            trainable.backbone,
            mask_ratio=config.mask_ratio,
            decoder_width=config.decoder_width,
            decoder_depth=config.decoder_depth,
            normalise=config.normalise_targets,
        )
    if not 0 < model.num_visible < model.num_patches:
        raise ValueError(
            f"pretrain.mask_ratio = {config.mask_ratio}: of {model.num_patches} patches per face it shows "
            f"{model.num_visible}; some must be shown and some hidden"
        )
    return model, preprocessing, trainable.matched


def memory_bytes(plan: PretrainPlan) -> int:
    """About what training takes on its device in float32, faces in memory included where they fit.

    Weights, gradients and two moments are float32; of each block a token keeps `KEPT_VALUES` values a width for the
    way back. In bfloat16 that is about half.
    """
    model, config = plan.model, plan.config
    encoder, decoder = model.encoder, model.decoder
    tokens = encoder.num_prefix_tokens + model.num_visible, encoder.num_prefix_tokens + model.num_patches
    values = (
        tokens[0] * len(encoder.blocks) * encoder.embed_dim + tokens[1] * len(decoder.blocks) * config.decoder_width
    )
    activations = min(config.batch_size, len(plan.faces.train)) * values * KEPT_VALUES * 4
    faces = len(plan.faces.paths) * plan.preprocessing.size_px**2 * 3
    weights = 16 * sum(parameter.numel() for parameter in model.parameters())
    return weights + activations + (faces if faces <= memory_for_faces() else 0)
