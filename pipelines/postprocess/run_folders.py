"""Post-processing of run folders: read, fit, written beside the predictions it was fitted on.

postprocess.json          parameters, every score, what it was fitted on; written last
predictions.post.parquet  predictions.parquet with the parameters applied
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from cache.durable import write_durably
from cache.frames import Frames, frames_digest, labels_digest, open_frames
from cache.labels import ABAW, Schema, schema_of
from cache.parquet import parquet_bytes
from cache.seals import digest_of, read_sealed_json, sealed_json
from pipelines import run_files
from pipelines.config import Config
from pipelines.metrics.intervals import LEVEL, NUM_RESAMPLES, Interval
from pipelines.postprocess.affine import LEAST_SCALE, MOST_SCALE
from pipelines.postprocess.apply import Parameters, apply
from pipelines.postprocess.fit import Fitted, Step, fit
from pipelines.postprocess.offsets import CANDIDATES
from pipelines.postprocess.outside import THRESHOLDS as OUTSIDE_THRESHOLDS
from pipelines.postprocess.outside import OutsideScores, outside_rows
from pipelines.postprocess.outside_stream import read_outside
from pipelines.postprocess.parts import FOLD_SEED, NUM_FOLDS, Part, make_part
from pipelines.postprocess.prior import TAUS
from pipelines.postprocess.smoothing import GRID
from pipelines.postprocess.thresholds import NUM_CANDIDATES, SHRINK_VIDEOS
from pipelines.run_files import PREDICTIONS, REFIT, check_schema, read_manifest, schema_in

FORMAT = 3
RECORD = "postprocess.json"
PROCESSED = "predictions.post.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The frames table of mtl.toml with its digests: where labels, subjects and videos come from. `outside` is the
    classifier that post-processing may be fitted with."""

    frames: Frames
    path: Path
    frames_digest: str
    labels_digest: str
    schema: Schema = ABAW
    outside: OutsideScores | None = None


def read_truth(config: Config) -> Truth:
    """The frames table that `config` names, and the outside classifier.

    Raises:
        ValueError: one is not there; or as `read_outside`.
    """
    path = config.at(config.data.frames)
    if not path.is_file():
        raise ValueError(f"{path}: no frames table here; `mtl prepare` makes it")
    frames, schema, stream = open_frames(path, config.schema), config.schema, config.predict.outside
    return Truth(
        frames=frames,
        path=path,
        frames_digest=frames_digest(frames),
        labels_digest=labels_digest(frames, schema),
        schema=schema,
        outside=read_outside(config, stream, frames) if stream else None,
    )


def read_run_manifest(folder: Path, truth: Truth) -> dict[str, Any]:
    """run.json of a run that was trained on `truth`.

    Raises:
        ValueError: no finished run, or the frames or labels are no longer those it was trained on.
    """
    if (folder / "ensemble.json").is_file():
        raise ValueError(f"{folder}: an ensemble; its post-processing was fitted with it (`mtl ensemble --force`)")
    if (folder / "study.json").is_file():
        raise ValueError(f"{folder}: a study; name runs in it: {folder / 'runs'}/NAME")
    if (folder / REFIT).is_file():
        raise ValueError(f"{folder}: a refit; its post-processing is that of the runs it was made from")
    manifest = read_manifest(folder)
    if "refit" in manifest:
        runs = ", ".join(Path(run).name for run in manifest["refit"]["of"])
        raise ValueError(f"{folder}: part of a refit, with no row held out; name the runs it was made from: {runs}")
    check_schema(schema_in(manifest, folder), truth.schema, str(folder))
    for key, found in (("frames", truth.frames_digest), ("labels", truth.labels_digest)):
        if manifest.get(key) != found:
            what = "frames" if key == "frames" else "labels, splits or subjects"
            raise ValueError(f"{folder}: the {what} in {truth.path} are not those of this run; train it again")
    return manifest


def read_predictions(folder: Path) -> pl.DataFrame:
    """predictions.parquet of a run.

    Raises:
        ValueError: it is missing or damaged.
    """
    return run_files.read_predictions(folder, read_manifest(folder))


