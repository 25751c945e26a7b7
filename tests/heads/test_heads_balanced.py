"""Losses that make up for how often classes and values occur: hand-worked numbers, and the forms of their sources."""

import math

import pytest
import torch
from torch.nn import functional

from heads.frequencies import COUNTERS, NUM_BINS, bin_centres, count_labels, frequency, label_frequencies
from heads.labels import Labels
from heads.task_losses import (
    balanced_squared_loss,
    cross_entropy_loss,
    logit_adjusted_loss,
    margin_loss,
    squared_loss,
)
from heads.tasks import ABAW_TASKS, Task

VALENCE = ABAW_TASKS["valence"]
CENTRES = bin_centres(VALENCE).unsqueeze(0)
THREE = Task(group="mood", kind="classes", num_outputs=3)


def ones(x):
    return torch.ones_like(x, dtype=torch.bool)


def frequency_of(value, mask, task):
    return frequency(COUNTERS[task.kind](value, mask, task))


def numbers(**values):
    """Of one head."""
    return {name: torch.as_tensor(value).unsqueeze(0) for name, value in values.items()}


def balanced(output, label, frequency, sigma):
    """Of one column, all labelled."""
    output, label = (torch.as_tensor(x).reshape(1, -1, 1) for x in (output, label))
    loss = balanced_squared_loss(
        output, label, ones(label), frequency=frequency.reshape(1, 1, -1), centres=CENTRES, sigma=torch.tensor([sigma])
    )
    return loss[0]


# Balanced MSE.


def test_where_all_labels_are_one_value_no_prediction_is_better_than_another():
    frequency = torch.zeros(NUM_BINS)
    frequency[10] = 1.0
    label = CENTRES[0, 10].repeat(4)
    for output in (-0.9, 0.0, 0.4):
        assert float(balanced([output] * 4, label, frequency, 0.5)) == pytest.approx(0, abs=1e-5)


def test_it_is_the_batch_form_of_the_source_where_the_batch_is_the_training_set():
    """Ren et al., equation 3.9: a softmax over the batch's labels of -(output - label)^2 / (2 sigma^2)."""
    generator, sigma = torch.Generator().manual_seed(0), 0.3
    places = torch.randint(NUM_BINS, (40,), generator=generator)
    label, output = CENTRES[0, places], torch.rand(40, generator=generator) * 2 - 1
    logits = -(output.unsqueeze(1) - label.unsqueeze(0)).square() / (2 * sigma**2)
    theirs = functional.cross_entropy(logits, torch.arange(40)) * 2 * sigma**2
    frequency = frequency_of(label.unsqueeze(1), ones(label.unsqueeze(1)), VALENCE)
    assert float(frequency.sum()) == pytest.approx(1)
    ours = balanced(output, label, frequency, sigma)
    torch.testing.assert_close(ours + 2 * sigma**2 * math.log(40), theirs)


def test_even_values_leave_the_squared_error():
    """Far from the ends of the range the gradient is that of MSE."""
    output, label = torch.tensor([0.1, -0.2], requires_grad=True), torch.tensor([0.15, -0.1])
    balanced(output, label, torch.full((NUM_BINS,), 1 / NUM_BINS), 0.1).backward()
    torch.testing.assert_close(output.grad, output.detach() - label, rtol=0, atol=1e-3)


def test_the_gradient_of_balanced_mse_agrees_with_differences():
    generator = torch.Generator().manual_seed(0)
    output, label = (torch.rand(2, 7, 2, generator=generator).double() * 2 - 1 for _ in range(2))
    mask = torch.rand(2, 7, 2, generator=generator) > 0.3
    frequency = torch.rand(2, 2, NUM_BINS, generator=generator).double()
    given = {"frequency": frequency, "centres": CENTRES.double().repeat(2, 1), "sigma": torch.tensor([0.2, 1.0])}
    assert torch.autograd.gradcheck(
        lambda x: balanced_squared_loss(x, label, mask, **given), output.requires_grad_(), atol=1e-4
    )


def test_a_rare_value_is_predicted_that_mse_gives_up():
    """Labels of two noisy values, the higher one in a tenth of the rows: at a row between the two, MSE is drawn to the
    frequent one, and balanced MSE is not."""
    frequency = torch.zeros(NUM_BINS)
    frequency[torch.tensor([8, 56])] = torch.tensor([0.9, 0.1])
    rows = [*[float(CENTRES[0, 8])] * 9, float(CENTRES[0, 56])]
    best = {}
    for name in ("mse", "balanced"):
        output = torch.zeros(1, requires_grad=True)
        optimiser = torch.optim.SGD([output], lr=0.05)
        for _ in range(300):
            optimiser.zero_grad()
            label = torch.tensor(rows).reshape(1, -1, 1)
            if name == "mse":
                loss = squared_loss(output.expand(10).reshape(1, -1, 1), label, ones(label)).sum()
            else:
                loss = balanced(output.expand(10), label, frequency, 0.5)
            loss.backward()
            optimiser.step()
        best[name] = float(output.detach())
    assert best["mse"] == pytest.approx(sum(rows) / 10, abs=1e-3)
    assert best["balanced"] == pytest.approx(0, abs=0.02)


# LDAM.


