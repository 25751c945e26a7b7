"""What is inside an HDF5 file, and only that: links, external storage and virtual datasets may lead to any other file.

Letters: V vectors of the file, D width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from cache.regular import GIB, size_words

MAX_LINKS = 16  # one behind the other
CHUNK_BYTES = GIB  # of a chunk unpacked; it is held whole
COMPANIONS = ("video", "frame", "valid")


def item(group: Any, name: str, path: Path, depth: int = 0) -> Any:
    """What `group` has under `name` (which may have slashes): a group or a dataset; None where it has nothing.

    Raises:
        ValueError: the way there, or the dataset's bytes, lead out of the file; or links lead round in a circle.
    """
    here = group.file if name.startswith("/") else group
    for part in filter(None, name.split("/")):
        if part == ".":
            continue
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) and part in here_names(here) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink) or depth > MAX_LINKS:
            what = f"links to another file ({link.filename})" if isinstance(link, h5py.ExternalLink) else "leads round"
            raise ValueError(f"{path}: {here.name.rstrip('/')}/{part} {what}; copy into one file what it stands for")
        here = item(here, link.path, path, depth + 1) if isinstance(link, h5py.SoftLink) else here[part]
        if here is None:
            return None
    if isinstance(here, h5py.Dataset):
        _check_dataset(here, path)
    return here


def here_names(group: Any) -> Any:
    """The names in `group` for `in`, which opens nothing: h5py's own `in` follows links."""
    return _Names(group)


class _Names:
    def __init__(self, group: Any) -> None:
        self._links = group.id.links

    def __contains__(self, name: str) -> bool:
        return bool(self._links.exists(name.encode()))


def check_links(group: Any, path: Path) -> list[str]:
    """The names in `group`, none of which is a link out of the file. Raises ValueError as `item`."""
    names = list(group)
    links = group.id.links
    for name in names:
        if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            item(group, name, path)
    return names


def datasets(group: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """(name, dataset) of the datasets in `group` itself."""
    for name in check_links(group, path):
        found = item(group, name, path)
        if isinstance(found, h5py.Dataset):
            yield name, found


def leaves(group: Any, path: Path, depth: int = 1) -> Iterator[tuple[str, ...]]:
    """Names from the top of every item below `group`, going down where a group's first item is a group."""
    names = check_links(group, path)
    if not names:
        return
    is_deep = isinstance(item(group, names[0], path), h5py.Group)
    if depth > MAX_LINKS:
        raise ValueError(f"{path}: groups in groups, more than {MAX_LINKS} deep")
    for name in names:
        if is_deep:
            found = item(group, name, path)
            if isinstance(found, h5py.Group):
                yield from ((name, *rest) for rest in leaves(found, path, depth + 1))
        else:
            yield (name,)


def _check_dataset(dataset: Any, path: Path) -> None:
    if dataset.external or (dataset.is_virtual and any(each.file_name != "." for each in dataset.virtual_sources())):
        raise ValueError(f"{path}: {dataset.name} has its numbers in another file; copy them into this one")
    if dataset.chunks:
        num_bytes = dataset.dtype.itemsize
        for side in dataset.chunks:
            num_bytes *= side
        if num_bytes > CHUNK_BYTES:
            raise ValueError(
                f"{path}: {dataset.name} has chunks of {size_words(num_bytes)}; rewrite it in smaller ones"
            )
