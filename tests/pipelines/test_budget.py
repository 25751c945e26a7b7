"""How much a head is trained, and the batches it is trained on."""

from collections import Counter

import polars as pl
import pytest
import torch

from heads.config import HeadConfig
from pipelines.config import TrainConfig
from pipelines.folds import NO_FOLD
from pipelines.strategy import strategy_of
from pipelines.training.budget import LEAST_BATCH, MOST_BATCH, batch_windows, evaluations
from pipelines.training.window_sampler import WindowSampler, make_window_source


@pytest.mark.parametrize(
    ("num_rows", "expected"), [(10, 4), (3_000, 4), (5_000, 8), (10_000, 16), (20_000, 32), (2_600_000, 32)]
)
def test_windows_per_step_follow_the_size_of_the_data(num_rows: int, expected: int) -> None:
    frames = pl.DataFrame({"split": ["train"] * num_rows + ["val"] * 500})
    assert batch_windows(TrainConfig(), frames) == expected
    assert LEAST_BATCH <= expected <= MOST_BATCH
    assert batch_windows(TrainConfig(batch_windows=5), frames) == 5


def test_heads_are_scored_every_so_many_steps_and_at_the_end() -> None:
    assert evaluations(TrainConfig(steps=100, eval_steps=40)) == [40, 80, 100]
    assert evaluations(TrainConfig(steps=80, eval_steps=40)) == [40, 80]
    assert evaluations(TrainConfig(steps=3, eval_steps=40)) == [3]


@pytest.fixture
def source(small, made):
    dataset, strategy = made.dataset(), strategy_of(small).replace({"batch_windows": 5}, "test")
    reader = dataset.reader(["va"], ["va"], HeadConfig(), ["base"])
    return make_window_source(dataset, reader, dataset.split(small.split, NO_FOLD).train, ("va",), strategy.train)


def test_batches_are_full_and_go_through_every_window_of_a_pass(source) -> None:
    generator = torch.Generator().manual_seed(source.config.seed)
    passes = torch.cat([source.one_pass(generator) for _ in range(3)])
    sampler = WindowSampler(source)
    batches = [sampler.batch() for _ in range(len(passes) // 5)]
    assert {batch.shape[0] for batch in batches} == {5}
    assert torch.equal(torch.cat(batches), passes[: 5 * len(batches)])


def test_passes_start_their_windows_elsewhere(source) -> None:
    generator = torch.Generator().manual_seed(3)
    starts = [frozenset(source.one_pass(generator)[:, 0].tolist()) for _ in range(8)]
    assert len(Counter(starts)) > 3


def test_a_sampler_resumes_at_any_batch(source) -> None:
    whole = WindowSampler(source)
    batches, states = [], []
    for _ in range(20):
        states.append(whole.state())
        batches.append(whole.batch())
    for place, state in enumerate(states):
        resumed = WindowSampler(source)
        resumed.load(state)
        for batch in batches[place:]:
            assert torch.equal(resumed.batch(), batch)


def test_a_batch_may_be_larger_than_a_pass(source) -> None:
    import dataclasses

    large = dataclasses.replace(source, config=dataclasses.replace(source.config, batch_windows=100))
    assert len(WindowSampler(large).batch()) == 100
