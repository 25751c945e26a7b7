"""GRU and LSTM of M stacked heads: what `nn.GRU` and `nn.LSTM` compute, for all heads in one product per step.

torch's own run one cell at a time. Time is a loop here, so what a step costs is what counts: the backward pass is
written out, which keeps it to a few operations, and all that does not depend on the step before is done outside of it.
Letters: M stacked heads (both directions count apart), B windows, T steps, D hidden width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Recurrence = Callable[[Tensor, Tensor, Tensor], Tensor]


def gru_states(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States [M, B, T, D] of a GRU from zero; gates r, z, n in this order, as torch has them.

    Args:
        gates: [M, B, T, 3 D], what the inputs add to them.
        weight: [M, 3 D, D] from the state.
        bias: [M, 3 D] of the state's part.
    """
    states: Tensor = _Gru.apply(*_typed(gates, weight, bias))
    return states


def lstm_states(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States [M, B, T, D] of an LSTM from zero; gates i, f, g, o in this order, [M, B, T, 4 D] and so on."""
    states: Tensor = _Lstm.apply(*_typed(gates, weight, bias))
    return states


def _typed(gates: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In the type that autocast gave the gates, if it did."""
    return gates, weight.to(gates.dtype), bias.to(gates.dtype)


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        num_heads, num_windows, num_steps, width = gates.shape
        size = width // 3
        inputs, columns = gates.permute(2, 0, 1, 3).contiguous(), weight.transpose(1, 2).contiguous()
        state, offset = gates.new_zeros(num_heads, num_windows, size), bias.unsqueeze(1)
        states = gates.new_empty(num_steps, num_heads, num_windows, size)
        open_gates = gates.new_empty(num_steps, num_heads, num_windows, 2 * size)
        news, given = torch.empty_like(states), torch.empty_like(inputs)
        for step in range(num_steps):
            lent = torch.baddbmm(offset, state, columns, out=given[step])
            both = torch.add(inputs[step, ..., : 2 * size], lent[..., : 2 * size], out=open_gates[step]).sigmoid_()
            reset, keep = both[..., :size], both[..., size:]
            new = torch.addcmul(inputs[step, ..., 2 * size :], reset, lent[..., 2 * size :], out=news[step]).tanh_()
            state = torch.lerp(new, state, keep, out=states[step])
        ctx.save_for_backward(weight, states, open_gates, news, given[..., 2 * size :])
        return states.permute(1, 2, 0, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, states, open_gates, news, lent = ctx.saved_tensors
        outer = grads[0].permute(2, 0, 1, 3)
        size, before = states.shape[-1], _before(states)
        reset, keep = open_gates[..., :size], open_gates[..., size:]
        # How each gate's inner value moves the state, for all steps at once.
        by_new = (1 - keep) * (1 - news.square())
        by_keep = (before - news) * keep * (1 - keep)
        by_reset = by_new * lent * reset * (1 - reset)
        by_lent = by_new * reset
        moves = torch.cat([by_reset, by_keep, by_lent], dim=-1)
        inner, grads_at = torch.empty_like(moves), torch.empty_like(states)
        by_gate, of_gates = moves.unflatten(-1, (3, size)), inner.unflatten(-1, (3, size))
        grad = torch.zeros_like(states[0])
        for step in range(len(states) - 1, -1, -1):
            grad = torch.add(grad, outer[step], out=grads_at[step])
            torch.mul(by_gate[step], grad.unsqueeze(-2), out=of_gates[step])
            grad = torch.baddbmm(grad * keep[step], inner[step], weight)
        into_gates = torch.cat([inner[..., : 2 * size], by_new * grads_at], dim=-1)
        return into_gates.permute(1, 2, 0, 3), *_of_weights(inner, before)


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        num_heads, num_windows, num_steps, width = gates.shape
        size = width // 4
        inputs = (gates + bias[:, None, None]).permute(2, 0, 1, 3).contiguous()
        columns = weight.transpose(1, 2).contiguous()
        state = gates.new_zeros(num_heads, num_windows, size)
        cell = torch.zeros_like(state)
        states = gates.new_empty(num_steps, num_heads, num_windows, size)
        cells, active = torch.empty_like(states), torch.empty_like(inputs)
        for step in range(num_steps):
            act = torch.baddbmm(inputs[step], state, columns, out=active[step])
            into, forget, new, out = act.chunk(4, dim=-1)
            shown = torch.tanh(new)
            act.sigmoid_()
            new.copy_(shown)
            cell = torch.addcmul(forget * cell, into, new, out=cells[step])
            state = torch.mul(out, torch.tanh(cell), out=states[step])
        ctx.save_for_backward(weight, states, cells, active)
        return states.permute(1, 2, 0, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, states, cells, active = ctx.saved_tensors
        outer = grads[0].permute(2, 0, 1, 3)
        into, forget, new, out = active.chunk(4, dim=-1)
        shown, size = torch.tanh(cells), states.shape[-1]
        by_out = shown * out * (1 - out)
        by_cell = out * (1 - shown.square())
        moves = torch.cat(
            [new * into * (1 - into), _before(cells) * forget * (1 - forget), into * (1 - new.square())], dim=-1
        )
        inner = torch.empty_like(active)
        by_gate, of_gates = moves.unflatten(-1, (3, size)), inner.unflatten(-1, (4, size))
        grad, of_cell = torch.zeros_like(states[0]), torch.zeros_like(states[0])
        for step in range(len(states) - 1, -1, -1):
            grad = grad + outer[step]
            of_cell = torch.addcmul(of_cell, grad, by_cell[step])
            torch.mul(by_gate[step], of_cell.unsqueeze(-2), out=of_gates[step, ..., :3, :])
            torch.mul(grad, by_out[step], out=of_gates[step, ..., 3, :])
            of_cell = of_cell * forget[step]
            grad = torch.bmm(inner[step], weight)
        return inner.permute(1, 2, 0, 3), *_of_weights(inner, _before(states))


def _before(states: Tensor) -> Tensor:
    """[T, M, B, D]: the state each step began with."""
    return torch.cat([torch.zeros_like(states[:1]), states[:-1]])


def _of_weights(inner: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias from those of the gates [T, M, B, K], one product over all steps."""
    by_head = inner.permute(1, 0, 2, 3).flatten(1, 2)
    return torch.bmm(by_head.transpose(1, 2), before.permute(1, 0, 2, 3).flatten(1, 2)), by_head.sum(dim=1)
