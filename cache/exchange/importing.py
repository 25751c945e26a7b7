"""Embeddings that others made, put into the cache as a stream: shard by shard, in the frames table's order.

A frame without a vector becomes a failed row; of vectors of stretches of time it has no row, and others' streams are
still used there. Letters: N frames, V vectors of the source, D width, R rows of a shard.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.exchange.arrays import open_folder, open_matrix, open_parquet, open_pickle
from cache.exchange.hdf5 import open_hdf5
from cache.exchange.parts import has_parts, open_parts
from cache.exchange.segments import match_segments
from cache.exchange.sources import Source, SourceOptions
from cache.frames import frames_digest
from cache.identity import AGE, FACE_DIGEST_BYTES, IMPORTED, StreamIdentity
from cache.regular import check_regular
from cache.rounding import REMEDY, Rounding, too_large
from cache.store import Cache
from cache.stream import BASE_VIEW, Stream

MISSING, INVALID = -1, -2
REASONS = {MISSING: "not in the imported file", INVALID: "marked invalid in the imported file"}
NOT_FINITE, TOO_LARGE = "not finite in the imported file", "too large for {dtype}"
# Options that change which vector a frame gets: they are part of the stream's identity.
NUMBERING = ("dataset", "suffix", "first_frame", "step", "names", "part", "allow_overlaps")
FOLDER, PARTS = "folder", "parts"  # kinds of source that are no file
OPTION_KINDS = {
    "dataset": (".h5", ".hdf5", PARTS),
    "keys": (".npy",),
    "suffix": (FOLDER,),
    **dict.fromkeys(("first_frame", "step"), (FOLDER, ".h5", ".hdf5")),
    "names": (".h5", ".hdf5"),
    "part": (".pkl", ".pickle"),
}
DIGEST_BYTES, READ_BYTES = 16, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did; `failed` counts the rows of each reason, `example_extra` is a key no frame asked for,
    `num_uncovered` counts the frames that no stretch of time covers, and `notes` are lines on what the values lost."""

    stream: str
    view: str
    num_rows: int
    num_valid: int
    width: int
    failed: dict[str, int]
    num_extra: int
    example_extra: str
    in_order: bool
    num_uncovered: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRows:
    """The vectors of N frames: `rows` [N] int64 in the source, MISSING or INVALID, and for stretches of time the `ages`
    [N] in frames, NO_ROW where MISSING is no fault."""

    rows: np.ndarray
    ages: np.ndarray | None = None

    def part(self, start: int, stop: int) -> "FrameRows":
        """Of the frames [start, stop)."""
        return FrameRows(rows=self.rows[start:stop], ages=None if self.ages is None else self.ages[start:stop])


def import_stream(
    cache: Cache,
    name: str,
    path: Path,
    frames: pl.DataFrame,
    *,
    view: str = BASE_VIEW,
    backbone: str = IMPORTED,
    options: SourceOptions | None = None,
    shard_rows: int,
    dtype: str = "float16",
    fps: float = 30.0,
    advance: Callable[[int], None] = lambda count: None,
) -> ImportReport:
    """Fills a view of the stream `name` from the file or folder `path`; one begun from the same bytes is finished.

    Vectors of stretches of time go to all frames, `fps` a second, that they cover; the last column is then their age.

    Raises:
        ValueError: the source cannot be read, names a frame twice, has not one width or nothing for the frames table,
            or no vector that can be kept; or the stream there was made from something else, or its views are of
            another width. A view that was made here is removed again.
    """
    options = options or SourceOptions()
    source = open_source(path, frames, options)
    if source.is_timed:
        rows, ages = match_segments(source.keys, frames, fps, options, str(path))
        found = FrameRows(rows=rows, ages=ages)
    else:
        found = FrameRows(rows=match(source.keys, frames, path))
    identity = StreamIdentity(
        backbone=backbone,
        weights=_digest(source.files),
        preprocessing={**_numbering(options), **({AGE: "frames", "fps": fps} if source.is_timed else {})},
        pooling=IMPORTED,
        dtype=dtype,
        view=view,
        frames=frames_digest(frames),
        num_frames=len(frames),
        width=source.width + source.is_timed,
    )
    is_new = (name, view) not in cache.streams()
    _check_views(cache, name, identity, path)
    stream = cache.create(name, identity, shard_rows, {"imported": path.name})
    rounding = Rounding(dtype)
    try:
        _fill(stream, source, found, rounding, advance)
        _require_some(stream, path)
    except ValueError:
        if is_new:
            cache.remove(name, view)
        raise
    return _report(stream, source, found.rows, rounding)


