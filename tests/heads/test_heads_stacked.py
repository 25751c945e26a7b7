"""A head in a stack is the head alone: over all fusions, temporal encoders and losses; and what stacks are made of."""

import itertools

import pytest
import torch

from heads.config import LossConfig
from heads.frequencies import even_frequency
from heads.labels import Labels
from heads.layers import WindowDropout
from heads.losses import BINARY_LOSSES, CLASS_LOSSES, CONTINUOUS_LOSSES, MultiTaskLoss
from heads.model import (
    ProgressiveHead,
    build_head,
    build_progressive,
    dropout_rngs,
    load_single,
    single_state,
    stack_heads,
    take_heads,
)
from helpers.stacks import ALL, HEADS, RATES, SEEDS, TASKS, assert_near

KINDS = [
    kind
    for kind in itertools.product(CONTINUOUS_LOSSES, CLASS_LOSSES, BINARY_LOSSES, ("fixed", "learned"))
    if (kind[0], kind[3]) != ("balanced_mse", "learned")
]


@pytest.fixture(params=["shared windows", "own windows"])
def own(request):
    """Whether each head sees windows and labels of its own."""
    return request.param == "own windows"


@pytest.fixture
def data(windows):
    """((streams, valid, times), targets), with a leading 3 if `own`, else 1."""

    def data(own, num_windows=3, seed=0):
        each = [
            (windows(num_windows, seed=seed + m), make_targets(num_windows, seed + m)) for m in range(3 if own else 1)
        ]
        (streams, valid, times), targets = zip(*(inputs for inputs, _ in each), strict=True), [x for _, x in each]
        joined = {name: torch.cat([x[name] for x in streams]) for name in streams[0]}
        return (joined, torch.cat(valid), torch.cat(times)), map_targets(lambda *x: torch.cat(x), *targets)

    return data


def make_targets(num_windows, seed, num_steps=9):
    """Labels [1, B, T], four fifths of them masks."""
    generator = torch.Generator().manual_seed(seed)
    va, au, expr, *masks = (
        torch.rand(1, num_windows, num_steps, *size, generator=generator) for size in ((2,), (12,), (), (2,), (), (12,))
    )
    masks = [mask > 0.2 for mask in masks]
    masks[1], expr = masks[1].unsqueeze(-1), expr.unsqueeze(-1)
    values = {"va": 2 * va - 1, "expr": (8 * expr).long(), "au": au.round()}
    return Labels(values, dict(zip(values, masks, strict=True)))


def map_targets(change, *targets):
    values = {name: change(*(each.values[name] for each in targets)) for name in targets[0].values}
    return Labels(values, {name: change(*(each.masks[name] for each in targets)) for name in targets[0].masks})


def of_head(x, head):
    """What `head` sees of `x`: all of it where it is shared."""
    if isinstance(x, dict):
        return {name: of_head(value, head) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(of_head(value, head) for value in x)
    if isinstance(x, Labels):
        return map_targets(lambda value: of_head(value, head), x)
    return x[[head]] if len(x) > 1 else x


def make_losses(kind, heads=HEADS):
    """A loss of some of three heads, which differ in every number."""
    va, expr, au, weighting = kind
    configs = [
        LossConfig(
            continuous_loss=va,
            class_loss=expr,
            binary_loss=au,
            weighting=weighting,
            class_weights=head != 2,
            positive_weights=head != 0,
            label_smoothing=0.1 * head,
            balanced_sigma=(1.0, 0.3, 2.0)[head],
            ldam_margin=(0.5, 1.0, 0.2)[head],
            logit_tau=(1.0, 0.5, 1.5)[head],
            focal_gamma=(2.0, 1.0, 3.5)[head],
            asymmetric_gamma_positive=(0.0, 1.0, 0.5)[head],
            asymmetric_gamma_negative=(4.0, 2.0, 1.0)[head],
            asymmetric_clip=0.05 * head,
            task_weights={
                "va": (0.5, 1.0, 2.0)[head],
                "expr": (1.0, 0.0, 0.7)[head],
                "au": (1.0, 3.0, 0.2)[head],
            },
        )
        for head in heads
    ]
    generator = torch.Generator().manual_seed(4)
    weights = {name: 0.2 + torch.rand(3, ALL[name].num_outputs, generator=generator) for name in ("expr", "au")}
    shapes = {name: even_frequency(ALL[name]).shape for name in ("va", "expr")}
    frequencies = {name: torch.rand(3, *shape, generator=generator) for name, shape in shapes.items()}
    counted = ({name: value[list(heads)] for name, value in each.items()} for each in (weights, frequencies))
    loss = MultiTaskLoss(ALL, configs, *counted)
    for task, value in loss.log_variance.items():
        value.data.copy_(torch.tensor([0.3, -0.2, 0.1])[list(heads)] * (1 + TASKS.index(task)))
    return loss


def make_outputs(num_heads=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_heads, 3, 9)
    return {task: torch.randn(*shape, t.num_outputs, generator=generator) for task, t in ALL.items()}


def gradients(total, parameters):
    """Of the sum of the heads' totals; 0 where a loss does not reach."""
    given = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, given, strict=True)]


