"""B1 to B4: a training step against its data, a plain loop, a live backbone, and by encoder and fusion.

Steps are those of `pipelines.training.fit`: default head (width 128), in B2 that of the rival's size, B 32, T 64, three
streams of 768, in float32. Letters: M stacked heads, B windows, T steps.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from bench.made_faces import FACES, SIZE_PX, made_faces
from bench.made_streams import made_dataset, num_frames
from bench.measure import (
    FEWEST_ROUNDS,
    ROUNDS,
    Cost,
    Row,
    Target,
    cpus,
    interleave,
    ratios,
    seconds_left,
    shares,
    walls,
)
from bench.products import products_of
from bench.rivals import PlainHead, WindowDataset, live_backbone, plain_epoch, plain_loader, usual_model
from extract.backbones.passes import fast_precision
from heads.fusion import FUSIONS
from heads.temporal import TEMPORALS
from pipelines.class_embeddings import ClassEmbeddings
from pipelines.config import Config
from pipelines.fitting.runs import Spec
from pipelines.strategy import JOINT, Strategy, strategy_of, streams_of
from pipelines.training.dataset import Dataset, WindowReader
from pipelines.training.inputs import StreamInput
from pipelines.training.loss import make_loss
from pipelines.training.methods import build_model
from pipelines.training.setup import Setup
from pipelines.training.stack import Stack
from pipelines.training.step import TrainStep
from pipelines.training.window_sampler import WindowSampler, make_window_source

BATCH = 32
TWO = (False, True)
WIDTHS = {"one": 768, "two": 768, "three": 768}
# Where inputs are normalised as they are gathered, gathering alone counts as data: normalising is the heads' work.
READERS = ((WindowReader, "__call__"), (StreamInput, "_stored"))
DATA = ((WindowSampler, "batch"), (Stack, "_rows"), *READERS, (TrainStep, "targets"))
# The default head when the rival was written, of as many parameters (562,582 against 566,166 with a TCN).
OF_THE_RIVAL = {"fusion": "attention", "kernel": 5, "depth": 2}
BESIDE_PRODUCTS = {"gru": 0.34, "tcn": 0.25}  # of a plain step, for all in ours that is no matrix product
SHORT_S = 12.0  # in which three rounds of one step per pass, but not of three, can be had
TO_PRODUCTS = 2.4  # an epoch of a GRU from the cache ÷ its products, where the backbone is too light for 1/500
LIVE = (("B3", "efficientnet_b0", 112, 1280, 96), ("B3v", "vit_base_patch16_224", 224, 768, 8))


def waiting(device: torch.device) -> Iterator[Row]:
    """B1: rows, gather and labels of the batches against the whole of an epoch's steps."""
    config, dataset = data_of(device, 3)
    cases = (("B1", "gru", 1), ("B1t", "tcn", 1), ("B1s", "tcn", 8))
    target = Target(0.03 if device.type == "cpu" else 0.02, at_most=True)
    for name, temporal, num_heads in shares(cases):
        stack = eager(make_stack(config, dataset, own_orders(config, num_heads, {"temporal": temporal})))
        one_pass(stack)
        waited = []
        for number in range(ROUNDS):
            if number >= FEWEST_ROUNDS and seconds_left() < 0:
                break
            with timed(*DATA, (Stack, "run_until"), device=device) as spent:
                one_pass(stack)
            waited.append(1 - spent["run_until"] / sum(spent.values()))
        what = "waiting for data ÷ training step"
        note = f"{temporal}, {heads_words(num_heads)}"
        yield Row(id=name, what=what, values=waited, target=target, device=device.type, note=note)


def against_plain(device: torch.device) -> Iterator[Row]:
    """B2: a training step against that of Dataset + DataLoader + nn.Module + torch.optim.AdamW, of equal sizes.

    On a CPU the step's matrix products, done alone beside it, bound it; where it has bfloat16, a step in that as well.
    """
    config, dataset = data_of(device, 1 if seconds_left() < SHORT_S else 3 if is_cpu(device) else 6)
    windows = plain_windows(dataset, strategy_of(config))
    for name, temporal in shares((("B2", "gru"), ("B2t", "tcn"))):
        actions: dict[str, Callable[[], object]] = {}
        model = PlainHead(list(WIDTHS.values()), temporal).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
        for workers in (0, 2):
            loader = plain_loader(windows, config.train.batch_windows, workers)
            actions[f"plain {workers}"] = functools.partial(plain_epoch, model, optimiser, loader, device)
        for precision in dict.fromkeys(("float32", fast_precision(device))):
            values = {"temporal": temporal, "precision": precision, **OF_THE_RIVAL}
            stack = make_stack(config, dataset, own_orders(config, 1, values))
            if is_cpu(device) and precision == "float32":
                actions["products"] = products_of(functools.partial(stack.run_until, 1), config.train.eval_steps)
            actions[precision] = functools.partial(one_pass, stack)
        yield from _to_plain(name, temporal, interleave(actions), device)


