"""S6: heads of a stack against the same heads alone, after 50 steps, for every piece that a head can be made of.

A head's parameters and outputs are compared; what is in the made data set matters to none. M stacked heads, D width.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.made_streams import made_dataset, num_frames
from bench.measure import Row, Target, seconds_left
from bench.training import is_cpu, make_stack, own_orders
from cache.identity import AGE, NO_ROW
from heads.fusion import FUSIONS
from heads.model import single_state
from heads.temporal import TEMPORALS
from pipelines.class_embeddings import ClassEmbeddings
from pipelines.config import Config
from pipelines.training.dataset import Dataset
from pipelines.training.stack import Stack

NUM_HEADS, NUM_STEPS = 8, 50
STREAMS, AGED, VIEW = ("one", "two", "three"), "aged", "hflip"
WIDTH, BATCH, WINDOW = 32, 4, 16  # small: what is summed in another order is found at any size
SMALL: Mapping[str, Any] = {
    "streams": list(STREAMS),
    "width": WIDTH,
    "batch_windows": BATCH,
    "window": WINDOW,
    "stride": WINDOW // 2,
    "steps": NUM_STEPS,
}
ERROR = Target(1e-5, at_most=True)
COMPARISON_S = 8.0  # for two heads alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What differs from the default head and its training."""

    values: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["head", "progressive"] = "head"


LATENT: Mapping[str, Any] = {"latent": 16, "latent_warmup_steps": 20}
PIECES: Mapping[str, Piece] = {
    **{name: Piece(values={"temporal": name}) for name in TEMPORALS},
    **{f"{name}, causal": Piece(values={"temporal": name, "causal": True}) for name in TEMPORALS if name != "none"},
    **{f"{name} fusion": Piece(values={"fusion": name}) for name in FUSIONS},
    "stream with ages": Piece(values={"streams": [*STREAMS, AGED]}),
    "stream with ages, cross-attention": Piece(values={"streams": [*STREAMS, AGED], "fusion": "cross-attention"}),
    "deviation from the video's mean": Piece(values={"inputs": "deviation"}),
    "embedding and deviation from a running mean": Piece(values={"inputs": "both", "mean_frames": 50}),
    "two views": Piece(values={"augment": [VIEW]}),
    "latent": Piece(values=LATENT),
    "latent, VA beside, smoothness": Piece(values={**LATENT, "latent_va": "beside", "latent_smoothness": 0.1}),
    "gated coupling": Piece(values={"coupling": "gated"}),
    "classes from both": Piece(values={"classes_from": "both"}),
    "one task": Piece(values={"tasks": ["expr"]}),
    "auxiliary tasks": Piece(values={"tasks": ["expr", "au", "valence"], "targets": ["expr"]}),
    "a trunk per task (progressive)": Piece(kind="progressive"),
    "MSE": Piece(values={"continuous_loss": "mse"}),
    "CCC and MSE": Piece(values={"continuous_loss": "ccc+mse"}),
    "balanced MSE": Piece(values={"continuous_loss": "balanced_mse"}),
    "focal": Piece(values={"class_loss": "focal"}),
    "LDAM": Piece(values={"class_loss": "ldam"}),
    "logit adjustment": Piece(values={"class_loss": "logit_adjusted"}),
    "label smoothing": Piece(values={"label_smoothing": 0.1}),
    "asymmetric": Piece(values={"binary_loss": "asymmetric"}),
    "learned task weights": Piece(values={"weighting": "learned"}),
    "subject-adversarial": Piece(values={"subject_adversarial": 0.5}),
    "class embeddings": Piece(values={"class_embeddings": "made.npy"}),
}


def as_alone(device: torch.device) -> Iterator[Row]:
    """S6: parameters and outputs of a head in a stack of 8 against the same head alone, after 50 steps, each piece.

    Pieces that there is no time for are named.
    """
    rows: list[Row] = []
    for number, (name, (error, where)) in enumerate(zip(PIECES, _errors(device), strict=False)):
        row = Row(
            id=f"S6 {name}",
            what="relative error of a head in a stack, 50 steps",
            values=[error],
            target=ERROR,
            device=device.type,
            note=f"head {number % NUM_HEADS} of {NUM_HEADS}, worst in {where}",
        )
        rows.append(row)
        yield row
    worst = max(rows, key=lambda row: row.value)
    note = f"{len(rows)} of {len(PIECES)} pieces, worst: {worst.id.removeprefix('S6 ')}"
    if left := list(PIECES)[len(rows) :]:
        note += f"; no time for: {', '.join(left)}"
    what = f"greatest relative error of a head in a stack of {NUM_HEADS}, 50 steps"
    values = [row.value for row in rows]
    yield Row(id="S6", what=what, values=values, middle=worst.value, target=ERROR, device=device.type, note=note)
    if is_cpu(device) and torch.get_num_threads() > 1 and seconds_left() > COMPARISON_S:
        yield _between_threads(*made_pieces(device))


