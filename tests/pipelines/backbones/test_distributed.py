"""Two processes do what one does with the same global batch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from extract.backbones.norms import moving_norms
from helpers import two_processes
from helpers.processes import python, start, world
from pipelines.backbones.distributed import World, open_world


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found together."""
    folder = tmp_path_factory.mktemp("found")
    running = [start(two_processes.main, folder, env=env) for env in world(2)]
    ends = [each.end() for each in running]
    assert [code for code, _, _ in ends] == [0, 0], ends
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds."""
    with torch.random.fork_rng(devices=[]):
        trained: dict[str, Any] = two_processes.train(World())
    return trained


def test_two_train_as_one(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """The same losses and weights: CCC, masked means, learned task weights, accumulation, parts of unequal size and
    faces that cannot be read, all of one process's among them."""
    first, second = found
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(first["weights"], alone["weights"], atol=1e-5)
    assert first["losses"] == second["losses"]
    assert first["weights"] == second["weights"]
    assert alone["losses"][0] != alone["losses"][-1]


def test_what_is_gathered_is_in_order(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["every"] == [[0, 0], [1, 1], [1, 1], [1, 1]]
        assert each["flags"] == [True, False]
        assert each["parts"] == [[0, 1, 2], [3, 4]]
        assert each["mean"] == [1, 1]
    assert found[0]["gradient"] == [[1, 1]]
    assert found[1]["gradient"] == [[2, 2], [3, 3], [4, 4]]


def test_batch_normalisation_wants_gpus(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert "1 batch normalisations (1, ...)" in each["norm"]
        assert "only do on GPUs" in each["norm"]
        assert each["mode"]


def test_a_norm_that_stands_still_is_no_trouble() -> None:
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    moving, still = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), nn.Sequential(Frozen(2))
    moving[0].eval()
    assert moving_norms(moving) == ["0"]
    assert [part.training for part in moving.modules()] == [True, False, True]
    assert moving_norms(still) == []


def test_a_world_of_one_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model, output = nn.BatchNorm1d(2), torch.zeros(3, 2)
    with open_world("cpu") as (world, device):
        assert (world, device) == (World(), torch.device("cpu"))
        assert world.wrap(model) is model
        assert world.gather(output) is output
        assert world.gather_objects("x") == ["x"]
        with world.no_sync(model):
            world.barrier()


def test_torchrun_has_a_module_to_start() -> None:
    assert "Examples" in python("-m", "pipelines.cli", "finetune", "--help").stdout


def test_one_gpu_is_not_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="use --device cuda, which gives each its own"), open_world("cuda:1"):
        pass