def _to_plain(name: str, temporal: str, costs: Mapping[str, Sequence[Cost]], device: torch.device) -> Iterator[Row]:
    workers = min((0, 2), key=lambda each: statistics.median(walls(costs[f"plain {each}"])))
    wall = ratios(walls(costs["float32"]), walls(costs[f"plain {workers}"]))
    what = "training step ÷ plain eager PyTorch's"
    note = f"{temporal}; plain loop with {workers} workers, the faster of 0 and 2"
    if not is_cpu(device):
        yield Row(id=name, what=what, values=wall, target=Target(1 / 3, at_most=True), device=device.type, note=note)
        return
    plain = cpus(costs["plain 0"])
    bound = statistics.median(ratios(cpus(costs["products"]), plain))
    beside = BESIDE_PRODUCTS[temporal]
    target = Target(round(bound + beside, 3), at_most=True)
    words = f"{temporal}, no workers; target: the step's matrix products alone, {bound:.3f}, and {beside} beside them"
    yield Row(
        id=name, what=f"{what}, CPU time", values=ratios(cpus(costs["float32"]), plain), target=target, note=words
    )
    yield Row(id=f"{name}w", what="the same, wall time", values=wall, note=note)
    if "bfloat16" in costs:
        what, values = "the same, ours in bfloat16", ratios(cpus(costs["bfloat16"]), plain)
        yield Row(
            id=f"{name}b", what=what, values=values, target=Target(0.6, at_most=True), note=words.partition(";")[0]
        )


def against_live(device: torch.device) -> Iterator[Row]:
    """B3: an epoch from the cache against one that runs the frozen backbone, each face once."""
    for name, model_name, size_px, width, num_faces in shares(LIVE):
        config, dataset = data_of(device, 8, (width,))
        count = int((dataset.frames["split"] == "train").sum())
        stack = make_stack(config, dataset, own_orders(config, 1, {"temporal": "gru"}))
        model, transform = usual_model(model_name, size_px, device)
        num_faces *= 1 if is_cpu(device) else 16
        paths = made_faces(num_faces)["path"].to_list()
        actions: dict[str, Callable[[], object]] = {
            "live": functools.partial(live_backbone, model, transform, FACES, paths, device),
            "cached": functools.partial(one_pass, stack),
        }
        if is_cpu(device):
            actions["products"] = products_of(functools.partial(stack.run_until, 1), config.train.eval_steps)
        costs = interleave(actions)
        cached = walls(costs["cached"])
        live = [count / num_faces * one + head for one, head in zip(walls(costs["live"]), cached, strict=True)]
        target, values = Target(1 / 200, at_most=True), ratios(cached, live)
        note = f"{model_name} at {size_px} px, timed on {num_faces} faces, scaled to {count:,}; faces of {SIZE_PX} px"
        if is_cpu(device):
            share = statistics.median(ratios(cpus(costs["products"]), cpus(costs["cached"])))
            bound = share * statistics.median(values)
            target = Target(round(max(1 / 500, TO_PRODUCTS * bound), 4), at_most=True)
            note += f"; the head's matrix products alone {bound:.2g}"
        what = "epoch from the cache ÷ epoch with the frozen backbone live"
        yield Row(id=name, what=what, values=values, target=target, device=device.type, note=note)


