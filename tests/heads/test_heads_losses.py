"""Losses: hand-worked numbers, agreement with torch, and nothing unlabelled ever inside."""

import math

import pytest
import torch
from torch.nn import functional

from heads.config import LossConfig
from heads.frequencies import (
    class_weight,
    count_classes,
    count_labels,
    count_positives,
    label_frequencies,
    label_weights,
    positive_weight,
)
from heads.labels import Labels
from heads.losses import BINARY_LOSSES, CLASS_LOSSES, CONTINUOUS_LOSSES, MultiTaskLoss
from heads.task_losses import (
    asymmetric_loss,
    binary_loss,
    concordance_loss,
    cross_entropy_loss,
    focal_loss,
    squared_loss,
)
from heads.tasks import ABAW_TASKS, Task

TASKS = ("va", "expr", "au")
CONFIGS = {
    **{f"va_{name}": LossConfig(continuous_loss=name) for name in CONTINUOUS_LOSSES},
    **{f"expr_{name}": LossConfig(class_loss=name, label_smoothing=0.1) for name in CLASS_LOSSES},
    **{f"au_{name}": LossConfig(binary_loss=name) for name in BINARY_LOSSES},
    "learned": LossConfig(weighting="learned"),
}


def tasks_of(*names):
    return {name: ABAW_TASKS[name] for name in names}


