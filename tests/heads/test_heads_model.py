"""The assembled head over every fusion and temporal encoder, and heads joined progressively."""

import dataclasses

import pytest
import torch

from heads.config import LossConfig
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from heads.model import ProgressiveHead, build_head, build_progressive
from heads.tasks import ABAW_TASKS, Task

TASKS = ("va", "expr", "au")
ALL = {name: ABAW_TASKS[name] for name in TASKS}


@pytest.fixture
def targets():
    """Labels of windows [1, 3, 9] at every step."""
    generator = torch.Generator().manual_seed(0)
    va = torch.rand(1, 3, 9, 2, generator=generator)
    au = torch.rand(1, 3, 9, 12, generator=generator).round()
    values = {"va": va, "expr": torch.randint(0, 8, (1, 3, 9, 1), generator=generator), "au": au}
    return Labels(values, {name: value > -1 for name, value in values.items()})


@pytest.fixture
def separate(config_of, widths):
    """A head a task, with different streams and different numbers."""
    tasks = {"va": ("va",), "expr": ("expr", "va"), "au": tuple(widths)}
    return {
        task: build_head(config_of(tasks=(task,), dropout=0.2), {name: widths[name] for name in names}, (seed,))
        for seed, (task, names) in enumerate(tasks.items())
    }


def same(first, second):
    return all(torch.equal(first[task], second[task]) for task in second) and set(first) == set(second)


@pytest.mark.parametrize("tasks", [TASKS, ("au",), ("au", "va")])
def test_shapes_and_ranges(fusion, temporal, config_of, widths, windows, tasks):
    streams, valid, times = windows()
    outputs = build_head(config_of(fusion=fusion, temporal=temporal, tasks=tasks), widths)(streams, valid, times)
    assert {task: output.shape for task, output in outputs.items()} == {
        task: (1, 3, 9, ABAW_TASKS[task].num_outputs) for task in tasks
    }
    assert "va" not in tasks or outputs["va"].abs().max() <= 1


@pytest.mark.parametrize("causal", [False, True])
def test_heads_say_whether_they_see_later_steps(fusion, temporal, config_of, widths, windows, causal):
    """With all that stands between the encoder and the outputs."""
    streams, valid, times = windows()
    valid[..., 3:5] = True
    later = torch.arange(9) > 4
    values = {"latent": 4, "latent_va": "beside", "coupling": "gated", "classes_from": "both"}
    config = config_of(fusion=fusion, temporal=temporal, causal=causal, **values)
    head = build_head(config, widths).eval()
    before = head(streams, valid, times)
    other = {name: torch.where(later.unsqueeze(-1), -x, x) for name, x in streams.items()}
    after = head(other, torch.where(later, ~valid, valid), times + 50 * later)
    assert all(torch.equal(before[task][:, :, :5], after[task][:, :, :5]) for task in TASKS) == config.is_causal
    assert config.is_causal or not causal


def test_invalid_steps_never_reach_loss_or_gradient(fusion, temporal, config_of, widths, windows, spoiled, targets):
    streams, valid, times = windows()
    valid[:, 1] = False
    results = []
    for junk in (0.0, float("nan")):
        head = build_head(config_of(fusion=fusion, temporal=temporal), widths)
        outputs = head({name: spoiled(x, valid, junk) for name, x in streams.items()}, valid, times)
        loss, _ = MultiTaskLoss(ALL, [LossConfig()])(outputs, targets)
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in head.parameters())])
    for clean, spoilt in zip(*results, strict=True):
        assert clean.isfinite().all()
        torch.testing.assert_close(clean, spoilt, rtol=0, atol=0)


def test_every_parameter_moves_in_one_step(fusion, temporal, config_of, widths, windows, targets):
    streams, valid, times = windows()
    head = build_head(config_of(fusion=fusion, temporal=temporal, dropout=0.1), widths)
    before = {name: parameter.detach().clone() for name, parameter in head.named_parameters()}
    optimiser = torch.optim.SGD(head.parameters(), lr=10.0)
    MultiTaskLoss(ALL, [LossConfig()])(head(streams, valid, times), targets)[0].backward()
    optimiser.step()
    for name, parameter in head.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_state_dict_round_trip(fusion, temporal, config_of, widths, windows):
    config = config_of(fusion=fusion, temporal=temporal)
    first, second = build_head(config, widths, seeds=(0,)), build_head(config, widths, seeds=(1,))
    assert not same(first(*windows()), second(*windows()))
    second.load_state_dict(first.state_dict())
    assert same(first(*windows()), second(*windows()))


