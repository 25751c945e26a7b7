"""Task outputs: shapes and ranges."""

import pytest
import torch

from heads.tasks import ABAW_TASKS, Output, find_task


@pytest.mark.parametrize("task", ABAW_TASKS)
@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (7,)])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_shape_and_gradient(task, shape, num_heads, drawn):
    output = drawn(Output(ABAW_TASKS[task], 16, num_heads), *range(num_heads))
    y = output(torch.randn(num_heads, *shape, 16, generator=torch.Generator().manual_seed(0)))
    y.square().sum().backward()
    assert y.shape == (num_heads, *shape, ABAW_TASKS[task].num_outputs)
    for parameter in output.parameters():
        assert parameter.grad.abs().flatten(1).amax(dim=1).min() > 0


def test_numbers_of_outputs():
    assert {task: output.num_outputs for task, output in ABAW_TASKS.items()} == {
        "va": 2,
        "valence": 1,
        "arousal": 1,
        "expr": 8,
        "au": 12,
    }


def test_ranges(drawn):
    x = 1000 * torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0))
    assert drawn(Output(ABAW_TASKS["va"], 16, 1), 0)(x).abs().max() <= 1
    assert drawn(Output(ABAW_TASKS["expr"], 16, 1), 0)(x).abs().max() > 10
    assert drawn(Output(ABAW_TASKS["au"], 16, 1), 0)(x).abs().max() > 10


def test_unknown_task_lists_the_known():
    with pytest.raises(ValueError, match="task: unknown name 'emotion'; known: va, valence, arousal, expr, au"):
        find_task(ABAW_TASKS, "emotion")
