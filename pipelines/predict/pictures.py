"""What a prediction writes beside its table: the video with predictions drawn into it, and timelines."""

import mmap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl

from cache.durable import naming, remove_leftovers, sync, temporary_beside
from cache.labels import Schema
from extract.overlay.encoding import MARK as OVERLAY_MARK
from pipelines.outfile import check_place, put_in_place
from pipelines.predict.overlay import draw_overlay
from pipelines.timeline.section import write_timeline_page
from pipelines.timeline.videos import relative_folder, videos_of

# What stands in such a file of ours, so that --force replaces no other.
TIMELINES = {".html": b'class="timeline"', ".png": b"mtl predict --timeline"}
OVERLAY = ".mp4"


def check_overlay(path: Path, *, force: bool) -> None:
    """Raises `ValueError` where the video cannot be written to `path`."""
    if path.suffix.lower() != OVERLAY:
        raise ValueError(f"{path}: --overlay writes a video; give it the ending {OVERLAY}")
    check_place(path, force=force, is_ours=lambda there: _has(there, OVERLAY_MARK))


def check_timeline(path: Path, *, force: bool) -> None:
    """Raises `ValueError` where the timeline cannot be written to `path`."""
    mark = TIMELINES.get(path.suffix.lower())
    if mark is None:
        raise ValueError(f"{path}: --timeline writes a page or a picture; give it the ending {' or '.join(TIMELINES)}")
    check_place(path, force=force, is_ours=lambda there: _has(there, mark))


def write_overlay(
    path: Path,
    video: Path,
    table: pl.DataFrame,
    schema: Schema,
    *,
    follow_orientation: bool,
    force: bool,
    advance: Callable[[int], None],
) -> None:
    """`video` with the predictions of `table` drawn into it, whole or not at all."""

    def fill(temporary: Path) -> None:
        draw_overlay(video, table, schema, temporary, follow_orientation=follow_orientation, advance=advance)

    _write(path, fill, force=force)


def write_timeline(
    path: Path,
    title: str,
    table: pl.DataFrame,
    raw: pl.DataFrame,
    schema: Schema,
    *,
    whose: str,
    is_post: bool,
    faces: Path | None,
    force: bool,
) -> str:
    """The timelines of all faces as a page, or that of the face with the most frames as a picture; returns which face
    that is, where there are others. `faces` is the folder of the column `path`, None where there is none;
    `whose` says which model predicted."""
    videos = videos_of(
        raw if is_post else table,
        schema,
        smoothed=table if is_post else None,
        faces=None if faces is None else relative_folder(faces, path),
    )
    if path.suffix.lower() == ".html":
        note = f"Predictions of {whose}. Time is counted in frame numbers of the video."
        write_timeline_page(path, title, videos, schema, note=note)
        return ""
    import matplotlib

    from pipelines.timeline.figure import timeline_figure

    longest = max(videos, key=lambda video: len(video.frames))
    software = {"Software": TIMELINES[".png"].decode()}
    with matplotlib.rc_context({"text.parse_math": False}):  # names of labels are no formulas
        figure = timeline_figure(longest, schema)
        _write(path, lambda there: figure.savefig(there, format="png", dpi=150, metadata=software), force=force)
    return longest.name if len(videos) > 1 else ""


def _write(path: Path, fill: Callable[[Path], None], *, force: bool) -> None:
    """The file that `fill` writes, put at `path` once it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = temporary_beside(path)
    try:
        with naming(path):
            fill(temporary)
        sync(temporary)
        put_in_place(temporary, path, force=force)
    finally:
        temporary.unlink(missing_ok=True)


def _has(path: Path, mark: bytes) -> bool:
    with (
        suppress(OSError, ValueError),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
    ):
        return data.find(mark) >= 0
    return False