def train(head, loss, inputs, targets, make_optimiser, num_steps=3):
    optimiser = make_optimiser([*head.parameters(), *loss.parameters()])
    for _ in range(num_steps):
        for rng in dropout_rngs(head):
            rng.advance()
        optimiser.zero_grad()
        loss(head(*inputs), targets)[0].sum().backward()
        optimiser.step()


# A head in a stack is the head alone.


def test_outputs_losses_and_gradients_are_those_of_the_head_alone(fusion, temporal, own, config_of, widths, data):
    inputs, targets = data(own)
    config, kind = config_of(fusion=fusion, temporal=temporal), ("ccc+mse", "focal", "asymmetric", "learned")
    stack, loss = build_head(config, widths, SEEDS, RATES), make_losses(kind)
    stack.rng.advance()
    outputs = stack(*inputs)
    total, _ = loss(outputs, targets)
    grads = dict(zip(dict(stack.named_parameters()), gradients(total, list(stack.parameters())), strict=True))
    for head in HEADS:
        alone, own_loss = (
            build_head(config, widths, SEEDS[head : head + 1], RATES[head : head + 1]),
            make_losses(kind, [head]),
        )
        alone.rng.advance()
        own_outputs = alone(*of_head(inputs, head))
        own_total, _ = own_loss(own_outputs, of_head(targets, head))
        assert_near(total[[head]], own_total)
        for task in TASKS:
            assert_near(outputs[task][[head]], own_outputs[task], task)
        own_grads = gradients(own_total, list(alone.parameters()))
        for (name, _), grad in zip(alone.named_parameters(), own_grads, strict=True):
            assert_near(grads[name][[head]], grad, (head, name))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_training_leads_where_it_leads_alone(optimiser, fusion, temporal, own, config_of, widths, data):
    """Three steps, each head with its own dropout and losses; AdamW's eps keeps rounding of gradients near 0 small."""

    def make_optimiser(parameters):
        if optimiser == "sgd":
            return torch.optim.SGD(parameters, lr=0.1)
        return torch.optim.AdamW(parameters, lr=3e-3, eps=1e-3, weight_decay=0.1)

    inputs, targets = data(own)
    config, kind = config_of(fusion=fusion, temporal=temporal), ("ccc", "cross_entropy", "bce", "learned")
    stack, loss = build_head(config, widths, SEEDS, RATES), make_losses(kind)
    start = [parameter.detach().clone() for parameter in stack.parameters()]
    train(stack, loss, inputs, targets, make_optimiser)
    for head in HEADS:
        changes = [
            float((new[head] - old[head]).norm().detach()) for new, old in zip(stack.parameters(), start, strict=True)
        ]
        assert max(changes) > 0.01
    for head in HEADS:
        alone, own_loss = (
            build_head(config, widths, SEEDS[head : head + 1], RATES[head : head + 1]),
            make_losses(kind, [head]),
        )
        train(alone, own_loss, of_head(inputs, head), of_head(targets, head), make_optimiser)
        for (name, ours), theirs in zip(stack.named_parameters(), alone.parameters(), strict=True):
            assert_near(ours[[head]], theirs, (head, name))
        for ours, theirs in zip(loss.parameters(), own_loss.parameters(), strict=True):
            assert_near(ours[[head]], theirs, head)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_loss_is_that_of_the_head_alone(kind, own, data):
    _, targets = data(own)
    loss, outputs = make_losses(kind), {task: x.requires_grad_() for task, x in make_outputs().items()}
    total, losses = loss(outputs, targets)
    assert total.shape == (3,)
    wanted = [*outputs.values(), *loss.parameters()]
    grads = gradients(total, wanted)
    for head in HEADS:
        own_loss = make_losses(kind, [head])
        own_outputs = {task: x.detach()[[head]].requires_grad_() for task, x in outputs.items()}
        own_total, own_losses = own_loss(own_outputs, of_head(targets, head))
        assert_near(total[[head]], own_total)
        assert all(torch.allclose(losses[task][[head]], own_losses[task], rtol=1e-5, atol=0) for task in TASKS)
        own_grads = gradients(own_total, [*own_outputs.values(), *own_loss.parameters()])
        for ours, theirs in zip(grads, own_grads, strict=True):
            assert_near(ours[[head]], theirs, head)
    # The heads' numbers do differ: with equal losses nothing would have been shown.
    same = {task: x.detach()[:1].expand(3, -1, -1, -1) for task, x in outputs.items()}
    assert len(set(loss(same, of_head(targets, 0))[0].tolist())) == 3


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_head_without_labels_of_a_task_stands_still_beside_others(kind, data):
    """Each head here lacks the labels of another task."""
    _, targets = data(own=True)
    loss, outputs = make_losses(kind), {task: x.requires_grad_() for task, x in make_outputs().items()}
    for head, task in enumerate(TASKS):
        targets.masks[task][head] = False
    total, losses = loss(outputs, targets)
    for head, task in enumerate(TASKS):
        learned = [loss.log_variance[task]] if task in loss.log_variance else []
        grads = torch.autograd.grad(total.sum(), [outputs[task], *learned], retain_graph=True)
        assert not any(x[head].any() for x in (losses[task], *grads)), task
        assert all(losses[task][other] > 0 for other in HEADS if other != head)
        own_total, _ = make_losses(kind, [head])({k: x[[head]] for k, x in outputs.items()}, of_head(targets, head))
        assert_near(total[[head]], own_total)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_chosen_losses_go_on_by_themselves(kind, data):
    _, targets = data(own=False)
    loss, outputs = make_losses(kind), make_outputs()
    chosen = loss.select([2, 0])
    total, losses = chosen({task: x[[2, 0]] for task, x in outputs.items()}, targets)
    assert_near(total, loss(outputs, targets)[0][[2, 0]])
    assert all(x.shape == (2,) for x in losses.values())
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    assert len(list(chosen.parameters())) == len(before)
    for parameter in chosen.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(x, y) for x, y in zip(loss.parameters(), before, strict=True))


