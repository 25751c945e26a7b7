"""Training steps in a CUDA graph against the same steps started by the host, for every piece that a strategy names.

On a CPU a stand-in for the graph carries the step out at each replay: the same code but for the capture.
Letters: M stacked heads.
"""

import dataclasses
import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu_check.data import made_videos
from bench.gpu_check.sizes import Sizes
from bench.measure import Row, Target
from heads.fusion import FUSIONS
from heads.losses import BINARY_LOSSES, CLASS_LOSSES, CONTINUOUS_LOSSES
from heads.model import ProgressiveHead
from heads.temporal import TEMPORALS
from pipelines.class_embeddings import ClassEmbeddings
from pipelines.config import Config
from pipelines.fitting.runs import Spec
from pipelines.folds import NO_FOLD
from pipelines.label_table import LabelTable
from pipelines.strategy import Strategy, strategy_of, streams_of
from pipelines.training.dataset import Dataset, padded_targets
from pipelines.training.loss import make_loss
from pipelines.training.methods import build_model
from pipelines.training.setup import Setup
from pipelines.training.stack import Stack
from pipelines.training.step import Captured, Graphs, Step
from pipelines.training.window_sampler import make_window_source

SMALL = {"width": 32, "window": 24, "stride": 12, "batch_windows": 4, "num_heads": 4, "dropout": 0.2}
SEEDS = (0, 1, 0)  # two orders of data, one of them shared
TAUGHT = "self-training"
CASES: Mapping[str, Mapping[str, Any]] = {
    **{name: {"temporal": name} for name in TEMPORALS},
    **{f"{name}, causal": {"temporal": name, "causal": True} for name in TEMPORALS if name != "none"},
    **{f"{name}, bfloat16": {"temporal": name, "precision": "bfloat16"} for name in TEMPORALS},
    **{f"{name} fusion": {"fusion": name} for name in FUSIONS},
    **{f"{name} loss": {"continuous_loss": name} for name in CONTINUOUS_LOSSES},
    **{f"{name} loss": {"class_loss": name} for name in CLASS_LOSSES},
    **{f"{name} loss": {"binary_loss": name} for name in BINARY_LOSSES},
    "learned weighting": {"weighting": "learned"},
    "latent": {"latent": 8, "latent_va": "beside", "latent_smoothness": 0.1, "latent_warmup_steps": 4},
    "gated coupling": {"coupling": "gated"},
    "classes from both": {"classes_from": "both"},
    "subject-adversarial": {"subject_adversarial": 0.5},
    "class embeddings": {"class_embeddings": "classes.npy"},
    "deviation and embedding": {"inputs": "both"},
    "two views": {"augment": ("hflip",)},
    "no dropout": {"dropout": 0.0},
    "no clipping": {"grad_clip": 0.0},
    "separate": {"method": "separate", "tasks": ("expr",)},
    "progressive": {"method": "progressive"},
    TAUGHT: {"method": "joint"},
}


