"""Task outputs: valence-arousal, 8 expressions, 12 action units; `output(x [M, ..., D]) -> [M, ..., K]`.

Letters: M stacked heads, D width, K outputs of a task.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heads.layers import Linear, look_up


def identity(x: Tensor) -> Tensor:
    return x


def softmax(x: Tensor) -> Tensor:
    return x.softmax(dim=-1)


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """`num_outputs` K; `activation` turns the raw outputs [..., K] into the task's, on which its loss is taken;
    `prediction` those into values or probabilities."""

    num_outputs: int
    activation: Callable[[Tensor], Tensor]
    prediction: Callable[[Tensor], Tensor]


class Output(nn.Module):
    """One linear map, then the task's activation."""

    def __init__(self, task: TaskOutput, width: int, num_heads: int) -> None:
        super().__init__()
        self.linear = Linear(num_heads, width, task.num_outputs)
        self.activation = task.activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


def build_output(task: str, width: int, num_heads: int) -> Output:
    """The output of `task` over a trunk of `width` D.

    Raises:
        ValueError: unknown task.
    """
    return Output(look_up(TASK_OUTPUTS, task, "task"), width, num_heads)


TASK_OUTPUTS: dict[str, TaskOutput] = {
    "va": TaskOutput(2, torch.tanh, identity),  # valence, arousal in [-1, 1]
    "expr": TaskOutput(8, identity, softmax),
    "au": TaskOutput(12, identity, torch.sigmoid),
}
