"""What a head is made of and what it is trained to minimise: plain data, no torch.

Read by `heads.model` and `heads.losses`; filled from the sections `[head]` and `[loss]` of mtl.toml and from grids.
The range of a number stands beside its field.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, MinLen

from heads.ranges import in_range, range_problem, range_words, split_annotation

Kind = Literal["continuous", "classes", "binary"]  # of the labels of a task
Fusion = Literal["concat", "sum", "gated", "attention", "cross-attention"]  # the keys of heads.fusion.FUSIONS
# The keys of heads.temporal.TEMPORALS.
Temporal = Literal["none", "gru", "lstm", "ssm", "tcn", "tcn-multi", "transformer", "tcn-transformer"]
Name = Annotated[str, MinLen(1)]
Weight = Annotated[float, Interval(ge=0, le=1e6)]
WEIGHTS = split_annotation(Weight)[1]
# Blocks of each encoder where `depth` is 0; those of tcn-transformer are of its TCN. A TCN of 5 with kernel 3 sees 31
# steps to either side, the branches of a multi-scale one of 3 see 7, 28 and 112.
DEPTHS: dict[Temporal, int] = {
    "none": 2,
    "gru": 2,
    "lstm": 2,
    "ssm": 2,
    "tcn": 5,
    "tcn-multi": 3,
    "transformer": 2,
    "tcn-transformer": 5,
}
CONVOLUTIONAL: tuple[Temporal, ...] = ("tcn", "tcn-multi", "tcn-transformer")
ATTENTIVE: tuple[Temporal, ...] = ("transformer", "tcn-transformer")
SCALES: dict[Temporal, tuple[int, ...]] = {"tcn-multi": (1, 4, 16)}  # dilations side by side, times a block's own
MOST_REACH = 10**6  # steps that a convolution spans: no window is longer


AGE = ":age"


def age_of(stream: str) -> str:
    """The name of the input [.., 1] that says how many real frames ago the row of `stream` at a step began."""
    return stream + AGE


def embedding_streams(streams: Iterable[str]) -> tuple[str, ...]:
    """Those of `streams` that are embeddings, sorted: all but the ages."""
    return tuple(sorted(name for name in streams if not name.endswith(AGE)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The shape of a head: fusion, then a temporal encoder, then one output per task.

    `targets` are the tasks that the head predicts and is chosen and scored by, all of `tasks` where it names none; the
    others are auxiliary: they are trained and help the shared trunk (Liu et al., arXiv 2407.16945).
    `streams` is "all" (every backbone), "own" (the backbones made for the head's tasks) or a list of names.
    `inputs` "deviation" replaces each embedding by its difference from the mean over its video, "both" puts the two
    side by side; no label is used for that mean, but all frames of the video are, or with `mean_frames` above 0 those
    of the so many real frames up to the step, as a live camera would have them.
    `causal` heads see no later step, for use while frames come; so they take no mean over the whole video.
    `latent` above 0 is the width of a stochastic latent between the encoder and the outputs (`heads.latent`), read by
    all tasks, or with `latent_va` "beside" by all but continuous ones. `coupling` "gated" exchanges features between
    tasks. `classes_from` "both" decodes classes from features and from the other tasks' predictions; for heads of
    several tasks in one trunk, as `coupling` is.
    `depth` 0 is the encoder's own number of blocks (`DEPTHS`). `kernel` concerns the encoders with convolutions,
    `num_heads` the encoders and fusions with attention.
    """

    tasks: tuple[Name, ...] = ("va", "expr", "au")
    targets: tuple[Name, ...] = ()
    streams: Literal["all", "own"] | tuple[Name, ...] = "all"
    fusion: Fusion = "concat"
    temporal: Temporal = "ssm"
    causal: bool = False
    inputs: Literal["embedding", "deviation", "both"] = "embedding"
    mean_frames: Annotated[int, Interval(ge=0, le=10**9)] = 0
    width: Annotated[int, Interval(ge=1, le=8192)] = 128
    depth: Annotated[int, Interval(ge=0, le=64)] = 0
    num_heads: Annotated[int, Interval(ge=1, le=256)] = 4
    kernel: Annotated[int, Interval(ge=1, le=1023)] = 3
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.3
    latent: Annotated[int, Interval(ge=0, le=8192)] = 0
    latent_va: Literal["inside", "beside"] = "inside"
    coupling: Literal["none", "gated"] = "none"
    classes_from: Literal["features", "both"] = "features"

    @property
    def predicted(self) -> tuple[str, ...]:
        """The tasks that it predicts: its targets, in the order of `tasks`."""
        return tuple(task for task in self.tasks if task in self.targets) or self.tasks

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The tasks that are trained only to help the others."""
        return tuple(task for task in self.tasks if task not in self.predicted)

    @property
    def is_causal(self) -> bool:
        """Whether no step sees a later one: as set, or because each is predicted by itself."""
        whole_video = self.inputs != "embedding" and not self.mean_frames
        frame_wise = self.temporal == "none" and self.fusion != "cross-attention"
        return (self.causal or frame_wise) and not whole_video

    @property
    def num_blocks(self) -> int:
        """Blocks of the temporal encoder."""
        return self.depth or DEPTHS[self.temporal]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The loss of each kind of task and how the tasks are weighed against each other.

    `task_weights` holds the factor of each task's loss, 1 where it names none. `weighting` "learned" adds one
    log-variance per task (Kendall, Gal and Cipolla, CVPR 2018) on top of it. `balanced_sigma` is in halves of a task's
    range, and best near the error of the predictions: far above the spread of the labels it drives predictions to the
    ends. `class_weights` does not concern "logit_adjusted". `latent_kl` weighs the divergence of the latent from a
    standard normal, after rising from 0 over `latent_warmup_steps`, and `latent_smoothness` its change over time.
    `subject_adversarial` above 0 is how strongly subjects are unlearned; `class_embeddings` names a file of one row per
    class, with which features are aligned (`heads.penalties`).
    """

    continuous_loss: Literal["ccc", "mse", "ccc+mse", "balanced_mse"] = "ccc"
    class_loss: Literal["cross_entropy", "focal", "ldam", "logit_adjusted"] = "cross_entropy"
    binary_loss: Literal["bce", "asymmetric"] = "bce"
    class_weights: bool = True
    positive_weights: bool = True
    latent_kl: Annotated[float, Interval(ge=0, le=1e6)] = 0.05
    latent_warmup_steps: Annotated[int, Interval(ge=0, le=10**9)] = 250
    latent_smoothness: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    subject_adversarial: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    class_embeddings: str = ""
    class_embeddings_weight: Annotated[float, Interval(ge=0, le=1e6)] = 0.5
    balanced_sigma: Annotated[float, Interval(ge=0.05, le=100)] = 0.3
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    ldam_margin: Annotated[float, Interval(ge=0, le=100)] = 0.5
    logit_tau: Annotated[float, Interval(ge=0, le=100)] = 1.0
    focal_gamma: Annotated[float, Interval(ge=0, le=100)] = 2.0
    asymmetric_gamma_positive: Annotated[float, Interval(ge=0, le=100)] = 0.0
    asymmetric_gamma_negative: Annotated[float, Interval(ge=0, le=100)] = 4.0
    asymmetric_clip: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    weighting: Literal["fixed", "learned"] = "fixed"
    task_weights: Mapping[Name, Weight] = field(default_factory=dict, hash=False)


