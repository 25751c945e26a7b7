"""Where a head's training batches come from: windows over its rows, in an order of its own, and their labels.

Letters: M stacked heads, N frames, B windows, T steps.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config import TrainConfig
from pipelines.label_table import LabelTable
from pipelines.training.budget import batch_windows
from pipelines.training.dataset import Dataset, WindowReader, mask_key, padded_targets
from pipelines.training.windows import Windows

MAX_STEPS = 1 << 23  # of a pass, up to which its row numbers are made at once: 64 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSource:
    """Where a head's batches come from: windows over the rows `train` [N], whose labels alone are shown.

    `predicted` are those of `tasks` that choose its weights. `learnable` [N + 1] is True at the rows with an embedding
    and a label to learn from; the last is padding. `hidden` [N + 1] is True, on the device, at the rows whose labels
    are not to be seen. `targets` are the labels of the N + 1 rows on the device. `key` tells sources apart.
    """

    dataset: Dataset
    reader: WindowReader
    tasks: tuple[str, ...]
    predicted: tuple[str, ...]
    config: TrainConfig
    train: np.ndarray
    learnable: np.ndarray
    hidden: Tensor
    targets: LabelTable
    key: bytes

    @property
    def batch_windows(self) -> int:
        """B: as the configuration says, or by the number of rows that train in the frames table, whichever the fold."""
        return batch_windows(self.config, self.dataset.frames)

    def one_pass(self, generator: torch.Generator) -> "Tensor | PassRows":
        """Row numbers [W, T] of all windows with labels, moved by a drawn offset and in drawn order; of very many they
        are made as they are taken."""
        offset = int(torch.randint(self.config.stride, (), generator=generator))
        windows = self.dataset.place_windows(self.train, self.config, offset)
        windows = windows.take(windows.any(self.learnable[:-1]))
        windows = windows.take(torch.randperm(len(windows), generator=generator).numpy())
        views = None
        if self.reader.others:  # each window from a drawn view
            views = torch.randint(1 + len(self.reader.others), (len(windows), 1), generator=generator)
        rows = PassRows(self.dataset, windows, views)
        return rows if len(windows) * windows.steps > MAX_STEPS else rows[:]


@dataclass(frozen=True, slots=True)
class PassRows:
    """Row numbers [W, T] of a pass on the device, made where they are asked for; `views` [W, 1] say of which view each
    window is."""

    dataset: Dataset
    windows: Windows
    views: Tensor | None

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, chosen: slice) -> Tensor:
        rows = self.dataset.on_device(self.windows.rows(chosen))
        if self.views is None:
            return rows
        return rows + self.views[chosen].to(rows.device) * (len(self.dataset.times) + 1)


class WindowSampler:
    """Batches of a source without end: pass after pass over its windows, each drawn anew from a generator of its own.

    A batch that a pass does not fill is filled from the next one, so every batch has B windows.
    """

    def __init__(self, source: WindowSource) -> None:
        self._source, self._size = source, source.batch_windows  # counts all rows: once, not per batch
        self._generator = torch.Generator().manual_seed(source.config.seed)
        self._draw()

    def batch(self) -> Tensor:
        """The next batch [B, T]."""
        parts = [self._take(self._size)]
        while (missing := self._size - sum(map(len, parts))) > 0:
            self._draw()
            parts.append(self._take(missing))
        return parts[0] if len(parts) == 1 else torch.cat([part for part in parts if len(part)])

    def next_batch(self) -> Tensor | None:
        """What `batch` will give, where this pass fills it."""
        after = self._windows[self._used : self._used + self._size]
        return after if len(after) == self._size else None

    def state(self) -> tuple[Tensor, int]:
        """The generator as the current pass began, and how many of its windows are gone."""
        return self._begun, self._used

    def load(self, state: tuple[Tensor, int]) -> None:
        """Resumes where `state` was taken."""
        self._generator.set_state(state[0])
        self._draw()
        self._used = state[1]

    def _take(self, count: int) -> Tensor:
        part = self._windows[self._used : self._used + count]
        self._used += len(part)
        return part

    def _draw(self) -> None:
        self._begun, self._used = self._generator.get_state(), 0
        self._windows = self._source.one_pass(self._generator)


def make_window_source(
    dataset: Dataset,
    reader: WindowReader,
    train: np.ndarray,
    tasks: tuple[str, ...],
    config: TrainConfig,
    predicted: tuple[str, ...] = (),
    taught: LabelTable | None = None,
) -> WindowSource:
    """Batches for `tasks` from the rows `train`; labels of other rows, and of rows without an embedding, are hidden.

    `predicted` are the tasks that choose weights, all where it names none. `taught` are the labels to learn from, by
    default the data set's own.
    """
    real = train & reader.valid[:-1].cpu().numpy()
    device, labels = reader.valid.device, dataset.labels if taught is None else taught
    return WindowSource(
        dataset=dataset,
        reader=reader,
        tasks=tasks,
        predicted=predicted or tasks,
        config=config,
        train=train,
        learnable=np.append(real & labels.labelled_for(dataset.schema.tasks[name] for name in tasks), False),
        hidden=torch.from_numpy(~np.append(real, False)).to(device),
        targets=dataset.targets if taught is None else padded_targets(taught, device),
        key=mask_key(train) + (b"" if taught is None else _digest(taught)),
    )


def _digest(taught: LabelTable) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for array in taught.arrays.values():
        found.update(np.ascontiguousarray(array).data)
    return found.digest()
