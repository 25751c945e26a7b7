"""What is recorded of a stream before any row: its names for errors, what to type, and the metadata that open it.

Letters: N frames, D width.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from cache import shards
from cache.identity import StreamIdentity
from cache.storage.base import Storage

SCHEMA = 2
BASE_VIEW = "base"


def title(name: str, view: str) -> str:
    """A stream's name for errors; the view only where it is not the base."""
    return repr(name) if view == BASE_VIEW else f"{name!r} (view {view!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What errors say of a stream of the cache `cache`: where it is, and what to type to fill, remake or repair it."""

    cache: str
    name: str
    view: str
    imported: bool = False

    @property
    def where(self) -> str:
        return f"{self.cache}: stream {title(self.name, self.view)}"

    @property
    def extract(self) -> str:
        if self.imported:
            return f"`mtl cache import {self.name} FILE{self._view_option}`"
        views = "" if self.view == BASE_VIEW else f" --views {self.view}"
        return f"`mtl extract --backbone {self.name}{views}`"

    @property
    def remake(self) -> str:
        return f"`mtl cache rm {self.name}{self._view_option}`, then {self.extract}"

    @property
    def repair(self) -> str:
        return f"`mtl cache verify {self.name}{self._view_option} --repair`, then {self.extract}"

    @property
    def _view_option(self) -> str:
        return "" if self.view == BASE_VIEW else f" --view {self.view}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """`identity` is what the stream was made from, `provenance` JSON values that are no part of it."""

    wording: Wording
    identity: StreamIdentity
    provenance: dict[str, Any]
    layout: shards.Layout


def read_metadata(cache: Storage, name: str, view: str) -> Metadata:
    """The metadata of a stream of the cache in `cache`.

    Raises:
        ValueError: they are damaged, or of another version of the format; says what to type.
    """
    wording, files = Wording(cache=cache.name(), name=name, view=view), cache.below(f"{name}/{view}")
    attributes = _read_attributes(files, wording)
    _check_schema(attributes.get("schema"), wording)
    try:
        identity = StreamIdentity.from_json(attributes["identity"])
        wording = replace(wording, imported=identity.is_imported)
        provenance, layout = dict(attributes["provenance"]), shards.read_layout(files)
        if (layout.num_rows, layout.width) != (identity.num_frames, identity.width):
            raise ValueError("the embedding array has another shape than its identity")
        if layout.dtype != identity.dtype:
            raise ValueError("the embedding array has another dtype than its identity")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{wording.where}: damaged metadata: {error}; type {wording.remake}") from None
    return Metadata(wording=wording, identity=identity, provenance=provenance, layout=layout)


def _read_attributes(files: Storage, wording: Wording) -> dict[str, Any]:
    """The attributes of the stream's Zarr group."""
    try:
        attributes = json.loads(files.get("zarr.json"))["attributes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        attributes = None
    if not isinstance(attributes, dict):
        raise ValueError(f"{wording.where}: damaged metadata: zarr.json; type {wording.remake}")
    return attributes


def _check_schema(schema: Any, wording: Wording) -> None:
    if schema == SCHEMA:
        return
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"{wording.where} has format {schema}, this mtl knows formats up to {SCHEMA}; update mtl")
    raise ValueError(f"{wording.where} has the old format {schema}, this mtl's is {SCHEMA}; type {wording.remake}")
