"""What a frames table holds and what is wrong with it: counts a split, and findings with remedies.

Place: above `extract.annotations.checks` (one function a kind of finding) and `extract.annotations.face_checks`;
printed by `mtl prepare`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cache.frames import is_in_order
from cache.labels import ABAW, KINDS, Group, Schema
from cache.names import SPLITS
from extract.annotations.checks import CHECKS, Finding, check_gaps
from extract.annotations.face_checks import check_face_files, check_faces

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """One split in numbers. A row is labelled for a group when any of the group's columns is.

    `classes` holds the frames of each class by group, `positives` (positive, labelled) frames of each binary column,
    `moments` mean and deviation of each continuous one; `gaps` are the steps between neighbouring frame numbers of a
    video (1 means no gap), None without neighbours.
    """

    num_videos: int
    num_rows: int
    num_labelled: Mapping[str, int]
    num_unlabelled: int
    classes: Mapping[str, Mapping[str, int]]
    positives: Mapping[str, tuple[int, int]]
    moments: Mapping[str, tuple[float, float] | None]
    gaps: Mapping[str, float] | None

    def to_json(self) -> dict[str, Any]:
        pairs = {name: {"positive": pos, "labelled": total} for name, (pos, total) in self.positives.items()}
        moments = {
            name: None if pair is None else {"mean": pair[0], "deviation": pair[1]}
            for name, pair in self.moments.items()
        }
        return {**asdict(self), "positives": pairs, "moments": moments}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceCounts:
    """The face files in numbers; `num_read` is 0 when they were looked for but not opened."""

    num_rows: int
    num_missing: int
    num_read: int
    num_unreadable: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One page about a frames table with labels of `schema`; `findings` stand worst first."""

    schema: Schema
    num_rows: int
    num_videos: int
    num_subjects: int | None
    splits: Mapping[str, SplitCounts]
    faces: FaceCounts | None
    findings: tuple[Finding, ...]

    def num_of(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with stable keys."""
        return {
            "num_rows": self.num_rows,
            "num_videos": self.num_videos,
            "num_subjects": self.num_subjects,
            "splits": {name: counts.to_json() for name, counts in self.splits.items()},
            "faces": None if self.faces is None else asdict(self.faces),
            "findings": [asdict(finding) | {"examples": list(finding.examples)} for finding in self.findings],
        }


def examine(
    frames: pl.DataFrame,
    faces: Path | None,
    advance: Callable[[int], None] = lambda count: None,
    *,
    schema: Schema = ABAW,
    open_faces: bool = True,
    max_gap: int | None = None,
    extra: tuple[Finding, ...] = (),
) -> Findings:
    """Counts and findings of `frames`, and of its files in the folder `faces` where one is given.

    `advance` is called with the number of files looked at; `max_gap` is the longest step between two frames (in real
    frames) that a head's window spans; `extra` are findings made while reading the annotations.

    Raises:
        ValueError: `faces` is no folder.
    """
    found = [*extra]
    for check in CHECKS:
        found += check(frames, schema)
    if max_gap is not None:
        found += check_gaps(frames, max_gap)
    counts = None
    if faces is not None:
        files = check_faces(frames["path"], faces, advance, open_faces=open_faces)
        found += check_face_files(frames, files)
        counts = FaceCounts(
            num_rows=frames.height,
            num_missing=len(files.missing),
            num_read=sum(files.sizes.values()),
            num_unreadable=len(files.unreadable),
            sizes={f"{width}x{height}": count for (height, width), count in files.sizes.most_common()},
        )
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Findings(
        schema=schema,
        num_rows=frames.height,
        num_videos=frames["video"].n_unique(),
        num_subjects=frames["subject"].drop_nulls().n_unique() if "subject" in frames.columns else None,
        splits=count_splits(frames, schema),
        faces=counts,
        findings=tuple(found),
    )


def count_splits(frames: pl.DataFrame, schema: Schema) -> dict[str, SplitCounts]:
    """The counts of every split that has rows, in the order train, val, test, none."""
    ordered = frames if is_in_order(frames) else frames.sort("video", "frame")
    with_gaps = ordered.drop("path").with_columns(gap=pl.col("frame").diff().over("video"))
    parts = ((split, with_gaps.filter(split=split)) for split in SPLITS)  # one after the other, as each is a copy
    return {split: _count(part, schema) for split, part in parts if len(part)}


def _count(part: pl.DataFrame, schema: Schema) -> SplitCounts:
    """The counts of one split's rows, which have a column `gap` as well."""
    labelled = part.select(pl.any_horizontal(pl.col(group.columns).is_not_null()).alias(group.name) for group in schema)
    columns = {kind: [name for group in schema if group.kind == kind for name in group.columns] for kind in KINDS}
    units = part.select(columns["binary"])
    pairs = zip(units.sum().row(0), units.count().row(0), strict=True) if columns["binary"] else ()
    return SplitCounts(
        num_videos=part["video"].n_unique(),
        num_rows=part.height,
        num_labelled={name: int(labelled[name].sum()) for name in schema.names},
        num_unlabelled=int(labelled.select(~pl.any_horizontal(pl.all())).to_series().sum()),
        classes={group.name: _by_class(part, group) for group in schema if group.kind == "classes"},
        positives=dict(zip(columns["binary"], pairs, strict=True)),
        moments={name: _moments(part[name]) for name in columns["continuous"]},
        gaps=_gaps(part["gap"].drop_nulls()),
    )


def _by_class(part: pl.DataFrame, group: Group) -> dict[str, int]:
    (column,) = group.columns
    numbers = part[column].value_counts()
    by_number = dict(zip(numbers[column], numbers["count"], strict=True))
    return {name: by_number.get(index, 0) for index, name in enumerate(group.classes)}


def _moments(values: pl.Series) -> tuple[float, float] | None:
    values = values.drop_nulls().cast(pl.Float64)
    mean, deviation = values.mean(), values.std(ddof=0)
    return (float(mean), float(deviation)) if isinstance(mean, float) and isinstance(deviation, float) else None


def _gaps(gaps: pl.Series) -> dict[str, float] | None:
    if gaps.is_empty():
        return None
    quantiles = {"median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: float(gaps.quantile(share, "nearest") or 0) for name, share in quantiles.items()}
