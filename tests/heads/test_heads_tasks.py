"""Task outputs: shapes and ranges."""

import pytest
import torch

from heads.tasks import TASK_OUTPUTS, build_output


@pytest.mark.parametrize("task", TASK_OUTPUTS)
@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (7,)])
def test_shape_and_gradient(task, shape):
    output = build_output(task, 16)
    y = output(torch.randn(*shape, 16, generator=torch.Generator().manual_seed(0)))
    y.square().sum().backward()
    assert y.shape == (*shape, TASK_OUTPUTS[task].num_outputs)
    assert all(parameter.grad.abs().max() > 0 for parameter in output.parameters())


def test_numbers_of_outputs():
    assert {task: output.num_outputs for task, output in TASK_OUTPUTS.items()} == {"va": 2, "expr": 8, "au": 12}


def test_ranges():
    x = 1000 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    assert build_output("va", 16)(x).abs().max() <= 1
    assert build_output("expr", 16)(x).abs().max() > 10
    assert build_output("au", 16)(x).abs().max() > 10


def test_unknown_task_lists_the_known():
    with pytest.raises(ValueError, match="task: unknown name 'emotion'; known: va, expr, au"):
        build_output("emotion", 16)
