"""Ranges of settings, declared beside the fields of a config dataclass and read here; plain Python, no torch.

A field says `Annotated[float, Interval(gt=0, le=10)]`, a text that must not be empty `Annotated[str, MinLen(1)]`
(both of annotated-types). NaN and the infinities lie in no range.
"""

import functools
import math
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MinLen, MultipleOf


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Field name -> annotation of a dataclass, ranges included."""
    return get_type_hints(cls, include_extras=True)


def split_annotation(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without and with what `Annotated` adds: (float, (Interval(...),)); (int, ()) for a plain `int`."""
    if get_origin(annotation) is Annotated:
        kind, *limits = get_args(annotation)
        return kind, tuple(limits)
    return annotation, ()


def in_range(value: Any, limits: Sequence[Any]) -> bool:
    """Whether a number or text keeps to all of `limits`; no number that is not finite does."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return all(_keeps(value, limit) for limit in limits)


def range_words(limits: Sequence[Any]) -> str:
    """A range as a person says it: "from 1 to 8192", "above 0 and at most 10", "that is not empty"."""
    return " and ".join(filter(None, (_words(limit) for limit in limits)))


def range_problem(config: Any) -> str | None:
    """The first field of the dataclass `config` that lies outside its range, in one line; None when none does.

    A tuple or None has no range of its own here: what reads them checks their items.
    """
    kind: type = type(config)
    for name, annotation in hints_of(kind).items():
        value = getattr(config, name)
        limits = _limits_of(annotation, value)
        if isinstance(value, int | float | str) and not isinstance(value, bool) and not in_range(value, limits):
            return f"{name} = {value!r} must be {range_words(limits) or 'a finite number'}"
    return None


def _limits_of(annotation: Any, value: Any) -> tuple[Any, ...]:
    """The limits that concern `value`: of a choice such as `Literal["auto"] | Rate`, those of the numbers."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return split_annotation(annotation)[1]
    numbers = [split_annotation(option) for option in get_args(annotation)]
    return next((limits for kind, limits in numbers if kind in (int, float) and isinstance(value, int | float)), ())


def _keeps(value: Any, limit: Any) -> bool:
    if isinstance(limit, MinLen):
        return len(value.strip() if isinstance(value, str) else value) >= limit.min_length
    if isinstance(limit, MultipleOf):
        return bool(value % limit.multiple_of == 0)
    if not isinstance(limit, Interval):
        return True
    checks = (
        limit.ge is None or value >= limit.ge,
        limit.gt is None or value > limit.gt,
        limit.le is None or value <= limit.le,
        limit.lt is None or value < limit.lt,
    )
    return all(checks)


def _words(limit: Any) -> str:
    if isinstance(limit, MinLen):
        return "that is not empty"
    if isinstance(limit, MultipleOf):
        return f"a multiple of {limit.multiple_of}"
    if not isinstance(limit, Interval):
        return ""
    ge, gt, le, lt = (_number(end) for end in (limit.ge, limit.gt, limit.le, limit.lt))
    if ge and le:
        return f"from {ge} to {le}"
    least = f"at least {ge}" if ge else f"above {gt}" if gt else ""
    most = f"at most {le}" if le else f"below {lt}" if lt else ""
    return " and ".join(filter(None, (least, most)))


def _number(end: Any) -> str:
    """An end of a range as one types it; nothing where there is none."""
    return "" if end is None else str(int(end) if end == int(end) else end)
