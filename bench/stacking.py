"""S1, S2 and S6: heads trained in a stack against the same heads alone.

Steps are those of `bench.training`. Letters: M stacked heads.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.made_streams import made_dataset, num_frames
from bench.measure import Row, Target, cpus, interleave, ratios, walls
from bench.training import WIDTHS, data_of, eager, is_cpu, make_stack, one_pass, own_orders, passes
from heads.fusion import FUSIONS
from heads.model import single_state
from heads.temporal import TEMPORALS
from pipelines.training.stack import Stack

STACKS = {"cpu": 8, "cuda": 64}
NUM_STEPS = 50  # S6
CASES: Mapping[str, Mapping[str, Any]] = {
    **{name: {"temporal": name} for name in TEMPORALS},
    **{f"{name}, causal": {"temporal": name, "causal": True} for name in TEMPORALS if name != "none"},
    **{f"{name} fusion": {"fusion": name} for name in FUSIONS},
    "latent": {"latent": 16, "latent_va": "beside", "latent_smoothness": 0.1, "latent_warmup_steps": 20},
    "gated coupling": {"coupling": "gated"},
    "classes from both": {"classes_from": "both"},
    "balanced MSE": {"continuous_loss": "balanced_mse"},
    "LDAM": {"class_loss": "ldam"},
    "logit adjustment": {"class_loss": "logit_adjusted"},
    "subject-adversarial": {"subject_adversarial": 0.5},
}  # of S6: what differs from the default head


def stacked(device: torch.device) -> list[Row]:
    """S1: heads/s of a stack, in float32 and bfloat16, against those of one float32 head through the same code."""
    config, dataset = data_of(device, 1)
    size, found = STACKS[device.type], []
    clocks = {"CPU time": cpus, "wall": walls} if is_cpu(device) else {"wall": walls}
    gains: dict[tuple[str, str], list[Row]] = {}
    for temporal in TEMPORALS:
        alone = eager(make_stack(config, dataset, own_orders(config, 1, {"temporal": temporal})))
        actions = {"alone": functools.partial(passes, alone, 3)}  # too soon over to be timed by a single step
        for precision in ("float32", "bfloat16"):
            values = {"temporal": temporal, "precision": precision}
            stack = make_stack(config, dataset, own_orders(config, size, values))
            actions[precision] = functools.partial(one_pass, stack)
        costs = interleave(actions)
        for precision, (name, clock) in itertools.product(("float32", "bfloat16"), clocks.items()):
            row = Row(
                id=f"S1 {temporal} {precision}",
                what=f"heads/s of a stack ÷ of one float32 head, {name}",
                values=[size * one / 3 for one in ratios(clock(costs["alone"]), clock(costs[precision]))],
                device=device.type,
                note=f"{temporal}, M = {size}, {precision}, 4 orders of data",
            )
            gains.setdefault((precision, name), []).append(row)
    for (precision, name), rows in gains.items():
        mark = ("" if precision == "float32" else "b") + ("w" if name == "wall" and is_cpu(device) else "")
        target = Target((1.0 if precision == "float32" else 1.6) if is_cpu(device) else 20)
        found += [*_least_and_mean(rows, f"S1{mark}", target), *(rows if name == "CPU time" else [])]
    return found


def in_a_graph(device: torch.device) -> list[Row]:
    """S2: an epoch of 64 stacked heads against that of one head, both as CUDA graphs; nothing on a CPU."""
    if is_cpu(device):
        return []
    config, dataset = data_of(device, 1)
    rows = []
    for temporal in TEMPORALS:
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


def as_alone(device: torch.device) -> list[Row]:
    """S6: parameters and outputs of heads in a stack of 8 against the same heads alone, after 50 steps; each piece."""
    config, dataset = made_dataset(num_frames(10, 8, 32, 16), dict.fromkeys(WIDTHS, 96), device)
    small = {"batch_windows": 8, "window": 32, "stride": 16, "width": 64, "steps": NUM_STEPS}
    target, rows = Target(1e-5, at_most=True), []
    for name, values in CASES.items():
        strategies = own_orders(config, 8, small | values)
        together = make_stack(config, dataset, strategies)
        _run(together)
        errors: list[tuple[float, str]] = []
        floor: list[float] = []
        for place in (0, 7):
            alone = _run(make_stack(config, dataset, [strategies[place]]))
            errors.append(_difference(together, place, alone, 0))
        if is_cpu(device):
            with _one_thread():
                single = _run(make_stack(config, dataset, [strategies[7]]))
            floor.append(_difference(single, 0, alone, 0)[0])
        note = f"{name}, M = 8, worst in {max(errors)[1]}"
        if floor:
            note += f"; the same head alone with 1 and with 2 threads: {floor[0]:.1e}"
        rows.append(
            Row(
                id=f"S6 {name}",
                what="relative error of a head in a stack, 50 steps",
                values=[error for error, _ in errors],
                target=target,
                device=device.type,
                note=note,
            )
        )
    worst = max(rows, key=lambda row: max(row.values))
    values, what = [max(worst.values)], "greatest relative error of a head in a stack of 8, 50 steps"
    return [Row(id="S6", what=what, values=values, target=target, device=device.type, note=worst.note), *rows]


def _least_and_mean(rows: Sequence[Row], name: str, target: Target) -> list[Row]:
    """The least gain, and round by round the geometric mean of all, which has the target of a gain above 1."""
    least, many = min(rows, key=lambda row: row.value), f"{len(rows)} encoders"
    means = [statistics.geometric_mean(each) for each in zip(*(row.values for row in rows), strict=True)]
    what, kind, note = least.what, least.device, f"of {many}: {least.note}"
    return [
        Row(id=name, what=f"{what}: the least", values=least.values, target=Target(1.0), device=kind, note=note),
        Row(id=f"{name}m", what=f"{what}: geometric mean", values=means, target=target, device=kind, note=f"of {many}"),
    ]


def _run(stack: Stack) -> Stack:
    stack.run_until(stack.sources[0].config.steps)
    return stack


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _difference(one: Stack, place: int, other: Stack, at: int) -> tuple[float, str]:
    """Greatest norm of a difference ÷ norm, over the head's parameters and outputs, and where."""
    left, right = _tensors(one, place), _tensors(other, at)
    return max((float((left[name] - x).norm() / x.norm().clamp(min=1e-30)), name) for name, x in right.items())


def _tensors(stack: Stack, place: int) -> dict[str, Tensor]:
    predictions = stack.predict()[place].probabilities
    outputs = {"outputs": torch.cat([torch.from_numpy(part).double() for part in predictions.parts.values()], dim=1)}
    return outputs | {name: x.double().cpu() for name, x in single_state(stack.model, place).items()}


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {
    "S1": stacked,
    "S2": in_a_graph,
    "S6": as_alone,
}
ON_CUDA = ("S1", "S2", "S6")
