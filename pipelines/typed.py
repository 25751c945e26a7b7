"""Dataclasses from TOML and JSON values, and back: every value is checked against the annotation of its field."""

import dataclasses
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cache.labels import nearest
from heads.ranges import hints_of, in_range, range_words, split_annotation
from pipelines.folds import FOLD_WORDS, Fold, parse_fold


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """`values` as the dataclass `cls`, every value checked against its annotation.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type; says `where`.
    """
    hints = hints_of(cls)
    for key in values:
        if key not in hints:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(key, hints)}; known: {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(cls) if _is_required(f)]
    for key in required:
        if key not in values:
            raise ValueError(f"{where}: missing key {key!r}")
    return cls(**{key: convert(value, hints[key], f"{where} {key}") for key, value in values.items()})


def convert(value: Any, annotation: Any, where: str) -> Any:
    """`value` from TOML or JSON as `annotation` asks, or a `ValueError` that says what was expected."""
    kind, limits = split_annotation(annotation)
    if limits:
        converted = convert(value, kind, where)
        if not in_range(converted, limits):
            raise ValueError(f"{where}: expected {describe(annotation)}, found {shortened(value)}")
        return converted
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return convert(value, option, where)
            except ValueError:
                continue
        raise ValueError(f"{where}: expected {describe(annotation)}, found {shortened(value)}")
    if origin is Literal and value in args and type(value) in {type(arg) for arg in args}:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(convert(item, kind, where) for item, kind in zip(value, inner, strict=True))
    if origin is Mapping and isinstance(value, Mapping):
        return {convert(key, args[0], where): convert(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if annotation is Path and isinstance(value, str | Path) and str(value).strip() and "\0" not in str(value):
        return Path(value)
    if annotation is Fold:
        with suppress(ValueError):
            return parse_fold(value)
    elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, Mapping):
        return from_mapping(annotation, value, where)
    if annotation is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # so no NaN either
        return float(value)
    if annotation in (int, str, bool) and type(value) is annotation:
        return value
    if annotation is type(None) and value is None:
        return None
    raise ValueError(f"{where}: expected {describe(annotation)}, found {shortened(value)}")


def describe(annotation: Any) -> str:
    """An annotation in the user's words."""
    kind, limits = split_annotation(annotation)
    if limits:
        return f"{describe(kind)} {range_words(limits)}".strip()
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args if arg is not type(None))
    if origin is tuple:
        return "a list of " + describe(args[0])
    if origin is Mapping:
        return f"a table of {describe(args[1])} by name"
    if annotation is Fold:
        return FOLD_WORDS
    if dataclasses.is_dataclass(annotation):
        return "a section with " + ", ".join(f.name for f in dataclasses.fields(annotation))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    return names.get(annotation, str(annotation))


def shortened(value: Any) -> str:
    """A value as a message shows it: whole where it is short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python writes, or brackets in brackets without end
        return "what is too long to show"
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text):,} characters)"


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as TOML/JSON values: tuples as lists, paths and folds as text, None left out."""
    return {
        f.name: _plain(getattr(config, f.name))
        for f in dataclasses.fields(config)
        if getattr(config, f.name) is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path | Fold):
        return str(value)
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _is_required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