def reach_of(config: HeadConfig) -> int:
    """Steps between the first and the last that the widest convolution of `config` sees."""
    return int((config.kernel - 1) * 2 ** (config.num_blocks - 1) * max(SCALES.get(config.temporal, (1,))))


def loss_problem(config: LossConfig) -> str | None:
    """The first number of `config` outside its range, in one line; None when none is."""
    for name, weight in config.task_weights.items():
        if not in_range(weight, WEIGHTS):
            return f"task_weights: {name} = {weight!r} must be {range_words(WEIGHTS)}"
    if config.continuous_loss == "balanced_mse" and config.weighting == "learned":
        return "weighting = 'learned' goes by the size of a loss, and that of balanced_mse may be below 0: use 'fixed'"
    return range_problem(config)


def classes_problem(config: HeadConfig, kinds: Mapping[str, Kind]) -> str | None:
    """What keeps classes from being decoded as `classes_from` says, where each task is of one of `kinds`; None when
    nothing does."""
    reading = [task for task in config.tasks if kinds[task] == "classes"]
    if config.classes_from == "features" or 0 < len(reading) < len(config.tasks):
        return None
    return (
        f"classes_from = {config.classes_from!r}: a task of classes and one that is none are needed, and tasks = "
        f"{list(config.tasks)}"
    )


def head_problem(config: HeadConfig) -> str | None:
    """What makes a head of this `config` impossible to build, in one line; None when nothing does.

    The one check of a head's values: `heads.model` builds nothing that it refuses, and a grid is held to it before
    anything is trained.
    """
    width, num_heads = config.width, config.num_heads
    if not config.tasks or len(set(config.tasks)) != len(config.tasks):
        return f"tasks = {list(config.tasks)}: name at least one task, each once"
    if len(set(config.targets)) != len(config.targets) or not set(config.targets) <= set(config.tasks):
        return f"targets = {list(config.targets)}: name some of tasks = {list(config.tasks)}, each once"
    if problem := range_problem(config):
        return problem
    if config.coupling != "none" and len(config.tasks) < 2:
        return f"coupling = {config.coupling!r}: a head of the task {config.tasks[0]} alone has none to couple it with"
    if config.fusion == "attention" and width % num_heads:
        return f"attention fusion: width = {width} is not a multiple of num_heads = {num_heads}"
    if config.fusion == "cross-attention" and width % (2 * num_heads):
        return f"cross-attention fusion: width = {width} is not a multiple of 2 x num_heads = {2 * num_heads}"
    if config.temporal in ATTENTIVE and width % (2 * num_heads):
        return f"{config.temporal}: width = {width} is not a multiple of 2 x num_heads = {2 * num_heads}"
    if config.temporal in CONVOLUTIONAL and config.kernel % 2 == 0:
        return f"{config.temporal}: kernel = {config.kernel} must be odd, for as many steps before as after"
    if config.temporal in CONVOLUTIONAL and reach_of(config) > MOST_REACH:
        return (
            f"{config.temporal}: of depth = {config.num_blocks} and kernel = {config.kernel} the last block spans "
            f"{reach_of(config):,} steps, more than {MOST_REACH:,}; each block doubles that, so take fewer"
        )
    if config.causal and config.inputs != "embedding" and not config.mean_frames:
        return (
            f"causal: inputs = {config.inputs!r} takes the mean over the whole video, later frames too; set "
            "mean_frames, for example 250"
        )
    return None
