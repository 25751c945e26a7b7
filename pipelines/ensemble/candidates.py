"""Which runs can be members of an ensemble: those given and those of studies, over the same rows with the same labels.

M runs, R rows, K outputs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.backbones.runs import fitting_runs
from pipelines.config import Config
from pipelines.ensemble.members import Library
from pipelines.labels import labelled
from pipelines.postprocess.parts import Part
from pipelines.postprocess.run_folders import PREDICTIONS, Truth, part_of, read_predictions, read_run_manifest
from pipelines.run_files import find_folder


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished run: its folder and its run.json; whether it was asked for by name, not as one of a study."""

    folder: Path
    manifest: Mapping[str, Any]
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Runs that share rows, and those left out, each with the reason."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[tuple[Path, str], ...]

    @property
    def digests(self) -> list[str]:
        return sorted(str(candidate.manifest["digest"]) for candidate in self.candidates)


def find_runs(given: Sequence[Path], truth: Truth, *, runs: Path, studies: Path, config: Config | None = None) -> Found:
    """The runs of the studies and run folders `given`; names without a folder are looked for in `studies` and `runs`.

    A run named by itself has to be usable; of a study's runs, those that are not are left out. With a study come the
    runs of the backbones that `config` names, where they are of its rows: those that its leaderboard lists. Of runs
    with the same predictions, such as one training in two studies, the first counts.

    Raises:
        ValueError: no study or run by that name, a named run that is none, a study beside others none of whose runs
            can be combined with theirs, or fewer than two runs to choose from.
    """
    candidates: dict[Path, Candidate] = {}
    skipped: list[tuple[Path, str]] = []
    homes: list[Path] = []
    for path in given:
        folder = find_folder(path, studies)
        if (folder / "study.json").is_file():
            homes.append(folder)
            of_study, left_out = _study_runs(folder, truth)
            candidates |= {run: one for run, one in of_study.items() if run not in candidates}
            skipped += left_out
            continue
        folder = find_folder(path, runs)
        if not folder.exists():
            raise ValueError(f"{path}: no study and no run here; `mtl search` makes a study, `mtl train-head` a run")
        candidates[folder.resolve()] = Candidate(folder, read_run_manifest(folder, truth), is_named=True)
    same, others = _of_one_split(list(candidates.values()))
    if len(given) > 1:
        _check_studies(homes, same, (*skipped, *others))
    if config is not None and same and homes:
        about = {
            "frames": truth.frames_digest,
            "labels": truth.labels_digest,
            "split": same[0].manifest["split"]["hash"],
        }
        folders, left_out = fitting_runs(config, about)
        same += [Candidate(one, read_run_manifest(one, truth)) for one in folders if one.resolve() not in candidates]
        skipped += left_out
    distinct, twice = _distinct(same)
    found = Found(tuple(distinct), (*skipped, *others, *twice))
    if len(found.candidates) < 2:
        why = f"; left out: {found.skipped[0][0].name}: {found.skipped[0][1]}" if found.skipped else ""
        raise ValueError(f"an ensemble needs at least two finished runs on one split, found {len(distinct)}{why}")
    return found


def _study_runs(study: Path, truth: Truth) -> tuple[dict[Path, Candidate], list[tuple[Path, str]]]:
    """The finished runs of a study's folder by their resolved path, and the others with the reason."""
    found: dict[Path, Candidate] = {}
    skipped: list[tuple[Path, str]] = []
    for run in sorted(one for one in (study / "runs").glob("[!.]*") if one.is_dir()):
        try:
            found[run.resolve()] = Candidate(run, read_run_manifest(run, truth))
        except ValueError as error:
            skipped.append((run, str(error).removeprefix(f"{run}: ")))
    return found, skipped


