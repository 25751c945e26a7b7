"""B1, B2, B3, S1 and S6: a training step, alone and in a stack, against its data, a plain loop and a live backbone.

Steps are those of `pipelines.training.fit`: default head (attention fusion, width 128), B 32, T 64, three streams of
768, in float32. Letters: M stacked heads, B windows, T steps.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.made_faces import FACES, SIZE_PX, made_faces
from bench.made_streams import made_dataset, num_frames
from bench.measure import ROUNDS, Row, Target, cpus, interleave, ratios, walls
from bench.rivals import PlainHead, WindowDataset, live_backbone, plain_epoch, plain_loader, usual_model
from heads.model import single_state
from heads.temporal import TEMPORALS
from pipelines.config import Config
from pipelines.training.dataset import Dataset, Reader
from pipelines.training.feed import Feed, make_feed
from pipelines.training.methods import Setup, Spec, build_model, make_loss
from pipelines.training.stack import Stack
from pipelines.training.step import Step
from pipelines.training.strategy import Strategy, strategy_of, streams_of

WIDTHS = {"one": 768, "two": 768, "three": 768}
DATA = ((Feed, "batches"), (Stack, "_rows"), (Reader, "__call__"), (Step, "targets"))
STACKS = {"cpu": 8, "cuda": 64}
NUM_STEPS = 50  # S6
LIVE = (("B3", "efficientnet_b0", 112, 1280, 192), ("B3v", "vit_base_patch16_224", 224, 768, 16))


def waiting(device: torch.device) -> list[Row]:
    """B1: rows, gather and labels of the batches against the whole of an epoch's steps."""
    config, dataset = _data(device, 3)
    cases = (("B1", "gru", 1), ("B1t", "tcn", 1), ("B1s", "tcn", 8))
    target, rows = Target(0.03 if device.type == "cpu" else 0.02, at_most=True), []
    for name, temporal, num_heads in cases:
        stack = make_stack(config, dataset, own_orders(config, num_heads, {"temporal": temporal}))
        stack.run_epoch(1)
        shares = []
        for _ in range(ROUNDS):
            with timed(*DATA, (Stack, "run_epoch"), device=device) as spent:
                stack.run_epoch(1)
            shares.append(1 - spent["run_epoch"] / sum(spent.values()))
        what = "waiting for data ÷ training step"
        note = f"{temporal}, {_heads(num_heads)}"
        rows.append(Row(id=name, what=what, values=shares, target=target, device=device.type, note=note))
    return rows


def against_plain(device: torch.device) -> list[Row]:
    """B2: a training step against that of Dataset + DataLoader + nn.Module + torch.optim.AdamW, of equal sizes."""
    config, dataset = _data(device, 6)
    windows = plain_windows(dataset, strategy_of(config))
    target, rows = Target(0.6 if _is_cpu(device) else 1 / 3, at_most=True), []
    for name, temporal in (("B2", "gru"), ("B2t", "tcn")):
        stack = make_stack(config, dataset, own_orders(config, 1, {"temporal": temporal}))
        model = PlainHead(list(WIDTHS.values()), temporal).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
        loaders = {workers: plain_loader(windows, config.train.batch_windows, workers) for workers in (0, 2)}
        ours = functools.partial(stack.run_epoch, 1)
        plain = {str(w): functools.partial(plain_epoch, model, optimiser, each, device) for w, each in loaders.items()}
        costs = interleave({**plain, "ours": ours})
        fastest = min(plain, key=lambda workers: statistics.median(walls(costs[workers])))
        values = ratios(walls(costs["ours"]), walls(costs[fastest]))
        note = f"{temporal}; plain loop with {fastest} workers, the faster of 0 and 2"
        what = "training step ÷ plain eager PyTorch's"
        rows.append(Row(id=name, what=what, values=values, target=target, device=device.type, note=note))
        if _is_cpu(device):
            used = ratios(cpus(costs["ours"]), cpus(costs["0"]))
            rows.append(Row(id=f"{name}c", what="the same in CPU time", values=used, note=f"{temporal}, no workers"))
    return rows


