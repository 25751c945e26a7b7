"""What a head is made of and what it is trained to minimise: plain data, no torch.

Read by `heads.model` and `heads.losses`; filled from the sections `[head]` and `[loss]` of mtl.toml and from grids.
The range of a number stands beside its field.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, MinLen

from heads.ranges import range_problem

Task = Literal["va", "expr", "au"]
Fusion = Literal["concat", "sum", "gated", "attention"]  # the keys of heads.fusion.FUSIONS
Temporal = Literal["none", "gru", "lstm", "tcn", "transformer"]  # the keys of heads.temporal.TEMPORALS
# Blocks of each encoder where `depth` is 0. A TCN of 5 with kernel 3 sees 31 steps to either side.
DEPTHS: dict[Temporal, int] = {"none": 2, "gru": 2, "lstm": 2, "tcn": 5, "transformer": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The shape of a head: fusion, then a temporal encoder, then one output a task.

    `streams` is "all" (every backbone), "own" (the backbones made for the head's tasks) or a list of names.
    `inputs` "deviation" replaces each embedding by its difference from the mean over its video, "both" puts the two
    side by side; no label is used for that mean, but all frames of the video are, or with `mean_frames` above 0 those
    of the so many real frames up to the step, as a live camera would have them.
    `depth` 0 is the encoder's own number of blocks (`DEPTHS`). `kernel` concerns the TCN only; `num_heads` the
    attention fusion and the transformer.
    """

    tasks: tuple[Task, ...] = ("va", "expr", "au")
    streams: Literal["all", "own"] | tuple[Annotated[str, MinLen(1)], ...] = "all"
    fusion: Fusion = "concat"
    temporal: Temporal = "tcn"
    inputs: Literal["embedding", "deviation", "both"] = "embedding"
    mean_frames: Annotated[int, Interval(ge=0, le=10**9)] = 0
    width: Annotated[int, Interval(ge=1, le=8192)] = 128
    depth: Annotated[int, Interval(ge=0, le=64)] = 0
    num_heads: Annotated[int, Interval(ge=1, le=256)] = 4
    kernel: Annotated[int, Interval(ge=1, le=1023)] = 3
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.3

    @property
    def num_blocks(self) -> int:
        """Blocks of the temporal encoder."""
        return self.depth or DEPTHS[self.temporal]


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
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    focal_gamma: Annotated[float, Interval(ge=0, le=100)] = 2.0
    asymmetric_gamma_positive: Annotated[float, Interval(ge=0, le=100)] = 0.0
    asymmetric_gamma_negative: Annotated[float, Interval(ge=0, le=100)] = 4.0
    asymmetric_clip: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    task_weights: Literal["fixed", "learned"] = "fixed"
    va_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    expr_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    au_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0


def head_problem(config: HeadConfig) -> str | None:
    """What makes a head of this `config` impossible to build, in one line; None when nothing does.

    The one check of a head's values: `heads.model` builds nothing that it refuses, and a grid is held to it before
    anything is trained.
    """
    width, num_heads = config.width, config.num_heads
    if not config.tasks or len(set(config.tasks)) != len(config.tasks):
        return f"tasks = {list(config.tasks)}: name at least one task, each once"
    if problem := range_problem(config):
        return problem
    if config.fusion == "attention" and width % num_heads:
        return f"attention fusion: width = {width} is not a multiple of num_heads = {num_heads}"
    if config.temporal == "transformer" and width % (2 * num_heads):
        return f"transformer: width = {width} is not a multiple of 2 x num_heads = {2 * num_heads}"
    if config.temporal == "tcn" and config.kernel % 2 == 0:
        return f"tcn: kernel = {config.kernel} must be odd, for as many steps before as after"
    return None
