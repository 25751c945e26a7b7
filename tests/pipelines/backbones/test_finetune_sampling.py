"""Which faces an epoch shows and how often, and mixup: frequencies, determinism, and losses made by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from heads.config import LossConfig
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from heads.tasks import ABAW_TASKS, Task
from helpers.made_labels import abaw_labels
from pipelines.backbones.finetuning import mixup
from pipelines.backbones.sampling import (
    Pool,
    capped,
    draw_rows,
    epoch_steps,
    make_pool,
    rarity_of,
    resampled,
    source_shares,
)
from pipelines.config import FinetuneConfig
from pipelines.labels import as_tensors

PLAIN = FinetuneConfig(batch_size=8)


def labels_for(num: int, masks: dict[str, np.ndarray] | None = None, **given: np.ndarray) -> Labels:
    """Labels of `num` rows of which none is labelled, but for what is `given` or in `masks`."""
    return abaw_labels(num, masks, **given)


def tasks(*names: str) -> list[Task]:
    return [ABAW_TASKS[name] for name in names]


def pool_of(lengths: list[int], **changes: Any) -> Pool:
    """Rows of videos with these numbers of frames, in one set, all labelled with expression 0."""
    num = sum(lengths)
    labels = labels_for(num, expr=np.zeros(num))
    video = np.repeat(np.arange(len(lengths)), lengths)
    return dataclasses.replace(
        make_pool(labels, np.arange(num), video, np.zeros(num, np.int64), tasks("expr")), **changes
    )


def shown(pool: Pool, config: FinetuneConfig, key: np.ndarray, epochs: int = 20) -> np.ndarray:
    """How often faces of each number in `key` [R] are shown, as parts of 1."""
    rows = np.concatenate([draw_rows(pool, config, np.random.default_rng([0, epoch])) for epoch in range(epochs)])
    return np.bincount(key[rows], minlength=key.max() + 1) / len(rows)


def test_an_epoch_shows_every_row_once() -> None:
    pool = pool_of([30, 5, 15])
    steps = epoch_steps(pool, PLAIN, 1)
    drawn = np.concatenate([part for step in steps for part in step])
    assert sorted(drawn) == list(range(50))
    assert {len(step) for step in steps} == {1}
    assert [len(step[0]) for step in steps] == [8, 7, 7, 7, 7, 7, 7]
    assert drawn.tolist() != sorted(drawn)
    again = epoch_steps(pool, PLAIN, 1)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(steps, again, strict=True))
    assert not np.array_equal(steps[0][0], epoch_steps(pool, PLAIN, 2)[0][0])


@pytest.mark.parametrize(
    ("num", "limit", "sizes"), [(65, 0, [33, 32]), (64, 0, [64]), (300, 100, [50, 50]), (1, 0, [1])]
)
def test_steps_are_of_even_size(num: int, limit: int, sizes: list[int]) -> None:
    config = FinetuneConfig(batch_size=64, max_faces_per_epoch=limit)
    assert [len(step[0]) for step in epoch_steps(pool_of([num]), config, 1)] == sizes


def test_accumulation_cuts_the_steps_of_a_large_batch() -> None:
    pool = pool_of([64])
    whole = epoch_steps(pool, FinetuneConfig(batch_size=32), 1)
    cut = epoch_steps(pool, FinetuneConfig(batch_size=8, accumulate=4), 1)
    assert [len(part) for part in cut[0]] == [8, 8, 8, 8]
    assert [np.concatenate(step).tolist() for step in cut] == [step[0].tolist() for step in whole]
    assert [len(part) for part in epoch_steps(pool_of([5]), FinetuneConfig(batch_size=2, accumulate=9), 1)[0]] == [3, 2]


def test_a_video_shows_no_more_than_it_may() -> None:
    pool, config = pool_of([40, 3]), FinetuneConfig(max_faces_per_video=5)
    one, two = (draw_rows(pool, config, np.random.default_rng([0, epoch])) for epoch in (1, 2))
    assert np.bincount(pool.video[one]).tolist() == [5, 3]
    assert set(one) != set(two)
    assert capped(np.array([5, 4, 3, 2]), np.array([0, 0, 0, 1, 1, 1]), 1).tolist() == [5, 2]


def test_long_videos_count_by_the_root_of_their_length() -> None:
    pool = pool_of([100, 25, 4, 1])
    parts = shown(pool, FinetuneConfig(balance="videos"), pool.video, epochs=40)
    assert parts == pytest.approx(np.array([10, 5, 2, 1]) / 18, abs=0.01)


def test_rare_expressions_count_by_the_root_of_their_rarity() -> None:
    expr = np.repeat([0, 3, 6], [160, 30, 10])
    labels = labels_for(200, expr=expr)
    zeros = np.zeros(200, np.int64)
    pool = make_pool(labels, np.arange(200), np.arange(200), zeros, tasks("expr"))
    parts = shown(pool, FinetuneConfig(balance="labels"), expr)
    roots = np.sqrt([160, 30, 10])
    assert parts[[0, 3, 6]] == pytest.approx(roots / roots.sum(), abs=0.01)
    assert len(draw_rows(pool, FinetuneConfig(balance="labels"), np.random.default_rng(0))) == 200


def test_the_rarest_unit_of_a_face_decides_and_unlabelled_units_do_not() -> None:
    au, mask = np.zeros((100, 12), np.float32), np.zeros((100, 12), bool)
    au[:25, 0], mask[:, 0] = 1, True
    au[:1, 1], mask[:, 1] = 1, True
    au[50, 2] = 1  # under a mask: means nothing
    labels = labels_for(100, {"au": mask}, au=au)
    rarity = rarity_of(labels, np.arange(100), tasks("au"))
    assert rarity[[0, 1, 50, 99]] == pytest.approx([10, 2, 1, 1])
    assert rarity_of(labels, np.arange(1, 100), tasks("au"))[0] == 10  # never seen in training: at most
    assert rarity_of(labels, np.arange(100), tasks("expr", "va"))[0] == 1


def test_tasks_of_a_row_are_averaged() -> None:
    expr = np.repeat([0, 1], [75, 25])
    labels = labels_for(100, expr=expr, va=np.zeros((100, 2)))
    rarity = rarity_of(labels, np.arange(100), tasks("va", "expr"))
    assert rarity[99] == pytest.approx((1 + 2) / 2)


def test_sets_have_their_share_of_an_epoch() -> None:
    source = np.repeat([0, 1, 2], [80, 10, 10])
    pool = pool_of([100], source=source, shares=(0.0, 0.5, 0.0))
    parts = shown(pool, PLAIN, source)
    assert parts == pytest.approx([0.5 * 8 / 9, 0.5, 0.5 / 9], abs=0.01)
    assert source_shares((0.0, 0.0), np.array([30, 10])).tolist() == [0.75, 0.25]
    for given in ((0.0, 1.0), (0.0, 0.7, 0.7), (0.0, -0.1)):
        with pytest.raises(ValueError, match=r"share: .*together below 1"):
            source_shares(given, np.ones(len(given)))


def test_resampling_rounds_each_weight_up_or_down() -> None:
    weights = np.array([5.0, 2.5, 0.1, 2.4])
    counts = np.bincount(resampled(weights, 100, np.random.default_rng(3)), minlength=4)
    assert (np.abs(counts - 100 * weights / 10) < 1).all()


LOSS = LossConfig(continuous_loss="ccc+mse", class_weights=False, positive_weights=False)


def some_targets() -> Labels:
    """Six faces: labelled for all, for all, without AU3, for expressions, for VA, for nothing."""
    rng = np.random.default_rng(0)
    masks = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    au_mask = np.repeat(masks[:, 2:], 12, axis=1)
    au_mask[2, 2] = False
    known = {"va": masks[:, 0], "expr": masks[:, 1], "au": au_mask}
    va, expr = rng.uniform(-1, 1, (6, 2)).astype(np.float32), rng.integers(0, 8, 6)
    return as_tensors(labels_for(6, known, va=va, expr=expr, au=rng.integers(0, 2, (6, 12)).astype(np.float32)))


def test_mixed_losses_are_those_made_by_hand() -> None:
    """Cross-entropy of soft labels, over the faces whose pair is labelled for the task."""
    targets, share = some_targets(), 0.3
    partner = mixup.partners(torch.ones(6, dtype=torch.bool))
    assert partner.tolist() == [1, 0, 3, 2, 5, 4]
    one, other = mixup.mix_targets(targets, partner, share, ABAW_TASKS.values())
    assert one.masks["expr"][:, 0].tolist() == [True] * 4 + [False] * 2
    assert one.masks["va"][:, 0].tolist() == [True] * 2 + [False] * 4
    assert one.masks["au"].sum(dim=1).tolist() == [12, 12, 0, 0, 0, 0]
    outputs = {"va": torch.rand(1, 6, 2), "expr": torch.randn(1, 6, 8), "au": torch.randn(1, 6, 12)}
    loss = MultiTaskLoss({name: ABAW_TASKS[name] for name in outputs}, [LOSS])
    parts = [loss(outputs, each.map(lambda x: x.unsqueeze(0)))[1] for each in (one, other)]
    found = {task: share * parts[0][task][0] + (1 - share) * parts[1][task][0] for task in outputs}
    expr = torch.eye(8)[targets.values["expr"][:, 0]]
    soft = share * expr + (1 - share) * expr[partner]
    wanted = -(soft * outputs["expr"][0].log_softmax(-1)).sum(dim=-1)[:4].mean()
    torch.testing.assert_close(found["expr"], wanted)
    units = share * targets.values["au"] + (1 - share) * targets.values["au"][partner]
    binary = torch.nn.functional.binary_cross_entropy_with_logits(outputs["au"][0, :2], units[:2])
    torch.testing.assert_close(found["au"], binary)
    va = targets.values["va"]
    mixed = torch.cat([share * va[:2] + (1 - share) * va[[1, 0]], va[2:]])
    plain = MultiTaskLoss({"va": ABAW_TASKS["va"]}, [LOSS])
    direct = Labels({"va": mixed[None]}, {"va": one.masks["va"][None]})
    torch.testing.assert_close(found["va"], plain(outputs, direct)[0][0])


def test_faces_are_mixed_with_their_partners() -> None:
    pixels = torch.randn(4, 3, 2, 2)
    mixed = mixup.mix_faces(pixels, np.array([0, 1, 3, 4]), 0.3)  # the partner of 3 cannot be read, that of 4 is none
    torch.testing.assert_close(mixed[0], 0.3 * pixels[0] + 0.7 * pixels[1])
    torch.testing.assert_close(mixed[1], 0.3 * pixels[1] + 0.7 * pixels[0])
    assert torch.equal(mixed[2:], pixels[2:])
    assert mixup.partners(torch.tensor([True, True, False, True, True])).tolist() == [1, 0, 2, 3, 4]
    assert mixup.mix_faces(pixels, np.arange(4), 1.0) is pixels


def test_the_share_is_a_beta() -> None:
    rng = np.random.default_rng(0)
    shares = [mixup.draw_share(0.4, rng) for _ in range(4000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)
    assert mixup.draw_share(0.0, rng) == 1.0


def test_mixup_pairs_rows_that_are_labelled_alike() -> None:
    """Half of the rows are labelled for expressions alone, half for VA: nearly no pair loses its labels."""
    kind = np.arange(400) % 2 == 0
    labels = labels_for(400, {"expr": kind, "va": ~kind})
    zeros = np.zeros(400, np.int64)
    pool = make_pool(labels, np.arange(400), zeros, zeros, tasks("va", "expr"))
    for (part,) in epoch_steps(pool, FinetuneConfig(batch_size=40, mixup=0.2), 1):
        pairs = kind[part].reshape(-1, 2)
        assert (pairs[:, 0] != pairs[:, 1]).sum() <= 1
    plain = epoch_steps(pool, FinetuneConfig(batch_size=40), 1)
    assert [set(part) for (part,) in plain] == [
        set(part) for (part,) in epoch_steps(pool, FinetuneConfig(batch_size=40, mixup=0.2), 1)
    ]
