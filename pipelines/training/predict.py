"""A model over windows: predictions of the windows a row is in are averaged.

What is averaged are valence and arousal themselves and the probabilities of expressions and AUs, not logits.
Letters: M stacked heads, W windows, T steps, R rows, K outputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS, VA_COLUMNS
from heads.tasks import TASK_OUTPUTS
from pipelines.labels import Labels
from pipelines.metrics.challenge import Decisions, Probabilities, score
from pipelines.training.dataset import Dataset, Plan, Reader

# Of all heads together: what stays in the processor's cache (a stack of 12 took 1.25 s with 4,096 steps a head, 0.7 s
# with 512 or fewer), and what fills a card.
STEPS_AT_ONCE = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """`rows` [R] of the frames table, ascending, and what a model says of each."""

    rows: np.ndarray
    probabilities: Probabilities

    def decide(self) -> Decisions:
        """Classes and AUs at the default thresholds."""
        return self.probabilities.decide()


def predict(model: nn.Module, tasks: tuple[str, ...], reader: Reader, plan: Plan) -> Predictions:
    """The predictions of a model of one head; as `predict_heads`."""
    (predictions,) = predict_heads(model, tasks, reader, plan)
    return predictions


@torch.no_grad()
def predict_heads(model: nn.Module, tasks: tuple[str, ...], reader: Reader, plan: Plan) -> list[Predictions]:
    """What each head of `model` predicts of the rows that `plan` covers; leaves the model in evaluation mode."""
    model.eval()
    if not len(plan.rows):  # no row asked for has a window
        num_heads = len(next(model.parameters()))
        return [_zeros(tasks, plan.covered) for _ in range(num_heads)]
    num_steps = plan.rows.shape[1] * len(next(model.parameters(), torch.zeros(1)))
    step = max(1, STEPS_AT_ONCE[plan.rows.device.type] // max(num_steps, 1))
    flat = [_outputs(model(*reader(rows.unsqueeze(0))), tasks) for rows in plan.rows.split(step)]
    values = torch.cat(flat, dim=1)
    values = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)  # a free place says 0
    total = torch.zeros(len(values), len(plan.places), values.shape[2], device=values.device)
    for places in plan.places.unbind(1):
        total += values.index_select(1, places)
    count = (plan.places < values.shape[1] - 1).sum(dim=1, keepdim=True)
    mean = (total / count.clamp(min=1)).split([TASK_OUTPUTS[task].num_outputs for task in tasks], dim=2)
    parts = {task: value.cpu().numpy() for task, value in zip(tasks, mean, strict=True)}
    return [
        Predictions(
            rows=plan.covered, probabilities=Probabilities(**{task: part[head] for task, part in parts.items()})
        )
        for head in range(len(values))
    ]


def _zeros(tasks: tuple[str, ...], rows: np.ndarray) -> Predictions:
    parts = {task: np.zeros((len(rows), TASK_OUTPUTS[task].num_outputs), np.float32) for task in tasks}
    return Predictions(rows=rows, probabilities=Probabilities(**parts))


def merge(parts: list[Predictions]) -> Predictions:
    """Predictions of several models, each of its own tasks, over the same rows."""
    given = {
        task: getattr(part.probabilities, task)
        for part in parts
        for task in TASKS
        if getattr(part.probabilities, task) is not None
    }
    assert all(np.array_equal(part.rows, parts[0].rows) for part in parts)
    return Predictions(rows=parts[0].rows, probabilities=Probabilities(**given))


def score_predictions(predictions: Predictions, dataset: Dataset, tasks: tuple[str, ...]) -> dict[str, Any]:
    """All metrics of `predictions` against the labels; a task without a labelled row gets null, and then P is null.

    Beside the keys of `metrics.score`: "unscored", the tasks without a labelled row.
    """
    return score_rows(predictions, dataset.labels, tasks)


def score_rows(predictions: Predictions, labels: Labels, tasks: tuple[str, ...]) -> dict[str, Any]:
    """`score_predictions` against the labels of a whole frames table."""
    return score(predictions.decide(), labels.rows(predictions.rows), tasks)


def table(predictions: Predictions, dataset: Dataset, part: str) -> pl.DataFrame:
    """Predictions as a table in the frames table's columns, with probabilities as `p_<Class>` and `p_<AU>`."""
    return prediction_table(predictions, dataset.frames, part)


def prediction_table(predictions: Predictions, frames: pl.DataFrame, part: str) -> pl.DataFrame:
    """`table` over the whole frames table `frames`."""
    probabilities, decided = predictions.probabilities, predictions.decide()
    columns: dict[str, np.ndarray] = {}
    if probabilities.va is not None:
        columns |= _named(VA_COLUMNS, probabilities.va.astype(np.float32))
    if probabilities.expr is not None and decided.expression is not None:
        columns |= {"expression": decided.expression.astype(np.int8)}
        columns |= _named([f"p_{name}" for name in EXPRESSIONS], probabilities.expr.astype(np.float32))
    if probabilities.au is not None and decided.action_units is not None:
        columns |= _named(ACTION_UNITS, decided.action_units.astype(np.int8))
        columns |= _named([f"p_{name}" for name in ACTION_UNITS], probabilities.au.astype(np.float32))
    rows = frames.select("video", "frame")[predictions.rows]
    return rows.with_columns(pl.lit(part).alias("part"), *[pl.Series(name, v) for name, v in columns.items()])


def _outputs(outputs: dict[str, Tensor], tasks: tuple[str, ...]) -> Tensor:
    """[M, B * T, K]: the outputs of `tasks` side by side, as values and probabilities."""
    return torch.cat([ACTIVATIONS[task](outputs[task].float()) for task in tasks], dim=-1).flatten(1, 2)


def _named(names: Any, values: np.ndarray) -> dict[str, np.ndarray]:
    """[R, K] as one column a name."""
    return {name: np.ascontiguousarray(values[:, index]) for index, name in enumerate(names)}


ACTIVATIONS = {"va": lambda x: x, "expr": lambda x: x.softmax(dim=-1), "au": torch.sigmoid}
