"""Who trains, who chooses, who is scored: masks over the rows of a frames table, never overlapping. N frames.

Groups are subjects where known, else videos; a group never stands on two sides of a cut made here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.names import TASKS
from pipelines.config import SplitConfig
from pipelines.labels import Labels, labels_of

MOST_EVENED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Masks [N] bool: rows that train, rows on which choices are made, rows scored once at the end.

    `description` says in words and numbers what the three are; its "hash" covers the rows' assignment.
    """

    train: np.ndarray
    select: np.ndarray
    report: np.ndarray
    description: dict[str, Any]


def resolve_split(frames: pl.DataFrame, config: SplitConfig, fold: int = -1) -> Split:
    """The split that `config` asks for; with `fold` >= 0 the fold of that number over train and val pooled.

    Raises:
        ValueError: the split to choose on is empty, or would also be the one reported.
    """
    if fold >= 0:
        return _folds(frames, config, fold)
    split = frames["split"].to_numpy()
    train, select = split == "train", split == config.select
    if not select.any():
        raise ValueError(f"no frame of the frames table is in split {config.select}, where choices are made")
    if config.report == config.select:
        raise ValueError(
            f"[split] select and report are both {config.select}: what is chosen on rows is never scored on them; "
            'write report = "auto" to score one half of the videos and choose on the other'
        )
    if config.report != "auto":
        return _described(frames, train, select, split == config.report, config.select, config.report)
    test = split == "test"
    if config.select != "test" and labels_of(frames.filter(test)).labelled_any.any():
        return _described(frames, train, select, test, config.select, "test")
    halves = assign_groups(frames.filter(select), 2, config.fold_seed)
    first, second = select.copy(), select.copy()
    first[select], second[select] = halves == 0, halves == 1
    if not first.any() or not second.any():
        raise ValueError(
            f"split {config.select} holds one video or subject: it cannot both choose and be scored; "
            "label a test split, or use folds (--fold 0)"
        )
    name = config.select
    return _described(frames, train, first, second, f"half of the videos of {name}", f"the other half of {name}")


def assign_groups(frames: pl.DataFrame, num_parts: int, seed: int) -> np.ndarray:
    """[N] int: the part of each row, groups kept whole and labels of all tasks spread evenly.

    Greedy: the largest group first (sizes blurred by `seed`, so that seeds give different parts), each into the part
    whose label counts it leaves most even; then groups are moved and exchanged while that evens them. Deterministic.
    """
    names, group = np.unique(groups_of(frames), return_inverse=True)
    counts = np.zeros((len(names), 23))
    np.add.at(counts, group, _label_counts(labels_of(frames)))
    counts /= np.maximum(counts.sum(axis=0), 1)
    size = counts.sum(axis=1) * np.random.default_rng(seed).uniform(0.8, 1.2, len(names))
    totals, part_of = np.zeros((num_parts, counts.shape[1])), np.zeros(len(names), dtype=np.int64)
    for index in np.argsort(-size, kind="stable"):
        cost = ((totals + counts[index]) ** 2).sum(axis=1) - (totals**2).sum(axis=1)
        part = int(np.lexsort((totals.sum(axis=1), np.round(cost, 12)))[0])
        part_of[index], totals[part] = part, totals[part] + counts[index]
    return _evened(part_of, counts, num_parts)[group]


def assignment(frames: pl.DataFrame, splits: Mapping[int, Split]) -> pl.DataFrame:
    """A row a video: its subject where known, and under each fold its part (train, select, report, or nothing)."""
    columns = ["video", *(["subject"] if "subject" in frames.columns else [])]
    parts = {}
    for fold, split in sorted(splits.items()):
        part = np.full(len(frames), "", dtype="<U6")
        for name in ("train", "select", "report"):
            part[getattr(split, name)] = name
        parts["part" if fold < 0 else f"fold {fold}"] = pl.Series(part)
    return frames.select(columns).with_columns(**parts).unique(maintain_order=True)


def groups_of(frames: pl.DataFrame) -> np.ndarray:
    """[N] str: the subject of each row where known, else its video."""
    video = pl.concat_str(pl.lit("video "), pl.col("video"))
    if "subject" not in frames.columns:
        return frames.select(video).to_series().to_numpy()
    subject = pl.concat_str(pl.lit("subject "), pl.col("subject"))
    return frames.select(pl.coalesce(subject, video)).to_series().to_numpy()