def _errors(device: torch.device) -> Iterator[tuple[float, str]]:
    """`error_of` each piece, in order, while there is time; on a CPU by a process per core, of one thread each."""
    if not is_cpu(device):
        config, dataset = made_pieces(device)
        for number, piece in enumerate(PIECES.values()):
            if number and seconds_left() < 0:
                return
            yield error_of(piece, number % NUM_HEADS, config, dataset)
        return
    # Each makes its own data: a fork would lose Polars' threads. Of so small tensors two threads make no haste.
    with ProcessPoolExecutor(mp_context=get_context("fork"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = [pool.submit(_error_at, number) for number in range(len(PIECES))]
        for number, each in enumerate(found):
            if number and seconds_left() < 0:
                pool.shutdown(cancel_futures=True)
                return
            yield each.result()


def _error_at(number: int) -> tuple[float, str]:
    return error_of(list(PIECES.values())[number], number % NUM_HEADS, *_made_here())


@functools.cache
def _made_here() -> tuple[Config, Dataset]:
    return made_pieces(torch.device("cpu"))


def error_of(piece: Piece, place: int, config: Config, dataset: Dataset) -> tuple[float, str]:
    """Greatest norm of a difference ÷ norm, over the head's parameters and outputs, and where."""
    strategies = own_orders(config, NUM_HEADS, {**SMALL, **piece.values})
    embeddings = _class_embeddings() if "class_embeddings" in piece.values else None
    together, alone = (
        _trained(make_stack(config, dataset, some, piece.kind, embeddings))
        for some in (strategies, [strategies[place]])
    )
    return _difference(together, place, alone, 0)


def made_pieces(device: torch.device) -> tuple[Config, Dataset]:
    """The made data set with two views, and a stream whose rows have ages beside the others."""
    count = num_frames(10, BATCH, WINDOW, WINDOW // 2)
    config, dataset = made_dataset(count, dict.fromkeys((*STREAMS, AGED), WIDTH), device)
    before, streams, valid, identities = dataset.resident, {}, {}, {}
    for (name, view), rows in before.streams.items():
        assert isinstance(rows, Tensor)
        for each in (view, VIEW):
            generator = torch.Generator().manual_seed(len(streams))
            streams[name, each] = torch.randn(rows.shape, generator=generator).half().to(device)
            valid[name, each] = before.valid[name, view]
            identities[name, each] = dataclasses.replace(before.identities[name, view], view=each)
    for view in ("base", VIEW):
        age = torch.arange(len(dataset.times), device=device) % 12 - 1.0  # a twelfth of the frames see no row
        rows = streams[AGED, view]
        rows[:, -1] = age
        rows[age == NO_ROW, :-1] = 0
        identities[AGED, view] = dataclasses.replace(identities[AGED, view], preprocessing={AGE: "frames"})
    resident = dataclasses.replace(before, streams=streams, valid=valid, identities=identities)
    return config, dataclasses.replace(dataset, resident=resident, _kept={})


def _between_threads(config: Config, dataset: Dataset) -> Row:
    """What the order of sums alone makes: the default head by itself with one thread and with all."""
    (strategy,) = own_orders(config, 1, SMALL)
    every = _trained(make_stack(config, dataset, [strategy]))
    with _one_thread():
        one = _trained(make_stack(config, dataset, [strategy]))
    error, where = _difference(one, 0, every, 0)
    note = f"1 and {torch.get_num_threads()} threads, worst in {where}; for comparison"
    return Row(id="S6t", what="relative error of a head alone, other threads", values=[error], note=note)


def _class_embeddings() -> ClassEmbeddings:
    return ClassEmbeddings(values=np.random.default_rng(0).standard_normal((8, 12), np.float32), digest="made")


def _trained(stack: Stack) -> Stack:
    stack.run_until(NUM_STEPS)
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
    left, right = _tensors(one, place), _tensors(other, at)
    return max((float((left[name] - x).norm() / x.norm().clamp(min=1e-30)), name) for name, x in right.items())


def _tensors(stack: Stack, place: int) -> dict[str, Tensor]:
    predictions = stack.predict()[place].probabilities
    outputs = {"outputs": torch.cat([torch.from_numpy(part).double() for part in predictions.parts.values()], dim=1)}
    return outputs | {name: x.double().cpu() for name, x in single_state(stack.model, place).items()}


ROWS: Mapping[str, Callable[[torch.device], Iterable[Row]]] = {"S6": as_alone}
ON_CUDA = ("S6",)
