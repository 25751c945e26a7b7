"""What a head is made of and what it is trained to minimise: plain data, no torch.

Read by `heads.model` and `heads.losses`; filled from the sections `[head]` and `[loss]` of mtl.toml and from grids.
"""

from dataclasses import dataclass
from typing import Literal

Task = Literal["va", "expr", "au"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The shape of a head: fusion, then a temporal encoder, then one output a task.

    `streams` is "all" (every backbone), "own" (the backbones made for the head's tasks) or a list of names.
    `kernel` concerns the TCN only; `num_heads` the attention fusion and the transformer.
    """

    tasks: tuple[Task, ...] = ("va", "expr", "au")
    streams: Literal["all", "own"] | tuple[str, ...] = "all"
    fusion: str = "attention"
    temporal: str = "tcn"
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    kernel: int = 5
    dropout: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The loss of each task and how the tasks are weighed against each other.

    `task_weights` "fixed" multiplies each task's loss by its `*_weight`; "learned" adds one log-variance a task
    (Kendall, Gal and Cipolla, CVPR 2018) on top of them.
    """

    va_loss: Literal["ccc", "mse", "ccc+mse"] = "ccc"
    expr_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    au_loss: Literal["bce", "asymmetric"] = "bce"
    class_weights: bool = True
    positive_weights: bool = True
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    asymmetric_gamma_positive: float = 0.0
    asymmetric_gamma_negative: float = 4.0
    asymmetric_clip: float = 0.05
    task_weights: Literal["fixed", "learned"] = "fixed"
    va_weight: float = 1.0
    expr_weight: float = 1.0
    au_weight: float = 1.0