ALL = tasks_of(*TASKS)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def make_targets(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def chance(*sizes):
        return torch.rand(*shape, *sizes, generator=generator)

    va, va_mask, expr, expr_mask = 2 * chance(2) - 1, chance(2) > 0.3, (8 * chance(1)).long(), chance(1) > 0.4
    au, au_mask = (chance(12) > 0.7).float(), chance(12) > 0.2
    return Labels({"va": va, "expr": expr, "au": au}, {"va": va_mask, "expr": expr_mask, "au": au_mask})


def with_labels(targets, group, value, mask=None):
    """`targets` with other values and, where given, another mask of a group."""
    masks = targets.masks if mask is None else {**targets.masks, group: mask}
    return Labels({**targets.values, group: value}, masks)


def make_outputs(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    outputs = {task: torch.randn(*shape, output.num_outputs, generator=generator) for task, output in ALL.items()}
    outputs["va"] = outputs["va"].tanh()
    return {task: output.requires_grad_() for task, output in outputs.items()}


def without_labels(targets, *tasks):
    return targets.where({name: everywhere(mask) for name, mask in targets.masks.items() if name not in tasks})


def measure(loss, outputs, targets):
    """(total, losses) of a `MultiTaskLoss` of one head; outputs and targets come without the leading 1."""
    totals, losses = loss(
        {task: output.unsqueeze(0) for task, output in outputs.items()}, targets.map(lambda x: x.unsqueeze(0))
    )
    assert totals.shape == (1,)
    assert all(each.shape == (1,) for each in losses.values())
    return totals[0], {task: each[0] for task, each in losses.items()}


def run(config, outputs, targets, tasks=TASKS):
    """(total, losses, gradient of each task's outputs) of fresh copies of `outputs`."""
    outputs = {task: output.detach().clone().requires_grad_() for task, output in outputs.items()}
    chosen = tasks_of(*tasks)
    counts = count_labels(chosen, [targets])
    counted = label_weights(chosen, counts), label_frequencies(chosen, counts)
    total, losses = measure(MultiTaskLoss(chosen, [config], *counted), outputs, targets)
    total.backward()
    return total, losses, {task: outputs[task].grad for task in tasks}


def alone(loss, output, label, mask, **numbers):
    """A loss function of one head, on [N, K] and numbers without the leading 1."""
    numbers = {name: torch.as_tensor(value).unsqueeze(0) for name, value in numbers.items()}
    values = loss(output.unsqueeze(0), label.unsqueeze(0), mask.unsqueeze(0), **numbers)
    assert values.shape == (1,)
    return values[0]


PLAIN = {"class_weight": [1.0] * 8, "label_smoothing": 0.0}  # of the losses of classes


# What is not labelled never counts.


def test_unlabelled_entries_may_hold_anything(config, junk):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    values = {
        name: value.masked_fill(~targets.masks[name], -1 if name == "expr" else junk)
        for name, value in targets.values.items()
    }
    spoilt = Labels(values, targets.masks)
    total, losses, gradients = run(config, outputs, targets)
    spoilt_total, spoilt_losses, spoilt_gradients = run(config, outputs, spoilt)
    assert total.isfinite()
    assert torch.equal(total, spoilt_total)
    for task in TASKS:
        assert torch.equal(losses[task], spoilt_losses[task])
        assert torch.equal(gradients[task], spoilt_gradients[task])


def test_minus_one_never_enters_the_au_loss():
    """A row with some AUs missing counts those it has: -1 as a target would push the logit down for ever."""
    targets = make_targets(6)
    au = targets.values["au"].masked_fill(~targets.masks["au"], -1)
    outputs = make_outputs(6)
    _, _, gradients = run(LossConfig(), outputs, with_labels(targets, "au", au), tasks=("au",))
    assert torch.equal(gradients["au"] == 0, ~targets.masks["au"])


def test_outputs_at_unlabelled_entries_may_hold_anything(config, junk):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    spoilt = {task: output.masked_fill(~targets.masks[task], junk) for task, output in outputs.items()}
    total, _, gradients = run(config, outputs, targets)
    spoilt_total, _, spoilt_gradients = run(config, spoilt, targets)
    assert torch.equal(total, spoilt_total)
    assert all(torch.equal(gradients[task], spoilt_gradients[task]) for task in TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_without_labels_adds_exactly_zero(config, task):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    others = tuple(other for other in TASKS if other != task)
    total, losses, gradients = run(config, outputs, without_labels(targets, task))
    expected, _, expected_gradients = run(config, outputs, targets, tasks=others)
    assert losses[task] == 0
    assert not gradients[task].any()
    torch.testing.assert_close(total, expected)
    assert all(torch.equal(gradients[other], expected_gradients[other]) for other in others)


def test_a_batch_without_any_label(config):
    outputs = make_outputs(4, 9)
    loss = MultiTaskLoss(ALL, [config])
    total, _ = measure(loss, outputs, without_labels(make_targets(4, 9), *TASKS))
    total.backward()
    assert total == 0
    assert not any(output.grad.any() for output in outputs.values())
    assert not any(parameter.grad.any() for parameter in loss.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_whose_only_labelled_row_is_row_0_is_used(config, task):
    targets = make_targets(5, seed=3)
    mask = torch.zeros_like(targets.masks[task])
    mask[0] = True
    if task == "va":
        mask[1] = True  # the CCC of one row is 0 whatever is predicted
    total, _, gradients = run(config, make_outputs(5), with_labels(targets, task, targets.values[task], mask))
    assert total.isfinite()
    assert (gradients[task][0] != 0).all()
    assert not gradients[task][2:].any()


def test_order_of_frames_does_not_matter(config):
    targets, outputs = make_targets(36), make_outputs(36)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    total, _, _ = run(config, outputs, targets)
    shuffled = {task: output[order] for task, output in outputs.items()}
    torch.testing.assert_close(run(config, shuffled, targets.take(order))[0], total)


@pytest.mark.parametrize("size", [1e-6, 1e3, 1e6])
def test_logits_of_any_size_stay_finite(config, size):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    outputs = {task: output if task == "va" else output * size for task, output in outputs.items()}
    total, _, gradients = run(config, outputs, targets)
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_focusing_of_any_strength_stays_finite(gamma, clip):
    config = LossConfig(
        class_loss="focal",
        binary_loss="asymmetric",
        focal_gamma=gamma,
        asymmetric_gamma_positive=gamma,
        asymmetric_gamma_negative=gamma,
        asymmetric_clip=clip,
    )
    outputs = {task: output if task == "va" else output * 200 for task, output in make_outputs(4, 9).items()}
    total, _, gradients = run(config, outputs, make_targets(4, 9))
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


# Valence and arousal.


def column(*values):
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1).repeat(1, 2)


def everywhere(x):
    return torch.ones_like(x, dtype=torch.bool)


def test_ccc_by_hand():
    """x = 0, 1, 2 and y = 0, 1, 5: population covariance 5/3, variances 2/3 and 14/3, means 1 and 2.

    CCC = 2 * 5/3 / (2/3 + 14/3 + 1) = 10/19; with moments over n - 1 it would be 10/17.5.
    """
    x, y = column(0, 1, 2), column(0, 1, 5)
    assert float(alone(concordance_loss, x, y, everywhere(x))) == pytest.approx(1 - 10 / 19)


def test_ccc_leaves_masked_rows_out():
    x, y = column(0, 9, 1, 2), column(0, -9, 1, 5)
    mask = torch.tensor([True, False, True, True]).unsqueeze(1).repeat(1, 2)
    assert float(alone(concordance_loss, x, y, mask)) == pytest.approx(1 - 10 / 19)


def test_ccc_averages_the_labelled_columns():
    x, y = column(0, 1, 2), column(0, 1, 5)
    y[:, 1] = x[:, 1]
    assert float(alone(concordance_loss, x, y, everywhere(x))) == pytest.approx((1 - 10 / 19) / 2)
    mask = torch.tensor([True, False]).expand(3, 2)
    assert float(alone(concordance_loss, x, y, mask)) == pytest.approx(1 - 10 / 19)


def test_ccc_runs_over_all_windows_at_once():
    """Not a mean over windows: inside each window here the label is constant, which alone would be worth nothing."""
    label = torch.tensor([[-0.5] * 4, [0.5] * 4]).unsqueeze(-1).repeat(1, 1, 2)
    targets = with_labels(make_targets(2, 4), "va", label, everywhere(label))
    _, losses = measure(MultiTaskLoss(tasks_of("va"), [LossConfig()]), {"va": label.clone()}, targets)
    assert float(losses["va"]) == pytest.approx(0, abs=1e-6)


def test_ccc_gradient_agrees_with_differences():
    x, y = make_outputs(9)["va"].double(), make_targets(9).values["va"].double()
    mask = make_targets(9).masks["va"]
    assert torch.autograd.gradcheck(lambda x: alone(concordance_loss, x, y, mask), x.detach().requires_grad_())


@pytest.mark.parametrize(("x", "y"), [((0.3,) * 5, (0.1, 0.2, 0.3, 0.4, 0.5)), ((0.1, 0.2, 0.3, 0.4, 0.5), (0.3,) * 5)])
def test_ccc_of_a_constant_is_zero(x, y):
    x = column(*x).requires_grad_()
    loss = alone(concordance_loss, x, column(*y), everywhere(x))
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-5)
    assert x.grad.isfinite().all()


def test_ccc_of_equal_constants_and_of_one_row_is_finite():
    for x in (column(0.3, 0.3, 0.3), column(0.3)):
        x.requires_grad_()
        loss = alone(concordance_loss, x, x.detach().clone(), everywhere(x))
        loss.backward()
        assert loss.item() == pytest.approx(1)
        assert x.grad.isfinite().all()


def test_ccc_keeps_its_digits_far_from_zero():
    """Sums of squares minus squared means would cancel in float32."""
    generator = torch.Generator().manual_seed(0)
    x = 0.9 + 1e-3 * torch.randn(5000, 2, generator=generator)
    y = 0.9 + 1e-3 * torch.randn(5000, 2, generator=generator) + (x - 0.9)
    exact = alone(concordance_loss, x.double(), y.double(), everywhere(x))
    assert float(alone(concordance_loss, x, y, everywhere(x))) == pytest.approx(float(exact), rel=1e-4)


def test_squared_loss_by_hand():
    x, y = column(0, 1, 2), column(0, 3, 2)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    assert float(alone(squared_loss, x, y, mask)) == pytest.approx((4 / 2 + 0) / 2)


def test_combined_va_loss_is_the_sum():
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    single = [run(LossConfig(continuous_loss=name), outputs, targets)[1]["va"] for name in ("ccc", "mse")]
    torch.testing.assert_close(run(LossConfig(continuous_loss="ccc+mse"), outputs, targets)[1]["va"], sum(single))


# Expressions.


def test_cross_entropy_agrees_with_torch():
    logits, targets = make_outputs(40)["expr"], make_targets(40)
    weight = torch.rand(8, generator=torch.Generator().manual_seed(2)) + 0.1
    label, mask = targets.values["expr"], targets.masks["expr"]
    ours = alone(cross_entropy_loss, logits, label, mask, class_weight=weight, label_smoothing=0.0)
    labelled = mask[:, 0]
    torch.testing.assert_close(ours, functional.cross_entropy(logits[labelled], label[labelled, 0], weight))


def test_label_smoothing_agrees_with_torch():
    logits, targets = make_outputs(40)["expr"], make_targets(40)
    label, mask = targets.values["expr"], targets.masks["expr"]
    ours = alone(cross_entropy_loss, logits, label, mask, **{**PLAIN, "label_smoothing": 0.2})
    labelled = mask[:, 0]
    theirs = functional.cross_entropy(logits[labelled], label[labelled, 0], label_smoothing=0.2)
    torch.testing.assert_close(ours, theirs)


def test_focal_loss_by_hand():
    """p = 1/4 for the label: (3/4)^2 * ln 4."""
    logits = torch.full((1, 8), math.log(3 / 7))
    logits[0, 2] = 0.0
    loss = alone(focal_loss, logits, torch.tensor([[2]]), torch.tensor([[True]]), **PLAIN, gamma=2.0)
    assert float(logits.softmax(-1)[0, 2]) == pytest.approx(1 / 4)
    assert float(loss) == pytest.approx((3 / 4) ** 2 * math.log(4))


def test_focal_loss_without_focus_is_cross_entropy():
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    focal = run(LossConfig(class_loss="focal", focal_gamma=0.0), outputs, targets)[1]
    torch.testing.assert_close(focal["expr"], run(LossConfig(), outputs, targets)[1]["expr"])


# Action units.


def test_binary_loss_agrees_with_torch():
    logits, targets = make_outputs(40)["au"], make_targets(40)
    weight = torch.rand(12, generator=torch.Generator().manual_seed(2)) + 0.1
    expected = [
        functional.binary_cross_entropy_with_logits(logits[m, k], targets.values["au"][m, k], pos_weight=weight[k])
        for k, m in enumerate(targets.masks["au"].unbind(dim=1))
    ]
    ours = alone(binary_loss, logits, targets.values["au"], targets.masks["au"], positive_weight=weight)
    torch.testing.assert_close(ours, torch.stack(expected).mean())


def test_asymmetric_loss_by_hand():
    """p = 3/4 and 1/4, gammas 1 and 2, clip 0.05: a positive costs (1 - p) ln 1/p, a negative p_m^2 ln 1/(1 - p_m)."""
    numbers = {"gamma_positive": 1.0, "gamma_negative": 2.0, "clip": 0.05}
    logits = torch.tensor([[math.log(3.0)] * 12, [-math.log(3.0)] * 12])
    mask = torch.ones(2, 12, dtype=torch.bool)
    label = torch.tensor([[1.0] * 12, [0.0] * 12])
    loss = alone(asymmetric_loss, logits, label, mask, **numbers, positive_weight=[1.0] * 12)
    assert float(loss) == pytest.approx((0.25 * math.log(4 / 3) - 0.2**2 * math.log(0.8)) / 2)
    doubled = alone(asymmetric_loss, logits, label, mask, **numbers, positive_weight=[2.0] * 12)
    assert float(doubled) == pytest.approx((2 * 0.25 * math.log(4 / 3) - 0.2**2 * math.log(0.8)) / 2)


def test_asymmetric_loss_without_asymmetry_is_binary():
    numbers = {"gamma_positive": 0.0, "gamma_negative": 0.0, "clip": 0.0}
    logits, targets = make_outputs(40)["au"] * 20, make_targets(40)
    label, mask = targets.values["au"], targets.masks["au"]
    weight = positive_weight(count_positives(label, mask, ALL["au"]))
    ours = alone(asymmetric_loss, logits, label, mask, **numbers, positive_weight=weight)
    torch.testing.assert_close(ours, alone(binary_loss, logits, label, mask, positive_weight=weight))


def test_negatives_below_the_clip_count_nothing():
    logits = torch.full((1, 12), -4.0).requires_grad_()
    numbers = {"gamma_positive": 0.0, "gamma_negative": 4.0, "clip": 0.05, "positive_weight": [1.0] * 12}
    loss = alone(asymmetric_loss, logits, torch.zeros(1, 12), everywhere(logits), **numbers)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# Weighing the tasks.


def test_fixed_task_weights_are_applied():
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    weights = {"va": 0.5, "expr": 3.0, "au": 0.0}
    config = LossConfig(task_weights=weights)
    total, losses, gradients = run(config, outputs, targets)
    plain_total, plain_losses, plain_gradients = run(LossConfig(), outputs, targets)
    torch.testing.assert_close(total, sum(weights[task] * losses[task] for task in TASKS))
    torch.testing.assert_close(plain_total, sum(plain_losses.values()))
    for task in TASKS:
        torch.testing.assert_close(gradients[task], weights[task] * plain_gradients[task])


def test_learned_task_weights_follow_their_formula():
    """2 * (exp(-s) * loss + s / 2); the best s is ln(2 loss)."""
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    loss = MultiTaskLoss(ALL, [LossConfig(weighting="learned", task_weights={"expr": 2.0})])
    assert sum(parameter.numel() for parameter in loss.parameters()) == 3
    assert set(loss.state_dict()) == {f"log_variance.{task}" for task in TASKS}
    _, losses = measure(loss, outputs, targets)
    for task, value in (("va", 0.3), ("expr", -0.7), ("au", 0.0)):
        loss.log_variance[task].data.fill_(value)
    total, _ = measure(loss, outputs, targets)
    expected = math.exp(-0.3) * losses["va"] + 0.15 + 2 * (math.exp(0.7) * losses["expr"] - 0.35) + losses["au"]
    torch.testing.assert_close(total, expected)
    loss.log_variance["expr"].data.copy_((2 * losses["expr"]).log())
    measure(loss, outputs, targets)[0].backward()
    assert float(loss.log_variance["expr"].grad) == pytest.approx(0, abs=1e-5)
    assert float(loss.log_variance["va"].grad) != 0


def test_fixed_weights_are_no_parameters():
    assert not list(MultiTaskLoss(ALL, [LossConfig()]).parameters())


def test_reported_losses_hold_no_graph():
    _, losses = measure(MultiTaskLoss(ALL, [LossConfig()]), make_outputs(4, 9), make_targets(4, 9))
    assert not any(loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize(("switch", "task"), [("class_weights", "expr"), ("positive_weights", "au")])
def test_class_and_positive_weights_are_used_only_when_asked_for(switch, task):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    unweighted = measure(MultiTaskLoss(ALL, [LossConfig()]), outputs, targets)[1][task]
    assert run(LossConfig(**{switch: True}), outputs, targets)[1][task] != unweighted
    assert run(LossConfig(**{switch: False}), outputs, targets)[1][task] == unweighted


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="continuous_loss: unknown name 'huber'; known: ccc, mse"):
        MultiTaskLoss(ALL, [LossConfig(continuous_loss="huber")])
    with pytest.raises(ValueError, match=r"label_smoothing = 1\.5 must be at least 0 and below 1"):
        MultiTaskLoss(ALL, [LossConfig(label_smoothing=1.5)])
    with pytest.raises(ValueError, match=r"task_weights: au = -1\.0 must be from 0 to 1000000$"):
        MultiTaskLoss(ALL, [LossConfig(task_weights={"au": -1.0})])
    with pytest.raises(ValueError, match="'learned' goes by the size of a loss"):
        MultiTaskLoss(ALL, [LossConfig(continuous_loss="balanced_mse", weighting="learned")])


# Weights from labels.


def test_class_weights_by_hand():
    expr = torch.tensor([0] * 6 + [1] * 2 + [7] * 8 + [3]).unsqueeze(1)
    mask = torch.ones(17, 1, dtype=torch.bool)
    mask[-1] = False
    raw = torch.tensor([16 / 48, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.25])  # absent classes as if seen once
    torch.testing.assert_close(class_weight(count_classes(expr, mask, ALL["expr"])), raw / raw.mean())


def test_class_weights_are_capped_and_finite():
    expr = torch.zeros(100_000, 1, dtype=torch.int64)
    expr[0] = 1
    weights = class_weight(count_classes(expr, expr >= 0, ALL["expr"]))
    assert float(weights[1] / weights[0]) == pytest.approx(10 / 0.125, rel=1e-3)
    assert float(weights.mean()) == pytest.approx(1)
    assert class_weight(count_classes(expr, expr < 0, ALL["expr"])).tolist() == [1.0] * 8


def test_positive_weights_by_hand():
    au = torch.zeros(20, 12)
    au[:5, 0] = 1  # 15 negatives to 5 positives
    au[:, 1] = 1  # only positives
    mask = torch.ones(20, 12, dtype=torch.bool)
    mask[:, 3] = False
    au[:, 3] = float("nan")
    weights = positive_weight(count_positives(au, mask, ALL["au"]))
    assert weights.tolist() == pytest.approx([3.0, 0.1, 10.0, 1.0] + [10.0] * 8)


def test_only_classes_and_binary_columns_have_weights():
    targets = make_targets(40)
    counts = count_labels(ABAW_TASKS, [targets])
    weights = label_weights(ABAW_TASKS, counts)
    assert {name: len(weight) for name, weight in weights.items()} == {"expr": 8, "au": 12}
    assert torch.equal(weights["au"], positive_weight(counts["au"]))


# Labels of a part of a group, of another range.


def test_a_column_of_a_group_is_a_task():
    """Both columns apart, at weight 1/2 each, are the whole at weight 1: same loss, same gradients."""
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    apart = {name: outputs["va"].detach()[..., [k]].requires_grad_() for k, name in enumerate(("valence", "arousal"))}
    halves = LossConfig(task_weights={"valence": 0.5, "arousal": 0.5})
    total, losses = measure(MultiTaskLoss(tasks_of(*apart), [halves]), apart, targets)
    whole, _, gradients = run(LossConfig(), outputs, targets, tasks=("va",))
    torch.testing.assert_close(total, whole)
    assert losses["valence"] != losses["arousal"]
    total.backward()
    torch.testing.assert_close(torch.cat([x.grad for x in apart.values()], dim=-1), gradients["va"])


@pytest.mark.parametrize("name", CONTINUOUS_LOSSES)
def test_losses_are_of_values_in_units_of_half_the_range(name):
    targets, outputs = make_targets(4, 9), make_outputs(4, 9)
    five = Task(group="va", kind="continuous", num_outputs=2, low=0.0, high=5.0)
    larger = with_labels(targets, "va", 2.5 + 2.5 * targets.values["va"])
    tasks = {"va": five}
    loss = MultiTaskLoss(
        tasks, [LossConfig(continuous_loss=name)], None, label_frequencies(tasks, count_labels(tasks, [larger]))
    )
    ours = measure(loss, {"va": 2.5 + 2.5 * outputs["va"]}, larger)[0]
    torch.testing.assert_close(ours, run(LossConfig(continuous_loss=name), outputs, targets, tasks=("va",))[0])


# Labels.


def test_labels_of_rows_and_none_of_those_hidden():
    targets = make_targets(6)
    rows = torch.tensor([[4, 0, -1], [-1, 5, 5]])
    taken = targets.take(rows).hide(rows < 0)
    assert taken.values["va"].shape == (2, 3, 2)
    assert torch.equal(taken.values["va"][0, 0], targets.values["va"][4])
    for name, mask in taken.masks.items():
        assert not mask[rows < 0].any()
        assert torch.equal(mask[1, 1], targets.masks[name][5])
    assert len(targets) == 6


def test_labels_of_some_groups():
    targets = make_targets(6)
    kept = targets.where({"va": (torch.arange(6) > 2).unsqueeze(1)})
    assert not kept.masks["expr"].any()
    assert not kept.masks["va"][:3].any()
    assert torch.equal(kept.labelled("va")[3:], targets.masks["va"][3:].any(dim=1))