def graphs_as_eager(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """GR: the greatest relative error of losses and parameters, a row per case; then whether captures took place."""
    config, dataset = made_videos(
        dataclasses.replace(sizes, videos=10, video_frames=60, stream_width=48), device, ("base", "hflip")
    )
    errors, target = {}, Target(1e-5, at_most=True)
    num_graphs = 0
    for name, values in CASES.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            errors[name], seconds, count = _error(config, dataset, name, values, sizes.graph_steps)
        num_graphs += count
        refused = [str(one.message) for one in said if "without a CUDA graph" in str(one.message)]
        note = f"{name}, M = {len(SEEDS)}; ready in {seconds:.1f} s" + (f"; {refused[0]}" if refused else "")
        values_ = [float("inf")] if refused else [errors[name]]
        what = "steps in a graph against the same started by the host, relative error"
        yield Row(id=f"GR {name}", what=what, values=values_, target=target, device=device.type, note=note)
    equal = sum(error == 0 for error in errors.values())
    note = (
        f"{equal} of them equal to the bit; {num_graphs} graphs; {'captured' if device.type == 'cuda' else 'stand-in'}"
    )
    what = f"greatest error of {len(errors)} pieces"
    yield Row(id="GR", what=what, values=[max(errors.values())], target=target, device=device.type, note=note)


def stack_of(
    config: Config, dataset: Dataset, values: Mapping[str, Any], seeds: tuple[int, ...] = SEEDS, *, taught: bool = False
) -> Stack:
    """Heads of different seeds, rates and decays, before their first step, as `pipelines.training.methods` makes them;
    with `taught` the second learns from labels of its own, as heads of self-training do."""
    base = strategy_of(config).replace(dict(values), "gpu-check")
    strategies = [
        base.replace({"seed": seed, "lr": 1e-3 / (place + 1), "weight_decay": 0.01 * place}, "gpu-check")
        for place, seed in enumerate(seeds)
    ]
    setups = [_setup(config, dataset, strategy) for strategy in strategies]
    head, tasks, used = base.head, base.head.tasks, setups[0].used
    reader = dataset.reader(used, used, head, base.train.views)
    parts = dict.fromkeys(tasks if base.train.method == "progressive" else ("joint",), reader.widths)
    kind = "progressive" if base.train.method == "progressive" else "head"
    spec = Spec(name="joint", kind=kind, tasks=tasks, parts=parts)
    sources = [make_window_source(dataset, reader, setup.split.train, tasks, setup.strategy.train) for setup in setups]
    if taught:
        targets = padded_targets(_turned(dataset.labels), dataset.resident.device)
        sources[1] = dataclasses.replace(sources[1], targets=targets, key=b"taught")
    plans = [dataset.plan(setup.split.select, setup.strategy.train, setup.used) for setup in setups]
    device = dataset.resident.device
    model = build_model(spec, strategies).to(device)
    return Stack(model, make_loss(setups, tasks, model).to(device), sources, plans)


class Rehearsal(Graphs):
    """Graphs of a CPU: the step is carried out at each replay."""

    def _capture(self, run: Step, rows: Tensor, active: Tensor, rates: Tensor) -> Captured:
        inputs = rows.clone(), torch.zeros_like(active), rates.clone()
        losses = run(*inputs)

        class Replay:
            def replay(self) -> None:
                losses.copy_(run(*inputs))

        graph: Any = Replay()
        return Captured(graph, *inputs, losses)


class Uncaptured(Graphs):
    """The same step on the device, started by the host."""

    def _capture(self, run: Step, rows: Tensor, active: Tensor, rates: Tensor) -> None:
        return None


def _error(
    config: Config, dataset: Dataset, name: str, values: Mapping[str, Any], num_steps: int
) -> tuple[float, float, int]:
    """Relative error after `num_steps`, half of them with frozen trunks where there are several; seconds until the
    graphs were ready; their number."""
    graphed, eager = (stack_of(config, dataset, {**SMALL, **values}, taught=name == TAUGHT) for _ in range(2))
    eager.step.graphs = Uncaptured()
    if dataset.resident.device.type == "cpu":
        graphed.step.graphs = Rehearsal()
    assert graphed.step.graphs is not None
    begin, seconds = time.perf_counter(), 0.0
    losses = []
    for number in range(1, num_steps + 1):
        for stack in (graphed, eager):
            if isinstance(stack.model, ProgressiveHead):
                stack.model.set_trunks_frozen(number <= num_steps // 2)
            losses.append(stack.run_until(number))
        seconds = seconds or time.perf_counter() - begin
    error = max(
        _relative(one, other)
        for one, other in zip(graphed.optimiser.parameters, eager.optimiser.parameters, strict=True)
    )
    for one, other in zip(losses[::2], losses[1::2], strict=True):
        for mine, theirs in zip(one, other, strict=True):
            error = max(error, *(abs(mine[key] - value) / max(abs(value), 1e-6) for key, value in theirs.items()))
    count = len(graphed.step.graphs._known)
    del graphed, eager
    gc.collect()
    return error, seconds, count


def _relative(one: Tensor, other: Tensor) -> float:
    one, other = one.detach(), other.detach()
    difference = (one - other).double().norm()
    found = float(difference / other.double().norm().clamp(min=1e-12))
    return found if found == found else float("inf")


def _setup(config: Config, dataset: Dataset, strategy: Strategy) -> Setup:
    split = dataset.split(config.split, NO_FOLD)
    classes = None
    if strategy.loss.class_embeddings:
        classes = ClassEmbeddings(np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32), "made")
    streams = streams_of(strategy, config)
    return Setup(dataset=dataset, strategy=strategy, split=split, streams=streams, class_embeddings=classes)


def _turned(labels: LabelTable) -> LabelTable:
    """Other labels, for the same rows."""
    return labels.map(lambda values: values[::-1].copy())
