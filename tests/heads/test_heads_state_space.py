"""The diagonal state space is exact over gaps, and its loop is what autograd makes of it."""

import torch

from heads.layers import DropoutRng
from heads.state_space import StateSpace, StateSpaceBlock, _Scan, spectrum, states_before
from heads.steps import Steps


def test_the_loop_is_that_of_autograd():
    generator = torch.Generator().manual_seed(0)
    terms = [torch.randn(5, 2, 3, 4, dtype=torch.complex128, generator=generator).requires_grad_() for _ in range(2)]

    def plain(factors, inputs):
        states, state = [], torch.zeros_like(inputs[0])
        for factor, value in zip(factors, inputs, strict=True):
            states.append(state)
            state = factor * state + value
        return torch.stack(states)

    wanted, found = plain(*terms), _Scan.apply(*terms)
    torch.testing.assert_close(found, wanted)
    noise = torch.randn(found.shape, dtype=found.dtype, generator=generator)
    pairs = zip(*(torch.autograd.grad(each, terms, noise) for each in (found, wanted)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_a_gap_is_as_many_steps_of_one_frame(drawn):
    """Embeddings hold until the next step: repeated at every frame between, they leave the same states."""
    space = drawn(StateSpace(2, 6), 0, 1)
    gaps = torch.tensor([3, 1, 7, 0])  # frames until the next step
    x = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(2))
    each_frame = x.repeat_interleave(gaps.clamp(min=1), dim=2)
    sparse = states_before(space(x, gaps.expand(1, 1, 4)))
    ones = torch.ones(1, 1, each_frame.shape[2], dtype=torch.int64)
    dense = states_before(space(each_frame, ones))
    at = torch.tensor([0, 3, 4, 11])
    torch.testing.assert_close(sparse, dense[:, at], rtol=1e-5, atol=1e-5)
    assert sparse[:, 1:].abs().min() > 1e-4
    assert not sparse[:, 0].any()


def test_a_constant_embedding_comes_through_as_it_is(drawn):
    space = drawn(StateSpace(1, 6), 0)
    x = torch.randn(6, generator=torch.Generator().manual_seed(3)).expand(1, 1, 40, 6)
    states = states_before(space(x, torch.full((1, 1, 40), 1000)))
    wanted = space.input(x).chunk(2, dim=-1)
    for part, value in zip(states, wanted, strict=True):
        torch.testing.assert_close(part[-1, 0, 0], value[0, 0, -1])


def test_time_constants_before_training():
    rates, frequencies = spectrum(64, torch.device("cpu"))
    assert (1 / rates).tolist()[::21] == sorted((1 / rates).tolist()[::21])
    torch.testing.assert_close(1 / rates[[0, -1]], torch.tensor([1.0, 256.0]))
    torch.testing.assert_close(frequencies[4:8] / rates[4:8], torch.pi * torch.arange(4.0))


def test_both_sides_are_mirror_images(config_of, drawn):
    """With the same parameters on either side, a window read backwards gives what it gave, backwards."""
    block = drawn(StateSpaceBlock(config_of(), DropoutRng((0,), (0.0,))), 0)
    block.sides[1].load_state_dict(block.sides[0].state_dict())
    past, future = block.output.weight.data[..., :16], block.output.weight.data[..., 16:32]
    future.copy_(past)
    x, times = torch.randn(1, 1, 5, 16, generator=torch.Generator().manual_seed(4)), torch.tensor([[[0, 2, 3, 9, 40]]])
    valid = torch.tensor([[[True, True, False, True, True]]])
    forwards = block(x, Steps(valid, times.masked_fill(~valid, 0)))
    backwards = block(x.flip(2), Steps(valid.flip(2), (40 - times).masked_fill(~valid, 0).flip(2)))
    torch.testing.assert_close(forwards[valid], backwards.flip(2)[valid], rtol=1e-5, atol=1e-5)