def test_margins_by_hand():
    """Of 16, 1 and 0 rows: margins in the ratio 1/2 to 1, and none for the class that never occurs."""
    frequency = torch.tensor([16 / 17, 1 / 17, 0.0])
    given = numbers(class_weight=[1.0] * 3, label_smoothing=0.0, frequency=frequency, margin=0.5)
    for label, margin in ((0, 0.25), (1, 0.5), (2, 0.0)):
        loss = margin_loss(torch.zeros(1, 1, 3), torch.tensor([[[label]]]), torch.tensor([[[True]]]), **given)
        assert float(loss) == pytest.approx(math.log(2 + math.exp(-margin)) + margin, rel=1e-5)


def test_no_margin_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(1, 9, 3, generator=generator), torch.randint(3, (1, 9, 1), generator=generator)
    plain = numbers(class_weight=[0.5, 1.0, 2.0], label_smoothing=0.1)
    loss = margin_loss(logits, label, ones(label), **plain, **numbers(frequency=[0.6, 0.3, 0.1], margin=0.0))
    torch.testing.assert_close(loss, cross_entropy_loss(logits, label, ones(label), **plain))


# Logit adjustment.


def test_logit_adjustment_by_hand():
    """Even logits are right where the labels are as frequent as said: the cross-entropy is then -log frequency."""
    frequency = [0.7, 0.2, 0.1]
    for label, share in enumerate(frequency):
        given = numbers(label_smoothing=0.0, frequency=frequency, tau=1.0)
        loss = logit_adjusted_loss(torch.zeros(1, 1, 3), torch.tensor([[[label]]]), torch.tensor([[[True]]]), **given)
        assert float(loss) == pytest.approx(-math.log(share), rel=1e-5)


def test_a_class_that_never_occurs_is_kept_from_being_predicted():
    """Its logit is pushed down as far as in cross-entropy, where adjusting it by log(0) would leave it where it is."""
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    given = numbers(label_smoothing=0.0, frequency=[0.8, 0.2, 0.0], tau=1.0)
    logit_adjusted_loss(logits, torch.tensor([[[0]]]), torch.tensor([[[True]]]), **given).sum().backward()
    assert float(logits.grad[0, 0, 2]) == pytest.approx(0.5)  # 1 / (0.8 + 0.2 + 1)


def test_adjusted_logits_put_the_boundary_in_the_middle():
    """Two Gaussians at -1 and 1, the second in a tenth of the rows: without adjustment the boundary is at ln(9) / 2."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(4000) % 10 == 0).long().reshape(1, -1, 1)
    x = torch.randn(4000, generator=generator) + 2 * label.flatten() - 1
    boundaries = []
    for tau in (0.0, 1.0):
        weight = torch.zeros(2, requires_grad=True)
        optimiser = torch.optim.LBFGS([weight], max_iter=50)
        given = numbers(label_smoothing=0.0, frequency=[0.9, 0.1], tau=tau)

        def closure(weight=weight, optimiser=optimiser, given=given):
            optimiser.zero_grad()
            logits = torch.stack([torch.zeros_like(x), weight[0] * x + weight[1]], dim=-1).unsqueeze(0)
            loss = logit_adjusted_loss(logits, label, ones(label), **given).sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        boundaries.append(float((-weight[1] / weight[0]).detach()))
    assert boundaries == pytest.approx([math.log(9) / 2, 0.0], abs=0.1)


# Frequencies.


def test_frequencies_by_hand():
    label = torch.tensor([0, 0, 0, 2, 1]).unsqueeze(1)
    mask = torch.tensor([True, True, True, True, False]).unsqueeze(1)
    assert frequency_of(label, mask, THREE).tolist() == [0.75, 0.0, 0.25]
    assert not frequency_of(label, ~mask & mask, THREE).any()
    value = torch.tensor([[-1.0, 1.0], [-1.0, 0.99], [0.0, float("nan")], [5.0, 0.0]])
    seen = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    found = frequency_of(value, seen, ABAW_TASKS["va"])
    assert found[0].nonzero().flatten().tolist() == [0, NUM_BINS // 2]
    assert found[0, 0] == pytest.approx(2 / 3)
    assert found[1, -1] == 1


@pytest.mark.parametrize("block", [1, 3, 100])
def test_labels_are_counted_in_blocks(block):
    labels = Labels(
        {"va": torch.rand(50, 2) * 2 - 1, "expr": torch.randint(8, (50, 1)), "au": (torch.rand(50, 12) > 0.5).float()},
        {name: torch.rand(50, width) < 0.7 for name, width in {"va": 2, "expr": 1, "au": 12}.items()},
    )
    whole = count_labels(ABAW_TASKS, [labels])
    parts = count_labels(ABAW_TASKS, [labels.take(slice(start, start + block)) for start in range(0, 50, block)])
    assert all(torch.equal(parts[name], counts) for name, counts in whole.items())
    nothing = count_labels(ABAW_TASKS, [labels.take(slice(0))])
    assert torch.equal(frequency(nothing["va"]), torch.zeros(2, NUM_BINS))


def test_frequencies_are_those_of_each_tasks_labels():
    labels = Labels(
        {"va": torch.zeros(3, 2), "expr": torch.tensor([[1], [1], [3]]), "au": torch.zeros(3, 12)},
        {"va": ones(torch.zeros(3, 2)), "expr": ones(torch.zeros(3, 1)), "au": ones(torch.zeros(3, 12))},
    )
    tasks = {name: ABAW_TASKS[name] for name in ("arousal", "expr", "au")}
    found = label_frequencies(tasks, count_labels(tasks, [labels]))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"arousal": (1, NUM_BINS), "expr": (8,)}
    assert found["expr"][1] == pytest.approx(2 / 3)