def test_seed_alone_decides(fusion, temporal, config_of, widths, windows):
    """Same seed, same numbers, also through dropout; and the caller's random state is left alone, and unheard."""
    config = config_of(fusion=fusion, temporal=temporal, dropout=0.3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_head(config, widths, seeds=(7,))
    noisy = [first(*windows())]
    first.rng.advance()
    noisy.append(first(*windows()))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_head(config, dict(reversed(widths.items())), seeds=(7,))
    assert same(second(*windows()), noisy[0])
    second.rng.advance()
    assert same(second(*windows()), noisy[1])
    assert not same(*noisy)
    assert same(first.eval()(*windows()), first(*windows()))


def test_seeds_of_dropout_and_of_parameters(config_of, widths, windows):
    """With equal parameters, another seed still drops other units; with dropout off nothing of the seed is left."""
    config = config_of(dropout=0.3)
    first, second = build_head(config, widths, seeds=(7,)), build_head(config, widths, seeds=(8,))
    second.load_state_dict(first.state_dict())
    assert not same(first(*windows()), second(*windows()))
    assert same(first.eval()(*windows()), second.eval()(*windows()))


def test_slices_of_parameters_are_drawn_from_their_own_seeds(config_of, widths):
    stacked = build_head(config_of(), widths, seeds=(4, 7, 7, 5))
    for index, seed in enumerate((4, 7, 7, 5)):
        alone = build_head(config_of(), widths, seeds=(seed,))
        for ours, theirs in zip(stacked.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours[index], theirs[0])


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["alone", "stacked"])
def test_bfloat16_autocast(fusion, temporal, config_of, widths, windows, targets, seeds):
    streams, valid, times = windows()
    head = build_head(config_of(fusion=fusion, temporal=temporal), widths, seeds)
    exact = head(streams, valid, times)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = head(streams, valid, times)
    loss, _ = MultiTaskLoss(ALL, [LossConfig()] * len(seeds))(outputs, targets)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    for task in TASKS:
        torch.testing.assert_close(outputs[task].float(), exact[task], rtol=0.1, atol=0.1)