def by_encoder(device: torch.device) -> list[Row]:
    """B4: a training step of each temporal encoder, causal ones too, and of each fusion, against that of `gru`."""
    config, dataset = data_of(device, 3)
    cases = {
        **{f"{name}{' causal' * causal}": {"temporal": name, "causal": causal} for name in TEMPORALS for causal in TWO},
        **{f"{name} fusion": {"temporal": "gru", "fusion": name} for name in FUSIONS if name != config.head.fusion},
    }
    stacks = {name: make_stack(config, dataset, own_orders(config, 1, values)) for name, values in cases.items()}
    costs = interleave({name: functools.partial(one_pass, stack) for name, stack in stacks.items()})
    clock, words = (cpus, "CPU time") if is_cpu(device) else (walls, "wall")
    what, base, rows = f"training step ÷ that of gru, {words}", clock(costs["gru"]), []
    for name, stack in stacks.items():
        values = ratios(clock(costs[name]), base)
        count = sum(parameter.numel() for parameter in stack.model.parameters())
        ms = 1000 * statistics.median(clock(costs[name])) / stack.sources[0].config.eval_steps
        note = f"{name}, one head: {ms:.0f} ms, {count:,} parameters"
        rows.append(Row(id=f"B4 {name}", what=what, values=values, device=device.type, note=note))
    return rows


def make_stack(
    config: Config,
    dataset: Dataset,
    strategies: Sequence[Strategy],
    kind: Literal["head", "progressive"] = "head",
    class_embeddings: ClassEmbeddings | None = None,
) -> Stack:
    """Joint heads as `pipelines.training.methods` makes them, before their first step; "progressive" ones have a trunk
    per task."""
    setups = [
        Setup(
            dataset=dataset,
            strategy=strategy,
            split=dataset.split(config.split, strategy.train.fold),
            streams=streams_of(strategy, config),
            class_embeddings=class_embeddings,
        )
        for strategy in strategies
    ]
    first = setups[0]
    head = first.strategy.head
    tasks, reader = head.tasks, dataset.reader(first.used, first.used, head, first.strategy.train.views)
    parts = tasks if kind == "progressive" else (JOINT,)
    spec = Spec(name=JOINT, kind=kind, tasks=tasks, parts=dict.fromkeys(parts, reader.widths))
    sources = [make_window_source(dataset, reader, setup.split.train, tasks, setup.strategy.train) for setup in setups]
    plans = [dataset.plan(setup.split.select, setup.strategy.train, setup.used) for setup in setups]
    device = dataset.resident.device
    model = build_model(spec, strategies).to(device)
    return Stack(model, make_loss(setups, tasks, model).to(device), sources, plans)


def eager(stack: Stack) -> Stack:
    """`stack` with every kernel started by the host, on a GPU too."""
    stack.step.graphs = None
    return stack


def own_orders(config: Config, num_heads: int, values: Mapping[str, Any]) -> list[Strategy]:
    """Heads of a grid over 4 seeds and learning rates: stacks hold several orders of data and several rates."""
    base = strategy_of(config).replace(values, "bench")
    rates = [1e-3 / 2 ** (head // 4) for head in range(num_heads)]
    return [base.replace({"seed": head % 4, "lr": rate}, "bench") for head, rate in enumerate(rates)]


@contextmanager
def timed(
    *places: tuple[Any, str], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[str, float]]:
    """Seconds of `clock` inside each of these methods or functions, by name, while the context lasts.

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
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                wait()
                whole = clock() - begin
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


def data_of(device: torch.device, num_steps: int, widths: Sequence[int] = ()) -> tuple[Config, Dataset]:
    """Data of `num_steps` batches per pass, and a configuration that is evaluated after each."""
    train = replace(Config().train, batch_windows=BATCH, eval_steps=num_steps)
    count = num_frames(num_steps, BATCH, train.window, train.stride)
    named = {f"stream{index}": width for index, width in enumerate(widths)} or WIDTHS
    config, dataset = made_dataset(count, named, device)
    return replace(config, train=train), dataset


def one_pass(stack: Stack) -> None:
    """Trains for as many steps as lie between two evaluations."""
    stack.run_until(stack.num_steps + stack.sources[0].config.eval_steps)


def passes(stack: Stack, count: int) -> None:
    for _ in range(count):
        one_pass(stack)


def heads_words(num_heads: int) -> str:
    return "one head" if num_heads == 1 else f"a stack of {num_heads}"


def is_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


ROWS: Mapping[str, Callable[[torch.device], Iterable[Row]]] = {
    "B1": waiting,
    "B2": against_plain,
    "B3": against_live,
    "B4": by_encoder,
}
ON_CUDA = ("B1", "B2", "B3", "B4")
