"""What `make bench ONLY=M` tries: settings of a strategy, and those of the strategy without the piece."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache.names import TASKS

Values = Mapping[str, Any]
# Of every strategy: half the default width and budget, so that many are trained; the encoder is the default, `ssm`.
SMALL: Values = {"width": 64, "steps": 400}
UNITS_FILE = "units.npy"
# The action units of each expression (Ekman and Friesen, EMFACS), those of `cache.names`: embeddings of classes.
CLASS_UNITS: Mapping[str, Sequence[int]] = {
    "Neutral": (),
    "Anger": (4, 7, 23, 24),
    "Disgust": (4, 7, 10),
    "Fear": (1, 2, 4, 7, 25, 26),
    "Happiness": (6, 12, 25),
    "Sadness": (1, 4, 15),
    "Surprise": (1, 2, 25, 26),
    "Other": (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26),  # as far from each of the others
}
SMOOTHED = ("smoothing", "thresholds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A strategy: what differs from the defaults and `SMALL`; the components that its post-processing may have; the
    views whose mean it predicts."""

    values: Values = field(default_factory=dict)
    post: Sequence[str] = ()
    views: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A strategy with what is tried, and `base` without it; P is over `tasks`."""

    name: str
    side: Side
    base: Side = field(default_factory=Side)
    tasks: Sequence[str] = TASKS


def _settings(base: Values, pieces: Mapping[str, Values]) -> list[Piece]:
    """`base` with further settings against `base`."""
    return [
        Piece(name=name, side=Side(values={**base, **values}), base=Side(values=base))
        for name, values in pieces.items()
    ]


def _auxiliary(target: str, others: Sequence[str], weight: float = 1.0) -> Piece:
    """A task with others trained beside it against the task alone."""
    tasks = [each for each in ("valence", "expr", "au") if each in (target, *others)]
    values = {"tasks": tasks, "targets": [target], "task_weights": {target: weight}}
    return Piece(
        name=f"{target} beside {', '.join(others)}",
        side=Side(values=values),
        base=Side(values={"tasks": [target]}),
        tasks=(target,),
    )


def _post(name: str, more: str, without: Sequence[str] = SMOOTHED, values: Values | None = None) -> Piece:
    """Post-processing with one component more."""
    values = values or {}
    return Piece(name=name, side=Side(values=values, post=[*without, more]), base=Side(values=values, post=without))


def _balanced(sigma: float) -> Values:
    return {"continuous_loss": "balanced_mse", "balanced_sigma": sigma}


ENCODERS = ("gru", "lstm", "ssm", "tcn", "tcn-multi", "transformer", "tcn-transformer")
FUSIONS = ("sum", "gated", "attention", "cross-attention")
FRAME_WISE: Values = {"temporal": "none"}
MSE: Values = {"continuous_loss": "mse"}
GROUPS: Mapping[str, Sequence[Piece]] = {
    "encoder, frame-wise without": [
        Piece(name=name, side=Side(values=values), base=Side(values=FRAME_WISE))
        for name, values in {each: {"temporal": each} for each in ENCODERS}.items()
    ],
    "fusion with an encoder, frame-wise without": [
        Piece(name=each, side=Side(values={"fusion": each}), base=Side(values=FRAME_WISE)) for each in FUSIONS
    ],
    "fusion without an encoder": _settings(FRAME_WISE, {each: {"fusion": each} for each in FUSIONS}),
    "fusion, concat without": _settings({}, {each: {"fusion": each} for each in FUSIONS}),
    "causal": [
        piece
        for each in ("gru", "ssm", "tcn", "tcn-multi", "transformer", "tcn-transformer")
        for piece in _settings({"temporal": each}, {each: {"causal": True}})
    ],
    "latent": _settings(
        {},
        {
            "all tasks from 32": {"latent": 32},
            "VA beside": {"latent": 32, "latent_va": "beside"},
            "96, VA beside": {"latent": 96, "latent_va": "beside"},
            "VA beside, smoothness 0.1": {"latent": 32, "latent_va": "beside", "latent_smoothness": 0.1},
        },
    )
    + _settings({"temporal": "gru"}, {"VA beside, gru": {"latent": 32, "latent_va": "beside"}}),
    "between tasks": _settings(
        {},
        {
            "gated coupling": {"coupling": "gated"},
            "classes from both": {"classes_from": "both"},
        },
    ),
    "loss": _settings(
        {},
        {
            "balanced MSE of sigma 1": _balanced(1.0),
            "balanced MSE of sigma 0.3": _balanced(0.3),
            "LDAM": {"class_loss": "ldam"},
            "logit adjustment": {"class_loss": "logit_adjusted"},
            "subject-adversarial 0.1": {"subject_adversarial": 0.1},
            "subject-adversarial 1": {"subject_adversarial": 1.0},
            "class embeddings": {"class_embeddings": UNITS_FILE},
        },
    )
    + _settings(MSE, {f"balanced MSE of sigma {each}, MSE without": _balanced(each) for each in (1.0, 0.3)}),
    "auxiliary tasks, the task alone without": [
        _auxiliary("expr", ["au", "valence"], 0.25),
        _auxiliary("au", ["valence"]),
    ],
    "values of a task's own, separate without": _settings(
        {"method": "separate"},
        {
            "window 128 of va": {"task.va.window": 128},
            "window 16 of au": {"task.au.window": 16},
            "gru of va": {"task.va.temporal": "gru"},
        },
    ),
    "views predicted, base alone without": [
        Piece(name="base, hflip", side=Side(views=("base", "hflip"))),
        Piece(name="base, hflip, crop0.9", side=Side(views=("base", "hflip", "crop0.9"))),
    ],
    "post-processing": [
        Piece(name="smoothing and thresholds", side=Side(post=SMOOTHED)),
        _post("class offsets", "offsets"),
        _post("prior adjustment", "prior"),
        _post("affine match", "affine"),
        _post("affine match of heads trained by MSE", "affine", values=MSE),
        Piece(
            name="all, without prior adjustment and affine match",
            side=Side(post=[*SMOOTHED, "offsets", "prior", "affine"]),
            base=Side(post=[*SMOOTHED, "offsets"]),
        ),
    ],
}
