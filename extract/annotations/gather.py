"""All annotations of a data set as one frames table: what `mtl prepare` was given, read and merged.

Place: above `extract.annotations.readers` and `extract.annotations.tracks`, below the command.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from cache.frames import frames_digest, read_frames
from extract.annotations.checks import Finding, plural, report
from extract.annotations.readers import add_context, merge, read_annotations, read_subjects, read_table, scan_faces
from extract.annotations.tracks import list_tracks, read_per_track, settle
from extract.faces.listing import Listing, list_faces


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where rows come from. `annotations` maps train, val and test to a file; with no source at all, the faces folder
    alone gives rows without labels. `context` adds the faces that no annotation names."""

    faces: Path
    annotations: Mapping[str, Path] = field(default_factory=dict)
    tracks: Path | None = None
    table: Path | None = None
    subjects: Path | None = None
    context: bool = False


def gather(sources: Sources) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """The frames table of `sources`, and findings about the reading itself.

    Raises:
        ValueError: no faces folder, a bad row, or two sources that disagree about a frame.
    """
    if not sources.faces.is_dir():
        raise ValueError(
            f"{sources.faces}: no such faces folder; name it with --faces or in mtl.toml under [data] faces"
        )
    found: list[Finding] = []
    named = dict(_read_files(sources))
    tracks = None if sources.tracks is None else read_per_track(sources.tracks)
    is_listed = tracks is not None or sources.context or not named
    listing = list_faces(sources.faces) if is_listed else Listing([], ())
    found += _not_listed(listing)
    if sources.tracks is not None and tracks is not None:
        named[str(sources.tracks)], about = _with_faces(tracks, sources.tracks, sources.faces, listing)
        found += about + _left_out(sources.tracks)
    if not named:
        named = {str(sources.faces): scan_faces(sources.faces, listing)}
    frames = merge(list(named.values()), names=list(named))
    if sources.context:
        frames = add_context(frames, scan_faces(sources.faces, listing))
    if sources.subjects is not None:
        subjects = read_subjects(sources.subjects)
        found += _strangers(frames, subjects)
        frames = merge([frames], subjects)
    return frames, tuple(found)


def _read_files(sources: Sources) -> Iterator[tuple[str, pl.DataFrame]]:
    for split, path in sources.annotations.items():
        yield f"{path} ({split})", read_annotations(path, split)
    if sources.table is not None:
        yield str(sources.table), read_table(sources.table)


def _not_listed(listing: Listing) -> list[Finding]:
    message = f"{plural(len(listing.faults), 'packed video')} not read whole"
    remedy = "put them right and type `mtl prepare` again; until then faces are missing from the table"
    again = f"{plural(len(listing.repeated), 'link')} to folders that are listed already left out"
    return [
        *report("packed_faces_not_listed", "error", listing.faults, message, remedy),
        *report("folders_listed_once", "info", listing.repeated, again, "nothing: each folder's faces are rows once"),
    ]


def _with_faces(frames: pl.DataFrame, root: Path, faces: Path, listing: Listing) -> tuple[pl.DataFrame, list[Finding]]:
    """The rows that have a face: per-track files have a row for every frame, also where no face was found."""
    on_disk = frames.join(pl.DataFrame({"path": listing.paths}, schema={"path": pl.String}), on="path", how="semi")
    if on_disk.is_empty():
        raise ValueError(
            f"{faces}: none of the {frames.height:,} frames of {root} has a face here; check the faces folder"
        )
    absent = frames.join(on_disk, on="path", how="anti")["path"].to_list()
    message = f"{plural(len(absent), 'frame')} of the per-track files without a face left out"
    remedy = "nothing, where the face detector found none; otherwise check the faces folder"
    return on_disk.sort("video", "frame"), report("frames_without_face", "info", absent, message, remedy)


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
        old = read_frames(out)
    except ValueError:
        return ()
    changed = [str(out)] if frames_digest(old) != frames_digest(frames) else []
    message = f"the table before had another frame list ({plural(old.height, 'row')})"
    remedy = "embeddings of the old list will be refused; type `mtl extract` again"
    return tuple(report("frame_list_changed", "info", changed, message, remedy))
