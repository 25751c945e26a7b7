"""S1, S2, B1, B2 and B3 on a GPU: stacks against single heads, steps against data, a plain loop and a live backbone.

As in `bench.stacking` and `bench.training`, but of sizes that are given. Letters: M stacked heads.
"""

import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.gpu_check.embedding import faces_per_s
from bench.gpu_check.sizes import Sizes
from bench.made_streams import made_dataset, num_frames
from bench.measure import Row, Target, interleave, ratios, walls
from bench.rivals import PLAIN_TEMPORALS, PlainHead, plain_epoch, plain_loader
from bench.training import DATA, eager, make_stack, own_orders, passes, plain_windows, timed
from cache.cores import num_cores
from pipelines.config import Config
from pipelines.strategy import strategy_of
from pipelines.training.dataset import Dataset
from pipelines.training.stack import Stack

STEPS = 3  # per pass, between two evaluations
PRECISIONS = ("float32", "bfloat16")


def stacked(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """S1: heads/s of a stack ÷ of one head started by the host; S2: a stack's pass ÷ one head's, both in graphs."""
    config, dataset = _data(sizes, device)
    gains: dict[str, list[Row]] = {}
    for temporal in sizes.temporals:
        values = {**sizes.head, "temporal": temporal}
        stack_values = {precision: {**values, "precision": precision} for precision in PRECISIONS}
        stacks = {
            "eager": eager(make_stack(config, dataset, own_orders(config, 1, values))),
            "graph": make_stack(config, dataset, own_orders(config, 1, values)),
            **{
                precision: make_stack(config, dataset, own_orders(config, sizes.stack, each))
                for precision, each in stack_values.items()
            },
        }
        costs = interleave({name: functools.partial(_pass, stack) for name, stack in stacks.items()}, sizes.rounds)
        taken = {name: walls(each) for name, each in costs.items()}
        ms = {name: 1000 * statistics.median(each) / STEPS for name, each in taken.items()}
        for precision in PRECISIONS:
            gain = [sizes.stack * one for one in ratios(taken["eager"], taken[precision])]
            note = (
                f"{temporal}, M = {sizes.stack}, {precision}: {ms[precision]:.2f} ms per step, one head "
                f"{ms['eager']:.2f} by the host and {ms['graph']:.2f} in a graph"
            )
            what = "heads/s of a stack ÷ of one eager float32 head"
            row = Row(id=f"S1 {temporal} {precision}", what=what, values=gain, device=device.type, note=note)
            gains.setdefault(precision, []).append(row)
            yield row
        what = "64 stacked heads ÷ one head in a CUDA graph" if sizes.stack == 64 else "a stack ÷ one head"
        yield Row(
            id=f"S2 {temporal}",
            what=what,
            values=ratios(taken["float32"], taken["graph"]),
            target=Target(8, at_most=True),
            device=device.type,
            note=f"{temporal}, float32, 4 orders of data",
        )
    for precision, rows in gains.items():
        least, mark = min(rows, key=lambda row: row.value), "" if precision == "float32" else "b"
        means = [statistics.geometric_mean(each) for each in zip(*(row.values for row in rows), strict=True)]
        what = f"heads/s of a stack ÷ of one eager head, {precision}"
        note, kind = f"of {len(rows)} encoders", device.type
        yield Row(
            id=f"S1{mark}", what=f"{what}: least", values=least.values, target=Target(1), device=kind, note=least.note
        )
        yield Row(id=f"S1{mark}m", what=f"{what}: mean", values=means, target=Target(20), device=kind, note=note)


def beside_steps(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """B1: rows, gather and labels ÷ a pass of steps by the host; B2: a pass ÷ that of a plain loop."""
    config, dataset = _data(sizes, device)
    for temporal in PLAIN_TEMPORALS:
        for num_heads in (1, sizes.stack):
            values = {**sizes.head, "temporal": temporal}
            stack = eager(make_stack(config, dataset, own_orders(config, num_heads, values)))
            _pass(stack)
            shares = []
            for _ in range(sizes.rounds):
                with timed(*DATA, (Stack, "run_until"), device=device) as spent:
                    _pass(stack)
                shares.append(1 - spent["run_until"] / sum(spent.values()))
            note, target = f"{temporal}, M = {num_heads}", Target(0.02, at_most=True)
            what = "waiting for data ÷ training step"
            name, kind = f"B1 {temporal} {num_heads}", device.type
            yield Row(id=name, what=what, values=shares, target=target, device=kind, note=note)
        yield _against_plain(config, dataset, sizes, temporal)


def against_live(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """B3: an epoch from the cache ÷ one through the frozen backbone, at the faces/s of the backbone alone: no loop of a
    user's is faster."""
    config, dataset = _data(sizes, device, (sizes.stream_width,))
    count = int((dataset.frames["split"] == "train").sum())
    values = {**sizes.head, "temporal": "gru", "streams": "all"}
    stack = make_stack(config, dataset, own_orders(config, 1, values))
    _pass(stack)
    speed = faces_per_s(sizes.live, sizes, device)
    costs = interleave({"cached": functools.partial(_pass, stack)}, sizes.rounds)
    found = [one * speed / count for one in walls(costs["cached"])]
    note = f"{sizes.live.name}, {speed:,.0f} faces/s without decoding; {count:,} frames"
    what, target = "epoch from the cache ÷ epoch with the frozen backbone live", Target(1 / 200, at_most=True)
    yield Row(id="B3", what=what, values=found, target=target, device=device.type, note=note)


def _against_plain(config: Config, dataset: Dataset, sizes: Sizes, temporal: str) -> Row:
    device, width = dataset.resident.device, sizes.head["width"]
    values = {**sizes.head, "temporal": temporal, "num_heads": 4}
    windows = plain_windows(dataset, strategy_of(config).replace(values, "gpu-check"))
    stack = make_stack(config, dataset, own_orders(config, 1, values))
    model = PlainHead([sizes.stream_width] * sizes.streams, temporal, width).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    several = min(8, num_cores())
    loaders = {workers: plain_loader(windows, sizes.head["batch_windows"], workers) for workers in (0, several)}
    plain = {str(w): functools.partial(plain_epoch, model, optimiser, each, device) for w, each in loaders.items()}
    costs = interleave({**plain, "ours": functools.partial(_pass, stack)}, sizes.rounds)
    fastest = min(plain, key=lambda workers: statistics.median(walls(costs[workers])))
    found = ratios(walls(costs["ours"]), walls(costs[fastest]))
    note = f"{temporal}; plain loop with {fastest} workers, the faster of 0 and {several}"
    what, target = "training step ÷ plain eager PyTorch's", Target(1 / 3, at_most=True)
    return Row(id=f"B2 {temporal}", what=what, values=found, target=target, device=device.type, note=note)


def _data(sizes: Sizes, device: torch.device, widths: Sequence[int] = ()) -> tuple[Config, Dataset]:
    """Data of `STEPS` batches per pass."""
    head: dict[str, Any] = sizes.head
    batch, window, stride = head["batch_windows"], head["window"], head["stride"]
    count = num_frames(STEPS, batch, window, stride)
    named = {f"stream{number}": width for number, width in enumerate(widths or [sizes.stream_width] * sizes.streams)}
    config, dataset = made_dataset(count, named, device)
    train = replace(config.train, batch_windows=batch, window=window, stride=stride, eval_steps=STEPS)
    return replace(config, train=train), dataset


def _pass(stack: Stack) -> None:
    passes(stack, 1)
    if stack.sources[0].hidden.device.type == "cuda":
        torch.cuda.synchronize()