def _require_some(stream: Stream, path: Path) -> None:
    """Raises ValueError where not one row can be used: no head could be trained on it."""
    failed = Counter(stream.failed().values())
    if sum(failed.values()) == stream.num_rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.items())
        hint = f"; {REMEDY}" if TOO_LARGE.format(dtype="float16") in failed else ""
        raise ValueError(f"{path}: no vector of it can be kept: {reasons}{hint}")


def _check_views(cache: Cache, name: str, identity: StreamIdentity, path: Path) -> None:
    """Raises ValueError where a view of the stream that is there is of other width or not imported: no head could take
    one for the other."""
    for there, view in cache.streams():
        if there != name or view == identity.view:
            continue
        other = cache.stream(name, view).identity
        if not other.is_imported:
            raise ValueError(f"{cache.where}: stream {name} (view {view}) was extracted; import under another name")
        if other.width != identity.width:
            raise ValueError(
                f"{path}: its vectors are {identity.width} wide, those of {name} (view {view}) {other.width}; "
                "views of one stream have one width, so import it under another name"
            )
        if other.has_age != identity.has_age:
            raise ValueError(
                f"{path}: one view of {name} has rows of frames, another rows of times; import it under another name"
            )


def open_source(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """Raises ValueError where `path` is not there, of no known kind, or an option does not belong to its kind."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    kind = path.suffix.lower()
    if not path.is_dir():
        check_regular(path)
    if path.is_dir():
        kind = PARTS if has_parts(path) else FOLDER
    if kind not in SOURCES:
        raise ValueError(
            f"{path}: unknown kind of file; known: a folder, {', '.join(each for each in SOURCES if each[:1] == '.')}"
        )
    default, is_set = SourceOptions(), []
    for option, kinds in OPTION_KINDS.items():
        if getattr(options, option) != getattr(default, option) and kind not in kinds:
            is_set.append(f"--{option.replace('_', '-')}")
    if is_set:
        raise ValueError(f"{path}: {', '.join(is_set)} does not go with this kind of source")
    if options.step != 1 and options.first_frame is None:
        raise ValueError("--step needs --first-frame, the number of the first row's frame")
    return SOURCES[kind](path, frames, options)


def match(keys: pl.DataFrame, frames: pl.DataFrame, path: Path) -> np.ndarray:
    """[N] int64: for each frame the index of its vector, MISSING or INVALID.

    Raises:
        ValueError: a frame has two vectors, or no frame has any; names an example.
    """
    twice = keys.select("video", "frame").is_duplicated() & keys["frame"].is_not_null()
    if twice.any():
        video, frame = keys.filter(twice).select("video", "frame").row(0)
        raise ValueError(f"{path}: two vectors for video {video!r} frame {frame}; keep one of them")
    index = np.arange(len(keys))
    if "valid" in keys.columns:
        index = np.where(keys["valid"].fill_null(False).to_numpy(), index, INVALID)
    numbered = keys.select("video", "frame").with_columns(pl.Series("vector", index, pl.Int64))
    found = frames.select("video", "frame").join(numbered, on=["video", "frame"], how="left", maintain_order="left")
    rows = found["vector"].fill_null(MISSING).to_numpy()
    if not (rows >= 0).any():
        raise ValueError(f"{path}: has nothing for the frames table; {_examples(keys, frames)}")
    return rows


def _examples(keys: pl.DataFrame, frames: pl.DataFrame) -> str:
    texts = [
        f"{what} has video {table['video'][0]!r} frame {table['frame'][0]}" if len(table) else f"{what} is empty"
        for what, table in (("the file", keys), ("the table", frames))
    ]
    return ", ".join(texts)


def _numbering(options: SourceOptions) -> Mapping[str, Any]:
    """The options that were set and decide which vector a frame gets."""
    default = asdict(SourceOptions())
    return {key: value for key, value in asdict(options).items() if key in NUMBERING and value != default[key]}


def _digest(files: tuple[Path, ...]) -> str:
    """Hexadecimal digest of the files' bytes; of several, also of their names and sizes."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for path in files:
        if len(files) > 1:
            digest.update(f"{path.name};{path.stat().st_size};".encode())
        with open(path, "rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _fill(stream: Stream, source: Source, found: FrameRows, rounding: Rounding, advance: Callable[[int], None]) -> None:
    with stream.writer_lock():
        missing = set(stream.missing_shards())
        for shard in range(stream.num_shards):
            start, stop = stream.rows(shard)
            if shard in missing:
                embeddings, failed = _gather(source, found.part(start, stop), rounding)
                stream.write_shard(shard, embeddings, np.zeros((stop - start, FACE_DIGEST_BYTES), np.uint8), failed)
            advance(stop - start)


def _gather(source: Source, found: FrameRows, rounding: Rounding) -> tuple[np.ndarray, dict[int, str]]:
    """[R, D] in the dtype of `rounding` of the vectors that R frames see, with ages [R, D + 1]; and why frames have
    none."""
    rows = found.rows
    failed = {} if source.is_timed else {int(row): REASONS[int(rows[row])] for row in np.flatnonzero(rows < 0)}
    embeddings = np.zeros((len(rows), source.width), rounding.dtype)
    there = np.flatnonzero(rows >= 0)
    vectors = source.read(rows[there])
    with np.errstate(over="ignore", under="ignore"):
        embeddings[there] = vectors
    rounding.add(vectors, embeddings[there])
    lost = np.flatnonzero(~np.isfinite(embeddings[there]).all(axis=1))
    for index, finite in zip(lost, np.atleast_1d(np.isfinite(vectors[lost]).all(axis=1)), strict=True):
        failed[int(there[index])] = TOO_LARGE.format(dtype=rounding.dtype) if finite else NOT_FINITE
    if found.ages is None:
        return embeddings, failed
    ages = found.ages.clip(max=np.finfo(rounding.dtype).max).astype(rounding.dtype)
    return np.column_stack([embeddings, ages]), failed


def _report(stream: Stream, source: Source, rows: np.ndarray, rounding: Rounding) -> ImportReport:
    failed = stream.failed()
    num_large = sum(reason == TOO_LARGE.format(dtype=rounding.dtype) for reason in failed.values())
    large = too_large(f"stream {stream.name}", num_large, rounding.dtype) if num_large else ""
    used = np.zeros(len(source.keys), bool)
    used[rows[rows >= 0]] = True
    if "valid" in source.keys.columns:  # a vector that does not count is no extra one
        used |= ~source.keys["valid"].fill_null(False).to_numpy()
    extra = np.flatnonzero(~used)
    key = "start_s" if source.is_timed else "frame"
    example = source.keys.select("video", key).row(int(extra[0])) if len(extra) else None
    return ImportReport(
        stream=stream.name,
        view=stream.view,
        num_rows=stream.num_rows,
        num_valid=stream.num_rows - len(failed),
        width=stream.width,
        failed=dict(Counter(failed.values())),
        num_extra=len(extra),
        example_extra=f"video {example[0]!r} {key} {example[1]}" if example else "",
        in_order=source.in_order,
        num_uncovered=int((rows < 0).sum()) if source.is_timed else 0,
        notes=tuple(filter(None, (rounding.note(f"stream {stream.name}"), large))),
    )


SOURCES: dict[str, Callable[[Path, pl.DataFrame, SourceOptions], Source]] = {
    FOLDER: open_folder,
    PARTS: open_parts,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".npy": open_matrix,
    ".parquet": open_parquet,
    ".pkl": open_pickle,
    ".pickle": open_pickle,
}
