"""One linear map of an embedding for each task: what a backbone was fine-tuned with, as a head on its cached stream.

Letters: B windows, T steps, D width, K outputs of a task.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from heads.tasks import build_output


class LinearHead(nn.Module):
    """A single head that reads `stream` of width D, each step by itself; called as `heads.model.Head` is."""

    def __init__(self, tasks: Sequence[str], stream: str, width: int) -> None:
        super().__init__()
        self.stream = stream
        self.outputs = nn.ModuleDict({task: build_output(task, width, num_heads=1) for task in tasks})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        x = streams[self.stream]
        return {task: output(x) for task, output in self.outputs.items()}
