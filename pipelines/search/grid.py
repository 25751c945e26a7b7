"""The grid file: which strategies a search tries. Read, checked and expanded before anything runs.

    [study]                       name, select and report (instead of those of [split]), time_limit_s; sampler, trials,
                                  sampler_seed; halving, halving_first; storage
    [set]                         one value a field, for every strategy
    [product]                     a list of values a field: every combination of them is tried
    [[list]]                      one explicit row: each row is combined with the whole product, and the fields it
                                  names replace those of [set] and [product]; several rows are joined
    [space.NAME]                  a sub-space: a product of its own, whose combinations are rows like those of [[list]]
    [when.temporal.transformer]   lists of values that apply only to strategies with that value; others keep the default

Fields are those of `[head]`, `[loss]` and `[train]` of mtl.toml, named without their section, and `task.NAME.FIELD`;
what no section names keeps the value of mtl.toml. The more special section wins: set, product, list or space, when.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from cache.labels import ABAW, Schema, nearest
from cache.parsing import parse_toml
from cache.regular import CONFIG_BYTES, read_text
from cache.valid_names import check_name
from pipelines.config import Config, Seed, SplitConfig
from pipelines.folds import NO_FOLD, Fold
from pipelines.needed_streams import no_backbone
from pipelines.project import packaged_grids
from pipelines.search.grid_values import condition_value_of, value_of
from pipelines.search.storage_url import has_password, is_postgresql
from pipelines.strategy import Strategy, field_of, problem_of
from pipelines.task_fields import flat_name, split_field
from pipelines.typed import from_mapping

SECTIONS = ("study", "set", "product", "list", "space", "when")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """Section [study]. An empty `name` is the grid file's; `time_limit_s` 0 sets no limit to one `mtl search`.

    `sampler` "random" or "tpe" (Bergstra et al., NeurIPS 2011, by Optuna) tries `trials` of the grid's trials instead
    of all of them. `halving` above 1 ends, after `halving_first` steps and then at every `halving` times as many, the
    training of all strategies of a stack but the best 1 in `halving`. `storage` is a PostgreSQL database by which
    searches share the study (`postgresql://USER@HOST/NAME`); without one Optuna's record is a journal in its folder.
    """

    name: str = ""
    select: Literal["val", "test"] | None = None
    report: Literal["auto", "val", "test"] | None = None
    time_limit_s: Annotated[float, Interval(ge=0, le=1e9)] = 0.0
    sampler: Literal["grid", "random", "tpe"] = "grid"
    trials: Annotated[int, Interval(ge=0, le=10**7)] = 0
    sampler_seed: Seed = 0
    halving: Annotated[int, Interval(ge=0, le=1000)] = 0
    halving_first: Annotated[int, Interval(ge=1, le=10**9)] = 80
    storage: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether several searches may work on the study at once, which claim their trials in a database."""
        return bool(self.storage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One section [when.FIELD.VALUE]: the lists `values` apply to strategies whose `field` is `value`."""

    field: str
    value: Any
    values: Mapping[str, tuple[Any, ...]]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid file with every key and value checked by itself; `conditions` in an order in which they can apply."""

    path: Path
    text: str
    study: StudyConfig
    constants: Mapping[str, Any]
    product: Mapping[str, tuple[Any, ...]]
    rows: tuple[Mapping[str, Any], ...]
    conditions: tuple[Condition, ...]

    @property
    def name(self) -> str:
        return self.study.name or self.path.stem

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the strategy fields the grid speaks of, in its order."""
        named = [*self.constants, *self.product, *itertools.chain(*self.rows)]
        return tuple(dict.fromkeys([*named, *itertools.chain(*(one.values for one in self.conditions))]))

    def split(self, split: SplitConfig) -> SplitConfig:
        """`split` with what [study] says instead."""
        select, report = self.study.select or split.select, self.study.report or split.report
        return dataclasses.replace(split, select=select, report=report)


def find_grid(path: Path) -> Path:
    """`path`, or the grid of that name that ships with the program.

    Raises:
        ValueError: neither is there; lists the grids that ship.
    """
    if path.is_file():
        return path
    shipped = {file.name: file for file in packaged_grids()}
    name = path.name if path.suffix == ".toml" else f"{path.name}.toml"
    if name in shipped and str(path.parent) in (".", "grids"):
        return shipped[name]
    what = "is no file" if path.exists() else f"no such file{nearest(name, shipped)}"
    raise ValueError(f"{path}: {what}; grids that come with the program: {', '.join(shipped)}")


def read_grid(path: Path, schema: Schema = ABAW) -> Grid:
    """The grid file at `path`.

    Raises:
        ValueError: no such file, not TOML, an unknown section, key or value; one line with the nearest right one.
    """
    path = find_grid(path)
    try:
        text = read_text(path, CONFIG_BYTES)
        document = parse_toml(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    return parse_grid(document, path, text, schema)


def parse_grid(document: Mapping[str, Any], path: Path, text: str = "", schema: Schema = ABAW) -> Grid:
    """The parsed TOML `document` as a `Grid`; `path` names it in errors, tasks are those of `schema`."""
    for name in document:
        if name not in SECTIONS:
            hint = nearest(name, SECTIONS) or "; strategy fields belong under [product] or [set]"
            raise ValueError(f"{path}: unknown section [{name}]{hint}; known: {', '.join(SECTIONS)}")
    return Grid(
        path=path,
        text=text,
        study=_study(_table(document, "study", f"{path}: [study]"), f"{path}: [study]"),
        constants=_values(_table(document, "set", f"{path}: [set]"), f"{path}: [set]", schema),
        product=_lists(_table(document, "product", f"{path}: [product]"), f"{path}: [product]", schema),
        rows=(
            *_rows(document.get("list", []), f"{path}: [[list]]", schema),
            *_spaces(_table(document, "space", f"{path}: [space]"), f"{path}: [space", schema),
        ),
        conditions=_conditions(_table(document, "when", f"{path}: [when]"), f"{path}: [when", schema),
    )


def expand(grid: Grid, base: Strategy, inner_folds: int = 1) -> tuple[Strategy, ...]:
    """Every strategy of `grid` over the defaults `base`, in the file's order, the last field changing fastest.

    Strategies that train the same are kept once, where one came first. One that names a fold stands there once for each
    of `inner_folds` inner parts of that fold.
    """
    found: dict[Strategy, Strategy] = {}
    for strategy in every(grid, base, inner_folds):
        found.setdefault(strategy.essential, strategy)
    return tuple(found.values())


def num_combinations(grid: Grid, base: Strategy, inner_folds: int = 1) -> int:
    """How many combinations there are, those counted that train the same as one before."""
    return sum(1 for _ in every(grid, base, inner_folds))


def every(grid: Grid, base: Strategy, inner_folds: int = 1) -> Iterator[Strategy]:
    """As `expand`, with those that train the same as one before."""
    for row in grid.rows or ({},):
        one = {key: (value,) for key, value in grid.constants.items()}
        choices = one | dict(grid.product) | {key: (value,) for key, value in row.items()}
        for combination in itertools.product(*choices.values()):
            values = dict(zip(choices, combination, strict=True))
            for complete in _apply_conditions(values, grid.conditions, base):
                yield from _inner(_changed(base, complete), inner_folds)


def _changed(base: Strategy, values: Mapping[str, Any]) -> Strategy:
    """`base` with `values`; of its values of tasks' own, only those for which the strategy trains such a model."""
    strategy = base.changed(values)
    given = {split_field(name)[0] for name in values}
    task = {name: own for name, own in strategy.task.items() if name in given or name in strategy.models}
    return strategy if len(task) == len(strategy.task) else dataclasses.replace(strategy, task=task)


def _inner(strategy: Strategy, inner_folds: int) -> Iterator[Strategy]:
    """`strategy` with every inner part of its fold; itself where it has no fold, or names an inner part."""
    fold = strategy.train.fold
    if fold == NO_FOLD or fold.inner:
        yield strategy
        return
    for inner in range(inner_folds):
        yield dataclasses.replace(strategy, train=dataclasses.replace(strategy.train, fold=Fold(fold.outer, inner)))


def check(strategies: Sequence[Strategy], config: Config, where: str) -> None:
    """Refuses strategies that cannot be trained, all at once and before anything runs.

    Raises:
        ValueError: mtl.toml names no backbone; else says how many, and what is wrong with the first of each kind.
    """
    if not config.streams:
        raise ValueError(no_backbone(config))
    problems: dict[str, int] = {}
    for strategy in strategies:
        if problem := problem_of(strategy, config):
            problems[problem] = problems.get(problem, 0) + 1
    if problems:
        listed = "; ".join(f"{text} ({count} of them)" for text, count in list(problems.items())[:3])
        more = f"; and {len(problems) - 3} more kinds" if len(problems) > 3 else ""
        total = f"{sum(problems.values())} of {len(strategies)} strategies cannot be trained"
        raise ValueError(f"{where}: {total}: {listed}{more}. Change the values, or limit them with [when.FIELD.VALUE]")


def _apply_conditions(
    values: dict[str, Any],
    conditions: Sequence[Condition],
    base: Strategy,
    given: frozenset[str] = frozenset(),
) -> Iterator[dict[str, Any]]:
    """`values` once for each combination of the lists of the conditions that hold; `given` are fields set by those."""
    if not conditions:
        yield values
        return
    first, rest = conditions[0], conditions[1:]
    if not _same(_current(first.field, values, base), first.value):
        yield from _apply_conditions(values, rest, base, given)
        return
    for key in given & set(first.values):
        raise ValueError(f"{first.where}: {key} is given by another [when] section for the same strategies; keep one")
    for combination in itertools.product(*first.values.values()):
        chosen = dict(zip(first.values, combination, strict=True))
        yield from _apply_conditions(values | chosen, rest, base, given | set(chosen))


def _current(name: str, values: Mapping[str, Any], base: Strategy) -> Any:
    """The field `name` so far; a task without a value of its own has that of all."""
    task, key = split_field(name)
    if name in values or key in base.task.get(task, {}):
        return values.get(name, base.value(name))
    return values.get(key, base.value(key))


def _same(value: Any, wanted: Any) -> bool:
    """Equality as TOML has it: true is not 1."""
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _table(document: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a section of keys, found {value!r}")
    return value


def _flat(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`table` by flat names: TOML reads task.va.window = 128 as tables in tables."""
    found = {key: value for key, value in table.items() if key != "task"}
    for task, own in _table(table, "task", f"{where} task").items():
        for key, value in _table({task: own}, task, f"{where} task.{task}").items():
            name = flat_name(task, key)
            if name in found:
                raise ValueError(f"{where} {name}: given twice; keep one")
            found[name] = value
    return found


def _study(table: Mapping[str, Any], where: str) -> StudyConfig:
    study: StudyConfig = from_mapping(StudyConfig, table, where)
    if study.sampler != "grid" and not study.trials:
        raise ValueError(f"{where}: sampler = {study.sampler!r} needs trials, the number of trials to try")
    if study.halving == 1:
        raise ValueError(f"{where} halving: 1 would end nothing; 2 or 3 halves or thirds, 0 switches it off")
    if study.name:
        check_name(study.name, f"{where} name")
    if study.storage and not is_postgresql(study.storage):
        raise ValueError(
            f"{where} storage: searches share a study in PostgreSQL alone, postgresql://USER@HOST/NAME; leave it out "
            "for a journal in the study's folder"
        )
    if has_password(study.storage):
        raise ValueError(
            f"{where} storage: a password would be copied with the grid; leave it out, and set PGPASSWORD or write "
            "~/.pgpass"
        )
    return study


def _rows(rows: Any, where: str, schema: Schema) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{where}: expected rows, each under a line [[list]] of its own")
    return tuple(_values(row, f"{where} row {number}", schema) for number, row in enumerate(rows, start=1))


def _spaces(table: Mapping[str, Any], where: str, schema: Schema) -> Iterator[Mapping[str, Any]]:
    """Every combination of every sub-space, as a row."""
    for name, values in table.items():
        if not isinstance(values, dict):
            raise ValueError(f"{where}]: a sub-space is a section [space.NAME] with lists of values")
        lists = _lists(values, f"{where}.{name}]", schema)
        yield from (dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values()))


def _values(table: Mapping[str, Any], where: str, schema: Schema) -> dict[str, Any]:
    """One value a field."""
    return {key: value_of(key, value, where, schema=schema) for key, value in _flat(table, where).items()}


def _lists(table: Mapping[str, Any], where: str, schema: Schema) -> dict[str, tuple[Any, ...]]:
    """A list of values a field; a value that is no list stands for a list of one."""
    lists = {}
    for key, values in _flat(table, where).items():
        field_of(key, where)
        if isinstance(values, list) and not values:
            raise ValueError(f"{where} {key}: the list is empty; give at least one value, or leave the line out")
        items = values if isinstance(values, list) else [values]
        lists[key] = tuple(value_of(key, item, where, listed=True, schema=schema) for item in items)
    return lists


def _conditions(table: Mapping[str, Any], where: str, schema: Schema) -> tuple[Condition, ...]:
    """The sections [when.FIELD.VALUE], one that gives a field standing before those that ask for it."""
    found = []
    for name, cases in _flat(table, f"{where}]").items():
        field_of(name, f"{where}.{name}]")
        for text, values in (cases if isinstance(cases, dict) else {"": None}).items():
            here = f"{where}.{name}.{text or 'VALUE'}]"
            if not isinstance(values, dict):
                raise ValueError(f"{here}: a condition is a section [when.FIELD.VALUE] with lists of values")
            value = condition_value_of(name, text, here, schema)
            found.append(Condition(field=name, value=value, values=_lists(values, here, schema), where=here))
    return _ordered(found)


def _ordered(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    before = {
        index: {other for other, giver in enumerate(conditions) if condition.field in giver.values}
        for index, condition in enumerate(conditions)
    }
    try:
        return tuple(conditions[index] for index in TopologicalSorter(before).static_order())
    except CycleError as error:
        circle = ", ".join(dict.fromkeys(conditions[index].where for index in error.args[1]))
        raise ValueError(
            f"{circle}: each asks for what the other gives; a condition may not depend on itself"
        ) from None
