"""Smoothing over real time, thresholds worked by hand, and gains that are measured on videos that fitted nothing."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.labels import ABAW
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from heads.labels import Labels
from helpers import stub_runs as stub
from helpers.made_labels import abaw_labels
from pipelines.labels import labels_of
from pipelines.metrics.challenge import f1, score
from pipelines.metrics.sums import row_sums, task_score
from pipelines.postprocess import parts as parts_module
from pipelines.postprocess.affine import LEAST_SCALE, best_affine, match, matched_sums
from pipelines.postprocess.apply import Parameters, apply, components, default_cuts, probabilities_of
from pipelines.postprocess.fit import OPTIONS, fit
from pipelines.postprocess.offsets import CANDIDATES, best_offsets, class_curves, log_probabilities
from pipelines.postprocess.parts import Part, decide, difference, folds_of, make_part
from pipelines.postprocess.prior import TAUS, best_prior
from pipelines.postprocess.smoothing import GAUSSIAN_REACH, GRID, KERNELS, Smoothing, smooth
from pipelines.postprocess.thresholds import best_thresholds, threshold_candidates, threshold_curves
from pipelines.splits import groups_of

REAL = [name for name in KERNELS if name != "none"]


def test_components_are_those_that_change_a_prediction() -> None:
    assert components(Parameters().to_json()) == []
    zeros = {"expr": (0.0,) * 7 + (0.1,)}
    assert components(Parameters(offsets=zeros).to_json()) == ["offsets"]
    both = Parameters(smoothing={"au": Smoothing("box", 3)}, thresholds={"au": (0.4,) * 12})
    assert components(both.to_json()) == ["smoothing", "thresholds"]
    assert components(Parameters(affine={"va": ((1.0, 0.0), (1.0, 0.1))}).to_json()) == ["affine"]


def trace(num: int = 60, seed: int = 0, columns: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [R, K], videos and frames of three videos with gaps of 1 to 40 frames."""
    rng = np.random.default_rng(seed)
    frames = np.concatenate([np.cumsum(rng.integers(1, 40, num)) for _ in range(3)])
    return rng.random((3 * num, columns)), np.repeat([0, 1, 2], num), frames


def by_definition(values: np.ndarray, videos: np.ndarray, frames: np.ndarray, how: Smoothing) -> np.ndarray:
    """Frame after frame, as one would write it on a blackboard."""
    result = np.empty(values.shape)
    for row in range(len(values)):
        gap = np.abs(frames - frames[row])
        reach = GAUSSIAN_REACH * how.width if how.kernel == "gaussian" else how.width
        near = (videos == videos[row]) & (gap <= reach)
        if how.kernel == "median":
            result[row] = np.median(values[near], axis=0)
            continue
        weights = np.exp(-0.5 * (gap[near] / how.width) ** 2) if how.kernel == "gaussian" else np.ones(near.sum())
        result[row] = weights @ values[near] / weights.sum()
    return result