def against_live(device: torch.device) -> list[Row]:
    """B3: an epoch from the cache against one that runs the frozen backbone, each face once."""
    rows = []
    for name, model_name, size_px, width, num_faces in LIVE:
        config, dataset = _data(device, 8, (width,))
        count = int((dataset.frames["split"] == "train").sum())
        stack = make_stack(config, dataset, own_orders(config, 1, {"temporal": "gru"}))
        model, transform = usual_model(model_name, size_px, device)
        paths = made_faces(num_faces)["path"].to_list()
        costs = interleave(
            {
                "live": functools.partial(live_backbone, model, transform, FACES, paths, device),
                "cached": functools.partial(stack.run_epoch, 1),
            }
        )
        cached = walls(costs["cached"])
        live = [count / num_faces * one + head for one, head in zip(walls(costs["live"]), cached, strict=True)]
        target = Target(1 / 500 if _is_cpu(device) else 1 / 200, at_most=True)
        note = f"{model_name} at {size_px} px, timed on {num_faces} faces, scaled to {count:,}; faces of {SIZE_PX} px"
        what = "epoch from the cache ÷ epoch with the frozen backbone live"
        values = ratios(cached, live)
        rows.append(Row(id=name, what=what, values=values, target=target, device=device.type, note=note))
    return rows


def stacked(device: torch.device) -> list[Row]:
    """S1: heads/s of a stack, in float32 and bfloat16, against those of one float32 head through the same code."""
    config, dataset = _data(device, 1)
    size, found = STACKS[device.type], []
    clocks = {"CPU time": cpus, "wall": walls} if _is_cpu(device) else {"wall": walls}
    gains: dict[tuple[str, str], list[Row]] = {}
    for temporal in TEMPORALS:
        alone = make_stack(config, dataset, own_orders(config, 1, {"temporal": temporal}))
        actions = {"alone": functools.partial(_epochs, alone, 3)}  # too soon over to be timed by a single step
        for precision in ("float32", "bfloat16"):
            values = {"temporal": temporal, "precision": precision}
            stack = make_stack(config, dataset, own_orders(config, size, values))
            actions[precision] = functools.partial(stack.run_epoch, 1)
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
        mark = ("" if precision == "float32" else "b") + ("w" if name == "wall" and _is_cpu(device) else "")
        target = Target((1.0 if precision == "float32" else 1.6) if _is_cpu(device) else 20)
        found += [*_least_and_mean(rows, f"S1{mark}", target), *(rows if name == "CPU time" else [])]
    return found


