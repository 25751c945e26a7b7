"""Windows made by hand for the tests of heads. Letters as there: M stacked heads, B windows, T steps, D width."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from heads.config import HeadConfig
from heads.fusion import FUSIONS
from heads.layers import initialise
from heads.temporal import TEMPORALS

WIDTHS = {"expr": 6, "va": 10, "au.b16": 3}
# Neither knows of the other, so each is tested with one of the other kind: all pairs took a minute.
PAIRS = [*((fusion, "gru") for fusion in FUSIONS), *(("concat", name) for name in TEMPORALS if name != "gru")]
JUNK = (float("nan"), float("inf"), -float("inf"), 1e30)


def make_config(**values: object) -> HeadConfig:
    return HeadConfig(**{"width": 16, "depth": 2, "num_heads": 2, "kernel": 3, "dropout": 0.0, **values})


def make_windows(num_windows: int = 3, num_steps: int = 9, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """streams {name: [1, B, T, Di]}, valid and times [1, B, T]: gaps of 1 to 199, each window with valid steps."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, num_windows, num_steps)
    streams = {name: torch.randn(*shape, width, generator=generator) for name, width in WIDTHS.items()}
    valid = torch.rand(shape, generator=generator) > 0.3
    valid[..., 0] = True
    times = torch.randint(1, 200, shape, generator=generator).cumsum(dim=2)
    return streams, valid, times


def spoil(x: Tensor, valid: Tensor, junk: float) -> Tensor:
    """`x` [M, B, T, D] with `junk` at every invalid step."""
    return x.masked_fill(~valid.unsqueeze(-1), junk)


def draw(module: nn.Module, *seeds: int) -> nn.Module:
    """`module` of as many heads as seeds initialised, then moved a little everywhere, as training does: no bias is 0
    and no gain 1."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    initialise(module, generators)
    for parameter in module.parameters():
        for head, generator in zip(parameter.data, generators, strict=True):
            head.add_(0.1 * torch.randn(head.shape, generator=generator))
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `fusion` and `temporal` run over `PAIRS`."""
    if {"fusion", "temporal"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("fusion", "temporal"), PAIRS)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The windows here are tiny: threads would only wait for each other, the longer the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config_of() -> Callable[..., HeadConfig]:
    return make_config


@pytest.fixture
def windows() -> Callable[..., tuple[dict[str, Tensor], Tensor, Tensor]]:
    return make_windows


@pytest.fixture
def drawn() -> Callable[..., nn.Module]:
    return draw


@pytest.fixture
def spoiled() -> Callable[[Tensor, Tensor, float], Tensor]:
    return spoil


@pytest.fixture
def widths() -> dict[str, int]:
    return dict(WIDTHS)


@pytest.fixture(params=JUNK, ids=str)
def junk(request: pytest.FixtureRequest) -> float:
    """What may stand at an invalid step or an unlabelled entry."""
    return request.param
