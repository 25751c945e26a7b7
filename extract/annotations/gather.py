"""All annotations of a data set as one frames table: what `mtl prepare` was given, read and merged.

Place: above `extract.annotations.readers` and `extract.annotations.tracks`, below the command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from cache.frames import frames_digest, open_frames
from cache.labels import ABAW, Schema
from extract.annotations.checks import Finding, plural, report
from extract.annotations.dummies import check_dummies, refuse_dummies
from extract.annotations.duplicates import OnConflict
from extract.annotations.label_rules import has_challenge_columns
from extract.annotations.listed import is_bare_list, listed_rows
from extract.annotations.lists import read_list
from extract.annotations.matching import match_faces
from extract.annotations.readers import (
    Faces,
    add_context,
    faces_of,
    merge,
    read_annotations,
    read_subjects,
    read_table,
    scan_faces,
)
from extract.annotations.tracks import list_tracks, read_per_track, settle
from extract.faces.listing import Listing, list_faces


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where rows come from. `annotations` maps train, val and test to a file, `test_list` names frames or videos; with
    no source at all, the faces folder alone gives rows without labels. `context` adds the faces that no annotation
    names. `on_conflict` concerns rows of one file that disagree about a frame. `schema` is that of the labels.
    """

    faces: Path
    annotations: Mapping[str, Path] = field(default_factory=dict)
    test_list: Path | None = None
    tracks: Path | None = None
    table: Path | None = None
    subjects: Path | None = None
    context: bool = False
    on_conflict: OnConflict = "error"
    schema: Schema = ABAW


def gather(sources: Sources) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """The frames table of `sources`, and findings about the reading itself.

    Raises:
        ValueError: no faces folder, a bad row, two sources that disagree about a frame, or a format of the challenge
            where the schema is another.
    """
    schema = sources.schema
    if not sources.faces.is_dir():
        raise ValueError(
            f"{sources.faces}: no such faces folder; name it with --faces or in mtl.toml under [data] faces"
        )
    if sources.tracks is not None and not has_challenge_columns(schema):
        raise ValueError(
            f"{sources.tracks}: per-track folders are the challenge's own (schema abaw), and [labels] is "
            f"{schema.name}; give the labels with --table"
        )
    bare = [path for split, path in sources.annotations.items() if split == "test" and is_bare_list(path)]
    named, found = _read_files(sources, bare)
    tracks = None if sources.tracks is None else read_per_track(sources.tracks)
    lists = [read_list(path) for path in (sources.test_list, *bare) if path is not None]
    # Frames of videos have to be counted where the rows do not say which there are.
    opened = bool(lists) or tracks is not None or sources.context or not named
    faces, about = _list(sources.faces, open_videos=opened)
    found += about
    for name, table in named.items():
        named[name], about = _matched(table, sources.faces, faces)
        found += about
    if sources.tracks is not None and tracks is not None:
        named[str(sources.tracks)], about = _with_faces(tracks, sources.tracks, sources.faces, faces)
        found += about + _left_out(sources.tracks)
    for names in lists:
        rows, about = listed_rows(names, sources.faces, faces, schema)
        named[f"{names.path} (test list)"], more = _with_faces(rows, names.path, sources.faces, faces)
        found += about + more
    if not named:
        named = {str(sources.faces): scan_faces(sources.faces, faces, schema)}
    frames = merge(list(named.values()), names=list(named), schema=schema)
    if sources.context:
        frames = add_context(frames, scan_faces(sources.faces, faces, schema), schema)
    if sources.subjects is not None:
        subjects = read_subjects(sources.subjects)
        found += _strangers(frames, subjects)
        frames = merge([frames], subjects, schema=schema)
    return frames, tuple(found)