def as_alone(device: torch.device) -> list[Row]:
    """S6: parameters and outputs of heads in a stack of 8 against the same heads alone, after 50 steps."""
    config, dataset = made_dataset(num_frames(10, 8, 32, 16), dict.fromkeys(WIDTHS, 96), device)
    small = {"batch_windows": 8, "window": 32, "stride": 16, "width": 64, "epochs": NUM_STEPS // 10}
    target, rows = Target(1e-5, at_most=True), []
    for temporal in TEMPORALS:
        strategies = own_orders(config, 8, small | {"temporal": temporal})
        together = make_stack(config, dataset, strategies)
        _run(together)
        errors: list[tuple[float, str]] = []
        floor: list[float] = []
        for place in (0, 7):
            alone = _run(make_stack(config, dataset, [strategies[place]]))
            errors.append(_difference(together, place, alone, 0))
        if _is_cpu(device):
            with _one_thread():
                single = _run(make_stack(config, dataset, [strategies[7]]))
            floor.append(_difference(single, 0, alone, 0)[0])
        note = f"{temporal}, M = 8, worst in {max(errors)[1]}"
        if floor:
            note += f"; the same head alone with 1 and with 2 threads: {floor[0]:.1e}"
        rows.append(
            Row(
                id=f"S6 {temporal}",
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


def make_stack(config: Config, dataset: Dataset, strategies: Sequence[Strategy]) -> Stack:
    """Joint heads as `pipelines.training.methods` makes them, before their first step."""
    setups = [
        Setup(
            dataset=dataset,
            strategy=strategy,
            split=dataset.split(config.split, strategy.train.fold),
            streams=streams_of(strategy, config),
        )
        for strategy in strategies
    ]
    first = setups[0]
    widths = dataset.resident.widths(first.used, "base")
    tasks = first.strategy.head.tasks
    spec = Spec(name="joint", kind="head", tasks=tasks, parts={"joint": widths})
    reader = dataset.reader(spec.streams, first.used, "base")
    feeds = [make_feed(dataset, reader, setup.split.train, tasks, setup.strategy.train) for setup in setups]
    plans = [dataset.plan(setup.split.select, setup.strategy.train, setup.used) for setup in setups]
    device = dataset.resident.device
    model, loss = build_model(spec, strategies).to(device), make_loss(setups, tasks).to(device)
    return Stack(model, loss, feeds, plans)


def own_orders(config: Config, num_heads: int, values: Mapping[str, Any]) -> list[Strategy]:
    """Heads of a grid over 4 seeds and learning rates: stacks hold several orders of data and several rates."""
    base = strategy_of(config).replace(values, "bench")
    rates = [1e-3 / 2 ** (head // 4) for head in range(num_heads)]
    return [base.replace({"seed": head % 4, "lr": rate}, "bench") for head, rate in enumerate(rates)]


@contextmanager
def timed(*places: tuple[Any, str], device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds inside each of these methods or functions, by name, while the context lasts.

    Time inside another of them counts for that one alone. Waits for the device before and after each call.
    """
    spent = {name: 0.0 for _, name in places}
    before = [(owner, name, owner.__dict__[name]) for owner, name in places]
    inner = [0.0]  # seconds in those called by each that is running

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            wait()
            inner.append(0.0)
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait()
                whole = time.perf_counter() - begin
                spent[name] += whole - inner.pop()
                inner[-1] += whole

        return call

    for owner, name, function in before:
        setattr(owner, name, wrapped(function, name))
    try:
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def plain_windows(dataset: Dataset, strategy: Strategy, part: str = "train") -> WindowDataset:
    """The rival's data: the same windows of the split `part`, embeddings as float16 arrays in memory."""
    keep = (dataset.frames["split"] == part).to_numpy()
    frames = dataset.frames
    known = {"va": ["valence", "arousal"], "au": [name for name in frames.columns if name.startswith("AU")]}
    labels = {task: frames.select(names).to_numpy().astype("float32") for task, names in known.items()}
    labels["expr"] = frames["expression"].fill_null(-1).to_numpy().astype("int64")
    streams = [stream.cpu().numpy() for stream in dataset.resident.streams.values()]
    return WindowDataset(streams, labels, dataset.windows(keep, strategy.train))


def _data(device: torch.device, num_steps: int, widths: Sequence[int] = ()) -> tuple[Config, Dataset]:
    """Data of `num_steps` batches an epoch."""
    train = Config().train
    count = num_frames(num_steps, train.batch_windows, train.window, train.stride)
    named = {f"stream{index}": width for index, width in enumerate(widths)} or WIDTHS
    return made_dataset(count, named, device)


def _epochs(stack: Stack, count: int) -> None:
    for _ in range(count):
        stack.run_epoch(1)


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
    for epoch in range(1, stack.feeds[0].config.epochs + 1):
        stack.run_epoch(epoch)
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
    said = stack.predict()[place].probabilities
    outputs = {"outputs": torch.cat([torch.from_numpy(part).double() for part in (said.va, said.expr, said.au)], dim=1)}
    return outputs | {name: x.double().cpu() for name, x in single_state(stack.model, place).items()}


def _heads(num_heads: int) -> str:
    return "one head" if num_heads == 1 else f"a stack of {num_heads}"


def _is_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {
    "B1": waiting,
    "B2": against_plain,
    "B3": against_live,
    "S1": stacked,
    "S6": as_alone,
}
ON_CUDA = ("B1", "B2", "B3", "S1", "S6")
