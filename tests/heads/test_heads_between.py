"""What stands between trunk and outputs (latent, coupling, classes from other predictions), and what is minimised
beside the tasks' losses."""

import math

import pytest
import torch
from torch.nn import functional

from heads.config import HeadConfig, LossConfig, classes_problem, head_problem
from heads.labels import Labels
from heads.latent import Features
from heads.layers import DropoutRng
from heads.losses import MultiTaskLoss
from heads.model import JOINT, ProgressiveHead, build_head, load_single, single_state, take_heads
from heads.penalties import (
    TEMPERATURE,
    HeadLoss,
    SubjectAdversary,
    class_embedding_loss,
    latent_change,
    latent_divergence,
    subject_loss,
)
from heads.tasks import Task
from helpers.stacks import ALL, RATES, SEEDS, assert_near

VARIANTS = {
    "latent": {"latent": 4},
    "beside": {"latent": 4, "latent_va": "beside"},
    "coupling": {"coupling": "gated"},
    "both": {"classes_from": "both"},
    "all": {"latent": 4, "latent_va": "beside", "coupling": "gated", "classes_from": "both"},
}
EMBEDDINGS = torch.randn(8, 5, generator=torch.Generator().manual_seed(9))
SUBJECTS = torch.tensor([[True, True, True, False], [True, True, True, True], [True, True, True, False]])


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def labels():
    """[1, 3, 9], four fifths of them masks, and the subject of each step, the second window's unknown."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "va": 2 * torch.rand(1, 3, 9, 2, generator=generator) - 1,
        "expr": torch.randint(8, (1, 3, 9, 1), generator=generator),
        "au": torch.rand(1, 3, 9, 12, generator=generator).round(),
    }
    masks = {name: torch.rand(value.shape, generator=generator) > 0.2 for name, value in values.items()}
    subjects = torch.tensor([2, -1, 1]).view(1, 3, 1).repeat(1, 1, 9)
    return Labels(values, masks), subjects


def loss_of(model, heads=range(3), **values):
    """Everything at once, of some of three heads that differ in every number."""
    configs = [
        LossConfig(
            latent_kl=(0.05, 1.0, 0.2)[head],
            latent_warmup_steps=(0, 4, 2)[head],
            latent_smoothness=(0.5, 0.0, 2.0)[head],
            subject_adversarial=(1.0, 0.5, 2.0)[head],
            class_embeddings="names.npy",
            class_embeddings_weight=(0.5, 1.0, 0.1)[head],
            **values,
        )
        for head in heads
    ]
    return HeadLoss(
        MultiTaskLoss(ALL, configs),
        configs,
        seeds=[SEEDS[head] for head in heads],
        widths=model.trunk_widths,
        subjects=SUBJECTS[list(heads)],
        class_embeddings=EMBEDDINGS,
    )


def results(model, loss, inputs, labels):
    """Totals and every gradient after one call, parameters without a gradient at 0."""
    features = model.features(*inputs)
    outputs = model.decode(features)
    totals, _ = loss(outputs, labels[0], features, labels[1])
    parameters = [*model.parameters(), *loss.parameters()]
    grads = torch.autograd.grad(totals.sum(), parameters, allow_unused=True)
    return totals, outputs, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


# As every part of a head.


def test_a_head_in_a_stack_is_the_head_alone(variant, config_of, widths, windows, labels):
    config = config_of(**variant)
    stack, inputs = build_head(config, widths, SEEDS, RATES), windows()
    stack.rng.advance()
    totals, outputs, grads = results(stack, loss_of(stack), inputs, labels)
    for head, seed in enumerate(SEEDS):
        alone = build_head(config, widths, [seed], [RATES[head]])
        alone.rng.advance()
        own_totals, own_outputs, own_grads = results(alone, loss_of(alone, [head]), inputs, labels)
        assert_near(totals[[head]], own_totals)
        for task, output in own_outputs.items():
            assert_near(outputs[task][[head]], output, task)
        for place, own in enumerate(own_grads):
            assert_near(grads[place][[head]], own, place)


def test_heads_that_are_taken_out_go_on_as_they_would(variant, config_of, widths, windows, labels):
    stack, inputs = build_head(config_of(**variant), widths, SEEDS, RATES), windows()
    loss = loss_of(stack)
    stack.rng.advance()
    chosen, chosen_loss = take_heads(stack, [2, 0]), loss.select([2, 0])
    for each in (stack, chosen):
        each.rng.advance()
    totals, _, grads = results(stack, loss, inputs, labels)
    own_totals, _, own_grads = results(chosen, chosen_loss, inputs, labels)
    assert_near(own_totals, totals[[2, 0]])
    for all_of, own in zip(grads, own_grads, strict=True):
        assert_near(own, all_of[[2, 0]])


def test_invalid_steps_and_empty_windows_never_count(variant, config_of, widths, windows, spoiled, labels):
    (streams, valid, times), model = windows(), build_head(config_of(**variant), widths, SEEDS, RATES)
    valid[:, 1] = False
    loss, found = loss_of(model), []
    for junk in (0.0, float("nan")):
        spoilt = {name: spoiled(x, valid, junk) for name, x in streams.items()}
        found.append(results(model, loss, (spoilt, valid, times), labels))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].isfinite().all()
    assert all(torch.equal(one, other) for one, other in zip(found[0][2], found[1][2], strict=True))


def test_longer_windows_change_nothing(variant, config_of, widths, windows, labels):
    """A stack pads windows to those of its longest fold: the noise of a step must not depend on how many follow."""
    (streams, valid, times), model = windows(), build_head(config_of(**variant), widths, SEEDS, RATES)
    pad = functional.pad
    longer = {name: pad(x, (0, 0, 0, 3)) for name, x in streams.items()}, pad(valid, (0, 3)), pad(times, (0, 3))
    target, subjects = labels
    padded = target.map(lambda x: pad(x, (0, 0, 0, 3))), pad(subjects, (0, 3), value=-1)
    loss = loss_of(model)
    totals, outputs, _ = results(model, loss, (streams, valid, times), labels)
    own_totals, own_outputs, _ = results(model, loss, longer, padded)
    assert_near(own_totals, totals)
    for task, output in outputs.items():
        assert_near(own_outputs[task][:, :, :9], output, task)


def test_every_parameter_learns_once_gates_have_moved(variant, config_of, widths, windows, labels, drawn):
    model = build_head(config_of(**variant), widths)
    drawn(model, 3)
    loss = loss_of(model, [0])
    _, _, grads = results(model, loss, windows(), labels)
    names = [name for name, _ in (*model.named_parameters(), *loss.named_parameters())]
    assert not [name for name, grad in zip(names, grads, strict=True) if not grad.any()]


def test_state_round_trip_and_predictions_without_noise(variant, config_of, widths, windows):
    first, second = (build_head(config_of(**variant), widths, [seed]) for seed in (1, 2))
    load_single(second, single_state(first, 0))
    one, other = first.eval()(*windows()), second.eval()(*windows())
    assert list(one) == list(other)
    assert set(one) == set(ALL)
    assert all(torch.equal(one[task], other[task]) for task in one)
    second.rng.advance()
    assert all(torch.equal(one[task], x) for task, x in second(*windows()).items())


def test_bfloat16(variant, config_of, widths, windows, labels):
    model = build_head(config_of(**variant), widths, SEEDS)
    loss = loss_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.features(*windows())
        outputs = model.decode(features)
    totals, _ = loss(outputs, labels[0], features, labels[1])
    totals.sum().backward()
    assert totals.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_progressive_heads_have_latents_of_their_own(config_of, widths, windows, labels):
    heads = {task: build_head(config_of(tasks=(task,), latent=4), widths, SEEDS) for task in ALL}
    joined = ProgressiveHead.from_separate(heads).eval()
    outputs = joined(*windows())
    for task, head in heads.items():
        assert torch.equal(outputs[task], head.eval()(*windows())[task])
    joined.train()
    features = joined.features(*windows())
    assert set(features.trunks) == set(features.posteriors) == set(ALL) == set(joined.trunk_widths)
    totals, _, grads = results(joined, loss_of(joined), windows(), labels)
    assert totals.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


# The latent.


def test_noise_is_standard_normal_and_of_its_own_head_step_and_place():
    rng = DropoutRng([3, 4], [0.0, 0.0])
    layer = rng.layer_id()
    rng.advance()
    noise = rng.normal(layer, 40, 20, 16)
    assert noise.mean().abs() < 0.02
    assert noise.var() == pytest.approx(1, abs=0.02)
    assert (noise.abs() < 1).float().mean() == pytest.approx(math.erf(2**-0.5), abs=0.01)
    flat = noise.flatten(2).flatten(0, 1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.3
    assert torch.equal(noise, rng.normal(layer, 40, 20, 16))
    assert torch.equal(noise[:, :7, :5], rng.normal(layer, 7, 5, 16))
    rng.advance()
    assert (noise * rng.normal(layer, 40, 20, 16)).mean().abs() < 0.02


def test_the_latent_is_drawn_in_training_alone(config_of, widths, windows):
    head = build_head(config_of(latent=4), widths)
    posterior = head.features(*windows()).posteriors[JOINT]
    latent = head.outputs.latent
    drawn = torch.stack([(head.rng.advance(), latent(posterior))[1] for _ in range(400)])
    torch.testing.assert_close(drawn.mean(dim=0), posterior.mean, rtol=0, atol=0.3)
    torch.testing.assert_close(drawn.var(dim=0).log(), posterior.log_variance, rtol=0, atol=0.5)
    assert torch.equal(latent.eval()(posterior), posterior.mean)


def test_divergence_is_torchs():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, 5, generator=generator)
    valid = torch.rand(1, 3, 4, generator=generator) > 0.4
    own = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    every = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).mean(dim=-1)
    expected = torch.stack([each[valid[0]].mean() for each in every])
    torch.testing.assert_close(latent_divergence(mean, log_variance, valid=valid), expected)
    assert latent_divergence(mean, log_variance, valid=valid & False).tolist() == [0.0, 0.0]


def test_change_over_time_by_hand():
    """Steps of 1 and of 10 frames; the pair with the invalid step does not count."""
    mean = torch.tensor([0.0, 2.0, 5.0, 9.0]).view(1, 1, 4, 1)
    times, valid = torch.tensor([[[1, 2, 12, 13]]]), torch.tensor([[[True, True, True, False]]])
    assert float(latent_change(mean, valid=valid, times=times)) == pytest.approx((4 / 1 + 9 / 10) / 2)


def test_divergence_rises_over_the_warm_up(config_of, widths, windows, labels):
    model = build_head(config_of(latent=4), widths).eval()
    config = LossConfig(latent_kl=2.0, latent_warmup_steps=4)
    loss, tasks = HeadLoss(MultiTaskLoss(ALL, [config]), [config]), MultiTaskLoss(ALL, [config])
    features = model.features(*windows())
    outputs = model.decode(features)
    posterior = features.posteriors[JOINT]
    divergence = latent_divergence(posterior.mean, posterior.log_variance, valid=features.valid)
    for share in (0.25, 0.5, 0.75, 1.0, 1.0):
        model.rng.advance()
        features = model.features(*windows())
        extra = loss(outputs, labels[0], features)[0] - tasks(outputs, labels[0])[0]
        torch.testing.assert_close(extra, 2 * share * divergence, rtol=1e-4, atol=1e-5)


def test_va_beside_the_latent_is_decoded_from_the_trunk(config_of, widths, windows):
    model = build_head(config_of(latent=4, latent_va="beside"), widths)
    one = model(*windows())
    model.rng.advance()
    other = model(*windows())
    assert torch.equal(one["va"], other["va"])
    assert not torch.equal(one["expr"], other["expr"])
    assert not torch.equal(one["au"], other["au"])
    alone = build_head(config_of(latent=4, latent_va="beside", tasks=("va",)), widths)
    assert alone.outputs.latent is None


# Coupling, and classes from other predictions.


def test_a_coupled_head_starts_as_the_uncoupled_one(config_of, widths, windows):
    plain, coupled = (build_head(config_of(coupling=name), widths, SEEDS) for name in ("none", "gated"))
    outputs = coupled(*windows())
    for task, output in plain(*windows()).items():
        assert torch.equal(outputs[task], output)
    outputs["va"].sum().backward()
    assert all(gate.grad.any() for name, gate in coupled.outputs.coupling.gates.items() if name == "gate_va")
    with torch.no_grad():
        coupled.outputs.coupling.gates["gate_va"].fill_(0.5)
    moved = coupled(*windows())
    assert not torch.equal(moved["va"], outputs["va"])
    assert torch.equal(moved["au"], outputs["au"])


def test_classes_follow_the_other_tasks_predictions(config_of, widths, windows):
    model = build_head(config_of(classes_from="both"), widths)
    before = model(*windows())
    with torch.no_grad():
        model.outputs.linear["va"].linear.bias += 0.5
    after = model(*windows())
    assert not torch.equal(before["expr"], after["expr"])
    assert torch.equal(before["au"], after["au"])


@pytest.mark.parametrize("tasks", [("expr",), ("va", "au")])
def test_heads_without_what_to_read_are_refused(tasks, config_of, widths):
    with pytest.raises(ValueError, match="classes_from = 'both': a task of classes and one that is none"):
        build_head(config_of(tasks=tasks, classes_from="both"), widths)
    kinds = {name: task.kind for name, task in ALL.items()}
    assert classes_problem(HeadConfig(tasks=tasks), kinds) is None
    assert classes_problem(HeadConfig(classes_from="both"), kinds) is None


def test_coupling_needs_features_of_more_than_one_task():
    assert "a head of the task va alone" in (head_problem(HeadConfig(tasks=("va",), coupling="gated")) or "")


# Subjects.


def test_subject_loss_by_hand():
    """Even logits over two known of three subjects: ln 2; a window of no subject does not count."""
    known = torch.tensor([[True, False, True]])
    logits = torch.zeros(1, 3, 3)
    assert float(subject_loss(logits, torch.tensor([[0, 2, -1]]), known=known)) == pytest.approx(math.log(2))
    logits[0, 0, 0] = logits[0, 1, 2] = math.log(3)
    logits[0, 2] = 100.0
    assert float(subject_loss(logits, torch.tensor([[0, 2, -1]]), known=known)) == pytest.approx(math.log(4 / 3))
    assert float(subject_loss(logits, torch.tensor([[-1, -1, -1]]), known=known)) == 0


def test_the_trunk_is_taught_the_opposite_of_the_classifier(config_of, widths, windows, labels):
    """The classifier's gradient is that of its cross-entropy, the trunk's that times minus the strength."""
    model = build_head(config_of(), widths)
    features = model.features(*windows())
    adversary = loss_of(model, [0]).adversary
    x = features.trunks[JOINT]
    pooled = x.mean(dim=2)
    plain = subject_loss(adversary.linear(pooled), labels[1][..., 0], known=adversary.subjects)
    wanted = torch.autograd.grad(plain.sum(), [x, adversary.linear.weight])
    loss = adversary(features, labels[1], torch.tensor([0.3]))
    torch.testing.assert_close(loss, plain)
    found = torch.autograd.grad(loss.sum(), [x, adversary.linear.weight])
    torch.testing.assert_close(found[0], -0.3 * wanted[0])
    torch.testing.assert_close(found[1], wanted[1])


def test_what_tells_subjects_apart_is_unlearned():
    """Of two inputs, the one that also tells subjects apart is used less than without the adversary."""
    generator = torch.Generator().manual_seed(0)
    subject = torch.arange(32) % 4
    label = torch.randn(32, generator=generator)
    x = torch.stack([label, (subject - 1.5)], dim=-1).view(1, 32, 1, 2)
    sizes = []
    for strength in (0.0, 2.0):
        weight = torch.ones(2, requires_grad=True)
        adversary = SubjectAdversary(1, torch.ones(1, 4, dtype=torch.bool))
        torch.nn.init.constant_(adversary.linear.weight, 0.1)
        torch.nn.init.zeros_(adversary.linear.bias)
        optimiser = torch.optim.SGD([weight, *adversary.parameters()], lr=0.05)
        for _ in range(300):
            z = (x * weight).sum(dim=-1, keepdim=True)
            features = Features({JOINT: z}, {JOINT: None}, z[..., 0] == z[..., 0], z[..., 0].long())
            task = (z.flatten() - label - 0.5 * (subject - 1.5)).square().mean()
            loss = task + adversary(features, subject.view(1, 32, 1), torch.tensor([strength])).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        sizes.append(weight.detach().abs())
    assert sizes[0][1] > 0.4
    assert sizes[1][1] < 0.7 * sizes[0][1]
    assert sizes[1][0] > 0.8


# Class embeddings.


def test_class_embedding_loss_is_the_cross_entropy_of_cosines():
    generator = torch.Generator().manual_seed(0)
    mapped, label = torch.randn(1, 6, 5, generator=generator), torch.randint(8, (1, 6, 1), generator=generator)
    mask = torch.tensor([True, True, False, True, True, True]).view(1, 6, 1)
    normal = functional.normalize(EMBEDDINGS, dim=-1)
    cosines = functional.cosine_similarity(mapped[0, :, None], EMBEDDINGS[None], dim=-1)
    wanted = functional.cross_entropy(cosines[mask[0, :, 0]] / TEMPERATURE, label[0, mask[0, :, 0], 0])
    torch.testing.assert_close(
        class_embedding_loss(mapped, label, mask, class_embeddings=normal.unsqueeze(0))[0], wanted, rtol=1e-4, atol=0
    )


def test_only_tasks_of_as_many_classes_are_aligned(config_of, widths, windows, labels):
    six = {**ALL, "mood": Task(group="expr", kind="classes", num_outputs=6)}
    model = build_head(config_of(tasks=tuple(six)), widths, tasks=six)
    config = LossConfig(class_embeddings="names.npy")
    loss = HeadLoss(
        MultiTaskLoss(ALL, [config]), [config], [0], model.trunk_widths, None, torch.cat([EMBEDDINGS, EMBEDDINGS[:1]])
    )
    assert list(loss.parameters()) == []
    features = model.features(*windows())
    totals, _ = loss(model.decode(features), labels[0], features)
    assert totals.isfinite().all()