def _read_files(sources: Sources, bare: Sequence[Path]) -> tuple[dict[str, pl.DataFrame], list[Finding]]:
    """The tables of the annotation files by their names in errors, without the `bare` lists; findings about rows."""
    named: dict[str, pl.DataFrame] = {}
    found: list[Finding] = []
    labelled = [(split, path) for split, path in sources.annotations.items() if path not in bare]
    for split, path in labelled:
        named[f"{path} ({split})"], about = read_annotations(path, split, sources.on_conflict, sources.schema)
        found += about
    if sources.table is not None:
        named[str(sources.table)], about = read_table(sources.table, sources.on_conflict, sources.schema)
        found += about
    for name, table in named.items():
        if has_challenge_columns(sources.schema):  # elsewhere a test set may well show nothing of a few labels
            remedy = "give the file with --test-list, which reads names only"
            refuse_dummies(table.filter(split="test"), name, remedy)
            table = table.filter(pl.col("split") != "test")
        found += check_dummies(table, name, sources.schema)
    return named, found


def _list(folder: Path, *, open_videos: bool) -> tuple[Faces, list[Finding]]:
    """The faces of `folder`; the texts of the listing itself, which take more than the table, are gone behind it."""
    listing = list_faces(folder, open_videos=open_videos)
    return faces_of(listing), _not_listed(listing)


def _matched(frames: pl.DataFrame, folder: Path, faces: Faces) -> tuple[pl.DataFrame, list[Finding]]:
    matched = match_faces(frames, folder, faces)
    return matched.frames, matched.findings


def _not_listed(listing: Listing) -> list[Finding]:
    message = f"{plural(len(listing.faults), 'packed video')} not read whole"
    remedy = "put them right and type `mtl prepare` again; until then faces are missing from the table"
    again = f"{plural(len(listing.repeated), 'link')} to folders that are listed already left out"
    return [
        *report("packed_faces_not_listed", "error", listing.faults, message, remedy),
        *report("folders_listed_once", "info", listing.repeated, again, "nothing: each folder's faces are rows once"),
    ]


def _with_faces(frames: pl.DataFrame, root: Path, folder: Path, faces: Faces) -> tuple[pl.DataFrame, list[Finding]]:
    """The rows that have a face: per-track files and test lists name every frame, also where no face was found."""
    matched = match_faces(frames, folder, faces)
    if not matched.has_face.any():
        raise ValueError(
            f"{folder}: none of the {frames.height:,} frames of {root} has a face here; check the faces folder"
        )
    absent = matched.frames.filter(~matched.has_face)["path"].to_list()
    message = f"{plural(len(absent), 'frame')} of {root} without a face left out"
    remedy = "nothing, where the face detector found none; otherwise check the faces folder"
    about = report("frames_without_face", "info", absent, message, remedy)
    return matched.frames.filter(matched.has_face), [*matched.findings, *about]


def _left_out(root: Path) -> list[Finding]:
    files = [f"{file.path.relative_to(root)}" for file in settle(list_tracks(root))[1]]
    message = f"{plural(len(files), 'training file')} left out: another track validates on the video"
    remedy = "nothing: so no part of a shared model has seen a validation video"
    return report("tracks_split_differently", "warning", files, message, remedy)


def _strangers(frames: pl.DataFrame, subjects: pl.DataFrame) -> list[Finding]:
    unknown = subjects.join(frames, on="video", how="anti")["video"].sort().to_list()
    message = f"{plural(len(unknown), 'video')} of the subjects file not in any annotation"
    return report("subjects_of_unknown_videos", "info", unknown, message, "nothing, unless a video id is misspelt")


def check_replaced(frames: pl.DataFrame, out: Path) -> tuple[Finding, ...]:
    """Says when the table at `out`, about to be replaced by `frames`, has another frame list."""
    if not out.is_file():
        return ()
    try:
        old = open_frames(out)
    except ValueError:
        return ()
    changed = [str(out)] if frames_digest(old) != frames_digest(frames) else []
    message = f"the table before had another frame list ({plural(len(old), 'row')})"
    remedy = "embeddings of the old list will be refused; type `mtl extract` again"
    return tuple(report("frame_list_changed", "info", changed, message, remedy))
