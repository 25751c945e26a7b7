"""S1 and S2: the speed of heads trained in a stack against that of the same heads alone.

Steps are those of `bench.training`. Letters: M stacked heads.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from bench.measure import Row, Target, cpus, interleave, ratios, seconds_left, shares, walls
from bench.products import SHAPE, product
from bench.training import data_of, eager, is_cpu, make_stack, one_pass, own_orders, passes
from extract.backbones.passes import fast_precision
from heads.temporal import TEMPORALS

STACKS = {"cpu": 8, "cuda": 64}
# Of what products in bfloat16 are faster, the share by which a stack in it has to gain: 1.6 where they are 3.9 x.
GAIN = 0.6 / 2.9


def stacked(device: torch.device) -> Iterator[Row]:
    """S1: heads/s of a stack, in float32 and, where the device has instructions for it, bfloat16, against those of one
    float32 head through the same code; on a CPU the gain in bfloat16 is asked for that its products allow."""
    config, dataset = data_of(device, 1)
    precisions = dict.fromkeys(("float32", fast_precision(device)))
    size = STACKS[device.type]
    clocks = {"CPU time": cpus, "wall": walls} if is_cpu(device) else {"wall": walls}
    gains: dict[tuple[str, str], list[Row]] = {}
    for temporal in shares(list(TEMPORALS)):
        if gains and seconds_left() < 0:
            break
        alone = eager(make_stack(config, dataset, own_orders(config, 1, {"temporal": temporal})))
        actions = {"alone": functools.partial(passes, alone, 3)}  # too soon over to be timed by a single step
        for precision in precisions:
            values = {"temporal": temporal, "precision": precision}
            stack = make_stack(config, dataset, own_orders(config, size, values))
            actions[precision] = functools.partial(one_pass, stack)
        costs = interleave(actions)
        for precision, (name, clock) in itertools.product(precisions, clocks.items()):
            row = Row(
                id=f"S1 {temporal} {precision}",
                what=f"heads/s of a stack ÷ of one float32 head, {name}",
                values=[size * one / 3 for one in ratios(clock(costs["alone"]), clock(costs[precision]))],
                device=device.type,
                note=f"{temporal}, M = {size}, {precision}, 4 orders of data",
            )
            gains.setdefault((precision, name), []).append(row)
            if name == next(iter(clocks)):
                yield row
    target = {each: Target(1.0 if is_cpu(device) else 20) for each in precisions}
    if is_cpu(device) and "bfloat16" in precisions:
        faster = _products_ratio(device)
        yield faster
        target["bfloat16"] = Target(round(1 + GAIN * (faster.value - 1), 2))
    for (precision, name), rows in gains.items():
        mark = ("" if precision == "float32" else "b") + ("w" if name == "wall" and is_cpu(device) else "")
        yield from _least_and_mean(rows, f"S1{mark}", target[precision])


def _products_ratio(device: torch.device) -> Row:
    costs = interleave({str(dtype): product(dtype, device) for dtype in (torch.float32, torch.bfloat16)})
    values = ratios(cpus(costs["torch.float32"]), cpus(costs["torch.bfloat16"]))
    what, note = (
        "a head's widest product in bfloat16 ÷ in float32, FLOP/s",
        f"bounds S1b; {' x '.join(map(str, SHAPE))}",
    )
    return Row(id="S1p", what=what, values=values, device=device.type, note=note)


def in_a_graph(device: torch.device) -> list[Row]:
    """S2: an epoch of 64 stacked heads against that of one head, both as CUDA graphs; nothing on a CPU."""
    if is_cpu(device):
        return []
    config, dataset = data_of(device, 1)
    rows = []
    for temporal in shares(list(TEMPORALS)):
        alone, stack = (
            make_stack(config, dataset, own_orders(config, size, {"temporal": temporal}))
            for size in (1, STACKS["cuda"])
        )
        costs = interleave({"alone": functools.partial(passes, alone, 3), "stack": functools.partial(passes, stack, 3)})
        values = ratios(walls(costs["stack"]), walls(costs["alone"]))
        what, note = "64 stacked heads ÷ one head in a CUDA graph", f"{temporal}, 4 orders of data"
        rows.append(
            Row(
                id=f"S2 {temporal}",
                what=what,
                values=values,
                target=Target(8, at_most=True),
                device=device.type,
                note=note,
            )
        )
    return rows


def _least_and_mean(rows: Sequence[Row], name: str, target: Target) -> list[Row]:
    """The least gain, and round by round, as far as all have them, the geometric mean of all, which has the target of a
    gain above 1."""
    least, many = min(rows, key=lambda row: row.value), f"{len(rows)} of {len(TEMPORALS)} encoders"
    means = [statistics.geometric_mean(each) for each in zip(*(row.values for row in rows), strict=False)]
    what, kind, note = least.what, least.device, f"of {many}: {least.note}"
    return [
        Row(id=name, what=f"{what}: the least", values=least.values, target=Target(1.0), device=kind, note=note),
        Row(id=f"{name}m", what=f"{what}: geometric mean", values=means, target=target, device=kind, note=f"of {many}"),
    ]


ROWS: Mapping[str, Callable[[torch.device], Iterable[Row]]] = {
    "S1": stacked,
    "S2": in_a_graph,
}
ON_CUDA = ("S1", "S2")
