"""What `mtl compare` does: finds two strategies or two runs, and tests one against the other on held-out videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.frames import Frames, frames_digest, labels_digest, open_frames
from cache.labels import ABAW, Schema
from pipelines.backbones.runs import is_backbone
from pipelines.config import Config
from pipelines.metrics.intervals import Runs
from pipelines.metrics.paired import Paired, compare
from pipelines.results.evidence import Reader
from pipelines.results.leaderboard import Leaderboard, Ranking, make_leaderboard
from pipelines.run_files import find_folder, read_manifest, read_metrics
from pipelines.search.study import Result, Trial, read_about, read_study
from pipelines.strategy import Strategy
from pipelines.words import strategy_words


@dataclass(frozen=True, slots=True)
class Side:
    """One of two: what it is called, in words what it is, its tasks and its runs."""

    name: str
    words: str
    tasks: tuple[str, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sides and their paired test over the tasks both have."""

    first: Side
    second: Side
    tasks: tuple[str, ...]
    paired: Paired
    schema: Schema = ABAW

    def to_json(self) -> dict[str, Any]:
        """For scripts; the keys are stable."""
        found = self.paired
        sides = {"first": (self.first, found.first), "second": (self.second, found.second)}
        return {
            "tasks": list(self.tasks),
            **found.sample.to_json(),
            "num_pairs": found.num_pairs,
            **{
                key: {"name": side.name, "strategy": side.words, "runs": _folders(side), "scores": dict(scores)}
                for key, (side, scores) in sides.items()
            },
            "differences": {
                key: {"value": one.value, "low": one.low, "high": one.high, "p": one.p}
                for key, one in found.differences.items()
            },
        }


def compare_named(names: Sequence[str], config: Config, tasks: str = "") -> Comparison:
    """STUDY A B, or RUN_A RUN_B, as `names`. `tasks` picks the table of the study whose ranks are meant.

    Raises:
        ValueError: not two or three names, a study, rank or run that is not there, or two that were scored on other
            videos or share no task.
    """
    if len(names) not in (2, 3):
        raise ValueError(f"mtl compare takes STUDY A B or RUN_A RUN_B, not {len(names)} names; see mtl compare --help")
    frames, schema = open_frames(config.at(config.data.frames), config.schema), config.schema
    if len(names) == 3:
        study = _folder(names[0], config.at(config.output.studies), "study.json", "study")
        check_data(study / "study.json", read_about(study), frames, schema)
        first, second = _of_study(study, names[1:], tasks, schema)
    elif tasks:
        raise ValueError("--tasks picks a table of a study; two runs are compared over the tasks they share")
    else:
        first, second = _of_runs(names, config, frames)
    if {one.folder.resolve() for one in first.results} & {one.folder.resolve() for one in second.results}:
        raise ValueError(f"{names[-2]} and {names[-1]} are the same strategy; name two that differ")
    return compare_sides(first, second, frames, schema)


def compare_sides(first: Side, second: Side, frames: Frames, schema: Schema = ABAW) -> Comparison:
    """The paired test of two sides over the tasks that both were trained on and that have held-out labels."""
    reader = Reader(frames, schema)
    runs: list[Runs] = [reader.runs(side.results, "report") for side in (first, second)]
    for side, one in zip((first, second), runs, strict=True):
        if not one:
            raise ValueError(f"{side.name}: its runs have no predictions of held-out rows; train it again")
    shared = schema.shared(first.tasks, second.tasks)
    if not shared:
        raise ValueError(f"{first.name} and {second.name} have no task in common: nothing to compare")
    known = set.intersection(*(set(sums.labelled) for one in runs for seeds in one.values() for sums in seeds.values()))
    tasks = tuple(task.name for task in schema.scored(shared) if task.group.name in known)
    if not tasks:
        raise ValueError(f"no held-out row has a label of {', '.join(shared)}: nothing to compare")
    paired = compare(runs[0], runs[1], tasks)
    return Comparison(first=first, second=second, tasks=tasks, paired=paired, schema=schema)


def _of_study(study: Path, names: Sequence[str], tasks: str, schema: Schema) -> list[Side]:
    board = make_leaderboard(read_study(study).results(), schema)
    if not board.rows:
        raise ValueError(f"{study}: no trial has finished yet; `mtl search` resumes it")
    named = schema.ordered([name.strip() for name in tasks.split(",")], "--tasks") if tasks else ()
    wanted = tuple(task.name for task in schema.scored(named)) if named else board.rankings[0].tasks
    ranking = next((ranking for ranking in board.rankings if ranking.tasks == wanted), None)
    if ranking is None:
        known = "; ".join(",".join(ranking.tasks) for ranking in board.rankings)
        raise ValueError(f"{study}: no strategy with the tasks {tasks}; it has {known}")
    return [_row(study, name, ranking, board) for name in names]


def _row(study: Path, name: str, ranking: Ranking, board: Leaderboard) -> Side:
    """The row of rank `name` in `ranking`, or of the run of that digest or folder in any ranking."""
    if name.isdecimal() and 1 <= int(name) <= len(ranking.rows):
        row = ranking.rows[int(name) - 1]
    else:
        of_run = {result.folder.name: row for row in board.rows for result in row.results}
        if Path(name).name not in of_run:
            raise ValueError(f"{study}: no {name} here; name a rank from 1 to {len(ranking.rows)}, or one of its runs/")
        row = of_run[Path(name).name]
    return Side(name, strategy_words(row.values, board.varied), row.tasks, row.results)


def _of_runs(names: Sequence[str], config: Config, frames: Frames) -> list[Side]:
    folders = [_folder(name, config.at(config.output.runs), "run.json", "run") for name in names]
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        check_data(folder, manifest, frames, config.schema)
    one, two = (manifest["split"] for manifest in manifests)
    if one["hash"] != two["hash"]:
        raise ValueError(
            f"{names[0]} was scored on {one['report']['of']}, {names[1]} on {two['report']['of']}, cut otherwise: only "
            "runs of one split compare"
        )
    return [_side(folder, manifest) for folder, manifest in zip(folders, manifests, strict=True)]


def _side(folder: Path, manifest: Mapping[str, Any]) -> Side:
    strategy = Strategy().replace(manifest["strategy"], f"{folder}/run.json")
    trial = Trial(strategy, {}, manifest["digest"])
    result = Result(trial, read_metrics(folder, manifest), float(manifest["seconds"]), folder)
    head, train = strategy.head, strategy.train
    words = f"{head.fusion}, {head.temporal}, {train.method}, seed {train.seed}"
    if is_backbone(manifest):
        words = f"backbone {manifest['backbone']['section']} by itself, seed {train.seed}"
    return Side(folder.name, words, head.predicted, (result,))


def _folder(name: str, home: Path, mark: str, kind: str) -> Path:
    """The study or run `name`: a path, or a bare name in its usual folder."""
    folder = find_folder(Path(name), home)
    if (folder / mark).is_file():
        return folder
    hint = "mtl compare STUDY A B" if kind == "study" else "mtl compare RUN_A RUN_B"
    raise ValueError(f"{name}: no finished {kind} here or in {home} (no {mark}); the form is {hint}")


def check_data(where: Path, about: Mapping[str, Any], frames: Frames, schema: Schema) -> None:
    """Raises `ValueError` where the frames or labels are not those of the study or run."""
    for key, digest in (("frames", frames_digest(frames)), ("labels", labels_digest(frames, schema))):
        if about[key] != digest:
            raise ValueError(f"{where}: the {key} have changed since; its predictions cannot be scored on these")


def _folders(side: Side) -> list[str]:
    return [str(result.folder) for result in side.results]
