"""Paired tests over videos: their differences are those of the scores, and chance is called chance."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from cache.labels import ABAW
from helpers import stub_study as stub
from pipelines.folds import NO_FOLD, Fold
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.intervals import GroupSums, drawn, group_sums, groups_of_runs
from pipelines.metrics.paired import compare, paired, step_down, versus_first
from pipelines.metrics.stability import ranks, stability
from pipelines.metrics.sums import scores as scores_of

TASKS = ("va", "expr", "au")


@pytest.fixture(scope="module")
def frames() -> pl.DataFrame:
    return stub.make_frames(20, 40)


def said(frames: pl.DataFrame, noise: float, seed: int) -> tuple[GroupSums, dict[str, float]]:
    """The sums of made predictions and their scores."""
    decisions = stub.pretend(frames, noise, np.random.default_rng(seed))
    table = stub.as_table(frames, decisions, "report", TASKS)
    return group_sums(table, labels_of(frames)), score(decisions, labels_of(frames), TASKS)


def test_the_difference_is_that_of_the_scores_and_seeds_are_averaged(frames: pl.DataFrame) -> None:
    runs = {seed: said(frames, 0.5, seed) for seed in (0, 1)}
    others = {seed: said(frames, 0.7, 10 + seed) for seed in (0, 1)}
    found = compare(
        {NO_FOLD: {seed: sums for seed, (sums, _) in runs.items()}},
        {NO_FOLD: {seed: sums for seed, (sums, _) in others.items()}},
        TASKS,
        num_swaps=50,
    )
    for name, key in (("P", "P"), ("va", "va.ccc_mean"), ("expr", "expr.f1_macro"), ("au", "au.f1_mean")):
        first, second = (np.mean([one[key] for _, one in side.values()]) for side in (runs, others))
        assert found.first[name] == pytest.approx(first)
        assert found.second[name] == pytest.approx(second)
        assert found.differences[name].value == pytest.approx(first - second)
    assert (found.sample.words, found.num_pairs) == ("20 videos", 2)


def test_a_better_strategy_is_told_and_the_same_one_is_not(frames: pl.DataFrame) -> None:
    good, bad = {NO_FOLD: {0: said(frames, 0.4, 0)[0]}}, {NO_FOLD: {0: said(frames, 0.8, 1)[0]}}
    found = compare(good, bad, TASKS, num_swaps=500).differences["P"]
    assert found.p < 0.01
    assert 0 < found.low < found.value < found.high
    turned = compare(bad, good, TASKS, num_swaps=500).differences["P"]
    assert turned.value == pytest.approx(-found.value)
    assert turned.p == pytest.approx(found.p)
    same = compare(good, good, TASKS, num_swaps=50).differences["P"]
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_two_videos_have_four_swaps_of_which_half_give_as_much(frames: pl.DataFrame) -> None:
    two = frames.filter(pl.col("video").is_in(frames["video"].unique(maintain_order=True)[:2].to_list()))
    found = compare({NO_FOLD: {0: said(two, 0.1, 0)[0]}}, {NO_FOLD: {0: said(two, 0.9, 1)[0]}}, TASKS, num_swaps=2000)
    assert found.differences["P"].p == pytest.approx(0.5, abs=0.05)


def test_the_videos_of_a_subject_are_swapped_together(frames: pl.DataFrame) -> None:
    """Twenty videos of two people are no more evidence than two videos."""
    people = np.array(["subject a", "subject b"])[frames["video"].rank("dense").to_numpy() % 2]
    one, two = (
        group_sums(stub.as_table(frames, said_of, "report", TASKS), labels_of(frames), people)
        for said_of in (stub.pretend(frames, noise, np.random.default_rng(1)) for noise in (0.1, 0.9))
    )
    found = compare({NO_FOLD: {0: one}}, {NO_FOLD: {0: two}}, TASKS, num_swaps=2000)
    assert (found.sample.words, found.sample.num_videos) == ("2 subjects", 20)
    assert found.differences["P"].p == pytest.approx(0.5, abs=0.05)


def test_folds_over_the_same_faces_draw_and_swap_them_alike() -> None:
    """As inner parts of one outer fold are: drawn apart, the same evidence would count twice."""
    sums = [of_quality(np.random.default_rng(seed).uniform(0, 1, 8), np.random.default_rng(seed)) for seed in range(2)]
    other = dataclasses.replace(sums[0], groups=tuple(f"w{index}" for index in range(8)))
    once = compare({Fold(0): {0: sums[0]}}, {Fold(0): {0: sums[1]}}, ("au",), num_swaps=300)
    twice = compare(
        {Fold(0): {0: sums[0]}, Fold(1): {0: sums[0]}},
        {Fold(0): {0: sums[1]}, Fold(1): {0: sums[1]}},
        ("au",),
        num_swaps=300,
    )
    assert twice.differences["au"] == once.differences["au"]
    assert twice.sample == once.sample
    apart = groups_of_runs([{Fold(0): {0: sums[0]}, Fold(1): {0: other}}])
    draws = drawn(apart, 50, 0)
    assert apart.sample.num_groups == 16
    assert (draws[Fold(0)] != draws[Fold(1)]).any()


def test_equal_strategies_are_called_different_in_a_twentieth_of_cases_even_on_few_videos() -> None:
    """Eight videos of very different quality: what a bootstrap's p-value gets wrong."""
    generator, rejected, rejected_bootstrap = np.random.default_rng(0), 0, 0
    for _ in range(300):
        one, two = ({NO_FOLD: {0: of_quality(generator.uniform(0, 1, 8), generator)}} for _ in range(2))
        found = compare(one, two, ("au",), num_swaps=200, num_resamples=200).differences["P"]
        rejected += found.p < 0.05
        rejected_bootstrap += not found.low <= 0 <= found.high
    assert rejected / 300 < 0.08, (rejected, rejected_bootstrap)
    assert rejected_bootstrap > 1.3 * rejected, (rejected, rejected_bootstrap)