def part_of(table: pl.DataFrame, part: str, truth: Truth) -> Part:
    """The rows of `part` among a run's predictions, beside their labels."""
    return make_part(table.filter(pl.col("part") == part), truth.frames, truth.schema, truth.outside)


def postprocess_run(
    folder: Path,
    truth: Truth,
    *,
    force: bool = False,
    views: Sequence[str] = (),
    predicted: Callable[[], pl.DataFrame] | None = None,
) -> tuple[dict[str, Any], bool]:
    """postprocess.json of the run at `folder`, fitted unless it is there; and whether it was there.

    It is fitted on predictions.parquet, or on what `predicted` returns: the same rows as the mean over `views`.

    Raises:
        ValueError: no run, other frames, labels or views, or a file that is damaged or belongs to other predictions.
    """
    manifest = read_run_manifest(folder, truth)
    if not force and (folder / RECORD).exists() and (folder / PROCESSED).exists():
        record = read_postprocess(folder)
        check_views(folder, record["views"], views)
        if truth.outside is not None and record["outside"] != truth.outside.stream:
            raise ValueError(f"{folder}: fitted without the classifier {truth.outside.stream}; --force fits it again")
        return record, True
    table = read_predictions(folder) if predicted is None else predicted()
    fitted = fit(part_of(table, "select", truth), part_of(table, "report", truth))
    name, fitted_on = manifest["name"], "predictions"
    return write_postprocess(folder, fitted, truth, name=name, fitted_on=fitted_on, views=views, table=table), False


def write_postprocess(
    folder: Path, fitted: Fitted, truth: Truth, *, name: str, fitted_on: str, views: Sequence[str], table: pl.DataFrame
) -> dict[str, Any]:
    """Applies what was fitted to the predictions `table`, beside predictions.parquet in `folder`, then writes
    postprocess.json; returns that."""
    outside = None if truth.outside is None else outside_rows(truth.outside, table, truth.frames)
    processed = parquet_bytes(apply(fitted.parameters, table, outside))
    write_durably(folder / PROCESSED, processed)
    stored = (folder / PREDICTIONS).read_bytes()
    record = record_of(fitted, name=name, fitted_on=fitted_on, predictions=digest_of(stored)) | {"views": list(views)}
    record["outside"] = None if truth.outside is None else truth.outside.stream
    record |= {"processed": digest_of(processed)}
    write_durably(folder / RECORD, sealed_json(record))
    return record


def read_postprocess(folder: Path) -> dict[str, Any]:
    """postprocess.json of a run or an ensemble, checked against its predictions.

    Raises:
        ValueError: none there, damaged, of another format, or fitted on other predictions.
    """
    path = folder / RECORD
    redo = f"`{_fitted_by(folder)} --force` fits it again"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `mtl postprocess {folder}` fits it")
    record = read_sealed_json(path, redo)
    if record.get("format") != FORMAT:
        raise ValueError(f"{path}: not post-processing of format {FORMAT}; {redo}")
    for key in RECORD_KEYS:
        if key not in record:
            raise ValueError(f"{path}: {key!r} is missing; {redo}")
    try:
        _parameters_in(record, path)
    except ValueError as error:
        raise ValueError(f"{error}; {redo}") from None
    for key, name in (("predictions", PREDICTIONS), ("processed", PROCESSED)):
        if record[key] != digest_of((folder / name).read_bytes()):
            raise ValueError(f"{path}: {name} beside it is damaged, or not the one it was fitted on; {redo}")
    return record


def read_parameters(folder: Path) -> Parameters:
    """The parameters fitted for the run or ensemble at `folder`; raises as `read_postprocess`."""
    return read_post(folder, ()).parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Stored post-processing: its `parameters`, and the `views` whose mean it was fitted on, none for the run's own."""

    parameters: Parameters
    views: tuple[str, ...]


def read_post(folder: Path, views: Sequence[str]) -> Post:
    """The post-processing of the run or ensemble at `folder`, to be applied to the mean over `views`, where any are
    asked for; raises as `read_postprocess`, and where it was fitted on others."""
    record = read_postprocess(folder)
    check_views(folder, record["views"], views)
    return Post(parameters=_parameters_in(record, folder / RECORD), views=tuple(record["views"]))


