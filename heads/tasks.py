"""Tasks: what a head has an output for; `output(x [M, ..., D]) -> [M, ..., K]`.

A task is a label group, or one column of a continuous one. Letters: M stacked heads, D width, K outputs of a task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heads.config import Kind
from heads.labels import Labels
from heads.layers import Linear, look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """K = `num_outputs`: numbers in [low, high] of the kind continuous, else logits of classes or of binary columns.

    Its labels are those of the label group `group`, or of the column `column` of it alone.
    """

    group: str
    kind: Kind
    num_outputs: int
    column: int | None = None
    low: float = -1.0
    high: float = 1.0

    @property
    def scale(self) -> float:
        """Half the range of a continuous task: losses are of values in units of it, so that they weigh alike."""
        return 0.5 * (self.high - self.low)

    def activate(self, x: Tensor) -> Tensor:
        """Raw outputs [..., K] as values of the task: within its range, or logits as they are."""
        if self.kind != "continuous":
            return x
        x = torch.tanh(x)
        return x if (self.low, self.high) == (-1.0, 1.0) else self.low + (x + 1) * self.scale

    def probabilities(self, x: Tensor) -> Tensor:
        """Outputs [..., K] as predictions: values, probabilities of classes that sum to 1, or of each binary column."""
        if self.kind == "continuous":
            return x
        return x.softmax(dim=-1) if self.kind == "classes" else x.sigmoid()

    def labels_in(self, labels: Labels) -> tuple[Any, Any]:
        """Values and mask of its columns among `labels`."""
        value, mask = labels.values[self.group], labels.masks[self.group]
        if self.column is None:
            return value, mask
        part = slice(self.column, self.column + 1)
        return value[..., part], mask[..., part]


class Output(nn.Module):
    """One linear map, then the task's activation."""

    def __init__(self, task: Task, width: int, num_heads: int) -> None:
        super().__init__()
        self.linear = Linear(num_heads, width, task.num_outputs)
        self.task = task

    def forward(self, x: Tensor) -> Tensor:
        return self.task.activate(self.linear(x))


def find_task(tasks: Mapping[str, Task], name: str) -> Task:
    """The task `name` of `tasks`; raises ValueError for an unknown one."""
    return look_up(tasks, name, "task")


# The tasks of the ABAW challenge: what a head is built for when nothing else is said.
ABAW_TASKS: dict[str, Task] = {
    "va": Task(group="va", kind="continuous", num_outputs=2),
    "valence": Task(group="va", kind="continuous", num_outputs=1, column=0),
    "arousal": Task(group="va", kind="continuous", num_outputs=1, column=1),
    "expr": Task(group="expr", kind="classes", num_outputs=8),
    "au": Task(group="au", kind="binary", num_outputs=12),
}
