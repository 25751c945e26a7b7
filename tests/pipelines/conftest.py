"""Small made data, and a small configuration, for all tests of pipelines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from extract.config import BackboneConfig
from heads.config import HeadConfig
from helpers.made_project import WIDTHS, Made, make
from pipelines.config import Config, TrainConfig
from pipelines.report import command

WRITE_MODEL_FILES = command.write_model_files


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Heads here are tiny: threads would only wait for each other, the longer the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def no_figures_of_runs() -> Iterator[pytest.MonkeyPatch]:
    """`mtl train-head` and `mtl ensemble` draw no figures, which takes longer than such trainings; see `figures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "write_model_files", lambda *_: None)
        yield patch


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn."""
    monkeypatch.setattr(command, "write_model_files", WRITE_MODEL_FILES)


@pytest.fixture(scope="session")
def made() -> Made:
    """Six videos of 60 frames, three splits."""
    return make()


@pytest.fixture(scope="module")
def shared(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder of the made data that the tests of a file share."""
    folder = tmp_path_factory.mktemp("shared")
    made.write(folder)
    return folder


@pytest.fixture
def project(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the made data for one test, in which its commands are typed."""
    made.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small() -> Config:
    """A small head, two evaluations of six steps, three streams."""
    return Config(
        head=HeadConfig(width=16, depth=1, num_heads=2, dropout=0.1),
        train=TrainConfig(window=16, stride=8, batch_windows=4, steps=12, eval_steps=6, warmup_steps=6, lr=3e-3),
        backbones={name: BackboneConfig(model="test_vit") for name in WIDTHS},
    )