def of_quality(quality: np.ndarray, generator: np.random.Generator) -> GroupSums:
    """Videos of 40 frames, in 20 of which each AU is on; a share of `quality` [V] is found."""
    hits = generator.binomial(20, quality[:, None], (len(quality), 12)).astype(float)
    au = np.stack([hits, np.full_like(hits, 20), np.full_like(hits, 20)], axis=-1)
    names = tuple(f"v{index}" for index in range(len(quality)))
    parts = {"va": np.zeros((len(names), 2, 6)), "expr": np.zeros((len(names), 8, 3)), "au": au}
    return GroupSums(groups=names, parts=parts)


def test_runs_are_paired_by_fold_and_seed_or_else_in_order() -> None:
    sums = [of_quality(np.full(3, 0.5), np.random.default_rng(seed)) for seed in range(4)]
    first, second = paired(
        {Fold(0): {1: sums[0], 2: sums[1]}, Fold(1): {1: sums[0]}}, {Fold(0): {2: sums[2], 3: sums[3]}}
    )
    assert first == {Fold(0): {2: sums[1]}}
    assert second == {Fold(0): {2: sums[2]}}
    first, second = paired({NO_FOLD: {0: sums[0], 1: sums[1]}}, {NO_FOLD: {7: sums[2]}})
    assert first == {NO_FOLD: {0: sums[0]}}
    assert second == {NO_FOLD: {0: sums[2]}}
    with pytest.raises(ValueError, match="no fold in common"):
        paired({Fold(0): {0: sums[0]}}, {Fold(1): {0: sums[0]}})


def test_a_video_that_one_of_them_lacks_counts_nothing() -> None:
    sums = of_quality(np.array([0.2, 0.9, 0.4]), np.random.default_rng(0))
    over = sums.over(("v2", "v9", "v0"))
    assert (over.parts["au"][0] == sums.parts["au"][2]).all()
    assert (over.parts["au"][1] == 0).all()
    assert (over.parts["au"][2] == sums.parts["au"][0]).all()


