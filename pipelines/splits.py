"""Who trains, who chooses, who is scored: masks over the rows of a frames table, never overlapping. N frames.

Groups are subjects where known, else videos; a group never stands on two sides of a cut made here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from cache.frames import Frames
from cache.labels import ABAW, Schema
from cache.names import SPLITS
from heads.labels import Labels
from pipelines.config import SplitConfig
from pipelines.folds import NO_FOLD, Fold
from pipelines.label_table import AnyLabels, label_table
from pipelines.labels import labels_of
from pipelines.words import OTHER_HALF

MOST_EVENED = 1000
BLOCK = 1 << 20  # rows at once
SUBJECT = "subject "
PARTS = ("train", "select", "report")
POOLED = ("train", "val")  # what is cut into folds, and what a refit trains on


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Masks [N] bool: rows that train, rows on which choices are made, rows scored once at the end.

    `description` says in words and numbers what the three are; its "hash" covers the rows' assignment.
    """

    train: np.ndarray
    select: np.ndarray
    report: np.ndarray
    description: dict[str, Any]


def splits_of(
    frames: Frames, config: SplitConfig, folds: Iterable[Fold], schema: Schema = ABAW
) -> tuple[pl.DataFrame, dict[Fold, Split]]:
    """The splits of `folds`, and the table that they are of: where `frames` is read by ranges, one without paths and
    labels."""
    if isinstance(frames, pl.DataFrame):
        table, labels = frames, label_table([frames], len(frames), schema)
    else:
        table, labels = frames.compact(SPLITS), label_table(frames.tables(schema.columns), len(frames), schema)
    labels = labels.map(lambda array: array[:-1])
    return table, {fold: resolve_split(table, config, fold, schema, labels) for fold in folds}


def fold_problem(fold: Fold, config: SplitConfig) -> str | None:
    """Why `config` has no such fold, in one line; None where it has."""
    num = config.num_folds
    if fold.outer >= num:
        return f"folds count from 0 to {num - 1} ([split] num_folds)"
    if fold.inner >= num - 1:
        return f"of {num} folds, {num - 1} are left to choose on: inner parts count from 0 to {num - 2}"
    return None


def resolve_split(
    frames: pl.DataFrame,
    config: SplitConfig,
    fold: Fold = NO_FOLD,
    schema: Schema = ABAW,
    labels: AnyLabels | None = None,
) -> Split:
    """The split that `config` asks for; with a `fold`, that fold over train and val pooled.

    `labels` are those of `frames`, where the caller has them.

    Raises:
        ValueError: the split to choose on is empty, or would also be the one reported.
    """
    labels = labels_of(frames, schema) if labels is None else labels
    if fold != NO_FOLD:
        return _folds(frames, config, fold, schema, labels)
    train, select = _rows_of(frames, "train"), _rows_of(frames, config.select)
    if not select.any():
        raise ValueError(f"no frame of the frames table is in split {config.select}, where choices are made")
    if config.report == config.select:
        raise ValueError(
            f"[split] select and report are both {config.select}: what is chosen on rows is never scored on them; "
            'write report = "auto" to score one half of the videos and choose on the other'
        )
    if config.report != "auto":
        report = _rows_of(frames, config.report)
        return _described(frames, train, select, report, config.select, config.report, labels)
    test = _rows_of(frames, "test")
    if config.select != "test" and any((labels.labelled(name) & test).any() for name in labels.groups):
        return _described(frames, train, select, test, config.select, "test", labels)
    half = assign_groups(frames, labels, 2, config.fold_seed, schema, select)
    first, second = half == 0, half == 1
    if not first.any() or not second.any():
        raise ValueError(
            f"split {config.select} holds one video or subject: it cannot both select and be scored; "
            "label a test split, or use folds (--fold 0)"
        )
    name = config.select
    return _described(frames, train, first, second, f"half of the videos of {name}", f"{OTHER_HALF}{name}", labels)


def pooled_split(frames: pl.DataFrame, labels: AnyLabels) -> Split:
    """Train and val together train; nothing chooses and nothing is scored."""
    pool, nothing = frames["split"].is_in(POOLED).to_numpy(), np.zeros(len(frames), dtype=bool)
    return _described(frames, pool, nothing, nothing, "nothing", "nothing", labels, trained="train and val")


