"""A submission as one file: written under a temporary name, read back, and only then renamed. R rows."""

from collections.abc import Sequence
from pathlib import Path

from cache.durable import temporary_beside, write_synced
from pipelines.outfile import put_in_place
from pipelines.submission.checking import check_rows
from pipelines.submission.formats import TRACKS, Track


def write_list(path: Path, track: Track, names: Sequence[str], cells: Sequence[str], *, force: bool) -> None:
    """The submission of `track` at `path`: `names` [R] and what is predicted of each, `cells` [R].

    Raises:
        ValueError: read back it is not what it should be, or something came to `path` meanwhile and not `force`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        rows = [f"{name},{cell}" for name, cell in zip(names, cells, strict=True)]
        write_lines(temporary, [track.header, *rows], path)
        check_rows(temporary, track, track.header, names, len(names))
        put_in_place(temporary, path, force=force)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(temporary: Path, lines: Sequence[str], path: Path) -> None:
    """`lines`, each ended by LF, durably at `temporary`; an error of the disk names `path`."""
    write_synced(temporary, ("\n".join(lines) + "\n").encode(), path)


def is_submission(path: Path) -> bool:
    """Whether the file at `path` begins as a submission does, so that --force may replace it."""
    try:
        with open(path, "rb") as file:
            first = file.readline(1024)
    except OSError:
        return False
    return first in {f"{track.header}\n".encode() for track in TRACKS.values()}