def test_losses_of_two_kinds_are_not_stacked():
    with pytest.raises(AssertionError, match="one kind"):
        MultiTaskLoss(ALL, [LossConfig(), LossConfig(binary_loss="asymmetric")])


# Neighbours never matter.


def spoil_neighbours(module, head):
    for parameter in module.parameters():
        parameter.data[[m for m in HEADS if m != head]] = float("nan")


@pytest.mark.parametrize("spoiled_part", ["parameters", "inputs", "labels"])
def test_neighbours_of_nan_change_nothing(fusion, temporal, spoiled_part, config_of, widths, data):
    config, kind = config_of(fusion=fusion, temporal=temporal), ("ccc+mse", "focal", "asymmetric", "learned")
    head, others = 1, [0, 2]
    results = []
    for is_spoilt in (False, True):
        (streams, valid, times), targets = data(own=spoiled_part != "parameters")
        stack, loss = build_head(config, widths, SEEDS, RATES), make_losses(kind)
        if is_spoilt and spoiled_part == "parameters":
            spoil_neighbours(stack, head)
            spoil_neighbours(loss, head)
        elif is_spoilt and spoiled_part == "inputs":
            for x in streams.values():
                x[others] = float("nan")
        elif is_spoilt:
            va, expr, au = (targets.values[task] for task in TASKS)
            va[others], au[others], expr[others] = float("nan"), float("nan"), 0
        outputs = stack(streams, valid, times)
        total, losses = loss(outputs, targets)
        grads = gradients(total, [*stack.parameters(), *loss.parameters()])
        results.append([total, *outputs.values(), *losses.values(), *grads])
    assert results[1][0][others].isnan().all()
    for clean, spoilt in zip(*results, strict=True):
        assert clean[head].isfinite().all()
        assert torch.equal(clean[head], spoilt[head])


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_neighbours_of_nan_change_no_loss(kind, data):
    """Outputs, labels, weights and learned weights of the neighbours."""
    results = []
    for is_spoilt in (False, True):
        _, targets = data(own=True)
        loss, outputs = make_losses(kind), make_outputs()
        if is_spoilt:
            spoil_neighbours(loss, head=1)
            for x in (*outputs.values(), targets.values["va"], targets.values["au"], *loss.constants.buffers()):
                x[[0, 2]] = float("nan")
        outputs = {task: x.requires_grad_() for task, x in outputs.items()}
        total, losses = loss(outputs, targets)
        grads = gradients(total, [*outputs.values(), *loss.parameters()])
        results.append([total, *losses.values(), *grads])
    assert results[1][0][[0, 2]].isnan().all()
    for clean, spoilt in zip(*results, strict=True):
        assert clean[1].isfinite().all()
        assert torch.equal(clean[1], spoilt[1])