def _evened(part_of: np.ndarray, counts: np.ndarray, num_parts: int) -> np.ndarray:
    """`part_of` [G] after the moves and exchanges of groups, each time the best one, that even the parts' counts most.

    Uneven is the sum of squared totals. Of 1,000 groups or more the greedy start is even enough and stands.
    """
    if len(part_of) >= MOST_EVENED:
        return part_of
    part_of, everyone = part_of.copy(), np.arange(len(part_of))
    alike = counts @ counts.T
    size = np.diag(alike)
    for _ in range(len(part_of)):
        totals = np.stack([counts[part_of == part].sum(axis=0) for part in range(num_parts)])
        to = counts @ totals.T
        own = to[everyone, part_of]
        move = to - own[:, None] + size[:, None]
        move[everyone, part_of] = np.inf
        there = move[:, part_of] - size[:, None]  # [G, G]: what the first group costs in the second one's part
        swap = there + there.T + size[:, None] + size[None, :] - 2 * alike
        swap[part_of[:, None] == part_of[None, :]] = np.inf
        best_move, best_swap = (np.unravel_index(int(cost.argmin()), cost.shape) for cost in (move, swap))
        if min(move[best_move], swap[best_swap]) > -1e-9:
            break
        if move[best_move] <= swap[best_swap]:
            part_of[best_move[0]] = best_move[1]
        else:
            part_of[list(best_swap)] = part_of[list(best_swap)][::-1]
    return part_of


def _folds(frames: pl.DataFrame, config: SplitConfig, fold: int) -> Split:
    if not 0 <= fold < config.num_folds or config.num_folds < 3:
        raise ValueError(f"fold {fold} of {config.num_folds}: folds count from 0, and at least 3 are needed")
    pool = frames["split"].is_in(["train", "val"]).to_numpy()
    if len(np.unique(groups_of(frames.filter(pool)))) < config.num_folds:
        raise ValueError(f"{config.num_folds} folds need as many videos or subjects in train and val")
    part = np.full(len(frames), -1)
    part[pool] = assign_groups(frames.filter(pool), config.num_folds, config.fold_seed)
    chooser = (fold + 1) % config.num_folds
    train = pool & (part != fold) & (part != chooser)
    words = f"fold {chooser} of {config.num_folds}", f"fold {fold} of {config.num_folds}"
    return _described(frames, train, part == chooser, part == fold, *words, trained="the other folds")


def _label_counts(labels: Labels) -> np.ndarray:
    """[N, 23]: one for the row, the VA labels, the 8 expressions, the 12 AUs and the labelled AUs."""
    expression = (labels.expr[:, None] == np.arange(8)) & labels.expr_mask[:, None]
    parts = [np.ones((len(labels), 1)), labels.labelled("va")[:, None], expression, labels.au * labels.au_mask]
    return np.concatenate([*parts, labels.labelled("au")[:, None]], axis=1).astype(np.float64)


def _described(
    frames: pl.DataFrame,
    train: np.ndarray,
    select: np.ndarray,
    report: np.ndarray,
    chooser: str,
    scored: str,
    trained: str = "train",
) -> Split:
    assert not (train & select).any()
    assert not (train & report).any()
    assert not (select & report).any()
    part = np.where(train, 1, 0) + np.where(select, 2, 0) + np.where(report, 3, 0)
    keys = frames.select("video", "frame").with_columns(part=part.astype(np.int8)).filter(pl.col("part") > 0)
    digest = hashlib.blake2b(json.dumps(keys.rows()).encode(), digest_size=8).hexdigest()
    rows = {"train": train, "select": select, "report": report}
    description: dict[str, Any] = {
        name: {
            "of": {"train": trained, "select": chooser, "report": scored}[name],
            "videos": frames.filter(mask)["video"].n_unique(),
            "frames": int(mask.sum()),
            "labelled": {task: int(labels_of(frames.filter(mask)).labelled(task).sum()) for task in TASKS},
        }
        for name, mask in rows.items()
    }
    return Split(train=train, select=select, report=report, description=description | {"hash": digest})
