"""Exchange between tasks at each step by itself: of features before their outputs, of predictions after.

Letters: M stacked heads, B windows, T steps, D width, K outputs of a task.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.layers import Linear


class GatedCoupling(nn.Module):
    """Each task's features plus a gate times what the others' branches give: {task: [M, B, T, D]} -> the same.

    The coupling of AU and EXPR in "MTL-ABAW-11th" (arXiv 2607.16290) for any tasks. Gates start at zero, and the
    features themselves pass unchanged, so that the head starts as the uncoupled one.
    """

    def __init__(self, widths: Mapping[str, int], hidden: int, num_heads: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({task: Linear(num_heads, width, hidden) for task, width in widths.items()})
        others = hidden * (len(widths) - 1)
        self.mixes = nn.ModuleDict({task: Linear(num_heads, others, width) for task, width in widths.items()})
        self.gates = nn.ParameterDict({f"gate_{task}": nn.Parameter(torch.zeros(num_heads, 1)) for task in widths})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        branches = {task: functional.gelu(self.branches[task](x)) for task, x in features.items()}
        return {task: x + self._from_others(task, branches) for task, x in features.items()}

    def _from_others(self, task: str, branches: Mapping[str, Tensor]) -> Tensor:
        others = torch.cat([branch for other, branch in branches.items() if other != task], dim=-1)
        return self.gates[f"gate_{task}"].view(-1, 1, 1, 1) * torch.tanh(self.mixes[task](others))


class OutputReader(nn.Module):
    """Logits of classes from the predictions of other tasks, {task: [M, B, T, K]}, by an MLP."""

    def __init__(self, num_inputs: int, hidden: int, num_outputs: int, num_heads: int) -> None:
        super().__init__()
        self.rise = Linear(num_heads, num_inputs, hidden)
        self.fall = Linear(num_heads, hidden, num_outputs)

    def forward(self, predictions: Sequence[Tensor]) -> Tensor:
        return self.fall(functional.gelu(self.rise(torch.cat(list(predictions), dim=-1))))