def test_dropout_keeps_one_mask_a_window(config_of, widths, windows):
    streams, _, times = windows()
    valid = torch.ones_like(times, dtype=torch.bool)
    head = build_head(config_of(fusion="concat", dropout=0.5), widths)
    dropped = head.fusion(streams, valid, times)[0] == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert 0 < dropped[:, 0].float().mean() < 1
    assert not torch.equal(dropped[0], dropped[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": "sun"}, "fusion: unknown name 'sun'; known: concat"),
        ({"temporal": "rnn"}, "temporal encoder: unknown name 'rnn'; known: none"),
        ({"tasks": ("emotion",)}, "task: unknown name 'emotion'; known: va"),
        ({"tasks": ()}, "name at least one task"),
        ({"fusion": "attention", "num_heads": 3}, "attention fusion: width = 16 is not a multiple of num_heads = 3"),
        ({"temporal": "transformer", "num_heads": 3}, "transformer: width = 16 is not a multiple of 2 x num_heads = 6"),
        (
            {"temporal": "transformer", "num_heads": 16},
            "transformer: width = 16 is not a multiple of 2 x num_heads = 32",
        ),
        ({"temporal": "tcn", "kernel": 4}, "tcn: kernel = 4 must be odd"),
        ({"temporal": "tcn-multi", "kernel": 4}, "tcn-multi: kernel = 4 must be odd"),
        ({"temporal": "tcn-transformer", "num_heads": 3}, "tcn-transformer: width = 16 is not a multiple of 2 x"),
        ({"fusion": "cross-attention", "num_heads": 3}, "cross-attention fusion: width = 16 is not a multiple of 2 x"),
        ({"causal": True, "inputs": "both"}, "causal: inputs = 'both' takes the mean over the whole video"),
        ({"width": 0}, "width = 0 must be from 1 to 8192"),
        ({"dropout": 1.0}, "dropout = 1.0 must be at least 0 and below 1"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(config_of, widths, values, message):
    config = config_of(**{"fusion": "concat", "temporal": "none", **values})
    with pytest.raises(ValueError, match=message) as caught:
        build_head(config, widths)
    assert "\n" not in str(caught.value)


def test_no_stream_at_all(config_of):
    with pytest.raises(ValueError, match="no stream to read"):
        build_head(config_of(), {})


# Heads joined.


def test_joined_head_predicts_what_the_separate_heads_predict(separate, windows):
    joined = ProgressiveHead.from_separate(separate).eval()
    expected = {task: head.eval()(*windows())[task] for task, head in separate.items()}
    assert same(joined(*windows()), expected)


def test_tasks_of_another_schema(config_of, widths, windows):
    """Parts of a group, another range, other classes: a fourth task is one row."""
    tasks = {
        "valence": ABAW_TASKS["valence"],
        "pain": Task(group="pain", kind="continuous", num_outputs=1, low=0.0, high=10.0),
        "state": Task(group="state", kind="classes", num_outputs=3),
    }
    head = build_head(config_of(tasks=tuple(tasks), temporal="tcn"), widths, tasks=tasks)
    for parameter in head.outputs.parameters():
        parameter.data.mul_(100)
    outputs = head(*windows())
    assert {name: output.shape[-1] for name, output in outputs.items()} == {"valence": 1, "pain": 1, "state": 3}
    assert outputs["valence"].abs().max() <= 1
    assert 0 <= outputs["pain"].min() < 1
    assert 9 < outputs["pain"].max() <= 10
    predicted = {name: tasks[name].probabilities(output) for name, output in outputs.items()}
    torch.testing.assert_close(predicted["state"].sum(dim=-1), torch.ones(1, 3, 9))
    assert torch.equal(predicted["pain"], outputs["pain"])


def test_joined_head_holds_copies(separate, windows):
    before = separate["va"].eval()(*windows())
    joined = ProgressiveHead.from_separate(separate)
    for parameter in joined.parameters():
        parameter.data.add_(1.0)
    assert same(separate["va"](*windows()), before)


def test_trunks_learn_from_each_other(separate, windows, targets):
    """The exchange moves in the first step, and after it each task's loss reaches every trunk."""
    joined = ProgressiveHead.from_separate(separate)
    loss = MultiTaskLoss(ALL, [LossConfig()])
    optimiser = torch.optim.SGD(joined.parameters(), lr=0.5)
    loss(joined(*windows()), targets)[0].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in joined.exchange.parameters())
    optimiser.step()
    optimiser.zero_grad()
    joined(*windows())["va"].sum().backward()
    for head in joined.heads.values():
        assert any(parameter.grad.abs().max() > 0 for parameter in head.fusion.parameters())


def test_frozen_trunks_do_not_learn(separate, windows, targets):
    joined = ProgressiveHead.from_separate(separate)
    loss = MultiTaskLoss(ALL, [LossConfig()])
    for frozen in (True, False):
        joined.set_trunks_frozen(frozen)
        joined.zero_grad()
        loss(joined(*windows()), targets)[0].backward()
        for name, parameter in joined.named_parameters():
            trunk = ".fusion." in name or ".temporal." in name
            assert (parameter.grad is None) == (frozen and trunk), name


def test_joined_state_dict_round_trip(separate, windows, config_of, widths):
    joined = ProgressiveHead.from_separate(separate).eval()
    for parameter in joined.exchange.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    tasks = {"va": ("va",), "expr": ("expr", "va"), "au": tuple(widths)}
    stream_widths = {task: {name: widths[name] for name in names} for task, names in tasks.items()}
    configs = {task: config_of(dropout=0.2, tasks=(task,)) for task in tasks}
    other = build_progressive(configs, stream_widths, seeds=(9,)).eval()
    assert not same(other(*windows()), joined(*windows()))
    other.load_state_dict(joined.state_dict())
    assert same(other(*windows()), joined(*windows()))


def test_one_task_joined_is_itself(separate, windows):
    joined = ProgressiveHead.from_separate({"au": separate["au"]}).eval()
    assert same(joined(*windows()), separate["au"].eval()(*windows()))


def test_joined_heads_may_differ_in_width(separate, windows, config_of, widths):
    config = dataclasses.replace(config_of(tasks=("au",)), width=24, temporal="gru")
    heads = {"va": separate["va"], "au": build_head(config, widths)}
    joined = ProgressiveHead.from_separate(heads).eval()
    assert same(joined(*windows()), {task: head.eval()(*windows())[task] for task, head in heads.items()})