# Taking stacks apart and putting them together.


def assert_same_training(models, data):
    """`models`, [(model, the heads of a stack of three that are in it)], do the same from here on, dropout included."""
    inputs, targets = data(own=False)
    for _ in range(3):
        results = []
        for model, heads in models:
            for rng in dropout_rngs(model):
                rng.advance()
            outputs = model(*inputs)
            loss = make_losses(("ccc", "cross_entropy", "bce", "fixed"), heads)
            grads = gradients(loss(outputs, targets)[0], list(model.parameters()))
            by_head = {head: [x[index] for x in (*outputs.values(), *grads)] for index, head in enumerate(heads)}
            with torch.no_grad():
                for parameter, grad in zip(model.parameters(), grads, strict=True):
                    parameter -= 0.05 * grad
            results.append(by_head)
        for other in results[1:]:
            for head in other.keys() & results[0].keys():
                for ours, theirs in zip(other[head], results[0][head], strict=True):
                    assert_near(ours, theirs, head)


def started(model, num_steps=2):
    """`model` with some steps behind it; of three heads, one stood still in the last."""
    for step in range(num_steps):
        for rng in dropout_rngs(model):
            active = torch.tensor([True, step < num_steps - 1, True]) if rng.num_heads == 3 else None
            rng.advance(active)
    return model


def make_joined(config_of, widths, seeds=SEEDS, rates=RATES):
    """Heads a task each, on different streams, their exchange no longer 0."""
    streams = {"va": ("va",), "expr": ("expr", "va"), "au": tuple(widths)}
    stream_widths = {task: {name: widths[name] for name in names} for task, names in streams.items()}
    heads = {task: build_head(config_of(tasks=(task,)), names, seeds, rates) for task, names in stream_widths.items()}
    joined = ProgressiveHead.from_separate(heads)
    for part in joined.exchange.values():
        for index, seed in enumerate(seeds):
            part.weight.data[index].normal_(std=0.1, generator=torch.Generator().manual_seed(seed))
    return joined, stream_widths


def test_taken_heads_go_on_as_in_the_stack(fusion, temporal, config_of, widths, data):
    stack = started(build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, RATES))
    taken = take_heads(stack, [2, 0])
    for parameter in taken.parameters():
        assert len(parameter) == 2
    assert_same_training([(stack, [0, 1, 2]), (taken, [2, 0])], data)


def test_taken_heads_are_copies(config_of, widths, windows):
    stack = build_head(config_of(), widths, SEEDS, RATES)
    stack.fusion.requires_grad_(False)
    before = stack(*windows())["va"]
    taken = take_heads(stack, [1])
    assert taken.rng is not stack.rng
    assert all(part.rng is taken.rng for part in taken.modules() if isinstance(part, WindowDropout))
    assert [p.requires_grad for p in taken.parameters()] == [p.requires_grad for p in stack.parameters()]
    taken.rng.advance()
    for parameter in taken.parameters():
        parameter.data.add_(1.0)
    assert torch.equal(stack(*windows())["va"], before)


def test_heads_put_together_go_on_as_alone(fusion, temporal, config_of, widths, data):
    """Also with different numbers of steps behind them."""
    config = config_of(fusion=fusion, temporal=temporal)
    alone = [started(build_head(config, widths, (SEEDS[m],), (RATES[m],)), num_steps=m) for m in HEADS]
    stack = stack_heads(alone)
    assert stack.rng.num_heads == 3
    # Were they no copies, a step of the stack would be one of the heads too.
    assert_same_training([(stack, [0, 1, 2]), *((model, [m]) for m, model in enumerate(alone))], data)


