"""What is refitted: the run, or the runs of a study's first strategy, and what they chose. N runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.valid_names import check_name
from pipelines.backbones.runs import is_backbone
from pipelines.config import Config
from pipelines.ensemble.members import with_predictions
from pipelines.folds import NO_FOLD
from pipelines.metrics.predictions import Probabilities
from pipelines.postprocess.parts import Part
from pipelines.postprocess.run_folders import RECORD as POSTPROCESS
from pipelines.postprocess.run_folders import Truth, part_of, read_postprocess, read_predictions, read_run_manifest
from pipelines.results.leaderboard import make_leaderboard
from pipelines.run_files import REFIT, find_folder, run_bytes
from pipelines.search.study import read_study
from pipelines.strategy import METHODS_BY_TASK, Strategy

METHODS = ("joint", *METHODS_BY_TASK)  # those whose models all train on the rows of one split


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Runs of one strategy with different seeds; `place` is where the refit goes."""

    folders: tuple[Path, ...]
    manifests: tuple[Mapping[str, Any], ...]
    place: Path

    @property
    def strategy(self) -> Strategy:
        """That of the first run."""
        return Strategy().replace(self.manifests[0]["strategy"], f"{self.folders[0]}/run.json")

    @property
    def num_steps(self) -> dict[str, int]:
        """By model the number of steps it was best after: the median of the runs, of an even number the lower."""
        found: dict[str, list[int]] = {}
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            for model, step in best_steps(folder, manifest).items():
                found.setdefault(model, []).append(step)
        return {model: sorted(steps)[(len(steps) - 1) // 2] for model, steps in found.items()}

    def parts(self, truth: Truth, predicted: Callable[[Path], pl.DataFrame] = read_predictions) -> tuple[Part, Part]:
        """The mean of the runs' predictions of the select and the report rows; `predicted` has those of a run."""
        tables = [predicted(folder) for folder in self.folders]
        select, report = ([part_of(table, part, truth) for table in tables] for part in ("select", "report"))
        return _mean(select), _mean(report)

    @property
    def post(self) -> tuple[tuple[str, ...], str]:
        """The views whose mean the runs' stored post-processing was fitted on, and the stream of its outside
        classifier; both empty where there is none.

        Raises:
            ValueError: they differ between the runs, or one is damaged.
        """
        records = {one: read_postprocess(one) for one in self.folders if (one / POSTPROCESS).is_file()}
        found = {one: (tuple(sorted(each["views"])), each["outside"] or "") for one, each in records.items()}
        if len(set(found.values())) > 1:
            said = "; ".join(
                f"{one}: {', '.join(views) or 'its own view'}, {outside or 'no classifier'}"
                for one, (views, outside) in found.items()
            )
            raise ValueError(
                f"the stored post-processing of the runs has other views or outside classifiers ({said}); fit them "
                f"alike: `mtl postprocess {' '.join(map(str, found))} --force`, with --views and --outside"
            )
        return next(iter(found.values()), ((), ""))


def find_sources(config: Config, given: Path, truth: Truth, name: str = "") -> Sources:
    """The run `given`, or the runs of the first strategy of the study `given`; `name` is that of the refit.

    Raises:
        ValueError: there is no such run or study, its data have changed, or it cannot be refitted; says why.
    """
    runs, studies = config.at(config.output.runs), config.at(config.output.studies)
    homes = (runs, studies, runs.parent / "ensembles", runs.parent / "refits")
    folder = next((one for one in (find_folder(given, home) for home in homes) if one.is_dir()), given)
    if (folder / "study.json").is_file():
        board = make_leaderboard(read_study(folder).results(), truth.schema)
        if not board.rows:
            raise ValueError(f"{folder}: no trial has finished yet; `mtl search` resumes it")
        folders, called = [result.folder for result in board.rows[0].results], "best-refit"
    elif (folder / "run.json").is_file():
        folders, called = [folder], f"{folder.name}-refit"
    else:
        what = next((f"{words}; " for file, words in OTHERS.items() if (folder / file).is_file()), "")
        raise ValueError(f"{given}: {what or 'no finished run and no study here; '}name a run or a study")
    place = folders[0].resolve().parent.parent / "refits" / check_name(name or called, "--name")
    place = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    manifests = tuple(read_run_manifest(one, truth) for one in folders)
    for one, manifest in zip(folders, manifests, strict=True):
        _check(one, manifest)
    return Sources(folders=tuple(folders), manifests=manifests, place=place)


def best_steps(folder: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """By model the step of its best evaluation; in the method "progressive" also those of the tasks' own models."""
    history = pl.read_csv(run_bytes(folder, manifest, "history.csv"), glob=False).filter(pl.col("best"))
    return dict(history.group_by("model", maintain_order=True).agg(pl.col("step").last()).rows())


def _check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises ValueError for a run that cannot be refitted."""
    if is_backbone(manifest):
        raise ValueError(f"{folder}: a backbone by itself; name the run of a head")
    train = Strategy().replace(manifest["strategy"], f"{folder}/run.json").train
    if train.fold != NO_FOLD:
        raise ValueError(
            f"{folder}: trained with fold {train.fold}, which chose its steps on other rows than val; refit a run that "
            "was trained without --fold"
        )
    if train.method not in METHODS:
        raise ValueError(
            f"{folder}: method = {train.method!r} cannot be refitted; those that can: {', '.join(METHODS)}"
        )


def _mean(parts: Sequence[Part]) -> Part:
    first = parts[0]
    means = {name: np.stack([part.predicted.parts[name] for part in parts]).mean(0) for name in first.predicted.parts}
    return with_predictions(first, Probabilities(parts=means, schema=first.schema))


OTHERS = {"ensemble.json": "an ensemble", REFIT: "a refit already"}
