"""Where a head's training batches come from: windows over its rows, in an order of its own, and their labels.

Letters: M stacked heads, N frames, B windows, T steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heads.losses import Targets
from pipelines.config import TrainConfig
from pipelines.training.dataset import Dataset, Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where a head's batches come from: windows over the rows `train` [N], whose labels alone are shown.

    `learnable` [N + 1] is True at the rows with an embedding and a label to learn from; the last is padding. `hidden`
    [N + 1] is True, on the device, at the rows whose labels are not to be seen. `key` tells feeds apart.
    """

    dataset: Dataset
    reader: Reader
    tasks: tuple[str, ...]
    config: TrainConfig
    train: np.ndarray
    learnable: np.ndarray
    hidden: Tensor
    key: bytes

    def batches(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One epoch of row numbers [B, T]: windows moved by a drawn offset, in drawn order, those with labels."""
        offset = int(torch.randint(self.config.stride, (), generator=generator))
        windows = self.dataset.windows(self.train, self.config, offset)
        windows = windows[self.learnable[windows].any(axis=1)]
        order = torch.randperm(len(windows), generator=generator).numpy()
        rows = self.dataset.on_device(windows[order])
        if self.reader.others:  # each window from a drawn view
            views = torch.randint(1 + len(self.reader.others), (len(rows), 1), generator=generator).to(rows.device)
            rows = rows + views * len(self.hidden)
        return rows.split(self.config.batch_windows)


def make_feed(dataset: Dataset, reader: Reader, train: np.ndarray, tasks: tuple[str, ...], config: TrainConfig) -> Feed:
    """Batches for `tasks` from the rows `train`; labels of other rows, and of rows without an embedding, are hidden."""
    real = train & reader.valid[:-1].cpu().numpy()
    labelled = np.logical_or.reduce([dataset.labels.labelled(task) for task in tasks])
    return Feed(
        dataset=dataset,
        reader=reader,
        tasks=tasks,
        config=config,
        train=train,
        learnable=np.append(real & labelled, False),
        hidden=torch.from_numpy(~np.append(real, False)).to(reader.valid.device),
        key=train.tobytes(),
    )


def masked(targets: Targets, shown: Tensor) -> Targets:
    """`targets` [M, B, T, ..] without the labels of rows that are not `shown` [M, B, T]."""
    column = shown.unsqueeze(-1)
    return Targets(
        va=targets.va,
        va_mask=targets.va_mask & column,
        expr=targets.expr,
        expr_mask=targets.expr_mask & shown,
        au=targets.au,
        au_mask=targets.au_mask & column,
    )