def test_the_adjusted_p_value_of_one_test_is_its_own_and_more_tests_raise_it() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1000))
    values /= np.sqrt((values[:, 1:] ** 2).mean(axis=1, keepdims=True))
    values[:, 0] = np.linspace(0, 3, 30)
    single = [step_down(values[k : k + 1])[0] for k in range(30)]
    assert single == pytest.approx([(np.abs(row) >= abs(row[0]) - 1e-12).mean() for row in values])
    adjusted = step_down(values)
    assert (adjusted >= np.array(single) - 1e-9).all()
    assert (np.diff(adjusted) <= 1e-9).all()  # the larger the difference, the smaller its p
    assert len(step_down(np.zeros((0, 0)))) == 0


def test_of_many_equal_strategies_rarely_any_is_told_from_the_first() -> None:
    """Unadjusted, with 19 tests at 5 %, some would be in most studies."""
    generator, told, unadjusted = np.random.default_rng(1), 0, 0
    for _ in range(60):
        strategies = [{NO_FOLD: {0: of_quality(generator.uniform(0.2, 0.8, 12), generator)}} for _ in range(20)]
        found = [one for one in versus_first(strategies, ("au",), num=200) if one]
        told += any(one.significant for one in found)
        unadjusted += any(one.difference.p < 0.05 for one in found)
    assert told / 60 < 0.15
    assert unadjusted / 60 > 0.3


def test_a_strategy_without_a_fold_in_common_with_the_first_is_not_tested() -> None:
    sums = of_quality(np.full(4, 0.5), np.random.default_rng(0))
    found = versus_first([{Fold(0): {0: sums}}, {Fold(1): {0: sums}}, {Fold(0): {0: sums}}], ("au",), num=20)
    assert found[0] is None
    assert found[1] is not None
    assert found[1].p_adjusted == 1.0


def p_of(sums: GroupSums) -> float:
    """The score of action units over all groups."""
    return float(scores_of({name: part.sum(axis=0) for name, part in sums.parts.items()}, ("au",), ABAW)["P"])


def test_a_first_that_the_same_videos_chose_must_lead_by_more() -> None:
    """The best of 30 equal strategies, tested on the very videos that made it the best."""
    generator, told, naive = np.random.default_rng(2), 0, 0
    for _ in range(30):
        strategies = [of_quality(generator.uniform(0.2, 0.8, 12), generator) for _ in range(30)]
        strategies.sort(key=lambda sums: -p_of(sums))
        runs = [{NO_FOLD: {0: sums}} for sums in strategies]
        told += any(one and one.significant for one in versus_first(runs, ("au",), num=200, chosen_here=True))
        naive += any(one and one.significant for one in versus_first(runs, ("au",), num=200))
    assert told <= 4, (told, naive)
    assert naive > 2 * max(told, 1), (told, naive)


def test_places_by_hand_and_equal_scores_keep_their_order() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [2.0, 1.0, 5.0], [1.0, 4.0, 2.0]])
    assert ranks(scores).tolist() == [[1, 2, 2], [2, 3, 1], [3, 1, 3]]


def test_a_clear_winner_stays_first_and_equal_ones_change_places() -> None:
    generator = np.random.default_rng(0)
    clear = of_quality(np.full(12, 0.95), generator)
    others = [of_quality(generator.uniform(0.2, 0.8, 12), generator) for _ in range(5)]
    found = stability([{NO_FOLD: {0: one}} for one in (clear, *others)], ("au",))
    assert (found[0].first, found[0].low, found[0].high, found[0].sample.num_groups) == (1.0, 1, 1, 12)
    assert sum(one.first for one in found) == pytest.approx(1.0)
    assert max(one.high - one.low for one in found[1:]) >= 2
