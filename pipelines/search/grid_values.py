"""One value of a grid file as the strategy field it is for: converted, or refused with the nearest right one."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from cache.labels import ABAW, Schema, nearest
from cache.parsing import parse_toml
from pipelines.strategy import field_of
from pipelines.task_fields import split_field
from pipelines.typed import convert


def condition_value_of(key: str, text: str, where: str, schema: Schema = ABAW) -> Any:
    """The VALUE of [when.FIELD.VALUE], a TOML key, as a value of the field; a list is written "va,expr"."""
    for candidate in (*_toml(text), [part.strip() for part in text.split(",")]):
        try:
            return value_of(key, candidate, where, schema=schema)
        except ValueError:
            continue
    return value_of(key, text, where, schema=schema)


def _toml(text: str) -> tuple[Any, ...]:
    try:
        return text, parse_toml(f"value = {text}")["value"]
    except ValueError:
        return (text,)


def value_of(key: str, value: Any, where: str, listed: bool = False, schema: Schema = ABAW) -> Any:
    """`value` as the field `key` holds it, or a `ValueError` with the nearest right one."""
    _, annotation = field_of(key, where)
    known, (task, _) = _literals(annotation), split_field(key)
    if task:
        schema.task(task, f"{where} {key}")
    try:
        converted = convert(value, annotation, f"{where} {key}")
    except ValueError as error:
        raise ValueError(f"{error}{_hint(value, annotation, known, listed)}") from None
    if key == "task_weights":
        for name in converted:
            schema.task(name, f"{where} {key}")
    is_ordered = key == "tasks" or (key == "targets" and converted)
    return schema.ordered(converted, f"{where} {key}") if is_ordered else converted


def _hint(value: Any, annotation: Any, known: Sequence[str], listed: bool) -> str:
    """What was probably meant by a `value` of the wrong type."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for text in texts:
        if isinstance(text, str) and text not in known and (hint := nearest(text, known)):
            return hint
    kinds = [get_origin(kind) for kind in (annotation, *get_args(annotation))]
    if listed and isinstance(value, str) and tuple in kinds:
        return f'; this section lists the values to try, and each is a list here: [["{value}"], ...]'
    if listed is False and isinstance(value, list):
        return "; one value goes here, lists to try go under [product]"
    return ""


def _literals(annotation: Any) -> tuple[str, ...]:
    """The texts a field allows; none where it also allows others."""
    if get_origin(annotation) is Literal:
        return tuple(arg for arg in get_args(annotation) if isinstance(arg, str))
    return tuple(itertools.chain(*(_literals(arg) for arg in get_args(annotation) if arg is not Ellipsis)))