def test_taken_apart_and_put_together_is_the_stack(config_of, widths, windows):
    stack = started(build_head(config_of(), widths, SEEDS, RATES))
    again = stack_heads([take_heads(stack, [m]) for m in HEADS])
    for ours, theirs in zip(again.parameters(), stack.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for _ in range(2):
        ours, theirs = again(*windows()), stack(*windows())
        assert all(torch.equal(ours[task], theirs[task]) for task in TASKS)
        again.rng.advance()
        stack.rng.advance()


def test_a_single_state_is_that_of_the_head_alone(fusion, temporal, config_of, widths, windows):
    config = config_of(fusion=fusion, temporal=temporal)
    stack = build_head(config, widths, SEEDS).eval()
    for index, seed in enumerate(SEEDS):
        state, alone = single_state(stack, index), build_head(config, widths, (seed,)).eval()
        assert list(state) == list(alone.state_dict())
        assert all(torch.equal(value, alone.state_dict()[name][0]) for name, value in state.items())
        other = build_head(config, widths, (99,)).eval()
        load_single(other, state)
        assert all(torch.equal(single_state(other, 0)[name], value) for name, value in state.items())
        ours, theirs = other(*windows()), stack(*windows())
        for task in TASKS:
            assert_near(ours[task], theirs[task][[index]], task)
        state["temporal.norm.weight"].add_(1.0)
        assert not torch.equal(single_state(stack, index)["temporal.norm.weight"], state["temporal.norm.weight"])


def test_a_state_of_another_head_is_refused(config_of, widths):
    state = single_state(build_head(config_of(), widths, SEEDS), 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_single(build_head(config_of(width=24), widths), state)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_single(build_head(config_of(fusion="sum"), widths), state)


def test_joined_heads_in_a_stack_are_those_alone(config_of, widths, data):
    stack, _ = make_joined(config_of, widths)
    alone = [make_joined(config_of, widths, (SEEDS[m],), (RATES[m],))[0] for m in HEADS]
    assert_same_training([(stack, [0, 1, 2]), *((model, [m]) for m, model in enumerate(alone))], data)


def test_taken_joined_heads_go_on_as_in_the_stack(config_of, widths, data):
    stack, _ = make_joined(config_of, widths)
    started(stack)
    taken = take_heads(stack, [2, 0])
    assert len(dropout_rngs(taken)) == 3
    assert_same_training([(stack, [0, 1, 2]), (taken, [2, 0])], data)
    stack.set_trunks_frozen(True)
    frozen = take_heads(stack, [1])
    assert [p.requires_grad for p in frozen.parameters()] == [p.requires_grad for p in stack.parameters()]


def test_a_single_state_of_joined_heads_is_loaded(config_of, widths, windows):
    stack, stream_widths = make_joined(config_of, widths)
    stack.eval()
    for index in HEADS:
        other = build_progressive(
            {task: config_of(tasks=(task,)) for task in stream_widths}, stream_widths, seeds=(9,)
        ).eval()
        load_single(other, single_state(stack, index))
        ours, theirs = other(*windows()), stack(*windows())
        for task in TASKS:
            assert_near(ours[task], theirs[task][[index]], task)


def test_trunks_of_joined_heads_drop_different_units(config_of, widths):
    """They were trained from one seed each, perhaps the same; the heads they came from keep their masks."""
    heads = {task: build_head(config_of(tasks=(task,)), widths, (7,), (0.5,)) for task in TASKS}
    joined = ProgressiveHead.from_separate(heads)
    masks = [rng.mask(1, 50, 16).flatten() for rng in dropout_rngs(joined)]
    assert len(masks) == 3
    assert torch.corrcoef(torch.stack(masks)).fill_diagonal_(0).abs().max() < 0.2
    first, *others = (head.rng.mask(1, 50, 16) for head in heads.values())
    assert all(torch.equal(first, other) for other in others)


# Windows that are only there to fill a batch.


def test_windows_without_valid_steps_change_nothing_for_the_others(fusion, temporal, own, config_of, widths, data):
    """Neither outputs nor losses nor gradients, with dropout on."""
    (streams, valid, times), targets = data(own, num_windows=3)
    (more, _, _), others = data(own, num_windows=2, seed=20)
    filled = {name: torch.cat([x, torch.full_like(more[name], float("nan"))], dim=1) for name, x in streams.items()}
    none = torch.zeros(len(valid), 2, 9, dtype=torch.bool)
    longer = map_targets(lambda x, y: torch.cat([x, y & False if y.dtype == torch.bool else y], dim=1), targets, others)
    padded = (filled, torch.cat([valid, none], dim=1), torch.cat([times, torch.full_like(times[:, :2], -1)], dim=1))
    stack = build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, RATES)
    loss = make_losses(("ccc+mse", "focal", "asymmetric", "learned"))
    results = []
    for inputs, labels in (((streams, valid, times), targets), (padded, longer)):
        outputs = stack(*inputs)
        total, losses = loss(outputs, labels)
        grads = gradients(total, [*stack.parameters(), *loss.parameters()])
        results.append([total, *losses.values(), *(x[:, :3] for x in outputs.values()), *grads])
    for index, (real, with_padding) in enumerate(zip(*results, strict=True)):
        assert_near(with_padding, real, index)