def _check_studies(studies: Sequence[Path], same: Sequence[Candidate], skipped: Sequence[tuple[Path, str]]) -> None:
    """Raises ValueError for a study of `studies` that has no run among `same`."""
    for study in studies:
        home = (study / "runs").resolve()
        if not any(one.folder.resolve().parent == home for one in same):
            reasons = [reason for run, reason in skipped if run.resolve().parent == home]
            why = reasons[0] if reasons else "it has no finished run"
            raise ValueError(f"{study}: none of its runs can be combined with the others: {why}")


def _distinct(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Path, str]]]:
    """The first of each prediction, and the others."""
    first: dict[str, Candidate] = {}
    twice = []
    for one in candidates:
        known = first.setdefault(one.manifest["files"][PREDICTIONS], one)
        if known is not one:
            twice.append((one.folder, f"the same predictions as {known.folder}"))
    return list(first.values()), twice


def read_library(
    found: Found,
    truth: Truth,
    advance: Callable[[int], None] = lambda count: None,
    read: Callable[[Path], pl.DataFrame] = read_predictions,
) -> tuple[Library, Found]:
    """The select predictions of the runs, and `found` again without those that predict other rows.

    `advance` is called with 1 for each run; `read` gives the predictions of the run in a folder.

    Raises:
        ValueError: a damaged file, or fewer than two runs left.
    """
    select, known = None, pl.DataFrame()
    tables: list[pl.DataFrame] = []
    kept: list[Candidate] = []
    skipped = list(found.skipped)
    for candidate in found.candidates:
        advance(1)
        try:
            table = read(candidate.folder).sort("video", "frame")
        except ValueError as error:
            if candidate.is_named:
                raise
            skipped.append((candidate.folder, str(error).removeprefix(f"{candidate.folder}/")))
            continue
        split = candidate.manifest["split"]
        rows = table.select("video", "frame", "part")
        complete = len(rows) == split["select"]["frames"] + split["report"]["frames"]
        if not complete or not rows.equals(rows if select is None else known):
            skipped.append((candidate.folder, "predicts other rows than those of its split"))
            continue
        first = table.filter(pl.col("part") == "select")
        if select is None:
            known, select = rows, part_of(table, "select", truth)
        tables.append(first)
        kept.append(candidate)
    if select is None or len(kept) < 2:
        raise ValueError(f"an ensemble needs at least two runs that predict the same rows, found {len(kept)}")
    has, predicted = _stacked(tables, select)
    library = Library(
        runs=tuple(candidate.folder for candidate in kept),
        has=has,
        predicted=predicted,
        select=select,
        read_report=lambda place: part_of(read(kept[place].folder), "report", truth),
    )
    return library, Found(tuple(kept), tuple(skipped))


def _stacked(tables: Sequence[pl.DataFrame], select: Part) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By task which of the runs' `tables` have it, and their predictions [M, R, K].

    Of a continuous group that some run predicts in part, each column is a task with members of its own.
    """
    has, predicted = {}, {}
    for group in select.schema:
        columns = set(group.output_columns)
        in_part = any(0 < len(columns & set(table.columns)) < len(columns) for table in tables)
        for name in group.columns if in_part and group.kind == "continuous" else (group.name,):
            task = select.schema.tasks[name]
            places = [place for place, table in enumerate(tables) if set(task.output_columns) <= set(table.columns)]
            if places and labelled(select.labels, task).any():
                has[name] = np.array(places)
                parts = [tables[place].select(task.output_columns).cast(pl.Float32).to_numpy() for place in places]
                predicted[name] = np.stack(parts)
    return has, predicted


def _of_one_split(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Path, str]]]:
    """The runs of the split that most of them have, and the others."""
    splits = Counter(candidate.manifest["split"]["hash"] for candidate in candidates)
    if not splits:
        return [], []
    most = splits.most_common(1)[0][0]
    same = [one for one in candidates if one.manifest["split"]["hash"] == most]
    reason = "another split or fold: its predictions are of other rows"
    return same, [(one.folder, reason) for one in candidates if one.manifest["split"]["hash"] != most]
