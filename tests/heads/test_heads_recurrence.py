"""The recurrence of stacked heads is that of torch's own cells, values and gradients."""

import itertools

import pytest
import torch
from torch import nn

from heads.blocks import RecurrentBlock
from heads.layers import DropoutRng, linear
from heads.recurrent import gru_states, lstm_states
from heads.steps import Steps
from helpers.stacks import HEADS, assert_near

RECURRENCES = {"gru": (gru_states, nn.GRU, 3), "lstm": (lstm_states, nn.LSTM, 4)}


@pytest.fixture(params=RECURRENCES)
def recurrence(request):
    """(ours, torch's, number of gates)."""
    return RECURRENCES[request.param]


def run_recurrence(states_of, x, parameters):
    """`parameters`: input weight, hidden weight, input bias, hidden bias, stacked, as torch orders them."""
    input_weight, hidden_weight, input_bias, hidden_bias = parameters
    return states_of(linear(x, input_weight, input_bias), hidden_weight, hidden_bias)


@pytest.mark.parametrize(("num_windows", "num_steps"), [(4, 12), (4, 1), (1, 12), (1, 1)])
def test_recurrence_agrees_with_torch(recurrence, num_windows, num_steps):
    states_of, torch_cell, num_gates = recurrence
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, num_windows, num_steps, size, generator=generator) for size in (6, 5))
    sizes = ((3, num_gates * 5, 6), (3, num_gates * 5, 5), (3, num_gates * 5), (3, num_gates * 5))
    parameters = [torch.randn(size, generator=generator).mul(0.5).requires_grad_() for size in sizes]
    x.requires_grad_()
    states = run_recurrence(states_of, x, parameters)
    grads = torch.autograd.grad((states * noise).sum(), [x, *parameters])
    for head in HEADS:
        theirs = torch_cell(6, 5, batch_first=True)
        for parameter, ours in zip(theirs.parameters(), parameters, strict=True):
            parameter.data.copy_(ours[head])
        own_x = x[head].detach().requires_grad_()
        expected, _ = theirs(own_x)
        assert_near(states[head], expected)
        own_grads = torch.autograd.grad((expected * noise[head]).sum(), [own_x, *theirs.parameters()])
        for ours, wanted in zip(grads, own_grads, strict=True):
            assert_near(ours[head], wanted, wanted.shape)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_recurrence_gradient_agrees_with_differences(recurrence, num_steps):
    states_of, _, num_gates = recurrence
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, num_steps, num_gates * 2), (2, num_gates * 2, 2), (2, num_gates * 2))
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    assert torch.autograd.gradcheck(states_of, inputs)


def test_recurrence_of_tensors_that_do_not_lie_in_order(recurrence):
    """Gates, weights and the gradient from above all as views with other strides."""
    states_of, _, num_gates = recurrence
    generator = torch.Generator().manual_seed(0)
    gates = torch.randn(num_gates * 5, 7, 4, 2, generator=generator).permute(3, 2, 1, 0)
    weight = torch.randn(5, num_gates * 5, 2, generator=generator).permute(2, 1, 0)
    bias, noise = torch.randn(num_gates * 5, 2, generator=generator).T, torch.randn(5, 2, 7, 4, generator=generator)
    noise = noise.permute(1, 3, 2, 0)
    results = []
    for tidy in (torch.Tensor.contiguous, lambda x: x):
        inputs = [tidy(each).detach().requires_grad_() for each in (gates, weight, bias)]
        assert inputs[0].is_contiguous() == (not results)
        states = states_of(*inputs)
        results.append([states, *torch.autograd.grad(states, inputs, tidy(noise))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_recurrence_keeps_the_type_of_its_gates(recurrence):
    """That of autocast, whose gates come in half precision while weights stay as they are."""
    states_of, _, num_gates = recurrence
    gates = torch.zeros(2, 3, 4, num_gates * 5, dtype=torch.bfloat16)
    states = states_of(gates, torch.ones(2, num_gates * 5, 5), torch.ones(2, num_gates * 5))
    assert states.dtype == torch.bfloat16
    assert states.any()


@pytest.mark.parametrize("name", RECURRENCES)
def test_recurrent_block_is_torchs_over_the_valid_steps(name, config_of, windows, drawn):
    states_of, torch_cell, num_gates = RECURRENCES[name]
    config = config_of(width=7)  # of odd width: two directions of 4
    block = drawn(RecurrentBlock(states_of, num_gates, config, DropoutRng((0, 1), (0.0, 0.0))), 0, 1)
    _, valid, times = windows()
    x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    ours = block(x, Steps(valid, times))
    normed = block.norm(x)
    for head, window in itertools.product(range(2), range(3)):
        theirs = torch_cell(7, 4, batch_first=True, bidirectional=True)
        cells = [*block.past.parameters(), *block.future.parameters()]
        for parameter, cell in zip(theirs.parameters(), cells, strict=True):
            parameter.data.copy_(cell[head])
        real = valid[0, window]
        states, _ = theirs(normed[head, window, real].unsqueeze(0))
        wanted = nn.functional.linear(states[0], block.output.weight[head], block.output.bias[head])
        assert_near(ours[head, window, real], wanted)
