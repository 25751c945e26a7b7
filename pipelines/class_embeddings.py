"""Embeddings of a group's classes, one row per class in the schema's order: a .npy or .safetensors file with one array
[K, E]. K classes, E width."""

import functools
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from cache.labels import Schema
from cache.regular import FACE_BYTES, check_regular, read_bytes

SUFFIXES = (".npy", ".safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class ClassEmbeddings:
    """`values` [K, E] float32, and the digest of the file they are from."""

    values: np.ndarray
    digest: str


def read_class_embeddings(path: Path, schema: Schema, tasks: Sequence[str]) -> ClassEmbeddings:
    """Those in the file at `path`, which are of the classes of one of `tasks`.

    Raises:
        ValueError: no such file, not such an array, or one of other classes; says which, and what is expected.
    """
    where = f"class_embeddings = {str(path)!r}"
    if path.suffix not in SUFFIXES or not path.is_file():
        what = "no such file" if path.suffix in SUFFIXES else "neither a .npy nor a .safetensors file"
        raise ValueError(f"{where}: {what}; name one with a row per class")
    status = path.stat()
    found = _read(path, status.st_mtime_ns, status.st_size)
    counts = {name: schema.tasks[name].num_outputs for name in tasks if schema.tasks[name].group.kind == "classes"}
    if not counts:
        raise ValueError(f"{where}: no task of classes among {', '.join(tasks)}; leave it out")
    if len(found.values) not in counts.values():
        expected = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(f"{where}: it has {len(found.values)} rows, and one per class is needed ({expected})")
    return found


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> ClassEmbeddings:
    """The file as it was at `changed`."""
    where = f"class_embeddings = {str(path)!r}"
    check_regular(path, FACE_BYTES)
    data = read_bytes(path, FACE_BYTES)
    try:
        arrays = load(data) if path.suffix == ".safetensors" else {"": np.load(io.BytesIO(data), allow_pickle=False)}
    except (SafetensorError, ValueError, EOFError, OSError):  # NumPy's own words would be advice to unpickle it
        raise ValueError(f"{where}: it cannot be read as a {path.suffix} file") from None
    values = next(iter(arrays.values())) if len(arrays) == 1 else None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        shapes = ", ".join(str(tuple(getattr(each, "shape", ()))) for each in arrays.values())
        raise ValueError(f"{where}: one array of floating-point numbers [classes, width] is expected, found {shapes}")
    values = values.astype(np.float32)
    if not np.isfinite(values).all() or not np.linalg.norm(values, axis=1).all():
        raise ValueError(f"{where}: a row holds no finite numbers, or zeros alone")
    return ClassEmbeddings(values, hashlib.blake2b(data, digest_size=8).hexdigest())
