"""The inputs of windows as heads normalise them, to the same bits: masked, normalised and put side by side in one pass.

What a head does at the door (`heads.fusion.normalised`) gives the same numbers in every epoch, and took a fifth of the
time of a small head's step on a CPU. Letters: N frames, B windows, T steps, D width.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from heads.config import age_of, embedding_streams
from heads.fusion import ConcatFusion, NormalStreams
from heads.model import Head
from pipelines.training.dataset import WindowReader
from pipelines.training.inputs import StreamInput

Inputs = tuple[Mapping[str, Tensor], Tensor, Tensor]


def reader_for(model: nn.Module, reader: WindowReader) -> Callable[[Tensor], Inputs]:
    """Reads windows as `reader` does, for `model`: normalised where it would normalise them and that can be had."""
    parts = list(model.modules())
    views = (reader.inputs, *(inputs for inputs, _ in reader.others))
    can = all(view[name].can_normalise for view in views for name in embedding_streams(view))
    if not can or not any(isinstance(part, Head) for part in parts):
        return reader
    return NormalReader(reader, joined=any(isinstance(part, ConcatFusion) for part in parts))


class NormalReader:
    """As a `WindowReader`, streams normalised; `joined` ones lie side by side. They hold until the next call."""

    def __init__(self, reader: WindowReader, *, joined: bool) -> None:
        self._reader, self._joined = reader, joined
        self._names = embedding_streams(reader.inputs)
        self._memory: dict[str, Tensor] = {}

    def __call__(self, rows: Tensor) -> Inputs:
        """`rows` [..., T] as `NormalStreams` [..., T, D], valid and times [..., T]."""
        reader, flat = self._reader, self._reader.in_table(rows).flatten()
        inside = flat.clamp(max=len(reader.valid) - 2)
        streams, joined = self._room(len(flat))
        ages = [name for name in reader.inputs if name not in self._names]
        streams |= {name: reader.inputs[name].rows(inside) for name in ages}
        valid = reader.valid.index_select(0, flat)
        for name in self._names:
            reader.inputs[name].normal_rows(inside, streams[name])
        for number, (inputs, known) in enumerate(reader.others, start=1):
            places = (rows.flatten() // len(reader.valid) == number).nonzero().squeeze(1)
            for name in ages:
                streams[name][places] = inputs[name].rows(inside[places])
            for name in self._names:
                streams[name][places] = self._of(inputs[name], inside[places])
            valid[places] = known.index_select(0, flat[places])
        for name in self._names:
            age = streams.get(age_of(name))
            is_shown = valid if age is None else valid & (age.squeeze(-1) >= 0)
            streams[name].index_fill_(0, (~is_shown).nonzero().squeeze(1), 0.0)
        found = NormalStreams({name: each.unflatten(0, rows.shape) for name, each in streams.items()})
        found.joined = None if joined is None else joined.unflatten(0, rows.shape)
        times = reader.times.index_select(0, flat).view(rows.shape).long()
        return found, valid.view(rows.shape), times

    def _room(self, num_rows: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Memory for so many rows of each stream, and all of it where they are joined."""
        widths = [self._reader.inputs[name].width for name in self._names]
        if not self._joined:
            parts = [self._of_name(name, num_rows, width) for name, width in zip(self._names, widths, strict=True)]
            return dict(zip(self._names, parts, strict=True)), None
        joined = self._of_name("", num_rows, sum(widths))
        return dict(zip(self._names, joined.split(widths, dim=1), strict=True)), joined

    def _of_name(self, name: str, num_rows: int, width: int) -> Tensor:
        if name not in self._memory or len(self._memory[name]) < num_rows:
            self._memory[name] = torch.empty(num_rows, width)
        return self._memory[name][:num_rows]

    @staticmethod
    def _of(source: StreamInput, rows: Tensor) -> Tensor:
        return source.normal_rows(rows, torch.empty(len(rows), source.width))
