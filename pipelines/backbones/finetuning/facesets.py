"""The labelled faces of one training, of one data set or several, each labelled for its own tasks. N and R rows.

The main set is that of [data]; each entry of [[finetune.data]] is a further one. All are read as one list of R faces
under their common folder; videos of different sets are different videos, whatever their names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.frames import frames_digest, labels_digest, read_frames
from cache.labels import ABAW, Schema
from heads.labels import Labels
from pipelines.backbones.sampling import Pool, make_pool
from pipelines.config import Config
from pipelines.labels import concatenated, labelled, labelled_any, labels_of, tasks_of
from pipelines.splits import Split, resolve_split


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSet:
    """One data set: its N frames and masks [N] of those that train, that may choose the epoch, and that are held out.

    `tasks` are those that it teaches.
    """

    name: str
    folder: Path
    frames: pl.DataFrame
    labels: Labels
    train: np.ndarray
    select: np.ndarray
    held_out: np.ndarray
    tasks: tuple[str, ...]
    share: float
    licence: str
    where: dict[str, str]
    split: str
    schema: Schema = ABAW

    def labelled(self, task: str) -> np.ndarray:
        """[N] bool: frames with a label of `task`."""
        return labelled(self.labels, self.schema.tasks[task])

    def teaches(self, task: str) -> bool:
        """Whether its labels of `task` are learnt from: it, or its whole group, is among `tasks`."""
        return task in self.tasks or self.schema.tasks[task].group.name in self.tasks

    def about(self) -> dict[str, Any]:
        """What identifies the set, for the checkpoint and the file of weights."""
        digests = {"frames": frames_digest(self.frames), "labels": labels_digest(self.frames, self.schema)}
        return {**digests, "split": self.split, "tasks": list(self.tasks), "share": self.share}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceDataset:
    """The R faces of a training: `paths` under `folder`; `labels` hold what a row trains, or is evaluated on.

    `pool` says which rows train and how often; `select` are the row numbers that choose the epoch. `split` is that of
    the first set, [data]: its rows that are held out are scored once, at the end.
    """

    folder: Path
    paths: list[str]
    labels: Labels
    pool: Pool
    select: np.ndarray
    sets: tuple[FaceSet, ...]
    split: Split

    @property
    def licence(self) -> str:
        """The sets' notes on their licence, each once."""
        return "; ".join(dict.fromkeys(each.licence for each in self.sets if each.licence))


