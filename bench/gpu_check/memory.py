"""The memory that a stack takes in training against the estimate by which stacks are cut. Letters: M stacked heads."""

import gc
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.gpu_check.data import made_videos
from bench.gpu_check.graphs import stack_of
from bench.gpu_check.sizes import Sizes
from bench.measure import Row, Target
from pipelines.config import Config
from pipelines.search.memory import weights_bytes
from pipelines.strategy import strategy_of
from pipelines.training.dataset import Dataset
from pipelines.training.packing import MOST, SHARE_OF_MEMORY, head_bytes, stack_size

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
GIB = 2**30
ORDERS = 25  # of data, as of 5 seeds and 5 folds


def against_estimate(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """ME: peak of the first steps and a prediction ÷ estimate, per encoder; then of the largest stack that is cut.

    On a GPU the peak is what torch has taken: the memory of a graph is lent to nothing else. Stacks are cut to
    `SHARE_OF_MEMORY` of what is free, so from 1 / SHARE_OF_MEMORY on they would not fit.
    """
    config, dataset = made_videos(sizes, device)
    cases = {name: {"temporal": name} for name in sizes.temporals}
    cases["attention fusion"] = {"fusion": "attention"}
    cases["progressive"] = {"method": "progressive"}
    for name, values in cases.items():
        values = {**sizes.head, **values}
        yield _row(config, dataset, f"ME {name}", values, sizes.stack, sizes.memory_steps)
    values = {**sizes.head, "temporal": sizes.temporals[0]}
    widths = dataset.resident.widths(list(config.backbones), "base")
    most = stack_size(strategy_of(config).replace(values, "gpu-check"), config, widths, device)
    assert most <= MOST[device.type], "no larger than the most"
    yield _row(config, dataset, "MEm", values, most, sizes.memory_steps)


def _row(config: Config, dataset: Dataset, name: str, values: dict, num_heads: int, num_steps: int) -> Row:
    device = dataset.resident.device
    strategy = strategy_of(config).replace(values, "gpu-check")
    widths = dataset.resident.widths(list(config.backbones), "base")
    of_weights = weights_bytes(strategy, config, widths)
    estimate = num_heads * (head_bytes(strategy, config, widths) + of_weights)
    gc.collect()
    before = begin_peak(device)
    stack = stack_of(config, dataset, values, tuple(number % ORDERS for number in range(num_heads)))
    stack.run_until(num_steps)
    trained = peak_bytes(device) - before
    stack.predict()
    peak = peak_bytes(device) - before
    words = f"{name[3:] or strategy.head.temporal}, M = {num_heads}"
    note = f"{words}: {peak / GIB:.2f} GiB of {estimate / GIB:.2f} estimated; {trained / GIB:.2f} without predicting"
    if device.type == "cuda":
        note += f"; {torch.cuda.max_memory_allocated(device) / GIB:.2f} in tensors, with those of before"
    # Of a CPU at toy size it is the allocator's own.
    target = Target(1 / SHARE_OF_MEMORY, at_most=True) if device.type == "cuda" else None
    what = "peak memory of a stack ÷ its estimate"
    return Row(id=name, what=what, values=[peak / estimate], target=target, device=device.type, note=note)


def begin_peak(device: torch.device) -> int:
    """Bytes in use now; the peak counts from here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_reserved(device))
    CLEAR_REFS.write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since `begin_peak`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_reserved(device))
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
