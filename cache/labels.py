"""Label schemas: what is labelled, as data. A group is what is scored as one; a task is what a head has an output for.

A group is one of three kinds:

- `continuous`: a number in [low, high] per column, such as valence and arousal, or intensities from 0 to 5;
- `classes`: one column with the number of one of several classes, from 0 in the order of `classes`;
- `binary`: 0 or 1 per column, such as action units.

Everything behind the readers goes by the schema: columns of the frames table and of predictions, outputs, losses,
metrics, thresholds, pages. `ABAW` is the default; the others that ship are in `SCHEMAS`.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

Kind = Literal["continuous", "classes", "binary"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The first of each kind is the default. What they are: `pipelines.metrics.challenge`.
SCORES: dict[str, tuple[str, ...]] = {
    "continuous": ("ccc", "pearson"),
    "classes": ("f1_macro", "accuracy"),
    "binary": ("f1",),
}
# Columns of the frames table and of predictions that are no labels, and of lists of images.
RESERVED = (
    *("video", "frame", "path", "split", "subject", "part", "image", "valid"),
    *("time_s", "face", "x0", "y0", "x1", "y1", "detection_score"),
)
COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TEXT = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?")
MAX_CLASSES = 100  # a class is an Int8 in the frames table
GROUP_KEYS = ("name", "kind", "columns", "classes", "range", "score", "weight")
SCHEMA_KEYS = ("name", "groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A label group. `columns` are those of the frames table, one only for classes; K is the number of outputs.

    `weight` is how much its score counts in P.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    low: float = -1.0
    high: float = 1.0
    score: str = ""
    weight: float = 1.0

    @property
    def num_outputs(self) -> int:
        """K: a column's value, a class's logit or a binary column's logit each."""
        return len(self.classes) or len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the K outputs is of: columns, or classes."""
        return self.classes or self.columns

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The columns of predictions that hold the K outputs: values, or probabilities as `p_NAME`."""
        return self.columns if self.kind == "continuous" else tuple(f"p_{name}" for name in self.names)

    def to_mapping(self) -> dict[str, Any]:
        """As TOML and JSON have it."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "columns": list(self.columns)}
        if self.kind == "classes":
            found["classes"] = list(self.classes)
        if self.kind == "continuous":
            found["range"] = [self.low, self.high]
        return {**found, "score": self.score, "weight": self.weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a head has an output for: a group, or some columns of a continuous one. `indices` are their places in it."""

    name: str
    group: Group
    indices: tuple[int, ...]

    @property
    def num_outputs(self) -> int:
        """K of the task."""
        return len(self.indices) if self.group.kind == "continuous" else self.group.num_outputs

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns it is about."""
        return tuple(self.group.columns[index] for index in self.indices)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The columns of predictions that hold its K outputs."""
        return self.columns if self.group.kind == "continuous" else self.group.output_columns

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its group."""
        return self.name == self.group.name


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The label groups of a data set, in the order of their columns."""

    name: str
    groups: tuple[Group, ...] = field(default=())

    def __iter__(self) -> Any:
        return iter(self.groups)

    def group(self, name: str) -> Group:
        """The group `name`; raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The groups' names."""
        return tuple(group.name for group in self.groups)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All label columns of the frames table."""
        return tuple(column for group in self.groups for column in group.columns)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """Every task by its name: a group, then its columns where it is continuous and has several."""
        found: dict[str, Task] = {}
        for group in self.groups:
            found[group.name] = Task(name=group.name, group=group, indices=tuple(range(len(group.columns))))
            if group.kind == "continuous" and len(group.columns) > 1:
                found |= {
                    column: Task(name=column, group=group, indices=(index,))
                    for index, column in enumerate(group.columns)
                }
        return found

    def scored(self, tasks: Sequence[str]) -> tuple[Task, ...]:
        """What models of `tasks` predict together, a task per group: "valence" and "arousal" are "va", and some of
        many columns are one task, named "AU1+AU2". In the schema's order; KeyError for an unknown name."""
        found = []
        for group in self.groups:
            chosen = [self.tasks[name] for each in tasks for name in each.split("+") if self.tasks[name].group is group]
            indices = tuple(sorted({index for task in chosen for index in task.indices}))
            if len(indices) == len(group.columns):
                found.append(self.tasks[group.name])
            elif indices:
                name = "+".join(group.columns[index] for index in indices)
                found.append(Task(name=name, group=group, indices=indices))
        return tuple(found)

    def shared(self, one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
        """The tasks, one per group, that both `one` and `other` predict: of a group the columns that both have."""
        both = []
        for task in self.scored(one):
            for match in (each for each in self.scored(other) if each.group is task.group):
                columns = [name for name in task.columns if name in match.columns]
                whole = len(columns) == len(task.group.columns)
                both += [task.group.name] if whole else columns
        return tuple(task.name for task in self.scored(both))

    def is_complete(self, tasks: Sequence[str]) -> bool:
        """Whether `tasks` together are all that the schema has: then a sum of scores is P."""
        return tuple(task.name for task in self.scored(tasks)) == self.names

    def task(self, name: str, where: str) -> Task:
        """The task `name`; raises ValueError with the nearest right one, opened by `where`."""
        if name not in self.tasks:
            raise ValueError(
                f"{where}: unknown task {name!r}{nearest(name, self.tasks)}; the schema {self.name} has "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks[name]

    def ordered(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """`names` in the schema's order, so that one choice is written one way.

        Raises:
            ValueError: none, an unknown one, one twice, or a column beside the whole of its group.
        """
        chosen = [self.task(name, where) for name in names]
        outputs = [(task.group.name, index) for task in chosen for index in task.indices]
        if not chosen or len(set(outputs)) < len(outputs):
            raise ValueError(f"{where}: at least one task, and each column once; found {list(names)}")
        return tuple(name for name in self.tasks if name in names)

    def to_mapping(self) -> dict[str, Any]:
        """As TOML and JSON have it."""
        return {"name": self.name, "groups": [group.to_mapping() for group in self.groups]}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of what the labels are; the schema's name, scores and weights are not in it."""
        words = json.dumps([_labels_in(group) for group in self.groups])
        return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()

    def differences(
        self, other: "Schema", here: str = "here", there: str = "there", *, scores: bool = False
    ) -> list[str]:
        """What the labels of `other` are otherwise, in words; with `scores` also what is scored otherwise."""
        found = [f"group {name} {here} alone" for name in self.names if name not in other.names]
        found += [f"group {name} {there} alone" for name in other.names if name not in self.names]
        mapping = Group.to_mapping if scores else _labels_in
        for group in self.groups:
            if group.name not in other.names:
                continue
            mine, theirs = mapping(group), mapping(other.group(group.name))
            keys = dict.fromkeys([*mine, *theirs])
            found += [
                f"{group.name}: {key} {_words(mine.get(key))} {here}, but {_words(theirs.get(key))} {there}"
                for key in keys
                if mine.get(key) != theirs.get(key)
            ]
        if not found and self.names != other.names:
            found.append(f"groups in the order {', '.join(self.names)} {here}, but {', '.join(other.names)} {there}")
        return found


def schema_of(document: Any, where: str) -> Schema:
    """A schema from a TOML or JSON table with `name` and `groups`.

    Raises:
        ValueError: an unknown key or kind, a column twice, a range without extent, ...; says `where`.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{where}: expected a table with {' and '.join(SCHEMA_KEYS)}, found {document!r}")
    _check_keys(document, SCHEMA_KEYS, where)
    name, groups = document.get("name"), document.get("groups")
    if "name" not in document:
        raise ValueError(f'{where}: no name; write name = "NAME" at the top')
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}: name = {name!r} must be a text that is not empty")
    if not isinstance(groups, list) or not groups:
        raise ValueError(f"{where}: no group; write [[groups]] with {', '.join(GROUP_KEYS[:3])}")
    found = Schema(name=name, groups=tuple(_group(group, f"{where}: group {i + 1}") for i, group in enumerate(groups)))
    _check_distinct(found, where)
    return found


def chosen_schema(section: Mapping[str, Any], where: str) -> Schema:
    """The schema that a section [labels] chooses: `name` is of one that ships, or `groups` are written out.

    Raises:
        ValueError: what `schema_of` and `shipped` refuse, or other groups under the name of one that ships.
    """
    _check_keys(section, SCHEMA_KEYS, where)
    if "groups" not in section:
        return shipped(section.get("name", ABAW.name), f"{where} name")
    found = schema_of(section, where)
    if found.name in SCHEMAS and found.digest != SCHEMAS[found.name].digest:
        raise ValueError(
            f"{where}: {found.name} comes with the program and has other groups; give these another name, or leave "
            "groups out"
        )
    return found


def shipped(name: Any, where: str) -> Schema:
    """The schema `name` that comes with the program; raises ValueError with the nearest right one."""
    if not isinstance(name, str) or name not in SCHEMAS:
        raise ValueError(f"{where}: unknown schema {name!r}{nearest(str(name), SCHEMAS)}; known: {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def nearest(name: str, known: Any) -> str:
    """A hint " (did you mean ...?)" where one of `known` is close to `name`, in whatever case; else nothing."""
    by_lower = {each.lower(): each for each in known}
    match = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[match[0]]!r}?)" if match else ""


def _group(table: Any, where: str) -> Group:
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a table with {', '.join(GROUP_KEYS)}, found {table!r}")
    _check_keys(table, GROUP_KEYS, where)
    name, kind = _column(table.get("name"), f"{where}: name"), table.get("kind")
    where = f"{where} ({name})"
    if kind not in KINDS:
        raise ValueError(f"{where}: kind = {kind!r} must be one of {', '.join(KINDS)}")
    columns = _texts(table.get("columns"), f"{where}: columns")
    for column in columns:
        _column(column, f"{where}: columns")
    low, high = _range(table.get("range", [-1, 1]), f"{where}: range")
    classes = _texts(table["classes"], f"{where}: classes") if "classes" in table else ()
    if kind == "classes" and (len(columns) != 1 or not 2 <= len(classes) <= MAX_CLASSES):
        raise ValueError(f"{where}: a group of classes has one column, and 2 to {MAX_CLASSES} names under classes")
    for index, name_of_class in enumerate(classes):
        if _is_number(name_of_class) and name_of_class != str(index):
            raise ValueError(
                f"{where}: classes: {name_of_class!r} would be read as a number, which counts classes from 0; "
                f"write a word"
            )
    for key, wanted in (("classes", "classes"), ("range", "continuous")):
        if key in table and kind != wanted:
            raise ValueError(f"{where}: {key} belongs to groups of kind {wanted!r}")
    score = table.get("score") or SCORES[kind][0]
    if score not in SCORES[kind]:
        raise ValueError(f"{where}: score = {score!r} must be one of {', '.join(SCORES[kind])}")
    weight = table.get("weight", 1.0)
    if type(weight) not in (int, float) or not 0 < weight <= 1e6:
        raise ValueError(f"{where}: weight = {weight!r} must be a number above 0 and at most 1000000")
    return Group(
        name=name, kind=kind, columns=columns, classes=classes, low=low, high=high, score=score, weight=float(weight)
    )


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(str(key), known)}; known: {', '.join(known)}")


def _column(name: Any, where: str) -> str:
    """`name`, where it can be that of a column, a group and a task."""
    if not isinstance(name, str) or not COLUMN.fullmatch(name) or name in RESERVED or name.startswith("p_"):
        raise ValueError(
            f"{where} {name!r}: a name has letters, digits and _, begins with no digit and not with p_, and is none of "
            f"{', '.join(RESERVED)}"
        )
    return name


def _texts(value: Any, where: str) -> tuple[str, ...]:
    right = isinstance(value, list) and value and all(isinstance(each, str) and TEXT.fullmatch(each) for each in value)
    if not right or len(set(value)) < len(value):
        raise ValueError(f"{where}: expected a list of different texts, found {value!r}")
    return tuple(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _range(value: Any, where: str) -> tuple[float, float]:
    right = isinstance(value, list) and len(value) == 2 and all(type(each) in (int, float) for each in value)
    if not right or not -1e6 <= value[0] < value[1] <= 1e6:
        raise ValueError(f"{where}: expected two numbers, the lower first, found {value!r}")
    return float(value[0]), float(value[1])


def _check_distinct(schema: Schema, where: str) -> None:
    """Columns of labels, outputs and tasks are named once in a schema, but for a group of one column of its name."""
    named = [name for group in schema.groups for name in (*group.columns, *group.classes)]
    named += [group.name for group in schema.groups if group.columns != (group.name,)]
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"{where}: {name!r} is the name of two columns, classes or groups; each has its own")


def _labels_in(group: Group) -> dict[str, Any]:
    """What its labels are, as TOML and JSON have it: all but the score and the weight."""
    return {key: value for key, value in group.to_mapping().items() if key not in ("score", "weight")}


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _units(*numbers: int) -> list[str]:
    return [f"AU{number}" for number in numbers]


VALENCE_AROUSAL = {"name": "va", "kind": "continuous", "columns": ["valence", "arousal"], "range": [-1, 1]}


def _expressions(*names: str) -> dict[str, Any]:
    return {"name": "expr", "kind": "classes", "columns": ["expression"], "classes": list(names)}


def _action_units(*numbers: int) -> dict[str, Any]:
    return {"name": "au", "kind": "binary", "columns": _units(*numbers)}


# Kollias et al., "7th ABAW Competition", arXiv 2407.03835.
ABAW = schema_of(
    {
        "name": "abaw",
        "groups": [
            VALENCE_AROUSAL,
            _expressions("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"),
            _action_units(1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26),
        ],
    },
    "abaw",
)
# Mollahosseini et al., "AffectNet", IEEE Trans. Affective Computing 2019: the order of its annotation files.
AFFECTNET8 = schema_of(
    {
        "name": "affectnet8",
        "groups": [
            VALENCE_AROUSAL,
            _expressions("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
        ],
    },
    "affectnet8",
)
# Goodfellow et al., "Challenges in representation learning", ICONIP 2013: the order of FER-2013's files.
FER7 = schema_of(
    {
        "name": "fer7",
        "groups": [_expressions("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")],
    },
    "fer7",
)
# Mavadati et al., "DISFA", IEEE Trans. Affective Computing 2013: intensities from 0 (absent) to 5.
DISFA = schema_of(
    {
        "name": "disfa",
        "groups": [
            {
                "name": "intensity",
                "kind": "continuous",
                "columns": _units(1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26),
                "range": [0, 5],
            }
        ],
    },
    "disfa",
)
# Zhang et al., "BP4D-Spontaneous", Image and Vision Computing 2014: the 12 units that are evaluated.
BP4D = schema_of(
    {"name": "bp4d", "groups": [_action_units(1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)]},
    "bp4d",
)
SCHEMAS: dict[str, Schema] = {schema.name: schema for schema in (ABAW, AFFECTNET8, FER7, DISFA, BP4D)}