def gather(config: Config, frames: pl.DataFrame, tasks: Sequence[str]) -> FaceDataset:
    """The faces that `tasks` are trained and evaluated on: `frames` under [data], and the further sets of [finetune].

    A row trains if it is of split train; each task is evaluated on the select rows of `[split]`, of the first set
    that has any labelled for it. A label of another task, or of one that the set does not teach, is no label here.

    Raises:
        ValueError: a task without a labelled row on one of the two sides; a face that trains in one set and is held
            out in another; a folder or a table that is missing.
    """
    further = [_further(config, index) for index in range(len(config.finetune.data))]
    split = resolve_split(frames, config.split, schema=config.schema)
    sets = (_main(config, frames, tuple(tasks), split), *further)
    selecting = {task: _selecting_set(sets, task) for task in tasks}
    _check_apart(sets)
    folder, prefixes = _common([each.folder for each in sets])
    parts = [_part(each, index, prefixes[index], selecting, tasks) for index, each in enumerate(sets)]
    labels = concatenated([part.labels for part in parts])
    train = np.concatenate([part.train for part in parts])
    source = np.repeat(np.arange(len(parts)), [len(part.paths) for part in parts])
    _, video = np.unique([name for part in parts for name in part.videos], return_inverse=True)
    rows = np.flatnonzero(train)
    known = tasks_of(config.schema)
    chosen = [known[name] for name in tasks]
    pool = make_pool(labels, rows, video, source, chosen, tuple(each.share for each in sets))
    paths = [path for part in parts for path in part.paths]
    return FaceDataset(
        folder=folder, paths=paths, labels=labels, pool=pool, select=np.flatnonzero(~train), sets=sets, split=split
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one set that are used: `train` where they train, else they are select rows."""

    paths: list[str]
    videos: list[str]
    labels: Labels
    train: np.ndarray


def _part(each: FaceSet, index: int, prefix: str, selecting: dict[str, int], tasks: Sequence[str]) -> _Part:
    kept = {name: np.zeros_like(mask) for name, mask in each.labels.masks.items()}
    for name in tasks:
        task = each.schema.tasks[name]
        shown = (each.train & each.teaches(name)) | (each.select & (selecting[name] == index))
        kept[task.group.name][:, task.indices] |= shown[:, None]
    labels = each.labels.where(kept)
    rows = np.flatnonzero(labelled_any(labels))
    used = each.frames[rows]
    return _Part(
        paths=[prefix + path for path in used["path"]],
        videos=[f"{index}/{video}" for video in used["video"]],
        labels=labels.take(rows),
        train=each.train[rows],
    )


def _main(config: Config, frames: pl.DataFrame, tasks: tuple[str, ...], split: Split) -> FaceSet:
    return FaceSet(
        name="[data]",
        folder=_folder(config.at(config.data.faces), "faces under [data]"),
        frames=frames,
        labels=labels_of(frames, config.schema),
        schema=config.schema,
        train=split.train,
        select=split.select,
        held_out=split.select | split.report,
        tasks=tasks,
        share=0.0,
        licence=config.finetune.licence,
        where={side: split.description[side]["of"] for side in ("train", "select")},
        split=split.description["hash"],
    )


def _further(config: Config, index: int) -> FaceSet:
    entry, select = config.finetune.data[index], config.split.select
    name = f"[[finetune.data]] {index + 1}"
    frames = read_frames(config.at(entry.frames), config.schema)
    split = frames["split"].to_numpy()
    if not (split == "train").any():
        raise ValueError(
            f"{config.at(entry.frames)}: no frame is in split train; `mtl prepare --train` puts them there"
        )
    return FaceSet(
        name=name,
        folder=_folder(config.at(entry.faces), f"faces of {name}"),
        frames=frames,
        labels=labels_of(frames, config.schema),
        schema=config.schema,
        train=split == "train",
        select=split == select,
        held_out=(split != "train") & (split != "none"),
        tasks=entry.tasks or config.schema.names,
        share=entry.share,
        licence=entry.licence,
        where={"train": "train", "select": select},
        split=select,
    )


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder of faces; set {what} in mtl.toml")
    return path


def _selecting_set(sets: Sequence[FaceSet], task: str) -> int:
    """The index of the set whose select rows evaluate `task`.

    Raises:
        ValueError: no set teaches it, or none evaluates it; says which.
    """
    hint = f"add labels with `mtl prepare`, or leave {task} out of --task"
    if not any((each.labelled(task) & each.train).any() for each in sets if each.teaches(task)):
        raise ValueError(f"task {task}: no labelled frame in {sets[0].where['train']}, whose frames train; {hint}")
    for index, each in enumerate(sets):
        if (each.labelled(task) & each.select).any():
            return index
    raise ValueError(
        f"task {task}: no labelled frame in {sets[0].where['select']}, whose frames choose the epoch; {hint}"
    )


def _check_apart(sets: Sequence[FaceSet]) -> None:
    """Raises ValueError where a video of a folder trains in one set and is held out in another of the same folder."""
    for one in sets:
        for other in sets:
            if one is other or one.folder.resolve() != other.folder.resolve():
                continue
            both = set(one.frames["video"].filter(one.train)) & set(other.frames["video"].filter(other.held_out))
            if both:
                raise ValueError(
                    f"{one.folder}: video {min(both)!r} trains in {one.name} and is held out in {other.name} "
                    f"({len(both)} such); take it out of train there"
                )


def _common(folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """A folder that holds all `folders`, and what leads from it to each, ending in a slash where it is not itself."""
    if len(folders) == 1:
        return folders[0], [""]
    whole = [Path(os.path.abspath(folder)) for folder in folders]
    common = Path(os.path.commonpath(whole))
    return common, ["" if each == common else f"{each.relative_to(common).as_posix()}/" for each in whole]
