"""The cache: a Zarr v3 group with one group a stream and, in it, one a view: `<cache>/<name>/<view>/embedding`.

It lies in a folder or in an object store (`cache.in_folder`, `cache.in_store`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache import shards
from cache.identity import StreamIdentity
from cache.in_folder import FolderStreams
from cache.in_store import StoreStreams
from cache.metadata import BASE_VIEW, SCHEMA, Wording, title
from cache.storage.base import Storage
from cache.storage.folder import FolderStorage
from cache.storage.local_copy import LocalCopy
from cache.storage.location import Location, StoreLocation, parse_location
from cache.storage.objects import ObjectStorage
from cache.stream import Stream
from cache.valid_names import check_name

KIND = "mtl embedding cache"
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {"kind": KIND}}
STREAM_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


class NoCacheError(ValueError):
    """There is no cache at `where`."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}: there is no cache here; `mtl extract` makes one")
        self.where = where


class LostGroupError(ValueError):
    """The metadata of a group at `where` is missing or damaged, and the streams below it are there."""

    remedy = "`mtl extract`"

    def __init__(self, where: str) -> None:
        self.what = f"{where}: is missing or damaged, the streams below it are there"
        super().__init__(f"{self.what}; type {self.remedy}")


class Cache:
    """The cache at `location`; use `Cache.open`. `notes` are lines for the user on what the place cannot do."""

    def __init__(self, location: Location, read_only: bool = False) -> None:
        self.location, self.read_only = location, read_only
        self._streams: FolderStreams | StoreStreams
        self._local: LocalCopy | None = None
        if isinstance(location, StoreLocation):
            self._streams = StoreStreams(ObjectStorage(location.url), _dump(GROUP), read_only)
            if location.local is not None:
                self._local = LocalCopy(location.local, int(location.local_gb * 1e9))
        else:
            self._streams = FolderStreams(FolderStorage(location))

    @classmethod
    def open(cls, location: str | Location, create: bool = False, read_only: bool = False) -> "Cache":
        """Opens the cache at `location`, a folder or a URL; with `create`, makes an empty one where there is none, and
        lost files of groups.

        Raises:
            NoCacheError: there is none.
            LostGroupError: a group's file is lost.
            ValueError: something else is there.
            StorageError: the object store cannot be reached, or does not allow it.
        """
        cache = cls(parse_location(location) if isinstance(location, str) else location, read_only)
        cache._check(create)
        return cache

    def _check(self, create: bool) -> None:
        streams, where = self._streams, self.where
        if streams.is_vacant():
            if not create:
                raise NoCacheError(where)
            streams.found(_dump(GROUP))
        for key, group in self._lost_groups():
            if not create:
                raise LostGroupError(self.files.name(key))
            self.files.put(key, _dump(group))
        if (_read_group(self.files, "zarr.json") or {}).get("kind") != KIND:
            raise ValueError(f"{where}: this is not an embedding cache; name another path in mtl.toml under [cache]")
        if isinstance(streams, StoreStreams):
            streams.probe()

    @property
    def files(self) -> Storage:
        """All that is in it."""
        return self._streams.files

    @property
    def where(self) -> str:
        """The place in words."""
        return self.files.name()

    @property
    def path(self) -> Path:
        """The folder of a cache in a folder."""
        assert isinstance(self.location, Path), self.location
        return self.location

    @property
    def notes(self) -> tuple[str, ...]:
        return self._streams.notes

    def streams(self) -> list[tuple[str, str]]:
        """(name, view) of every stream, sorted; also of those whose metadata is damaged."""
        return self._streams.streams()

    def stream(self, name: str, view: str = BASE_VIEW, expected: StreamIdentity | None = None) -> Stream:
        """Opens a stream.

        Raises:
            ValueError: there is none of that name, its metadata is damaged or of another format, or its identity is
                not the `expected` one; says what differs and what to type.
        """
        stream_names = self.streams()
        if (name, view) not in stream_names:
            known = ", ".join(title(*key) for key in stream_names) or "none"
            wording = Wording(cache=self.where, name=name, view=view)
            raise ValueError(f"{self.where}: no stream {title(name, view)} (there: {known}); type {wording.extract}")
        stream = Stream(self.files, name, view, self.read_only, self._local)
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
            raise ValueError(f"{self.where}: opened for reading only")
        for what, text in (("stream", name), ("view", identity.view)):
            check_name(text, what)
        assert identity.dtype in shards.DTYPES, identity.dtype
        assert shard_rows > 0, shard_rows
        if (name, identity.view) not in self.streams():
            self._make(name, identity, shard_rows, provenance)
        return self.stream(name, identity.view, expected=identity)

    def _make(self, name: str, identity: StreamIdentity, shard_rows: int, provenance: Mapping[str, Any]) -> None:
        def fill(folder: Path) -> None:
            import zarr
            from zarr.storage import LocalStore

            attributes = {"schema": SCHEMA, "identity": identity.to_json(), "provenance": dict(provenance)}
            zarr.create_group(LocalStore(folder), zarr_format=3, attributes=attributes)
            shards.create_arrays(folder, identity.num_frames, identity.width, shard_rows, identity.dtype)

        where = f"{self.where}: stream {title(name, identity.view)}"
        self._streams.make(name, identity.view, where, _dump(STREAM_GROUP), fill)

    def remove(self, name: str, view: str | None = None) -> None:
        """Removes one view of a stream, or all of them.

        Raises:
            ValueError: there is no such stream, or a process is writing it.
        """
        if self.read_only:
            raise ValueError(f"{self.where}: opened for reading only")
        views = [(each, found) for each, found in self.streams() if each == name and view in (None, found)]
        if not views:
            known = ", ".join(title(*key) for key in self.streams()) or "none"
            raise ValueError(f"{self.where}: no stream {title(name, view or BASE_VIEW)} (there: {known})")
        for _, found in views:
            self._streams.remove(name, found, f"{self.where}: stream {title(name, found)}")

    def _lost_groups(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Keys of groups above a stream that are missing or no group's, and what belongs there."""
        names = self._streams.names_with_arrays()
        groups = {f"{name}/zarr.json": STREAM_GROUP for name in names} | ({"zarr.json": GROUP} if names else {})
        for key, group in groups.items():
            if _read_group(self.files, key) is None:
                yield key, group


def _dump(group: Mapping[str, Any]) -> bytes:
    return json.dumps(group, indent=2).encode()


def _read_group(files: Storage, key: str) -> dict[str, Any] | None:
    """The attributes of a Zarr group; None where `key` is not there or not a group's."""
    try:
        document = json.loads(files.get(key))
        return dict(document["attributes"]) if document["node_type"] == "group" else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
