"""One linear map of an embedding for each task: what a backbone was fine-tuned with, as a head on its cached stream.

Letters: B windows, T steps, D width, K outputs of a task.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from heads.tasks import ABAW_TASKS, Output, Task, find_task


class LinearHead(nn.Module):
    """A single head that reads `stream` of width D, each step by itself; called as `heads.model.Head` is."""

    def __init__(self, names: Sequence[str], stream: str, width: int, tasks: Mapping[str, Task] = ABAW_TASKS) -> None:
        super().__init__()
        self.stream = stream
        self.outputs = nn.ModuleDict({name: Output(find_task(tasks, name), width, num_heads=1) for name in names})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        x = streams[self.stream]
        return {task: output(x) for task, output in self.outputs.items()}
