"""A training step on the device alone: as the host's own, and nothing in it that a CUDA graph could not hold."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from bench.gpu_check.graphs import Rehearsal
from heads.fusion import FUSIONS
from heads.losses import BINARY_LOSSES, CLASS_LOSSES, CONTINUOUS_LOSSES
from heads.model import ProgressiveHead, dropout_rngs
from heads.temporal import TEMPORALS
from pipelines.config import Config
from pipelines.device import free_bytes
from pipelines.fitting.runs import Spec
from pipelines.folds import NO_FOLD
from pipelines.strategy import strategy_of, streams_of
from pipelines.training import dataset as dataset_module
from pipelines.training import pieces
from pipelines.training.dataset import Dataset
from pipelines.training.inputs import StreamInput
from pipelines.training.loss import make_loss
from pipelines.training.methods import build_model
from pipelines.training.optimise import StackedAdamW, limits_of
from pipelines.training.setup import Setup
from pipelines.training.stack import Stack, _order_of
from pipelines.training.step import Graphs, TrainStep
from pipelines.training.window_sampler import WindowSampler, WindowSource, make_window_source

SEEDS = (0, 1, 2)


def stack_of(config: Config, dataset: Dataset, values: dict) -> Stack:
    """Three heads of different rates and decays."""
    base = strategy_of(config).replace(values, "test")
    strategies = [base.replace({"seed": seed, "lr": 1e-3 * (seed + 1)}, "test") for seed in SEEDS]
    setups = [
        Setup(
            dataset=dataset, strategy=one, split=dataset.split(config.split, NO_FOLD), streams=streams_of(one, config)
        )
        for one in strategies
    ]
    tasks, used = base.head.tasks, setups[0].used
    reader = dataset.reader(used, used, base.head, ["base"])
    spec = Spec(name="joint", kind="head", tasks=tasks, parts={"joint": reader.widths})
    if values.get("method") == "progressive":
        spec = Spec(name="joint", kind="progressive", tasks=tasks, parts=dict.fromkeys(tasks, reader.widths))
    sources = [make_window_source(dataset, reader, setup.split.train, tasks, setup.strategy.train) for setup in setups]
    plans = [dataset.plan(setup.split.select, setup.strategy.train, used) for setup in setups]
    model = build_model(spec, strategies)
    return Stack(model, make_loss(setups, tasks, model), sources, plans)


def first_rows(stack: Stack) -> Tensor:
    samplers = {_order_of(source): WindowSampler(source) for source in stack.sources}
    batches = {key: sampler.batch() for key, sampler in samplers.items()}
    return stack._rows([batches[_order_of(source)] for source in stack.sources])


@pytest.mark.parametrize(
    "values",
    [
        {"temporal": "tcn", "subject_adversarial": 0.5},
        {"temporal": "gru", "latent": 4, "fusion": "cross-attention"},
        {"method": "progressive", "temporal": "none"},
    ],
    ids=["trunks are read", "a latent", "progressive"],
)
def test_a_batch_in_pieces_trains_as_a_whole_one(
    small: Config, made, values: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of one window of 8, dropout and noise drawn: but for the order of sums the same gradients."""
    found = []
    for most in (10**6, 1):
        monkeypatch.setattr(pieces, "STEPS_AT_ONCE", most)
        stack = stack_of(small, made.dataset(), {**values, "dropout": 0.3, "batch_windows": 8, "grad_clip": 0.0})
        stack.model.train()
        losses = stack.step.backward(first_rows(stack), torch.tensor([True] * len(SEEDS)))
        found.append((losses, [p.grad for p in stack.optimiser.parameters]))
        assert all(rng.first_window == 0 for rng in dropout_rngs(stack.model))
    (losses, grads), (other_losses, others) = found
    torch.testing.assert_close(other_losses, losses, rtol=1e-5, atol=1e-6)
    for grad, other in zip(grads, others, strict=True):
        assert (grad is None) == (other is None)
        if grad is not None:
            torch.testing.assert_close(other, grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("active", [(True, True, True), (True, False, True)])
def test_adamw_on_the_device_is_the_hosts(active: tuple[bool, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((3, 4, 5), (3, 4), (3,))]
    rates = [1e-2, 1e-3, 3e-2]
    found = []
    for on_device in (False, True):
        parameters = [nn.Parameter(value.clone()) for value in start]
        optimiser = StackedAdamW(parameters, [0.1, 0.0, 0.3])
        draw = torch.Generator().manual_seed(1)
        for _ in range(5):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=draw)
            optimiser.clip(limits_of([1.0, 0.0, 0.5], torch.device("cpu")))
            if on_device:
                optimiser.step_on_device(torch.tensor(rates), torch.tensor(active))
            else:
                optimiser.step(rates, active)
        found.append([p.detach() for p in parameters])
    for host, device, old in zip(*found, start, strict=True):
        torch.testing.assert_close(device, host, rtol=1e-5, atol=1e-6)
        for head, moves in enumerate(active):
            assert torch.equal(device[head], old[head]) is not moves


@pytest.mark.parametrize("temporal", sorted(TEMPORALS))
def test_a_step_on_the_device_is_the_hosts(small: Config, made, temporal: str) -> None:
    dataset, rates, active = made.dataset(), [1e-2, 1e-3, 3e-3], [True, True, False]
    host, device = (stack_of(small, dataset, {"temporal": temporal, "weighting": "learned"}) for _ in range(2))
    for _ in range(3):
        rows = first_rows(host)
        first_rows(device)
        expected = host.step(rows, active, rates)
        losses = device.step.on_device(rows, torch.tensor(active), torch.tensor(rates))
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(host.optimiser.parameters, device.optimiser.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def on_meta(stack: Stack) -> TrainStep:
    """The step of `stack` with every tensor on a device without memory, where no value can be asked for."""
    meta, first = torch.device("meta"), stack.sources[0]
    targets = first.dataset.targets.map(lambda values: values.to("meta"))
    reader = dataclasses.replace(
        first.reader,
        inputs={name: stream.to(meta) for name, stream in first.reader.inputs.items()},
        valid=first.reader.valid.to(meta),
        times=first.reader.times.to(meta),
    )
    sources: list[WindowSource] = [
        dataclasses.replace(
            source,
            dataset=dataclasses.replace(source.dataset, targets=targets),
            reader=reader,
            hidden=source.hidden.to(meta),
            targets=targets,
            key=bytes([number]),
        )
        for number, source in enumerate(stack.sources)
    ]
    model, loss = stack.model.to(meta), stack.loss.to(meta)
    for rng in dropout_rngs(model):
        rng.to(meta)
    optimiser = StackedAdamW([*model.parameters(), *loss.parameters()], stack.optimiser.weight_decays)
    return TrainStep(model, loss, optimiser, sources)


KINDS = [
    *({"temporal": temporal} for temporal in sorted(TEMPORALS)),
    *({"fusion": fusion, "temporal": "none"} for fusion in sorted(FUSIONS)),
    *({"continuous_loss": name, "temporal": "none"} for name in sorted(CONTINUOUS_LOSSES)),
    *({"class_loss": name, "temporal": "none"} for name in sorted(CLASS_LOSSES)),
    *({"binary_loss": name, "temporal": "none"} for name in sorted(BINARY_LOSSES)),
    {"weighting": "learned", "temporal": "none"},
    {"latent": 4, "latent_va": "beside", "latent_smoothness": 1.0, "temporal": "none"},
    {"coupling": "gated", "classes_from": "both", "temporal": "none"},
    {"subject_adversarial": 1.0, "temporal": "none"},
    {"method": "progressive", "temporal": "none"},
]


@pytest.mark.parametrize("values", KINDS, ids=lambda values: "-".join(map(str, values.values())))
def test_nothing_in_a_step_asks_for_a_value(small: Config, made, values: dict) -> None:
    """A CUDA graph cannot wait for the device in its middle, nor take what the host computed there."""
    step = on_meta(stack_of(small, made.dataset(), values))
    rows = torch.zeros(len(SEEDS), 4, 16, dtype=torch.int64, device="meta")
    active, rates = torch.ones(len(SEEDS), dtype=torch.bool, device="meta"), torch.ones(len(SEEDS), device="meta")
    step.model.train()
    losses = step.on_device(rows, active, rates)
    assert losses.shape == (1 + len(step.tasks), len(SEEDS))
    if isinstance(step.model, ProgressiveHead):
        step.model.set_trunks_frozen(True)
        step.on_device(rows, active, rates)


def test_asking_for_a_value_there_is_found(small: Config, made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    step = on_meta(stack_of(small, made.dataset(), {"temporal": "none"}))
    clip = step.optimiser.clip

    def asking(limits: Tensor | None) -> None:
        clip(limits)
        if bool(next(p.grad for p in step.optimiser.parameters if p.grad is not None).sum() > 0):
            return

    monkeypatch.setattr(step.optimiser, "clip", asking)
    rows = torch.zeros(len(SEEDS), 4, 16, dtype=torch.int64, device="meta")
    with pytest.raises(RuntimeError):
        step.on_device(rows, torch.ones(3, dtype=torch.bool, device="meta"), torch.ones(3, device="meta"))


def test_graphs_are_replayed_with_what_is_given(small: Config, made) -> None:
    """The capture moves nothing, and each shape of rows has a graph of its own."""
    dataset = made.dataset()
    graphed, plain = (stack_of(small, dataset, {"temporal": "gru"}) for _ in range(2))
    graphed.step.graphs = Rehearsal()
    for number, active in enumerate(([True] * 3, [True, False, True], [True] * 3, [True] * 3)):
        rows = first_rows(plain)
        rows, rates = rows[:, :, :8] if number == 2 else rows, [1e-3 * (number + 1)] * 3
        losses = graphed.step(rows, active, rates)
        expected = plain.step.on_device(rows, torch.tensor(active), torch.tensor(rates))
        assert torch.equal(losses, expected)
    assert all(map(torch.equal, graphed.optimiser.parameters, plain.optimiser.parameters))
    assert len(graphed.step.graphs._known) == 2


def test_graphs_keep_no_step_alive(small: Config, made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a graph is that of a whole step, and torch does not look for circles when it captures the next."""
    stack = stack_of(small, made.dataset(), {"temporal": "none"})
    stack.step.graphs = Graphs()
    monkeypatch.setattr(Graphs, "_capture", lambda *_: None)
    stack.step(first_rows(stack), [True] * 3, [1e-3] * 3)
    gone = weakref.ref(stack.step)
    gc.disable()
    try:
        del stack
        assert gone() is None
    finally:
        gc.enable()


def test_memory_that_runs_out_in_a_capture_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search then halves the stack; anything else costs the graph alone. The stream of before is back."""
    inputs = torch.zeros(1, 2, 3, dtype=torch.int64), torch.ones(1, dtype=torch.bool), torch.ones(1)
    reason: Exception = torch.OutOfMemoryError("no memory")
    streams = []

    def refuse(*_: object) -> None:
        raise reason

    monkeypatch.setattr(torch.cuda, "Stream", refuse)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        Graphs()(lambda *_: inputs[2], (True,), *inputs)
    reason = RuntimeError("not permitted when stream is capturing\nand more")
    with pytest.warns(
        UserWarning, match="continues without a CUDA graph, and slower: not permitted when .* capturing$"
    ):
        assert Graphs()(lambda *_: inputs[2], (True,), *inputs) is inputs[2]
    assert streams == ["before"] * 2


def test_what_torch_keeps_of_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each stack of a search would leave less room for the next one."""
    for name, value in (("mem_get_info", (100, 1000)), ("memory_reserved", 600), ("memory_allocated", 50)):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_bytes(torch.device("cuda", 0)) == 650


@pytest.mark.gpu
def test_a_graph_trains_as_the_step_it_holds(small: Config, made) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    dataset = made.dataset()
    moved = dataclasses.replace(
        dataset.resident,
        streams={key: x.cuda() for key, x in dataset.resident.streams.items()},
        device=torch.device("cuda"),
    )
    from pipelines.training.dataset import make_dataset

    on_gpu = make_dataset(dataset.frames, moved)
    captured, eager = (stack_of(small, on_gpu, {"temporal": "gru"}) for _ in range(2))
    for stack in (captured, eager):
        stack.model.cuda(), stack.loss.cuda()
    eager.step.graphs = None
    for _ in range(4):
        rows, active = first_rows(captured), [True, True, False]
        first_rows(eager)
        losses = captured.step(rows, active, [1e-3] * 3)
        expected = eager.step.on_device(rows, torch.tensor(active).cuda(), torch.tensor([1e-3] * 3).cuda())
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert all(one is not None for one in captured.step.graphs._known.values())


def test_both_ways_to_mix_views_give_the_same_windows() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [{"x": torch.randn(7, 3, generator=generator).half()} for _ in range(3)]
    valids = [torch.rand(8, generator=generator) < 0.7 for _ in range(3)]
    rows = torch.randint(3 * 8, (5, 4), generator=generator)
    flat, inside = (rows % 8).flatten(), (rows % 8).flatten().clamp(max=6)
    sources = [{"x": StreamInput(stream=view["x"])} for view in views]
    found = []
    for way in (dataset_module._in_place, dataset_module._everywhere):
        streams, valid = {"x": views[0]["x"].index_select(0, inside).float()}, valids[0].index_select(0, flat)
        for number in (1, 2):
            way(streams, valid, (sources[number], valids[number]), flat, inside, rows.flatten() // 8 == number)
        found.append((streams["x"], valid))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    for place, row in enumerate(rows.flatten().tolist()):
        assert torch.equal(found[0][0][place], views[row // 8]["x"][min(row % 8, 6)].float())
