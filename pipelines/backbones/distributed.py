"""Several processes that train one model, a device each, as `torchrun` starts them. B faces of all, b of one process.

Every process computes the loss on the outputs of all, gathered in order, and sends back the gradient of its own rows
alone; so a CCC or a mean over what is labelled is that of one process with the same global batch. A world of one is
nothing: its methods hand back what they are given.
"""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.norms import moving_norms, synchronised
from pipelines.device import resolve_device

Value = TypeVar("Value")
PATIENCE = datetime.timedelta(hours=2)  # one process may decode, score or save for long while the others wait


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together: this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is this process that writes files and speaks to the user."""
        return self.rank == 0

    def part(self, rows: np.ndarray) -> np.ndarray:
        """This process's share of the `rows` [B, ...] of a global batch: consecutive, sizes at most one apart."""
        return rows if self.size == 1 else np.array_split(rows, self.size)[self.rank]

    def gather(self, output: Tensor) -> Tensor:
        """The rows [b, ...] of every process in order as [B, ...]; b may differ, and be 0.

        The gradient flows to this process's own rows. As DistributedDataParallel takes the mean over processes, a loss
        of what is gathered is to be multiplied by `size` before `backward`; the gradient of a parameter that is in no
        wrapped model, such as a weight of the loss itself, is then `size` times too large on every process alike:
        `unscale` puts it right.
        """
        if self.size == 1:
            return output
        import torch.distributed as dist

        own = output.detach()
        counts = _counts(len(own), self.size)
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        pieces = [part[:count] for part, count in zip(parts, counts, strict=True)]
        pieces[self.rank] = output
        return torch.cat(pieces)

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divides gradients that every process has whole by `size`; see `gather`."""
        for parameter in parameters if self.size > 1 else ():
            if parameter.grad is not None:
                parameter.grad /= self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model itself, or one that averages its gradients over all processes whenever `backward` runs.

        The weights are those of the first process. Batch normalisations take their means over all processes.

        Raises:
            ValueError: batch normalisation on a CPU, where these means cannot be taken.
        """
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        device = next(model.parameters()).device
        moving = moving_norms(model)
        if moving and device.type != "cuda":
            raise ValueError(
                f"{len(moving)} batch normalisations ({moving[0]}, ...) take their means from the batch, which several "
                "processes can only do on GPUs; train on one process, freeze the backbone's norms, or take a model "
                "without them (a ViT, ConvNeXt)"
            )
        model = synchronised(model) if moving else model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Inside, `backward` of a wrapped model adds to this process's gradients alone: all but the last step of an
        accumulation."""
        return contextlib.nullcontext() if self.size == 1 else model.no_sync()  # type: ignore[operator]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values`, of one shape everywhere, over the processes."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather_objects(self, value: Value) -> list[Value]:
        """The `value` of every process, in order; anything that can be pickled."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Waits until every process is here."""
        self.gather_objects(None)


@contextlib.contextmanager
def open_world(device: str) -> Iterator[tuple[World, torch.device]]:
    """The processes that `torchrun` started, and this one's device; without `torchrun` a world of one.

    With `auto` or `cuda` each process of a machine has a GPU of its own, by its LOCAL_RANK.

    Raises:
        ValueError: no such device, or one GPU named for all processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), resolve_device(device)
        return
    import torch.distributed as dist

    found = _own_device(device)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    # What is no tensor of a GPU, such as objects and counts, goes through gloo: asking a GPU would wait for it.
    backend = "cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield World(dist.get_rank(), size), found
    dist.destroy_process_group()  # not after an error: other processes may be waiting, and torchrun ends them


def _own_device(name: str) -> torch.device:
    if name.startswith("cuda:"):
        raise ValueError(
            f"--device {name}: one GPU for all processes of torchrun; use --device cuda, which gives each its own"
        )
    found = resolve_device(name)
    return found if found.type == "cpu" else resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def _counts(count: int, size: int) -> list[int]:
    """The `count` of every process."""
    import torch.distributed as dist

    counts = torch.zeros(size, dtype=torch.int64)
    dist.all_gather_into_tensor(counts, torch.tensor([count]))
    return [int(each) for each in counts]
