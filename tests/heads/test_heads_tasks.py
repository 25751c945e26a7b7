"""Task outputs: shapes and ranges."""

import pytest
import torch

from heads.tasks import TASK_OUTPUTS, build_output


@pytest.mark.parametrize("task", TASK_OUTPUTS)
@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (7,)])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_shape_and_gradient(task, shape, num_heads, drawn):
    output = drawn(build_output(task, 16, num_heads), *range(num_heads))
    y = output(torch.randn(num_heads, *shape, 16, generator=torch.Generator().manual_seed(0)))
    y.square().sum().backward()
    assert y.shape == (num_heads, *shape, TASK_OUTPUTS[task].num_outputs)
    for parameter in output.parameters():
        assert parameter.grad.abs().flatten(1).amax(dim=1).min() > 0


def test_numbers_of_outputs():
    assert {task: output.num_outputs for task, output in TASK_OUTPUTS.items()} == {"va": 2, "expr": 8, "au": 12}


def test_ranges(drawn):
    x = 1000 * torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0))
    assert drawn(build_output("va", 16, 1), 0)(x).abs().max() <= 1
    assert drawn(build_output("expr", 16, 1), 0)(x).abs().max() > 10
    assert drawn(build_output("au", 16, 1), 0)(x).abs().max() > 10


def test_unknown_task_lists_the_known():
    with pytest.raises(ValueError, match="task: unknown name 'emotion'; known: va, expr, au"):
        build_output("emotion", 16, 1)
