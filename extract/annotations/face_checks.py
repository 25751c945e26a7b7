"""Whether the faces of a frames table are there, as files or packed, and can be decoded.

Place: beside `extract.annotations.checks`, called by `extract.annotations.findings`. Letters: N frames.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cache.cores import num_cores
from extract.annotations.checks import Finding, plural, report
from extract.faces.decoding import MissingFace
from extract.faces.source import FaceSource

Advance = Callable[[int], None]
CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceCheck:
    """What was found on disk: row numbers of missing faces, reasons of unreadable ones, digests of the rest.

    `digests` [N, 2] uint64 are zero where a face was not read; `sizes` counts faces by (height, width) in pixels, and
    `num_turned` those that note an orientation.
    """

    missing: tuple[int, ...]
    unreadable: tuple[tuple[int, str], ...]
    digests: np.ndarray
    sizes: Counter[tuple[int, int]]
    num_turned: int = 0


def check_faces(
    paths: Sequence[str] | pl.Series,
    folder: Path,
    advance: Advance,
    *,
    open_faces: bool = True,
    num_threads: int | None = None,
) -> FaceCheck:
    """Looks for each of `paths` [N] in `folder`; with `open_faces` each is read, digested and decoded as well.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such faces folder; name it with --faces or in mtl.toml under [data] faces")
    look = _open_faces if open_faces else _find_faces
    column = pl.Series(paths, dtype=pl.String)  # a list of as many texts takes twice the memory
    missing: list[int] = []
    unreadable: list[tuple[int, str]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    digests = np.zeros((len(paths), 2), dtype=np.uint64)
    source = FaceSource(folder)
    pool = ThreadPoolExecutor(num_threads or min(16, num_cores()))
    try:
        tasks = _tasks(source.groups(column))
        found = pool.map(lambda rows: look(column[rows].to_list(), source), tasks)
        for rows, chunk in zip(tasks, found, strict=True):
            missing += [rows[index] for index in chunk.missing]
            unreadable += [(rows[index], reason) for index, reason in chunk.unreadable]
            digests[rows] = chunk.digests
            sizes += chunk.sizes
            advance(len(rows))
    finally:
        pool.shutdown(cancel_futures=True)
        source.close()
    return FaceCheck(
        missing=tuple(sorted(missing)),
        unreadable=tuple(sorted(unreadable)),
        digests=digests,
        sizes=sizes,
        num_turned=source.orientations.num_turned,
    )


def _tasks(groups: Sequence[tuple[str | None, range]]) -> list[Sequence[int]]:
    """Rows to look at by one thread, in order: a chunk, or all rows of a video file, which is decoded once."""
    chunks: list[Sequence[int]] = []
    videos: dict[str, list[int]] = {}
    for video, rows in groups:
        if video is not None:
            videos.setdefault(video, []).extend(rows)
        else:
            chunks += [rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS)]
    return [*videos.values(), *chunks]


def equal_faces(check: FaceCheck) -> pl.DataFrame:
    """(row, group): the rows whose files have the same bytes as another row's, with a number for each set of them."""
    table = pl.DataFrame({"low": check.digests[:, 0], "high": check.digests[:, 1]}).with_row_index("row")
    read = table.filter((pl.col("low") != 0) | (pl.col("high") != 0))
    same = read.filter(pl.len().over("low", "high") > 1)
    return same.select("row", group=pl.col("row").min().over("low", "high"))


def check_face_files(frames: pl.DataFrame, files: FaceCheck) -> list[Finding]:
    """Missing and unreadable faces, files that are equal, and sizes."""
    paths = frames["path"]
    resume = "or take their rows out; `mtl extract` continues only with --allow-failed"
    missing = [paths[row] for row in files.missing]
    broken = [f"{paths[row]}: {reason}" for row, reason in files.unreadable]
    sizes = [f"{num:,} of {width} x {height} px" for (height, width), num in files.sizes.most_common()]
    return [
        *report(
            "missing_faces",
            "error",
            missing,
            f"{plural(len(missing), 'face')} of {len(paths):,} not on disk",
            f"check the faces folder, {resume}",
        ),
        *report(
            "unreadable_faces",
            "error",
            broken,
            f"{plural(len(broken), 'face')} of {len(paths):,} cannot be decoded",
            f"copy them again, {resume}",
        ),
        *_equal_findings(frames, files),
        *report(
            "faces_of_several_sizes",
            "info",
            sizes if len(sizes) > 1 else [],
            f"faces of {len(sizes)} sizes",
            "nothing: each is resized; extraction is fastest when all have one size",
        ),
        *report(
            "turned_faces",
            "info",
            [f"{files.num_turned:,} of {len(paths):,}"] if files.num_turned else [],
            f"{plural(files.num_turned, 'face')} turned as their EXIF orientation or rotation says",
            "nothing, where they stand upright now; --ignore-orientation takes them as stored",
        ),
    ]


def _equal_findings(frames: pl.DataFrame, files: FaceCheck) -> list[Finding]:
    same = equal_faces(files)
    rows = same.with_columns(frames[same["row"].to_list()].select("path", split=pl.col("split").replace("none", None)))
    groups = rows.group_by("group", maintain_order=True).agg("path", pl.col("split").drop_nulls().n_unique())
    across, within = (
        [" = ".join(group[:3]) for group in groups.filter(chosen)["path"]]
        for chosen in (pl.col("split") > 1, pl.col("split") <= 1)
    )
    return [
        *report(
            "equal_faces_across_splits",
            "warning",
            across,
            f"{plural(len(across), 'picture')} stored under several names in different splits",
            "the same picture is trained on and scored: keep it in one split",
        ),
        *report(
            "equal_faces",
            "info",
            within,
            f"{plural(len(within), 'picture')} stored under several names",
            "nothing, where a video stands still; otherwise look for copied files",
        ),
    ]


def _find_faces(paths: Sequence[str], source: FaceSource) -> FaceCheck:
    missing = tuple(row for row, path in enumerate(paths) if not source.exists(path))
    empty = np.zeros((len(paths), 2), dtype=np.uint64)
    return FaceCheck(missing=missing, unreadable=(), digests=empty, sizes=Counter())


def _open_faces(paths: Sequence[str], source: FaceSource) -> FaceCheck:
    missing: list[int] = []
    unreadable: list[tuple[int, str]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    digests = np.zeros((len(paths), 2), dtype=np.uint64)
    for row, face in enumerate(source.read(paths)):
        if isinstance(face, MissingFace):
            missing.append(row)
            continue
        try:
            if isinstance(face, ValueError):
                raise face
            height, width, _ = face.pixels().shape
        except ValueError as error:
            unreadable.append((row, str(error)))
            continue
        digests[row] = np.frombuffer(face.digest, dtype=np.uint64)
        sizes[height, width] += 1
    return FaceCheck(missing=tuple(missing), unreadable=tuple(unreadable), digests=digests, sizes=sizes)
