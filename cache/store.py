"""The cache: a Zarr v3 group with one group a stream and, in it, one a view: `<cache>/<name>/<view>/embedding`.

A stream appears in one step: it is made whole under a temporary name and then renamed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from cache import shards
from cache.durable import TEMPORARY, remove_leftovers, sync, sync_tree, temporary_beside, write_durably
from cache.identity import StreamIdentity
from cache.marks import EMBEDDING
from cache.metadata import BASE_VIEW, SCHEMA, Wording, title
from cache.stream import Stream
from cache.valid_names import check_name
from cache.writer import ShardWriter

KIND = "mtl embedding cache"
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {"kind": KIND}}
STREAM_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


class Cache:
    """The cache at `path`; use `Cache.open`."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only

    @classmethod
    def open(cls, path: Path, create: bool = False, read_only: bool = False) -> "Cache":
        """Opens the cache at `path`; with `create`, makes an empty one where there is none, and lost files of groups.

        Raises:
            ValueError: there is no cache, or something else is there, or a group's file is lost.
        """
        path = Path(path)
        if _is_vacant(path):
            if not create:
                raise ValueError(f"{path}: there is no cache here; `mtl extract` makes one")
            path.mkdir(parents=True, exist_ok=True)
            write_durably(path / "zarr.json", json.dumps(GROUP, indent=2).encode())
            sync(path.parent)
        for file, group in _lost_groups(path):
            if not create:
                raise ValueError(f"{file}: is missing or damaged, the streams below it are there; type `mtl extract`")
            write_durably(file, json.dumps(group, indent=2).encode())
        if (_read_group(path / "zarr.json") or {}).get("kind") != KIND:
            raise ValueError(f"{path}: this is not an embedding cache; name another path in mtl.toml under [cache]")
        return cls(path, read_only)

    def streams(self) -> list[tuple[str, str]]:
        """(name, view) of every stream, sorted; also of those whose metadata is damaged."""
        return [(name.name, view.name) for name in _folders(self.path) for view in _folders(name)]

    def stream(self, name: str, view: str = BASE_VIEW, expected: StreamIdentity | None = None) -> Stream:
        """Opens a stream.

        Raises:
            ValueError: there is none of that name, its metadata is damaged or of another format, or its identity is
                not the `expected` one; says what differs and what to type.
        """
        stream_names = self.streams()
        if (name, view) not in stream_names:
            known = ", ".join(title(*key) for key in stream_names) or "none"
            wording = Wording(folder=self.path / name / view, name=name, view=view)
            raise ValueError(f"{self.path}: no stream {title(name, view)} (there: {known}); type {wording.extract}")
        stream = Stream(self.path / name / view, name, view, self.read_only)
        if expected is not None and stream.identity.digest != expected.digest:
            differences = "; ".join(stream.identity.differences(expected))
            raise ValueError(
                f"{stream.where} was extracted otherwise than asked for; differs in: {differences}; "
                f"type {stream.remake_hint}, or give the backbone another name in mtl.toml"
            )
        return stream

    def create(self, name: str, identity: StreamIdentity, shard_rows: int, provenance: Mapping[str, Any]) -> Stream:
        """Makes an empty stream, or opens the one that is there with the same identity.

        `provenance` (JSON values: precision, versions, date) is kept as first given and is no part of the identity.

        Raises:
            ValueError: a stream of that name has another identity, or the name cannot be a folder's.
        """
        if self.read_only:
            raise ValueError(f"{self.path}: opened for reading only")
        for what, text in (("stream", name), ("view", identity.view)):
            check_name(text, what)
        assert identity.dtype in shards.DTYPES, identity.dtype
        assert shard_rows > 0, shard_rows
        if (name, identity.view) not in self.streams():
            remove_leftovers(self.path)
            self._make(name, identity, shard_rows, provenance)
        return self.stream(name, identity.view, expected=identity)

    def _make(self, name: str, identity: StreamIdentity, shard_rows: int, provenance: Mapping[str, Any]) -> None:
        """Makes the stream's folder under a temporary name, then renames it. Where another process was quicker, its
        stream stays."""
        temporary = temporary_beside(self.path / name)
        try:
            temporary.mkdir()
            (temporary / "zarr.json").write_text(json.dumps(STREAM_GROUP, indent=2))
            attributes = {"schema": SCHEMA, "identity": identity.to_json(), "provenance": dict(provenance)}
            zarr.create_group(LocalStore(temporary / identity.view), zarr_format=3, attributes=attributes)
            shards.create_arrays(
                temporary / identity.view, identity.num_frames, identity.width, shard_rows, identity.dtype
            )
            sync_tree(temporary)
            target = self.path / name
            _rename_if_absent(temporary, target)
            _rename_if_absent(temporary / identity.view, target / identity.view)
            if temporary.exists():  # beside what a killed removal left of the folder
                _rename_if_absent(temporary / "zarr.json", target / "zarr.json")
            sync(target)
            sync(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def remove(self, name: str, view: str | None = None) -> None:
        """Removes one view of a stream, or all of them.

        Raises:
            ValueError: there is no such stream, or a process is writing it.
        """
        if self.read_only:
            raise ValueError(f"{self.path}: opened for reading only")
        views = [(each, found) for each, found in self.streams() if each == name and view in (None, found)]
        if not views:
            known = ", ".join(title(*key) for key in self.streams()) or "none"
            raise ValueError(f"{self.path}: no stream {title(name, view or BASE_VIEW)} (there: {known})")
        for _, found in views:
            self._remove_view(name, found)
        if not _folders(self.path / name):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def _remove_view(self, name: str, view: str) -> None:
        """In one step: renamed to a temporary name, then deleted."""
        folder = self.path / name / view
        with ShardWriter(folder, f"{self.path}: stream {title(name, view)}").lock():
            temporary = temporary_beside(self.path / f"{name}-{view}")
            os.rename(folder, temporary)
        sync(folder.parent)
        shutil.rmtree(temporary)


def _rename_if_absent(source: Path, target: Path) -> None:
    """Renames a folder; does nothing where `target` is there already or `source` has gone with its parent."""
    if target.exists():
        return
    try:
        os.rename(source, target)
    except OSError:
        if not target.exists():
            raise


def _lost_groups(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Files of groups above a stream that are missing or no group's, and what belongs there."""
    names = {file.parents[2] for file in path.glob(f"*/*/{EMBEDDING}/zarr.json") if not file.parts[-4].startswith(".")}
    groups = dict.fromkeys(sorted(names), STREAM_GROUP) | ({path: GROUP} if names else {})
    for folder, group in groups.items():
        if _read_group(folder / "zarr.json") is None:
            yield folder / "zarr.json", group


def _read_group(file: Path) -> dict[str, Any] | None:
    """The attributes of a Zarr group; None where `file` is not there or not a group's."""
    try:
        document = json.loads(file.read_bytes())
        return dict(document["attributes"]) if document["node_type"] == "group" else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _folders(path: Path) -> list[Path]:
    """Visible folders in `path`, sorted by name."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_vacant(path: Path) -> bool:
    """Nothing there, or only what a process killed while making a cache may have left."""
    if not path.exists():
        return True
    return path.is_dir() and all(entry.name.startswith(TEMPORARY) for entry in path.iterdir())
