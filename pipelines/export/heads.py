"""Heads of a run as ONNX files. B windows, T steps, D width, K outputs of a task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from extract.backbones.onnx_export import free, to_onnx
from heads.tasks import Task
from pipelines.fitting.runs import Spec
from pipelines.labels import tasks_of

EXAMPLE = (2, 5)  # windows and steps: any number above 1, so that torch takes neither for a constant
VALID, TIMES = "valid", "times"


class WholeHead(nn.Module):
    """A model of one head over windows of its inputs, up to the values and probabilities of its tasks.

    `streams` [B, T, D] each, in the order of its names, `valid` [B, T] bool and `times` [B, T] int64 -> [B, T, K] each.
    """

    def __init__(self, module: nn.Module, streams: Sequence[str], tasks: Sequence[tuple[str, Task]]) -> None:
        super().__init__()
        self.module, self.streams, self.tasks = module, tuple(streams), tuple(tasks)

    def forward(self, streams: tuple[Tensor, ...], valid: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        named = {name: x.unsqueeze(0) for name, x in zip(self.streams, streams, strict=True)}
        outputs = self.module(named, valid.unsqueeze(0), times.unsqueeze(0))
        return tuple(task.probabilities(outputs[name].squeeze(0).float()) for name, task in self.tasks)


def head_graph(spec: Spec, module: nn.Module, what: str) -> bytes:
    """The model `spec` as an ONNX file: inputs `stream_NAME`, `valid`, `times`; an output per task, by its name.

    Raises:
        ValueError: as `to_onnx`.
    """
    known = tasks_of(spec.schema)
    widths = widths_of(spec)
    head = WholeHead(module, tuple(widths), [(name, known[name]) for name in spec.predicted])
    streams = tuple(torch.zeros(*EXAMPLE, width) for width in widths.values())
    valid, times = torch.ones(EXAMPLE, dtype=torch.bool), torch.arange(EXAMPLE[1]).expand(EXAMPLE).contiguous()
    windows = free(0, 1)
    return to_onnx(
        head,
        (streams, valid, times),
        [*(f"stream_{name}" for name in widths), VALID, TIMES],
        list(spec.predicted),
        (tuple(windows for _ in streams), windows, windows),
        what,
    )


def widths_of(spec: Spec) -> dict[str, int]:
    """The width of each input of the model, by the name of its stream."""
    return {name: width for widths in spec.parts.values() for name, width in widths.items()}
