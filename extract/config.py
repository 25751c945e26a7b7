"""What a backbone is and how its faces are prepared: plain data, no torch, no timm.

Filled from the sections `[backbones.NAME]` of mtl.toml; read by `extract.backbones.build`.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

# Pixels are in [0, 1] when mean and std are applied; some weights want 0 to 255, which is a std of 1 / 255.
SideLength = Annotated[int, Interval(ge=1, le=4096)]
Mean = Annotated[float, Interval(ge=-1000, le=1000)]
Deviation = Annotated[float, Interval(ge=1e-6, le=1000)]
CropShare = Annotated[float, Interval(ge=0.1, le=1)]
Output = Literal["embedding", "scores"]
# The presets of `extract.backbones.rename`, by name.
RenamePreset = Literal[
    "insightface",
    "adaface",
    "evolve",
    "mae",
    "dino",
    "open_clip",
    "torchvision-resnet",
    "torchvision-vit",
    "huggingface-vit",
]

IMPORTED_MODEL, ONNX_MODEL, AUDIO_MODEL = "imported:", "onnx:", "audio:"
SCORES_SUFFIX = "-scores"  # what the name of a backbone's second stream has behind the section's
# The part of a stream's preprocessing that says whether faces were turned as their EXIF orientation or rotation says.
ORIENTATION, FOLLOWED = "orientation", "followed"
# The part that names the columns of a classifier's scores, or the first of them.
CLASSES = "classes"
# What weights may bring along (timm: 0.875 to 1.15); a face is resized to size_px / crop_pct, so a tiny one is refused.
CROP_PCT = (0.1, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a face becomes the backbone's input; the fields are timm's own.

    `size_px` is the side of the square input; a face is resized to `size_px / crop_pct` and the centre is cut out.
    """

    size_px: SideLength
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    crop_pct: Annotated[float, Interval(ge=CROP_PCT[0], le=CROP_PCT[1])] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"

    def __post_init__(self) -> None:
        least, most = CROP_PCT
        if not least <= self.crop_pct <= most:
            raise ValueError(f"crop_pct is {self.crop_pct}; expected {least:g} to {most:g}")

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """One section `[backbones.NAME]`.

    `model` is a timm name (`vit_base_patch16_224`, `vit_base_patch16_224.augreg_in21k`) or `hf-hub:OWNER/NAME`.
    `onnx:FILE` is a model that onnxruntime runs, its weights inside. It takes RGB faces, and `mean` and `std` must say
    how they are scaled: the input is (pixel / 255 - mean) / std, so for 0 to 255 the mean is 0 and the std 1 / 255.
    `output` names which of its outputs is the embedding, where several give one vector a face.
    `imported:FILE` stands for a stream that `mtl cache import` filled: heads read it, nothing can extract it.
    `audio:log-mel`, `audio:torchaudio:NAME` and `audio:hf:OWNER/NAME` embed the sound tracks of `[data] videos`
    (`extract.audio`); of the other keys only `tasks` and `licence` go with them.
    `weights` is a file (`.safetensors`, or `.pt`/`.pth` read with weights_only), `"pretrained"` (timm or the hub
    fetches them), `"random"` (untrained, from `seed`; a baseline) or `"none"` (of an imported stream).
    `tasks` names what the backbone was trained for: the streams called "own". Empty means: the task of the same name
    as the section, if there is one.
    `outputs` are what is kept of a face: "embedding", the stream NAME, and "scores", the stream NAME-scores with the
    logits of the weights' own classifier. `classes` names the first of these, or of an ONNX model's output.
    `rename` names the preset by which the tensors of the file are renamed (`extract.backbones.rename`).
    `size_px` .. `crop_mode` override the weights' own preprocessing.
    `licence`, `score` (on the selection frames) and `file_digest` (of the file `weights`) are notes of what
    trained the backbone; none is part of a stream's identity, but a file of another digest is refused.
    """

    model: Annotated[str, MinLen(1)]
    weights: Annotated[str, MinLen(1)] = "pretrained"
    tasks: tuple[Annotated[str, MinLen(1)], ...] = ()
    outputs: tuple[Output, ...] = ("embedding",)
    classes: tuple[Annotated[str, MinLen(1)], ...] = ()
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    size_px: SideLength | None = None
    mean: tuple[Mean, Mean, Mean] | None = None
    std: tuple[Deviation, Deviation, Deviation] | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    crop_pct: CropShare | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    output: str = ""
    rename: RenamePreset | None = None
    licence: str = ""
    score: str = ""
    file_digest: str = ""

    @property
    def is_imported(self) -> bool:
        return self.model.startswith(IMPORTED_MODEL)

    @property
    def is_onnx(self) -> bool:
        return self.model.startswith(ONNX_MODEL)

    @property
    def is_audio(self) -> bool:
        return self.model.startswith(AUDIO_MODEL)

    @property
    def has_scores(self) -> bool:
        return "scores" in self.outputs

    def streams(self, name: str) -> dict[str, Output]:
        """The streams of a section called `name`, and which output each is."""
        return {name + (SCORES_SUFFIX if output == "scores" else ""): output for output in self.outputs}


def section_problem(config: BackboneConfig) -> str | None:
    """What of a section does not go with the rest of it, in one line; None when all does."""
    if config.is_audio:
        plain = BackboneConfig(model=config.model, tasks=config.tasks, licence=config.licence)
        others = [key for key, value in asdict(config).items() if value != getattr(plain, key)]
        return f"{others[0]} does not go with {config.model}; take it out" if others else None
    for key, values in (("outputs", config.outputs), ("classes", config.classes)):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            return f"{key} = {list(values)}: {twice[0]!r} stands there twice"
    if not config.outputs:
        return 'outputs = []: name "embedding", "scores" or both'
    if config.has_scores and (config.is_onnx or config.is_imported):
        return (
            f"outputs: {config.model} has one, its embedding; for scores in an ONNX file write a section of their own, "
            'with output = "NAME"'
        )
    if config.classes and not (config.has_scores or config.is_onnx):
        return 'classes names the scores, and outputs has none; set outputs = ["embedding", "scores"]'
    return None