@pytest.mark.parametrize("kernel", REAL)
@given(seed=st.integers(0, 100), width=st.floats(0.5, 200))
@example(seed=0, width=math.nextafter(8.0, 0.0))
@settings(max_examples=15)
def test_smoothing_is_its_definition(kernel: str, seed: int, width: float) -> None:
    values, videos, frames = trace(num=20, seed=seed)
    order = np.random.default_rng(seed).permutation(len(values))
    how = Smoothing(kernel, width)
    expected = by_definition(values, videos, frames, how)
    np.testing.assert_allclose(smooth(values, videos, frames, how), expected, atol=1e-12)
    shuffled = smooth(values[order], videos[order], frames[order], how)
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_stays_constant(kernel: str) -> None:
    values, videos, frames = trace()
    constant = np.full(values.shape, 0.3)
    np.testing.assert_allclose(smooth(constant, videos, frames, Smoothing(kernel, 25.0)), 0.3, rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_width_is_the_identity(kernel: str) -> None:
    values, videos, frames = trace()
    np.testing.assert_array_equal(smooth(values, videos, frames, Smoothing(kernel, 0.0)), values)
    np.testing.assert_allclose(smooth(values, videos, frames, Smoothing(kernel, 1e-3)), values, atol=1e-12)


@pytest.mark.parametrize("kernel", REAL)
def test_one_video_cannot_change_another(kernel: str) -> None:
    values, videos, frames = trace()
    changed = values.copy()
    changed[videos == 1] = 1e6
    how = Smoothing(kernel, 100.0)
    before, after = smooth(values, videos, frames, how), smooth(changed, videos, frames, how)
    np.testing.assert_array_equal(before[videos != 1], after[videos != 1])
    assert (before[videos == 1] != after[videos == 1]).all()


@pytest.mark.parametrize(("kernel", "width"), [("gaussian", 9 / GAUSSIAN_REACH), ("box", 9.0), ("median", 9.0)])
def test_a_gap_longer_than_the_reach_separates(kernel: str, width: float) -> None:
    values, frames = np.array([[0.0], [1.0], [5.0], [7.0]]), np.array([1, 3, 13, 15])
    predicted = smooth(values, np.zeros(4, int), frames, Smoothing(kernel, width))
    apart = [smooth(values[r], np.zeros(2, int), frames[r], Smoothing(kernel, width)) for r in ([0, 1], [2, 3])]
    np.testing.assert_array_equal(predicted, np.concatenate(apart))
    closer = smooth(values, np.zeros(4, int), frames - np.array([0, 0, 1, 1]), Smoothing(kernel, width))
    assert closer[1] != predicted[1]


def test_widths_are_frames_not_rows() -> None:
    values, frames = np.array([[0.0], [3.0], [6.0]]), np.array([10, 11, 30])
    predicted = smooth(values, np.zeros(3, int), frames, Smoothing("box", 1.0))
    assert predicted[:, 0].tolist() == [1.5, 1.5, 6.0]
    heavy = math.exp(-0.5)
    predicted = smooth(values, np.zeros(3, int), frames, Smoothing("gaussian", 1.0))
    np.testing.assert_allclose(predicted[:, 0], [3 * heavy / (1 + heavy), 3 / (1 + heavy), 6.0])


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'gauss'; known: none, gaussian"):
        Smoothing("gauss", 2.0)
    with pytest.raises(ValueError, match="no number of frames"):
        Smoothing("box", -1.0)


def au_of(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    return labels.values["au"], labels.masks["au"]


def unit_labels(on: list[int]) -> Labels:
    """Labels of R rows whose AU1 is `on` and of which nothing else is known."""
    num = len(on)
    au, mask = np.zeros((num, 12), np.float32), np.zeros((num, 12), bool)
    au[:, 0], mask[:, 0] = on, True
    return abaw_labels(num, {"au": mask}, au=au)


def test_the_threshold_of_a_tiny_example() -> None:
    """Probabilities .1 .2 .3 .4 .6, shown in the last three: 0.25 gives F1 1. Two videos of two halve the log-odds."""
    probabilities = np.tile(np.array([0.1, 0.2, 0.3, 0.4, 0.6])[:, None], (1, 12))
    labels = unit_labels([0, 0, 1, 1, 1])
    candidates = threshold_candidates(probabilities)
    assert {0.15, 0.25, 0.35, 0.5} <= set(candidates[0].round(6).tolist())
    curves = threshold_curves(probabilities, candidates, *au_of(labels), np.array([0, 0, 0, 1, 1]), 2)
    at = int(np.argmin(np.abs(candidates[0] - 0.35)))
    assert curves[:, 0, at].tolist() == [[0, 0, 1], [2, 2, 2]]
    many = best_thresholds(candidates, curves.sum(axis=0), np.full(12, 1e12))
    assert many[0] == pytest.approx(0.25)
    assert many[1:].tolist() == [0.5] * 11
    two = best_thresholds(candidates, curves.sum(axis=0), np.full(12, 2.0))
    assert two[0] == pytest.approx(1 / (1 + math.sqrt(3)))
    assert best_thresholds(candidates, curves.sum(axis=0), np.zeros(12))[0] == 0.5


def test_curves_are_f1_at_every_candidate() -> None:
    """Also where a probability is exactly the threshold: then the AU is on."""
    rng = np.random.default_rng(0)
    probabilities, on = rng.random((300, 12)), rng.random(300) < 0.2
    probabilities[:40] = 0.5
    labels = unit_labels(on.astype(int).tolist())
    candidates = threshold_candidates(probabilities)
    curves = threshold_curves(probabilities, candidates, *au_of(labels), np.zeros(300, int), 1)[0, 0]
    for cut, (hits, predicted, true) in zip(candidates[0], curves, strict=True):
        assert 2 * hits / max(predicted + true, 1e-9) == pytest.approx(f1(probabilities[:, 0] >= cut, on))


@pytest.fixture(scope="module")
def parts() -> tuple[Part, Part]:
    """Select and report of a noisy run whose AUs are too seldom above 0.5."""
    frames = stub.make_frames()
    table = stub.predict(frames, 1.2, 0)
    return tuple(make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report"))


@pytest.mark.parametrize("name", TASKS)
def test_sums_score_as_the_metrics_do(name: str, parts: tuple[Part, Part]) -> None:
    part, task = parts[0], ABAW.tasks[name]
    predicted = decide(task, part.predicted.parts[name], np.array(default_cuts(task.group)))
    key = {"va": "va.ccc_mean", "expr": "expr.f1_macro", "au": "au.f1_mean"}[name]
    found = task_score(task, row_sums(task, predicted, part.labels).sum(axis=0))
    assert found == pytest.approx(score(part.predicted.decide(), part.labels, [name])[key], abs=1e-9)


def test_what_helps_is_kept_and_helps_on_report(parts: tuple[Part, Part]) -> None:
    fitted = fit(*parts)
    kept = {step.task.name: step for step in fitted.steps if step.kept}
    assert [step.components for step in fitted.steps if step.task.name == "au"] == list(OPTIONS["binary"])
    assert all(step.smoothing.kernel != "none" for step in kept.values())
    assert "thresholds" in kept["au"].components
    assert max(fitted.parameters.thresholds["au"]) < 0.5
    assert fitted.post["out_of_fold"]["P"] > fitted.plain["select"]["P"] + 0.3
    assert fitted.post["report"]["P"] > fitted.plain["report"]["P"] + 0.3
    assert fitted.interval.low > 0
    assert fitted.interval.sample.words == "6 videos"
    tasks = {"va": "va.ccc_mean", "expr": "expr.f1_macro", "au": "au.f1_mean"}
    for task, step in kept.items():
        assert step.in_fold == pytest.approx(fitted.post["in_fold"][tasks[task]], abs=1e-9)
        assert step.out_of_fold == pytest.approx(fitted.post["out_of_fold"][tasks[task]], abs=1e-9)
        assert step.report == pytest.approx(fitted.post["report"][tasks[task]], abs=1e-9)


def test_report_labels_change_no_parameter(parts: tuple[Part, Part]) -> None:
    select, report = parts
    other = dataclasses.replace(report, labels=labels_of(report.frames.reverse()))
    assert fit(select, other).parameters == fit(select, report).parameters


def test_a_fold_is_scored_with_what_the_others_fitted(parts: tuple[Part, Part]) -> None:
    """Labels of AU1 turned over in one fold: fitted without that fold, its threshold is that of the others."""
    select, report = parts
    fold, num = folds_of(select)
    assert num == 5
    assert all(len(np.unique(fold[groups_of(select.frames) == name])) == 1 for name in set(groups_of(select.frames)))
    au = select.labels.values["au"].copy()
    au[fold == 0] = 1 - au[fold == 0]
    labels = Labels({**select.labels.values, "au": au}, select.labels.masks)
    turned = dataclasses.replace(select, labels=labels)
    steps = {step.components: step for step in fit(turned, report).steps if step.task.name == "au"}
    honest = steps["thresholds",]
    assert honest.out_of_fold < honest.in_fold


def test_what_gains_nothing_is_left_out() -> None:
    """Predictions that are the labels cannot gain; neither can noise without any signal in time, by luck, on both."""
    frames = stub.make_frames()
    table = stub.predict(frames, 0.0, 0)
    fitted = fit(*(make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report")))
    assert fitted.parameters.smoothing == dict.fromkeys(TASKS, Smoothing())
    assert [step.task for step in fitted.steps if step.kept and "smoothing" in step.components] == []
    assert fitted.post["report"]["P"] >= fitted.plain["report"]["P"]


def test_tasks_without_labels_keep_their_defaults() -> None:
    """No AU label on select: AUs are not fitted. No expression on report: fitted, and its held-out score is unknown."""
    frames = stub.make_frames()
    table = stub.predict(frames, 1.2, 0)
    blind = frames.with_columns(
        *[pl.when(pl.col("split") == "test").then(pl.col(name)).alias(name) for name in ACTION_UNITS],
        pl.when(pl.col("split") == "val").then(pl.col("expression")).alias("expression"),
    )
    fitted = fit(*(make_part(table.filter(pl.col("part") == name), blind) for name in ("select", "report")))
    assert {step.task.name for step in fitted.steps} == {"va", "expr"}
    assert not fitted.parameters.thresholds
    assert "au" not in fitted.parameters.smoothing
    assert [step.report for step in fitted.steps if step.task.name == "expr"] == [None] * len(OPTIONS["classes"])
    assert fitted.post["report"]["unscored"] == ["expr"]
    assert fitted.post["report"]["P"] is None
    assert fitted.post["report"]["va.ccc_mean"] > fitted.plain["report"]["va.ccc_mean"]


def test_a_single_video_fits_nothing() -> None:
    frames = stub.make_frames(num_videos=2)
    table = stub.predict(frames, 1.2, 0)
    fitted = fit(*(make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report")))
    assert fitted.num_folds == 1
    assert fitted.post["out_of_fold"] is None
    assert fitted.interval is None
    assert fitted.post["report"] == fitted.plain["report"]
    assert fitted.parameters.thresholds["au"] == (0.5,) * 12


def test_a_difference_from_itself_is_none(parts: tuple[Part, Part]) -> None:
    predicted = parts[1].predicted.decide()
    assert difference(predicted, predicted, parts[1]).low == difference(predicted, predicted, parts[1]).high == 0


def test_apply_is_what_was_scored_and_keeps_the_table() -> None:
    frames = stub.make_frames()
    table = stub.predict(frames, 1.2, 0)
    select, report = (make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report"))
    fitted = fit(select, report)
    after = apply(fitted.parameters, table)
    assert after.schema == table.schema
    assert after.select("video", "frame", "part").equals(table.select("video", "frame", "part"))
    whole = make_part(after.filter(pl.col("part") == "report"), frames)
    scored = score(fitted.parameters.decide(whole.predicted), whole.labels)
    assert scored["P"] == pytest.approx(fitted.post["report"]["P"], abs=1e-6)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=0)
    assert apply(fitted.parameters, shuffled).sort("video", "frame").equals(after.sort("video", "frame"))
    assert apply(Parameters(), table).equals(table)


def test_offsets_change_the_class_and_no_probability() -> None:
    table = stub.predict(stub.make_frames(num_videos=4), 1.0, 0)
    after = apply(Parameters(offsets={"expr": (0.0, 100.0, *[0.0] * 6)}), table)
    assert set(after["expression"]) == {EXPRESSIONS.index("Anger")}
    assert after.drop("expression").equals(table.drop("expression"))
    assert apply(Parameters(offsets={"expr": (1.0,) * 8}), table)["expression"].equals(table["expression"])


def test_apply_takes_other_tables() -> None:
    """A table of one task without `part`; a part of a task's columns, or a hole, is refused."""
    table = stub.predict(stub.make_frames(), 1.0, 0, tasks=("expr",)).drop("part")
    after = apply(Parameters(smoothing={"expr": Smoothing("median", 10.0)}), table)
    np.testing.assert_allclose(probabilities_of(after).parts["expr"].sum(axis=1), 1, atol=1e-6)
    top = np.array([EXPRESSIONS.index("Anger")])
    assert (after.filter(pl.col("expression") == top[0])["p_Anger"] >= 1 / 8).all()
    with pytest.raises(ValueError, match="column 'p_Fear' is missing"):
        apply(Parameters(), table.drop("p_Fear"))
    with pytest.raises(ValueError, match="missing or not finite"):
        apply(Parameters(), table.with_columns(p_Fear=pl.lit(None)))
    with pytest.raises(ValueError, match=r"none of the columns of predictions is there \(valence, arousal, p_Neutral"):
        apply(Parameters(), table.select("video", "frame"))


def test_two_parts_of_one_video_never_meet() -> None:
    table = stub.predict(stub.make_frames(num_videos=2), 1.0, 0).with_columns(video=pl.lit("one"))
    table = table.with_columns(frame=pl.int_range(pl.len()))
    wide = Parameters(smoothing={"va": Smoothing("box", 1e6)})
    assert apply(wide, table)["valence"].n_unique() == 2


def test_parameters_round_trip() -> None:
    value = Parameters(
        smoothing={"va": Smoothing("box", 5.0)},
        affine={"va": ((1.2, -0.1), (0.8, 0.05))},
        thresholds={"au": tuple(np.linspace(0.1, 0.9, 12).tolist())},
        offsets={"expr": tuple(np.linspace(-1, 1, 8).tolist())},
    )
    again = Parameters.from_json(value.to_json(), "here")
    assert again.affine == value.affine
    assert again.thresholds == value.thresholds
    assert again.offsets == value.offsets
    assert again.smoothing["va"] == value.smoothing["va"]
    assert again.smoothing["au"] == Smoothing()


def test_parameters_with_odd_offsets_are_refused() -> None:
    stored = Parameters().to_json()
    stored["offsets"] = dict.fromkeys(EXPRESSIONS, 0.0) | {"Fear": float("inf")}
    with pytest.raises(ValueError, match="an offset is not a finite number"):
        Parameters.from_json(stored, "here")
    del stored["offsets"]["Anger"]
    with pytest.raises(ValueError, match="'Anger' is missing"):
        Parameters.from_json(stored, "here")
    del stored["offsets"]
    with pytest.raises(ValueError, match="'offsets' is missing"):
        Parameters.from_json(stored, "here")


@given(seed=st.integers(0, 1000), one=st.integers(0, 7))
@settings(max_examples=25)
def test_curves_of_a_class_are_the_metric_at_every_offset(seed: int, one: int) -> None:
    """Also where two classes are equally probable: then the first is predicted."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), 60)
    probabilities[:20] = 1 / 8
    classes, offsets = rng.integers(0, 8, 60), rng.choice(CANDIDATES, 8)
    offsets[rng.random(8) < 0.5] = 0
    values = rng.permutation(np.append(CANDIDATES, offsets[one]))
    logs = log_probabilities(probabilities)
    curves = class_curves(one, logs, offsets, classes, values)
    for value, curve in zip(values, curves, strict=True):
        predicted = (logs + np.where(np.arange(8) == one, value, offsets)).argmax(axis=1)
        expected = [((predicted == k) & (classes == k), predicted == k, classes == k) for k in range(8)]
        assert curve.tolist() == [[float(part.sum()) for part in parts] for parts in expected]


def test_the_offset_of_a_tiny_example() -> None:
    """Anger is predicted too seldom by a factor of 2: an offset of 0.7 or 0.8 finds all; two videos of two halve it."""
    probabilities = np.tile([0.6, 0.3, *[0.1 / 6] * 6], (6, 1))
    probabilities[:3, :2] = [0.7, 0.2]
    classes = np.array([0, 0, 0, 1, 1, 1])
    shown = np.array([1e12, 1e12, *[0.0] * 6])
    found = best_offsets(probabilities, classes, shown)
    predicted = (np.log(probabilities) + found).argmax(axis=1)
    assert predicted.tolist() == classes.tolist()
    assert found[2:].tolist() == [0.0] * 6
    half = best_offsets(probabilities, classes, np.array([2.0, 2.0, *[0.0] * 6]))
    np.testing.assert_allclose(half, found / 2, atol=1e-9)
    right = np.eye(8)[classes] * 0.8 + 0.025
    assert best_offsets(right, classes, shown).tolist() == [0.0] * 8  # nothing to gain, nothing changed


def skewed(frames: pl.DataFrame, table: pl.DataFrame, offsets: np.ndarray) -> tuple[Part, Part]:
    """The two parts of `table` with expression probabilities as by a head that has these class `offsets` wrong."""
    names = [f"p_{name}" for name in EXPRESSIONS]
    wrong = table.select(names).to_numpy().astype(np.float64) * np.exp(offsets)
    wrong /= wrong.sum(axis=1, keepdims=True)
    table = table.with_columns(pl.Series(name, wrong[:, k]) for k, name in enumerate(names))
    return tuple(make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report"))


def test_a_head_that_prefers_some_classes_is_put_right_on_videos_that_fitted_nothing() -> None:
    frames = stub.make_frames(num_videos=24)
    wrong = np.array([1.5, 1.5, 0, 0, 0, 0, -1.5, -1.5])
    fitted = fit(*skewed(frames, stub.predict(frames, 0.8, 0), wrong), grid=GRID[:3])
    steps = {step.components: step for step in fitted.steps if step.task.name == "expr"}
    plain, offsets = steps[()], steps["offsets",]
    assert list(steps) == list(OPTIONS["classes"])
    kept = next(step for step in steps.values() if step.kept)
    assert kept.components in (("offsets",), ("smoothing", "offsets"))
    assert fitted.parameters.offsets["expr"] == tuple(kept.choice.cuts)
    assert fitted.post["report"]["expr.f1_macro"] == pytest.approx(kept.report, abs=1e-9)
    assert offsets.out_of_fold > plain.out_of_fold + 0.1
    assert offsets.report > plain.report + 0.1
    assert np.corrcoef(offsets.choice.cuts, wrong)[0, 1] < -0.9
    assert plain.choice.cuts.tolist() == [0.0] * 8


def test_offsets_are_fitted_without_the_fold_that_scores_them() -> None:
    """Chance predictions: in fold offsets gain by their freedom, out of fold they gain next to nothing."""
    frames, gains = stub.make_frames(num_videos=24), []
    for seed in range(6):
        table = stub.predict(frames, 1.0, seed)
        guessed = table.with_columns(pl.col(f"p_{name}").reverse() for name in EXPRESSIONS)
        fitted = fit(*skewed(frames, guessed, np.zeros(8)), grid=GRID[:1])
        steps = {step.components: step for step in fitted.steps if step.task.name == "expr"}
        plain, offsets = steps[()], steps["offsets",]
        gains.append(
            [offsets.in_fold - plain.in_fold, offsets.out_of_fold - plain.in_fold, offsets.report - plain.report]
        )
        assert not (offsets.kept and offsets.out_of_fold <= plain.out_of_fold)
        assert (fitted.parameters.offsets["expr"] == (0.0,) * 8) == plain.kept
    inside, outside, held_out = np.mean(gains, axis=0)
    assert inside > 0.01, gains
    assert outside < inside / 2, gains
    assert abs(held_out) < inside / 2, gains


def test_the_first_of_the_grid_is_no_smoothing() -> None:
    assert GRID[0] == Smoothing()
    assert {how.kernel for how in GRID} == set(KERNELS)


def test_an_affine_match_brings_mean_and_deviation_to_those_of_the_labels() -> None:
    """Worked by hand: predictions 0, 0.2 of labels -0.4, 0.4 want a scale of 4 and a shift of -0.4."""
    x, y = np.array([0.0, 0.2]), np.array([-0.4, 0.4])
    sums = np.array([[2, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]])
    whole = best_affine(sums, np.array([1e12]))
    np.testing.assert_allclose(whole, [[4.0, -0.4]], atol=1e-6)
    after = match(x[:, None], whole, ABAW.group("va"))[:, 0]
    np.testing.assert_allclose(after, y, atol=1e-6)
    expected = [2, after.sum(), y.sum(), (after * after).sum(), (y * y).sum(), (after * y).sum()]
    np.testing.assert_allclose(matched_sums(sums, whole)[0], expected, atol=1e-6)
    np.testing.assert_allclose(best_affine(sums, np.array([2.0])), [[2.0, 0.1 - 0.05 - 0.2]], atol=1e-6)
    assert best_affine(sums, np.zeros(1)).tolist() == [[1.0, 0.0]]


def test_an_affine_match_never_leaves_the_range_and_a_constant_is_not_scaled() -> None:
    group = ABAW.group("va")
    assert match(np.array([[0.9, -0.9]]), np.array([[2.0, 0.0], [2.0, 0.0]]), group).tolist() == [[1.0, -1.0]]
    beyond = np.array([[1.01, 0.0]])
    assert match(beyond, np.array([[1.0, 0.0], [1.0, 0.0]]), group) is beyond
    still = np.array([[3, 0.6, 0.3, 0.12, 0.5, 0.06]])  # predicted 0.2 three times
    np.testing.assert_allclose(best_affine(still, np.array([1e12])), [[1.0, -0.1]], atol=1e-6)
    wild = np.array([[2, 0.0, 0.0, 200.0, 0.02, 0.0]])
    assert best_affine(wild, np.array([1e12]))[0, 0] == pytest.approx(LEAST_SCALE)


@pytest.mark.parametrize(("noise", "scale", "shift"), [(0.4, 0.4, 0.25), (0.0, 1.0, 0.0)])
def test_squeezed_values_are_matched_on_videos_that_fitted_nothing(noise: float, scale: float, shift: float) -> None:
    """And those that match already keep no affine match."""
    frames = stub.make_frames(num_videos=24)
    table = stub.predict(frames, noise, 0).with_columns(pl.col("valence", "arousal") * scale + shift)
    parts = [make_part(table.filter(pl.col("part") == name), frames) for name in ("select", "report")]
    fitted = fit(*parts, grid=GRID[:3])
    kept = next(step for step in fitted.steps if step.kept and step.task.name == "va")
    if scale == 1:
        assert "affine" not in kept.components
        return
    assert "affine" in kept.components
    assert fitted.post["report"]["va.ccc_mean"] > fitted.plain["report"]["va.ccc_mean"] + 0.3
    np.testing.assert_allclose(fitted.parameters.affine["va"], [(1 / scale, -shift / scale)] * 2, atol=0.5)
    assert apply(fitted.parameters, table)["valence"].is_between(-1, 1).all()


def test_a_prior_of_a_tiny_example() -> None:
    """Eight rows of Neutral and two of Anger, which is never the most probable: a tau below 1 brings it back."""
    classes = np.array([0] * 8 + [1] * 2)
    probabilities = np.full((10, 8), 1e-6)
    probabilities[:, 0], probabilities[:, 1] = 0.9, 0.1
    probabilities[8:, :2] = [0.6, 0.4]
    tau, cuts = best_prior(probabilities, classes)
    assert (np.log(probabilities) + cuts).argmax(axis=1).tolist() == classes.tolist()
    assert 0 < tau < 1
    assert tau in TAUS
    least = TAUS[int(np.flatnonzero(tau == TAUS)[0]) - 1]
    rates = -cuts / tau
    assert (np.log(probabilities) - least * rates).argmax(axis=1).tolist() != classes.tolist()  # the one nearest to 0
    assert best_prior(np.eye(8)[classes] * 0.8 + 0.025, classes)[0] == 0


def test_a_prior_is_one_number_for_all_classes() -> None:
    frames = stub.make_frames(num_videos=24)
    rare = frames.filter(~(pl.col("expression").is_in([4, 5, 6, 7]) & (pl.col("frame") % 5 > 0)))
    table = stub.predict(rare, 0.8, 0)
    classes = labels_of(rare).values["expr"][:, 0]
    rates = np.log(np.bincount(classes, minlength=8))
    select, report = skewed(rare, table, 1.5 * (rates - rates.mean()))
    steps = {step.components: step for step in fit(select, report, grid=GRID[:1]).steps if step.task.name == "expr"}
    prior = steps["prior",]
    assert 1.0 < prior.choice.tau < 2.0
    assert np.corrcoef(prior.choice.cuts, rates)[0, 1] < -0.95
    assert prior.out_of_fold > steps[()].out_of_fold + 0.1
    assert prior.report > steps[()].report + 0.1


def test_sums_of_folds_without_a_matrix_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sums, fold = rng.integers(0, 9, (200, 3, 2)).astype(np.float64), rng.integers(0, 6, 200)
    expected = parts_module.fold_sums(sums, fold, 7)
    assert expected.shape == (7, 3, 2)
    assert expected.sum() == sums.sum()
    monkeypatch.setattr(parts_module, "MOST_MEMBERS", 0)
    assert np.array_equal(parts_module.fold_sums(sums, fold, 7), expected)