def check_views(folder: Path, fitted: Sequence[str], asked: Sequence[str]) -> None:
    """Raises ValueError where the views `asked` for, if any, are not those that the post-processing was `fitted` on."""
    if asked and set(asked) != set(fitted):
        own = f"the views {', '.join(fitted)}" if fitted else "the run's own view"
        hint = f"`{_fitted_by(folder)} --views {','.join(asked)} --force` fits it on these, and --no-post leaves it out"
        if (folder / REFIT).is_file():
            hint = "leave out --views; or --no-post leaves the post-processing out"
        raise ValueError(
            f"{folder}: its post-processing was fitted on predictions of {own}, not of {', '.join(asked)}; {hint}"
        )


def _fitted_by(folder: Path) -> str:
    """The command that fits the post-processing in `folder`."""
    if (folder / REFIT).is_file():
        return "mtl refit"
    return "mtl ensemble" if (folder / "ensemble.json").is_file() else f"mtl postprocess {folder}"


def _parameters_in(record: Mapping[str, Any], path: Path) -> Parameters:
    return Parameters.from_json(record["parameters"], str(path), schema_of(record["schema"], f"{path}: schema"))


def record_of(fitted: Fitted, *, name: str, fitted_on: str, predictions: str) -> dict[str, Any]:
    """postprocess.json; the keys are stable."""
    return {
        "format": FORMAT,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "predictions": predictions,
        "fitted_on": f"{fitted_on} of the select rows",
        "schema": fitted.parameters.schema.to_mapping(),
        "parameters": fitted.parameters.to_json(),
        "folds": {"num": fitted.num_folds, "seed": FOLD_SEED, "asked": NUM_FOLDS, "unit": "subject, else video"},
        "tried": {
            "kernels": [str(one) for one in GRID],
            "num_thresholds": NUM_CANDIDATES,
            "affine": {"least_scale": LEAST_SCALE, "most_scale": MOST_SCALE},
            "taus": {"least": float(TAUS[0]), "most": float(TAUS[-1]), "num": len(TAUS)},
            "offsets": {"least": float(CANDIDATES[0]), "most": float(CANDIDATES[-1]), "num": len(CANDIDATES)},
            "outside": list(OUTSIDE_THRESHOLDS),
            "shrink_videos": SHRINK_VIDEOS,
        },
        "steps": [_step_json(step) for step in fitted.steps],
        "plain": dict(fitted.plain),
        "post": dict(fitted.post),
        **gains(fitted.plain, fitted.post, fitted.interval),
    }


def gains(plain: Mapping[str, Any], post: Mapping[str, Any], interval: Interval | None) -> dict[str, Any]:
    """What was gained in P out of fold and held out, and how optimistic the score in fold is."""
    outside = post["out_of_fold"]
    return {
        "gain": {
            "out_of_fold": _minus(outside and outside["P"], plain["select"]["P"]),
            "report": _minus(post["report"]["P"], plain["report"]["P"]),
            "interval": interval_json(interval),
        },
        "optimism": _minus(post["in_fold"]["P"], outside and outside["P"]),
    }


def interval_json(interval: Interval | None) -> dict[str, Any] | None:
    """An interval with its level and how it was made."""
    return None if interval is None else interval.to_json() | {"level": LEVEL, "resamples": NUM_RESAMPLES}


def _step_json(step: Step) -> dict[str, Any]:
    group = step.task.group
    cuts = dict(zip(group.names, map(float, step.choice.cuts), strict=False))
    affine = zip(step.task.columns, step.choice.affine, strict=False)
    return {
        "task": step.task.name,
        "components": list(step.components),
        "smoothing": asdict(step.smoothing),
        "affine": {name: {"scale": float(each[0]), "shift": float(each[1])} for name, each in affine} or None,
        "thresholds": cuts if group.kind == "binary" else None,
        "offsets": cuts if group.kind == "classes" else None,
        "tau": step.choice.tau,
        "outside": step.choice.outside,
        "in_fold": step.in_fold,
        "out_of_fold": step.out_of_fold,
        "report": step.report,
        "kept": step.kept,
    }


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


RECORD_KEYS = (
    *("name", "predictions", "processed", "views", "outside", "schema", "parameters"),
    *("steps", "plain", "post", "gain", "optimism"),
)
