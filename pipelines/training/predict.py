"""A model over windows: predictions of the windows a row is in are averaged.

What is averaged are the values of continuous tasks and the probabilities of the others, not logits.
Letters: M stacked heads, W windows, T steps, R rows, K outputs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cache.labels import Schema
from heads.tasks import Task
from pipelines.labels import tasks_of
from pipelines.metrics.predictions import Predictions, joined
from pipelines.training.dataset import PredictionPlan, WindowReader
from pipelines.training.normal_inputs import Inputs, reader_for

# Of all heads together: what stays in the processor's caches (one head and six took 0.84 to 1.04 of the time of 4,096),
# and what fills a card.
STEPS_AT_ONCE = {"cpu": 2048, "cuda": 65536}


def predict(model: nn.Module, tasks: tuple[str, ...], reader: WindowReader, plan: PredictionPlan) -> Predictions:
    """The predictions of a model of one head; as `predict_heads`."""
    (predictions,) = predict_heads(model, tasks, reader, plan)
    return predictions


@torch.no_grad()
def predict_heads(
    model: nn.Module, tasks: tuple[str, ...], reader: WindowReader, plan: PredictionPlan
) -> list[Predictions]:
    """What each head of `model` predicts of the rows that `plan` covers; leaves the model in evaluation mode."""
    model.eval()
    if not len(plan.rows):  # no row asked for has a window
        num_heads = len(next(model.parameters()))
        return [_zeros(tasks, reader.schema, plan.covered) for _ in range(num_heads)]
    num_steps = plan.rows.shape[1] * len(next(model.parameters(), torch.zeros(1)))
    step = max(1, STEPS_AT_ONCE[plan.rows.device.type] // max(num_steps, 1))
    known = {name: task for name, task in tasks_of(reader.schema).items() if name in tasks}
    flat = [_outputs(model(*inputs), known) for inputs in _inputs(model, reader, plan.rows.split(step))]
    values = torch.cat(flat, dim=1)
    values = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)  # a free place predicts 0
    total = torch.zeros(len(values), len(plan.places), values.shape[2], device=values.device)
    for places in plan.places.unbind(1):
        total += values.index_select(1, places)
    count = (plan.places < values.shape[1] - 1).sum(dim=1, keepdim=True)
    mean = (total / count.clamp(min=1)).split([task.num_outputs for task in known.values()], dim=2)
    parts = {name: value.cpu().numpy() for name, value in zip(known, mean, strict=True)}
    return [
        Predictions(
            rows=plan.covered,
            probabilities=joined({name: part[head] for name, part in parts.items()}, reader.schema),
        )
        for head in range(len(values))
    ]


def _inputs(model: nn.Module, reader: WindowReader, batches: Sequence[Tensor]) -> Iterator[Inputs]:
    """What `model` reads of each batch of windows; where streams stay in the cache, the next one is read meanwhile."""
    read = reader_for(model, reader)
    for rows, following in zip(batches, [*batches[1:], None], strict=True):
        inputs = read(rows.unsqueeze(0))
        if following is not None:
            reader.prefetch(following.unsqueeze(0))
        yield inputs


def _zeros(tasks: tuple[str, ...], schema: Schema, rows: np.ndarray) -> Predictions:
    parts = {name: np.zeros((len(rows), schema.tasks[name].num_outputs), np.float32) for name in tasks}
    return Predictions(rows=rows, probabilities=joined(parts, schema))


def _outputs(outputs: dict[str, Tensor], tasks: dict[str, Task]) -> Tensor:
    """[M, B * T, K]: the outputs of `tasks` side by side, as values and probabilities."""
    parts = [task.probabilities(outputs[name].float()) for name, task in tasks.items()]
    return torch.cat(parts, dim=-1).flatten(1, 2)