def assign_groups(
    frames: pl.DataFrame,
    labels: AnyLabels,
    num_parts: int,
    seed: int,
    schema: Schema = ABAW,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """[N] int: the part of each row, groups kept whole and labels of all tasks spread evenly; with a mask `rows` [N] of
    those rows alone, and -1 of the others.

    Greedy: the largest group first (sizes blurred by `seed`, so that seeds give different parts), each into the part
    whose label counts it leaves most even; then groups are moved and exchanged while that evens them. Deterministic.
    """
    rows = np.ones(len(frames), dtype=bool) if rows is None else rows
    names, group = group_numbers(frames, rows)
    counts = _label_counts(labels, rows, group, len(names), schema)
    counts /= np.maximum(counts.sum(axis=0), 1)
    size = counts.sum(axis=1) * np.random.default_rng(seed).uniform(0.8, 1.2, len(names))
    totals, part_of = np.zeros((num_parts, counts.shape[1])), np.zeros(len(names), dtype=np.int64)
    for index in np.argsort(-size, kind="stable"):
        cost = ((totals + counts[index]) ** 2).sum(axis=1) - (totals**2).sum(axis=1)
        part = int(np.lexsort((totals.sum(axis=1), np.round(cost, 12)))[0])
        part_of[index], totals[part] = part, totals[part] + counts[index]
    part_of = _evened(part_of, counts, num_parts).astype(np.int16)
    return np.append(part_of, np.int16(-1))[group]


def assignment(frames: pl.DataFrame, splits: Mapping[Fold, Split]) -> pl.DataFrame:
    """One row per video: its subject where known, and under each fold its part (train, select, report, or nothing)."""
    columns = ["video", *(["subject"] if "subject" in frames.columns else [])]
    numbers = {}
    for fold, split in sorted(splits.items()):
        number = np.zeros(len(frames), dtype=np.int8)
        for place, name in enumerate(PARTS, start=1):
            number[getattr(split, name)] = place
        numbers["part" if fold == NO_FOLD else f"fold {fold}"] = pl.Series(number)
    table = frames.select(columns).with_columns(**numbers)
    found = table[_changes(table)].unique(maintain_order=True)
    words = pl.Series(["", *PARTS])
    return found.with_columns(
        pl.col(columns).cast(pl.String), *(words.gather(found[name]).alias(name) for name in numbers)
    )


def groups_of(frames: pl.DataFrame) -> np.ndarray:
    """[N] str: the subject of each row where known, else its video; `SUBJECT` opens the name of a subject."""
    video = pl.concat_str(pl.lit("video "), pl.col("video"))
    if "subject" not in frames.columns:
        return frames.select(video).to_series().to_numpy()
    subject = pl.concat_str(pl.lit(SUBJECT), pl.col("subject"))
    return frames.select(pl.coalesce(subject, video)).to_series().to_numpy()


def group_numbers(frames: pl.DataFrame, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The names of the groups, sorted, and [N] int32 which of them each row is of; with a mask `rows` [N] the groups of
    those rows, and -1 for the others. A table has long runs of rows of one group: names are made once per run."""
    columns = [name for name in ("video", "subject") if name in frames.columns]
    table = frames.select(columns)
    starts = _changes(table)
    lengths = np.diff(starts, append=len(frames))
    of_runs = groups_of(table[starts])
    if rows is None:
        names, numbers = np.unique(of_runs, return_inverse=True)
        return names, np.repeat(numbers.astype(np.int32), lengths)
    used = np.add.reduceat(rows, starts, dtype=np.int64) > 0 if len(starts) else np.zeros(0, dtype=bool)
    names, own = np.unique(of_runs[used], return_inverse=True)
    numbers = np.full(len(starts), -1, dtype=np.int32)
    numbers[used] = own
    found = np.repeat(numbers, lengths)
    found[~rows] = -1
    return names, found


def _changes(table: pl.DataFrame) -> np.ndarray:
    """The rows of `table` that differ from the one before, and the first."""
    runs = [table[name].rle().struct.field("len").to_numpy().cumsum(dtype=np.int64) for name in table.columns]
    return np.unique(np.concatenate([np.zeros(1, np.int64), *runs]))[:-1]


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


def _folds(frames: pl.DataFrame, config: SplitConfig, fold: Fold, schema: Schema, labels: AnyLabels) -> Split:
    num = config.num_folds
    if num < 3:
        raise ValueError(f"fold {fold} of {num}: at least 3 folds are needed")
    if problem := fold_problem(fold, config):
        raise ValueError(f"fold {fold} of {num}: {problem}")
    pool = frames["split"].is_in(POOLED).to_numpy()
    if len(group_numbers(frames, pool)[0]) < num:
        raise ValueError(f"{num} folds need as many videos or subjects in train and val")
    part = assign_groups(frames, labels, num, config.fold_seed, schema, pool)
    chooser = (
        fold.outer + 1 + fold.inner
    ) % num  # the inner parts in turn, each another fold than the one that is scored
    train = pool & (part != fold.outer) & (part != chooser)
    words = f"fold {chooser} of {num}", f"fold {fold.outer} of {num}"
    split = _described(frames, train, part == chooser, part == fold.outer, *words, labels, trained="the other folds")
    return replace(split, description=split.description | {"fold": str(fold), "num_folds": num})


def _label_counts(
    labels: AnyLabels, rows: np.ndarray, group: np.ndarray, num_groups: int, schema: Schema
) -> np.ndarray:
    """[G, ...]: of the rows `rows` [N] bool of each group, whose number is `group` [N], how many there are and what has
    to be spread: labelled rows, each class, each positive."""
    counts: np.ndarray | None = None
    for start in range(0, max(len(rows), 1), BLOCK):
        chosen = start + np.flatnonzero(rows[start : start + BLOCK])
        of_rows = _counted(labels.take(chosen), schema)
        counts = np.zeros((num_groups, of_rows.shape[1])) if counts is None else counts
        np.add.at(counts, group[chosen], of_rows)
    assert counts is not None
    return counts


def _counted(labels: Labels, schema: Schema) -> np.ndarray:
    """[R, ...]: one for the row, then per group labelled rows, each class, each positive."""
    parts = [np.ones((len(labels), 1))]
    for group in schema:
        value, mask = labels.values[group.name], labels.masks[group.name]
        if group.kind == "classes":
            parts.append((value == np.arange(group.num_outputs)) & mask)
            continue
        if group.kind == "binary":
            parts.append(value * mask)
        parts.append(labels.labelled(group.name)[:, None])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _rows_of(frames: pl.DataFrame, split: str) -> np.ndarray:
    """[N] bool"""
    return (frames["split"] == split).to_numpy(writable=True)


def _num_labelled(labels: AnyLabels, rows: np.ndarray) -> dict[str, int]:
    """By group the frames of `rows` [N] with a label of it."""
    return {name: int((labels.labelled(name) & rows).sum()) for name in labels.groups}


def _num_subjects(frames: pl.DataFrame, rows: np.ndarray) -> int | None:
    """Of `rows` [N]; None where no subject is known."""
    if "subject" not in frames.columns:
        return None
    return frames["subject"].filter(pl.Series(rows)).drop_nulls().n_unique() or None


def _assignment_digest(frames: pl.DataFrame, part: np.ndarray) -> str:
    """Over the JSON of [video, frame, part] of the rows that are of a part [N], in blocks: one row as Python's own
    objects takes hundreds of bytes."""
    digest, separator = hashlib.blake2b(b"[", digest_size=8), ""
    for start in range(0, len(frames), BLOCK):
        block = frames[start : start + BLOCK].select(pl.col("video").cast(pl.String), "frame")
        block = block.with_columns(part=part[start : start + BLOCK]).filter(pl.col("part") > 0)
        if not len(block):
            continue
        names = block["video"].unique()
        quoted = pl.Series([json.dumps(name) for name in names], dtype=pl.String)
        row = pl.format("[{}, {}, {}]", pl.col("video").replace_strict(names, quoted), "frame", "part")
        digest.update((separator + block.select(row).to_series().str.join(", ").item()).encode())
        separator = ", "
    digest.update(b"]")
    return digest.hexdigest()


def _described(
    frames: pl.DataFrame,
    train: np.ndarray,
    select: np.ndarray,
    report: np.ndarray,
    chooser: str,
    scored: str,
    labels: AnyLabels,
    trained: str = "train",
) -> Split:
    assert not (train & select).any()
    assert not (train & report).any()
    assert not (select & report).any()
    part = train.astype(np.int8) + 2 * select.astype(np.int8) + 3 * report.astype(np.int8)
    digest = _assignment_digest(frames, part)
    rows = {"train": train, "select": select, "report": report}
    description: dict[str, Any] = {
        name: {
            "of": {"train": trained, "select": chooser, "report": scored}[name],
            "videos": frames["video"].filter(pl.Series(mask)).n_unique(),
            "subjects": _num_subjects(frames, mask),
            "frames": int(mask.sum()),
            "labelled": _num_labelled(labels, mask),
        }
        for name, mask in rows.items()
    }
    return Split(train=train, select=select, report=report, description=description | {"hash": digest})
