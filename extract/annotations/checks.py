"""One function per kind of finding: each takes a frames table and its schema and says what is wrong, where, and what to
do.

Place: below `extract.annotations.findings`. Severities: an error spoils numbers or stops an extraction; a warning
should be looked at; an info is good to know. `CHECKS` lists the functions.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from cache.frames import limits_of
from cache.labels import Group, Schema

NUM_EXAMPLES = 5
SCORED = ("train", "val", "test")
Severity = Literal["error", "warning", "info"]
SIDE = r"_(left|right)$"
ACTION_UNIT = re.compile(r"AU[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`code` is stable; `count` counts what the message names; `examples` are the first few."""

    code: str
    severity: Severity
    count: int
    message: str
    remedy: str
    examples: tuple[str, ...] = ()


def report(
    code: str, severity: Severity, items: Sequence[str], message: str, remedy: str, count: int | None = None
) -> list[Finding]:
    """A finding about `items`, or none when there are none; `message` ends the sentence that the count begins.

    `count` is their number where `items` are only the first of them.
    """
    if not items:
        return []
    count, examples = len(items) if count is None else count, tuple(items[:NUM_EXAMPLES])
    return [Finding(code=code, severity=severity, count=count, message=message, remedy=remedy, examples=examples)]


def plural(count: int, noun: str) -> str:
    """`1 video`, `1,234 videos`, `2 classes`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def noun_of(group: Group) -> str:
    """What one class or column of a group is called."""
    if group.kind == "classes":
        return "expression" if group.columns == ("expression",) else f"{group.name} class"
    return "action unit" if all(ACTION_UNIT.fullmatch(name) for name in group.columns) else f"{group.name} column"


def check_empty_splits(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    present = set(frames["split"])
    if not present & set(SCORED):
        remedy = "fine for prediction; to train, give annotations with --train and --val, or a column split"
        labelled = any(frames.select(schema.columns).count().row(0))
        severity: Severity = "warning" if labelled else "info"
        message = "no row is in train, val or test"
        return [Finding(code="no_split", severity=severity, count=1, message=message, remedy=remedy)]
    found = []
    for split in ("train", "val"):
        if split not in present:
            remedy = f"give its annotation with --{split}, or train on folds with [train] fold"
            found += report("empty_split", "warning", [split], f"no row is in {split}", remedy)
    return found


def check_unlabelled_tasks(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    """Groups without a label in a split; a test split without any label is a test list and is left alone."""
    has_label = {group.name: pl.any_horizontal(pl.col(group.columns).is_not_null()).any() for group in schema}
    table = frames.filter(pl.col("split").is_in(SCORED)).group_by("split").agg(**has_label)
    splits = {row.pop("split"): row for row in table.iter_rows(named=True)}
    if not any(splits.get("test", {}).values()):
        splits.pop("test", None)
    found = []
    for task in schema.names:
        empty = [split for split in SCORED if split in splits and not splits[split][task]]
        if len(empty) == len(splits):
            message = f"task {task}: no label in any split"
            remedy = f"leave {task} out of [head] tasks"
            found += report("task_without_labels", "info", [task][: len(splits)], message, remedy)
            continue
        for split in empty:
            message = f"task {task}: no labelled frame in {split}"
            remedy = f"{task} cannot be {'trained' if split == 'train' else 'scored'} there; add labels, or use folds"
            found += report("task_without_labels_in_split", "warning", [f"{task} in {split}"], message, remedy)
    return found


def check_positives(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    """Classes and binary columns without a positive in a split that has labels of the group.

    Splits that lack the same ones are named in one finding.
    """
    lacks: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for split in SCORED:
        part = frames.filter(split=split)
        for group in schema:
            for what, names in _LACKING[group.kind](part, group).items():
                lacks.setdefault((group.name, what, tuple(names)), []).append(split)
    found = []
    for (name, what, lacking), splits in lacks.items():
        group = schema.group(name)
        words = f"{plural(len(lacking), noun_of(group))} without {what} in {', '.join(splits)}"
        new = report("no_positive_in_split", "warning", lacking, words, _remedy_of_lack(group, splits))
        found += [replace(finding, examples=lacking) for finding in new]
    return found


def _remedy_of_lack(group: Group, splits: Sequence[str]) -> str:
    where = ", ".join(splits)
    scored = f"each counts 0 in the mean F1 of {where}" if "f1" in group.score else f"{where} cannot score it"
    return scored + (", and cannot be learned" if "train" in splits else "")


def _lacking_classes(part: pl.DataFrame, group: Group) -> dict[str, list[str]]:
    """What is lacking -> names, for the rows of one split; nothing where a group has no label at all."""
    seen = set(part[group.columns[0]].drop_nulls())
    return {"a labelled frame": [name for index, name in enumerate(group.classes) if seen and index not in seen]}


def _lacking_positives(part: pl.DataFrame, group: Group) -> dict[str, list[str]]:
    units = part.select(group.columns)
    labelled = dict(zip(group.columns, units.count().row(0), strict=True))
    positive = dict(zip(group.columns, units.sum().row(0), strict=True))
    any_unit = any(labelled.values())
    return {
        "a label": [name for name in group.columns if any_unit and not labelled[name]],
        "a positive": [name for name in group.columns if labelled[name] and not positive[name]],
    }


def _lacking_nothing(part: pl.DataFrame, group: Group) -> dict[str, list[str]]:
    return {}


def check_ranges(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    """Values no label can have; readers refuse them, a table made in Python may hold them."""
    limits = {name: limits_of(group) for group in schema for name in group.columns}
    wrong = {name: frames.filter(~pl.col(name).is_between(low, high)) for name, (low, high) in limits.items()}
    found = []
    for name, rows in wrong.items():
        values = [f"{path}: {value}" for path, value in rows.select("path", name).iter_rows()]
        low, high = limits[name]
        message = f"{name}: {plural(len(values), 'value')} outside [{low:g}, {high:g}]"
        found += report("out_of_range", "error", values, message, "correct the annotation; a missing label is null")
    return found


def check_leaks(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    """A video, subject or recording that stands in more than one of train, val and test."""
    rows = frames.filter(pl.col("split").is_in(SCORED))
    found = _leak(rows, pl.col("video"), "video", "error", "put each video in one split")
    if "subject" in frames.columns:
        remedy = "scores on known people are too good: move the subject into one split, or use folds (by subject)"
        found += _leak(rows, pl.col("subject"), "subject", "warning", remedy)
    sided = rows.filter(pl.col("video").str.contains(SIDE))
    remedy = "both faces come from one recording: put them in one split"
    return found + _leak(sided, pl.col("video").str.replace(SIDE, ""), "recording", "warning", remedy)


def _leak(rows: pl.DataFrame, key: pl.Expr, noun: str, severity: Severity, remedy: str) -> list[Finding]:
    pairs = rows.select(key.alias("key"), "split").drop_nulls().unique()
    spread = pairs.group_by("key").agg(pl.col("split")).filter(pl.col("split").list.len() > 1).sort("key")
    items = [f"{name} ({', '.join(sorted(splits, key=SCORED.index))})" for name, splits in spread.iter_rows()]
    message = f"{plural(len(items), noun)} in more than one split"
    return report(f"{noun}_in_several_splits", severity, items, message, remedy)


def check_ids(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    """Video ids that other tools, or a file system that ignores case, take for one another."""
    ids = frames["video"].unique().sort().to_frame("id")
    cases = _same(ids, pl.col("id").str.to_lowercase(), ", ")
    sides = _same(ids.filter(pl.col("id").str.contains(SIDE)), pl.col("id").str.replace(SIDE, ""), " and ")
    formulas = _like_formulas(frames)
    begins = [f"{short} and {long}" for short, long in _prefix_pairs(ids["id"].to_list())]
    return [
        *report(
            "ids_differ_by_case",
            "warning",
            cases,
            f"{plural(len(cases), 'set')} of video ids that differ by case only",
            "rename one; some file systems take them for one folder",
        ),
        *report(
            "ids_share_prefix",
            "info",
            begins,
            f"{plural(len(begins), 'pair')} of video ids where one begins the other",
            "nothing: ids are compared whole here; tools that match by prefix mix them up",
        ),
        *report(
            "names_like_formulas",
            "info",
            formulas,
            f"{plural(len(formulas), 'name')} that a spreadsheet takes for a formula (=, +, - or @ first)",
            "nothing: CSV files have them as they are, for scripts match by them; in a spreadsheet import them as text",
        ),
        *report(
            "ids_are_two_sides",
            "info",
            sides,
            f"{plural(len(sides), 'pair')} of faces from one recording (_left, _right)",
            "nothing: each is a video of its own; keep both in one split",
        ),
    ]


def _like_formulas(frames: pl.DataFrame) -> list[str]:
    """Videos and subjects whose names a spreadsheet would run; those that are numbers it does not."""
    names = pl.concat([frames[name].cast(pl.String) for name in ("video", "subject") if name in frames.columns])
    first = names.unique().drop_nulls().sort()
    return first.filter(first.str.contains(r"^[=+@-]") & first.cast(pl.Float64, strict=False).is_null()).to_list()


def _same(ids: pl.DataFrame, key: pl.Expr, joint: str) -> list[str]:
    """The ids that have the same `key`, each set as one text."""
    groups = ids.group_by(key.alias("key"), maintain_order=True).agg("id").filter(pl.col("id").list.len() > 1)
    return [joint.join(group) for group in groups["id"]]


def _prefix_pairs(ids: Sequence[str]) -> list[tuple[str, str]]:
    """(short, long) for each of the sorted `ids` with the nearest id that it begins with."""
    pairs: list[tuple[str, str]] = []
    open_ids: list[str] = []
    for name in ids:
        while open_ids and not name.startswith(open_ids[-1]):
            open_ids.pop()
        if open_ids:
            pairs.append((open_ids[-1], name))
        open_ids.append(name)
    return pairs


def check_subjects(frames: pl.DataFrame, schema: Schema) -> list[Finding]:
    if "subject" not in frames.columns:
        return []
    unknown = frames.filter(pl.col("subject").is_null())["video"].unique().sort().to_list()
    message = f"{plural(len(unknown), 'video')} without a subject"
    remedy = "add them to the --subjects file; until then each is taken for a person of its own"
    return report("video_without_subject", "warning", unknown, message, remedy)


def check_gaps(frames: pl.DataFrame, max_gap: int) -> list[Finding]:
    """Steps between neighbouring frame numbers of a video above `max_gap` real frames: no window of a head spans them.

    Neighbours are those that a window may hold: rows of one split, and rows of split "none" in the same videos.
    """
    steps = _neighbours(frames)
    long = steps.filter(pl.col("step") > max_gap)
    if long.is_empty():
        return []
    num_alone = _num_alone(steps, max_gap)
    videos = long["video"].unique(maintain_order=True)
    items = [
        f"{video} frames {frame - step} to {frame}"
        for video, frame, step in long.select("video", "frame", "step").head(5).rows()
    ]
    alone = f"; {plural(num_alone, 'frame')} with no other within it" if num_alone else ""
    words = f"above {plural(max_gap, 'frame')} ([train] max_gap) in {plural(len(videos), 'video')}{alone}"
    num_steps = steps["step"].count()
    if long.height == num_steps:
        message = f"every gap between neighbouring frames is {words}: heads get no context"
        median = int(steps["step"].median() or 0)  # type: ignore[arg-type]
        remedy = f"raise [train] max_gap (the median gap is {median:,}), or prepare more faces (--context)"
        return report("no_context", "warning", items, message, remedy, count=long.height)
    message = f"{long.height:,} of {num_steps:,} gaps between neighbouring frames {words}"
    remedy = "nothing, where the scene is another behind them; a larger [train] max_gap lets windows span them"
    return report("long_gaps", "info", items, message, remedy, count=long.height)


def _neighbours(frames: pl.DataFrame) -> pl.DataFrame:
    """(part, video, frame, step) in order, a split after the other; `step` from the frame before it, null at a start.

    Rows of split "none" stand with each of the splits that has the video, or by themselves where none has.
    """
    rows = frames.select("video", "frame", part="split")
    split = rows.filter(pl.col("part") != "none")
    context = rows.filter(pl.col("part") == "none").drop("part")
    context = context.join(split.select("video", "part").unique(), on="video", how="left", maintain_order="left")
    parts = pl.concat([split, context.select("video", "frame", pl.col("part").fill_null("none"))])
    return parts.sort("part", "video", "frame").with_columns(step=pl.col("frame").diff().over("part", "video"))


def _num_alone(steps: pl.DataFrame, max_gap: int) -> int:
    """How many frames have neither a frame before nor one behind them within `max_gap`."""
    near = (pl.col("step") <= max_gap).fill_null(False)
    behind = near.shift(-1).over("part", "video").fill_null(False)
    return steps.filter(~near & ~behind).select("video", "frame").n_unique()


_LACKING: dict[str, Callable[[pl.DataFrame, Group], dict[str, list[str]]]] = {
    "continuous": _lacking_nothing,
    "classes": _lacking_classes,
    "binary": _lacking_positives,
}
CHECKS: tuple[Callable[[pl.DataFrame, Schema], list[Finding]], ...] = (
    check_ranges,
    check_leaks,
    check_empty_splits,
    check_unlabelled_tasks,
    check_positives,
    check_subjects,
    check_ids,
)
