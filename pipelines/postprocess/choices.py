"""What can be fitted for a task, on any choice of folds: a kernel, an affine match, offsets or a prior, thresholds.

Smoothing looks at no label, so it is done once per kernel; scores come from sums per fold, so that fitting on any
choice of folds costs an addition. Offsets and priors alone are fitted on rows: which class is predicted depends on all
of them. R rows, K outputs, F folds, C candidate kernels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cache.labels import Task
from heads.labels import Labels
from pipelines.metrics.sums import row_sums, task_score
from pipelines.postprocess.affine import IDENTITY, best_affine, match, matched_sums
from pipelines.postprocess.apply import default_cuts, smooth_task, video_numbers
from pipelines.postprocess.offsets import best_offsets
from pipelines.postprocess.outside import THRESHOLDS, take_surer
from pipelines.postprocess.parts import Part, decide, fold_sums
from pipelines.postprocess.prior import best_prior
from pipelines.postprocess.smoothing import Smoothing
from pipelines.postprocess.thresholds import best_thresholds, f1_of, threshold_candidates, threshold_curves

NOTHING = np.zeros(0)
OUTSIDE = "outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedRows:
    """Select rows in `num` folds; `fold` [R] is that of each row."""

    part: Part
    fold: np.ndarray
    num: int

    @property
    def all(self) -> np.ndarray:
        return np.ones(self.num, dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`kernel` is its number among the candidates. `affine` [K, 2] scale and shift of continuous columns, `cuts` [K]
    offsets of classes or thresholds of binary columns, each empty for other kinds. `tau` is that of a prior that made
    the offsets, `outside` the threshold of an outside classifier; None for none."""

    kernel: int = 0
    affine: np.ndarray = field(default_factory=lambda: NOTHING)
    cuts: np.ndarray = field(default_factory=lambda: NOTHING)
    tau: float | None = None
    outside: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInputs:
    """A task on the select rows: `traces` C x [R, K] of the kernels of `grid`, and their `sums` C x [F, K, M] with
    nothing else changed.

    `outside` C x [R, K] is what an outside classifier says of classes, smoothed alike; none where there is none.

    For binary columns: `candidates` C x [K, T] thresholds and their `curves` C x [F, K, T, 3]. `shown` [F, K] are the
    videos of each fold that show a class or a positive of a column, or have a label of a continuous column.
    """

    task: Task
    rows: FoldedRows
    grid: Sequence[Smoothing]
    traces: list[np.ndarray]
    outside: list[np.ndarray]
    sums: list[np.ndarray]
    candidates: list[np.ndarray]
    curves: list[np.ndarray]
    shown: np.ndarray

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask [R, K] of the task's columns; [R, 1] of classes."""
        return labels_of_task(self.task, self.rows.part.labels)

    def decided(self, choice: Choice, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The decisions of `rows` with `choice`, as in `Decisions`."""
        values = self.traces[choice.kernel][rows]
        if len(choice.affine):
            values = match(values, choice.affine, self.task.group)
        if choice.outside is not None:
            values = take_surer(values, self.outside[choice.kernel][rows], choice.outside, choice.cuts)
        return decide(self.task, values, choice.cuts)


def labels_of_task(task: Task, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask of the columns that `task` is about."""
    values, mask = labels.values[task.group.name], labels.masks[task.group.name]
    return (values, mask) if task.is_whole else (values[:, task.indices], mask[:, task.indices])


def fit_inputs(task: Task, rows: FoldedRows, grid: Sequence[Smoothing]) -> FitInputs:
    """What fits `task` on any choice of the folds of `rows`."""
    table, labels = rows.part.table, rows.part.labels
    videos, frames = video_numbers(table), table["frame"].to_numpy()
    traces = [smooth_task(task, rows.part.predicted.parts[task.name], videos, frames, how) for how in grid]
    predicted = [decide(task, trace, np.array(default_cuts(task.group))) for trace in traces]
    said = rows.part.predicted.outside.get(task.group.name)
    candidates = [threshold_candidates(trace) for trace in traces] if task.group.kind == "binary" else []
    return FitInputs(
        task=task,
        rows=rows,
        grid=grid,
        traces=traces,
        outside=[] if said is None else [smooth_task(task, said, videos, frames, how) for how in grid],
        sums=[fold_sums(row_sums(task, one, labels), rows.fold, rows.num) for one in predicted],
        candidates=candidates,
        curves=[
            threshold_curves(trace, cuts, *labels_of_task(task, labels), rows.fold, rows.num)
            for trace, cuts in zip(traces, candidates, strict=False)
        ],
        shown=_videos_that_show(rows, task),
    )


def _videos_that_show(rows: FoldedRows, task: Task) -> np.ndarray:
    """[F, K]: videos of each fold with a label of a class, with a positive of a binary column, or with any label of a
    continuous one."""
    (values, mask), videos = labels_of_task(task, rows.part.labels), video_numbers(rows.part.table)
    if task.group.kind == "continuous":
        shown = mask
    else:
        shown = ((values == np.arange(task.num_outputs)) if task.group.kind == "classes" else (values > 0.5)) & mask
    _, first, video = np.unique(videos, return_index=True, return_inverse=True)
    in_video = fold_sums(shown[:, :, None], video, len(first))[..., 0] > 0
    return fold_sums(in_video[:, :, None], rows.fold[first], rows.num)[..., 0]


def choose(inputs: FitInputs, components: tuple[str, ...], folds: np.ndarray) -> Choice:
    """What is best on `folds` [F] bool, of equals the first kernel. Thresholds and affine match are fitted with the
    kernel, offsets and priors to the one that is best without them."""
    if OUTSIDE in components:
        without = choose(inputs, tuple(each for each in components if each != OUTSIDE), folds)
        return _outside(inputs, without, folds)
    task, num = inputs.task, len(inputs.grid) if "smoothing" in components else 1
    (other,) = [each for each in components if each != "smoothing"] or [""]
    if other in FITTED:
        return FITTED[other](inputs, folds, num)
    kernel = _plain_kernel(inputs, folds, num)
    affine = np.array([IDENTITY] * task.num_outputs) if task.group.kind == "continuous" else NOTHING
    return Choice(kernel=kernel, affine=affine, cuts=np.array(default_cuts(task.group)))


def _first_best(inputs: FitInputs, sums: Sequence[np.ndarray]) -> int:
    """The place of the sums [K, M] of the highest score."""
    return int(np.argmax([float(task_score(inputs.task, each)) for each in sums]))


def _plain_kernel(inputs: FitInputs, folds: np.ndarray, num: int) -> int:
    """The kernel that is best with nothing else changed."""
    return _first_best(inputs, [sums[folds].sum(axis=0) for sums in inputs.sums[:num]])


def _thresholds(inputs: FitInputs, folds: np.ndarray, num: int) -> Choice:
    curves = [inputs.curves[kernel][folds].sum(axis=0) for kernel in range(num)]
    kernel = int(np.argmax([float(f1_of(each).max(axis=1).mean()) for each in curves]))
    cuts = best_thresholds(inputs.candidates[kernel], curves[kernel], inputs.shown[folds].sum(axis=0))
    return Choice(kernel=kernel, cuts=cuts)


def _affine(inputs: FitInputs, folds: np.ndarray, num: int) -> Choice:
    sums = [each[folds].sum(axis=0) for each in inputs.sums[:num]]
    found = [best_affine(each, inputs.shown[folds].sum(axis=0)) for each in sums]
    kernel = _first_best(inputs, [matched_sums(*each) for each in zip(sums, found, strict=True)])
    return Choice(kernel=kernel, affine=found[kernel])


def _offsets(inputs: FitInputs, folds: np.ndarray, num: int) -> Choice:
    kernel = _plain_kernel(inputs, folds, num)
    cuts = best_offsets(*_labelled(inputs, kernel, folds), inputs.shown[folds].sum(axis=0))
    return Choice(kernel=kernel, cuts=cuts)


def _prior(inputs: FitInputs, folds: np.ndarray, num: int) -> Choice:
    kernel = _plain_kernel(inputs, folds, num)
    tau, cuts = best_prior(*_labelled(inputs, kernel, folds))
    return Choice(kernel=kernel, cuts=cuts, tau=tau)


def _outside(inputs: FitInputs, choice: Choice, folds: np.ndarray) -> Choice:
    """`choice` with the threshold of the outside classifier that is best with it, of equals the highest."""
    rows = folds[inputs.rows.fold]
    labels = inputs.rows.part.labels.take(rows)
    tried = [dataclasses.replace(choice, outside=threshold) for threshold in sorted(THRESHOLDS, reverse=True)]
    sums = [row_sums(inputs.task, inputs.decided(each, rows), labels).sum(axis=0) for each in tried]
    return tried[_first_best(inputs, sums)]


def _labelled(inputs: FitInputs, kernel: int, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [R, K] and classes [R] of the labelled rows of `folds`."""
    values, mask = inputs.labels
    rows = mask[:, 0] & folds[inputs.rows.fold]
    return inputs.traces[kernel][rows], values[rows, 0]


FITTED: dict[str, Callable[[FitInputs, np.ndarray, int], Choice]] = {
    "thresholds": _thresholds,
    "affine": _affine,
    "offsets": _offsets,
    "prior": _prior,
}
