"""The crops of a finished video, put into their folders at once."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.durable import naming, replace_folder, sync_tree, temporary_beside
from pipelines.alignment.chunks import Chunk
from pipelines.chunk_files import ChunkFolder
from pipelines.json_files import read_json, write_json

PLANNED = "folders.json"  # in the work folder: what is put in place, so that a killed command may replace it


def place(
    work: ChunkFolder, out: Path, name: str, ends: Sequence[str | None], before: Mapping[str, Any]
) -> Counter[str]:
    """Writes every face of `work` to `out`/`name`+ending/FRAME.jpg; `ends` are by face, None for one that is left out.
    `before` are the folders that an earlier command made of this video: those not made again are removed.

    Returns:
        How many crops each folder has.

    Raises:
        ValueError: a folder of such a name is there and none of ours.
    """
    counts = Counter(name + end for end in ends if end is not None)
    ours = {*before, *_planned(work)}
    for folder in counts:
        if (out / folder).exists() and folder not in ours:
            raise ValueError(f"{out / folder}: is there and was not made from this video; move it away or rename it")
    write_json(work.folder / PLANNED, sorted({*ours, *counts}))
    made = {folder: temporary_beside(out / folder) for folder in counts}
    try:
        for path in made.values():
            path.mkdir()
        _write(work, ends, {folder.removeprefix(name): path for folder, path in made.items()})
        for folder, path in made.items():
            sync_tree(path)
            replace_folder(path, out / folder)
    finally:
        for path in made.values():
            shutil.rmtree(path, ignore_errors=True)
    for folder in ours - set(counts):
        shutil.rmtree(out / folder, ignore_errors=True)
    return counts


def _planned(work: ChunkFolder) -> list[str]:
    path = work.folder / PLANNED
    return [str(each) for each in read_json(path)] if path.is_file() else []


def _write(work: ChunkFolder, ends: Sequence[str | None], folders: Mapping[str, Path]) -> None:
    row = 0
    for index in range(len(work)):
        chunk = Chunk.from_bytes(work.path(index).read_bytes())
        for frame, picture in zip(chunk.frames.tolist(), chunk.pictures(), strict=True):
            end = ends[row]
            if end is not None:
                path = folders[end] / f"{frame:05d}.jpg"
                with naming(path):
                    path.write_bytes(picture)
            row += 1
