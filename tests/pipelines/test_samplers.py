"""Which trials a search tries: all in order, some at random, or those a model suggests; whole arms at a time."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers import stub_study as stub
from pipelines.search.grid import expand
from pipelines.search.loop import one_at_a_time, run_trials
from pipelines.search.samplers import next_trials
from pipelines.search.study import Result, Trial, make_trials, open_study
from pipelines.strategy import strategy_of

FRAMES, CONFIG = stub.make_frames(), stub.make_config()
INPUTS = stub.make_inputs(FRAMES, CONFIG)
LRS = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
DROPOUTS = [0.0, 0.1, 0.2, 0.3, 0.4]


def made(**study: object) -> tuple[object, tuple[Trial, ...]]:
    grid = stub.make_grid({"study": study, "product": {"lr": LRS, "dropout": DROPOUTS, "seed": [0, 1]}})
    return grid, make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, INPUTS)


def worth(trial: Trial) -> float:
    """Best at lr = 1e-3 and dropout 0.2, the same for all seeds."""
    flat = trial.strategy.flat()
    return 2.0 - abs(LRS.index(flat["lr"]) - 4) * 0.3 - abs(flat["dropout"] - 0.2)


def names(trials: Sequence[Trial]) -> set[str]:
    return {trial.digest for trial in trials}


def searched(study: object, trials: Sequence[Trial], batches: list[int] | None = None) -> list[Trial]:
    """What a search over made results tries, in order."""
    tried: list[Trial] = []

    def results() -> list[Result]:
        return [Result(trial, {"select": {"P": worth(trial)}, "report": {}}, 1.0, Path()) for trial in tried]

    while batch := next_trials(study, trials, [trial for trial in trials if trial not in tried], results):
        tried += batch
        if batches is not None:
            batches.append(len(batch))
    return tried


def test_in_order() -> None:
    grid, trials = made()
    assert searched(grid.study, trials) == list(trials)
    grid, trials = made(trials=7)
    assert searched(grid.study, trials) == list(trials[:7])


def test_at_random_is_the_same_for_the_same_seed_and_takes_whole_arms() -> None:
    grid, trials = made(sampler="random", trials=20)
    tried = searched(grid.study, trials)
    assert len(tried) == len(names(tried)) == 20
    assert tried != list(trials[:20])
    assert all(sum(trial.strategy.arm == other.strategy.arm for other in tried) == 2 for trial in tried)
    assert tried == searched(grid.study, trials)
    # What is finished already does not move the choice.
    rest = next_trials(grid.study, trials, [trial for trial in trials if trial not in tried[:5]], list)
    assert rest == tried[5:]
    other, _ = made(sampler="random", trials=20, sampler_seed=1)
    assert names(searched(other.study, trials)) != names(tried)


def test_a_model_tries_better_strategies_than_chance() -> None:
    """Behind the ten arms that are drawn at random, what it tries is better; the grid is used up, each trial once."""
    means: dict[str, list[float]] = {"tpe": [], "random": []}
    for name, found in means.items():
        for seed in range(4):
            grid, trials = made(sampler=name, trials=80, sampler_seed=seed)
            tried = searched(grid.study, trials)
            assert len(tried) == len(names(tried)) == 80
            found.append(sum(map(worth, tried[20:44])) / 24)
    assert sum(means["tpe"]) / 4 > sum(means["random"]) / 4 + 0.08, means


def test_a_model_asks_for_whole_arms_in_small_batches_up_to_its_number() -> None:
    grid, trials = made(sampler="tpe", trials=50)
    batches: list[int] = []
    tried = searched(grid.study, trials, batches)
    assert len(tried) == len(names(tried)) == 50
    assert max(batches) <= 16
    assert tried == searched(grid.study, trials)


def test_a_model_ends_an_arm_that_a_kill_cut_in_two() -> None:
    grid, trials = made(sampler="tpe", trials=50)
    half = trials[10]
    result = Result(half, {"select": {"P": 1.0}, "report": {}}, 1.0, Path())
    batch = next_trials(grid.study, trials, [trial for trial in trials if trial != half], lambda: [result])
    assert batch[0].strategy.arm == half.strategy.arm


@pytest.mark.parametrize(
    ("study", "says"),
    [
        ({"sampler": "tpe"}, "sampler = 'tpe' needs trials"),
        ({"sampler": "bayes"}, "expected one of 'grid', 'random', 'tpe'"),
        ({"trials": -1}, "trials: expected a whole number from 0 to 10000000, found -1"),
        ({"halving": 1}, "halving: 1 would end nothing"),
        ({"halving": 3, "halving_first": 0}, "halving_first: expected a whole number from 1 to 1000000000, found 0"),
    ],
)
def test_wrong_settings_are_one_line(study: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(**study)


def test_a_search_continues_until_the_sampler_has_no_more(tmp_path: Path) -> None:
    from pipelines.search.record import Record

    grid, trials = made(sampler="tpe", trials=30)
    trainer = stub.make_trainer(FRAMES, CONFIG)
    with open_study(tmp_path / "study", grid, INPUTS, trials) as study:

        def choose(left: Sequence[Trial]) -> list[Trial]:
            return next_trials(grid.study, trials, left, study.results)

        first = run_trials(
            study, trials, one_at_a_time(study, trainer), Record(study, grid.fields), choose=choose, limit=11
        )
        assert (first.num_done, first.num_before) == (11, 0)
        second = run_trials(study, trials, one_at_a_time(study, trainer), Record(study, grid.fields), choose=choose)
        assert (second.num_done, second.num_before, second.num_left) == (19, 11, 0)
        assert len(study.results()) == 30
