"""A strategy: one full choice of tasks, streams, fusion, temporal encoder, losses, method, seed and fold.

The methods "separate" and "progressive" train a model per task, which may differ in `TASK_FIELDS`: `Strategy.model`
resolves that, for everyone. By its flat name the window of the model for "va" is "task.va.window".
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache.labels import nearest
from heads.config import HeadConfig, LossConfig, classes_problem, head_problem, loss_problem
from heads.ranges import hints_of, range_problem
from pipelines.class_embeddings import ClassEmbeddings, read_class_embeddings
from pipelines.concerns import own_without_effect, without_effect
from pipelines.config import Config, TrainConfig
from pipelines.needed_streams import no_backbone
from pipelines.splits import fold_problem
from pipelines.task_fields import TASK_FIELDS, flat_name, refusal, split_field
from pipelines.typed import convert, to_mapping

REPEATS = ("seed", "fold")
PARTS: dict[str, type] = {"head": HeadConfig, "loss": LossConfig, "train": TrainConfig}
JOINT = "joint"  # the name of a model of all tasks
SELF_TRAINING = "self-training"  # a joint model, and the teachers before it
METHODS_BY_TASK = ("separate", "progressive")  # a model per task; progressive joins them afterwards


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """`head`, `loss` and `train` of one training; its fields can be named without the section, as grids do. `task` maps
    a task to the fields that differ for the model of that task."""

    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __hash__(self) -> int:
        own = frozenset((name, *item) for name, values in self.task.items() for item in values.items())
        return hash((self.head, self.loss, self.train, own))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that are trained, in order: a task for its own, `JOINT` for one of all tasks."""
        if self.train.method not in METHODS_BY_TASK:
            return (JOINT,)
        return self.head.tasks if self.train.method == "separate" else (*self.head.tasks, JOINT)

    @property
    def num_teachers(self) -> int:
        """Models that are trained for nothing but the labels they give."""
        return self.train.teachers if self.train.method == SELF_TRAINING else 0

    def model(self, name: str) -> "Strategy":
        """The strategy that the model `name` is trained by: for that of a task, with the task's own values."""
        if name == JOINT or name not in self.models:
            return self
        return dataclasses.replace(self.changed({"tasks": (name,), "targets": (), **self.task.get(name, {})}), task={})

    @property
    def essential(self) -> "Strategy":
        """The strategy without weights of tasks that it does not train, without targets where they are all its tasks,
        without values of a task's own that are those of all or have no effect, and with the defaults of settings that
        have none: what has the same essential trains the same."""
        if moot := without_effect(self):
            return self.changed({name: getattr(PARTS[flat_fields()[name][0]](), name) for name in moot}).essential
        weights = {task: weight for task, weight in self.loss.task_weights.items() if task in self.head.tasks}
        targets = self.head.predicted if self.head.auxiliary else ()
        moot = own_without_effect(self)
        task = {
            name: {key: own[key] for key in own if own[key] != self.value(key) and flat_name(name, key) not in moot}
            for name, own in self.task.items()
        }
        task = {name: own for name, own in task.items() if own}
        if len(weights) == len(self.loss.task_weights) and (targets, task) == (self.head.targets, self.task):
            return self
        return dataclasses.replace(
            self,
            head=dataclasses.replace(self.head, targets=targets),
            loss=dataclasses.replace(self.loss, task_weights=weights),
            task=task,
        )

    @property
    def digest(self) -> str:
        """16 hex digits over all that decides what is trained: the same on every machine."""
        return _hashed(self.essential.flat())

    @property
    def arm(self) -> str:
        """The strategy without seed and fold, as text: what is repeated with other seeds and folds is one arm."""
        parts = to_mapping(self.essential)
        train = {key: value for key, value in parts["train"].items() if key not in REPEATS}
        return json.dumps({**parts, "train": train}, sort_keys=True)

    def replace(self, values: Mapping[str, Any], where: str) -> "Strategy":
        """This strategy with the fields `values`, named flat (`{"fusion": "sum", "task.va.window": 128}`).

        Raises:
            ValueError: a name that no part has, or a value of the wrong type; says `where`.
        """
        return self.changed(
            {key: convert(value, field_of(key, where)[1], f"{where} {key}") for key, value in values.items()}
        )

    def changed(self, values: Mapping[str, Any]) -> "Strategy":
        """`replace` with values that have been checked."""
        parts: dict[str, dict[str, Any]] = {}
        task = {name: dict(own) for name, own in self.task.items()}
        for name, value in values.items():
            whose, key = split_field(name)
            changed = task.setdefault(whose, {}) if whose else parts.setdefault(flat_fields()[key][0], {})
            changed[key] = value
        changes = {part: dataclasses.replace(getattr(self, part), **changed) for part, changed in parts.items()}
        return dataclasses.replace(self, **changes, task=task)

    def flat(self) -> dict[str, Any]:
        """Every field by its flat name, as TOML/JSON values; of the tasks' own those that are given."""
        parts = to_mapping(self)
        task = parts.pop("task")
        own = {flat_name(name, key): value for name, values in task.items() for key, value in values.items()}
        return {key: value for part in parts.values() for key, value in part.items()} | own

    def value(self, name: str) -> Any:
        """The field of the flat `name`; a task without a value of its own has that of all."""
        task, key = split_field(name)
        own = self.task.get(task, {})
        return own[key] if key in own else getattr(getattr(self, flat_fields()[key][0]), key)

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """The fields of the flat `names` as TOML/JSON values, as `value`; None for a task that has no model of its
        own."""
        flat, found = self.flat(), {}
        for name in names:
            task, key = split_field(name)
            found[name] = flat.get(name, flat[key] if not task or task in self.models else None)
        return found


def strategy_of(config: Config) -> Strategy:
    """The strategy that mtl.toml itself describes."""
    return Strategy(head=config.head, loss=config.loss, train=config.train, task=config.task)


@functools.cache
def flat_fields() -> dict[str, tuple[str, Any]]:
    """Flat field name -> (part, annotation), but for those of tasks' own."""
    return {key: (part, hint) for part, cls in PARTS.items() for key, hint in hints_of(cls).items()}


def field_names(strategies: Iterable[Strategy]) -> tuple[str, ...]:
    """The flat names of all fields, and of those that any of `strategies` gives a task of its own."""
    own = (flat_name(task, key) for one in strategies for task, values in one.task.items() for key in values)
    return tuple(dict.fromkeys([*flat_fields(), *own]))


def field_of(name: str, where: str) -> tuple[str, Any]:
    """(part, annotation) of a flat field name, or a `ValueError` with the nearest right name."""
    fields, (task, key) = flat_fields(), split_field(name)
    if task and key not in TASK_FIELDS:
        known = f"known after task.{task}: {', '.join(TASK_FIELDS)}"
        what = refusal(key, fields) or f"unknown key {name!r}{nearest(key, TASK_FIELDS)}"
        raise ValueError(f"{where}: {what}; {known}")
    if key not in fields:
        known = f"{', '.join(fields)}, and task.NAME.FIELD"
        raise ValueError(f"{where}: unknown key {name!r}{nearest(name, fields)}; known: {known}")
    return ("task" if task else fields[key][0]), fields[key][1]


def streams_of(strategy: Strategy, config: Config) -> dict[str, tuple[str, ...]]:
    """The streams each model of `strategy` reads: key "joint", or one key per task for a method by task.

    "all" is every stream of mtl.toml's backbones; "own" those of the backbones made for the model's tasks.

    Raises:
        ValueError: an unknown stream, or no stream at all.
    """
    names = strategy.head.tasks if strategy.train.method in METHODS_BY_TASK else (JOINT,)
    heads = {name: strategy.model(name).head for name in names}
    return {name: _choose(head.streams, head.tasks, config) for name, head in heads.items()}


def tasks_with_labels(strategy: Strategy, part: str) -> tuple[str, ...]:
    """The tasks that need a labelled frame in `part`, "train" or "select": an auxiliary task chooses no weights, except
    those of its own model in the method "progressive"."""
    head = strategy.head
    chooses_all = part == "train" or strategy.train.method == "progressive"
    return head.tasks if chooses_all else head.predicted


def class_embeddings_of(strategy: Strategy, config: Config) -> ClassEmbeddings | None:
    """Those that the file of `class_embeddings` holds; None where none is named. Raises ValueError as its reader."""
    path = strategy.loss.class_embeddings
    return read_class_embeddings(config.at(path), config.schema, strategy.head.tasks) if path else None


def run_digest(
    strategy: Strategy,
    streams: Mapping[str, Sequence[str]],
    identity_of: Callable[[str, str], str],
    frames: str,
    labels: str,
    split: str,
    class_embeddings: ClassEmbeddings | None = None,
) -> str:
    """16 hex digits over `strategy` and all it is trained and scored on: the same digest is the same run.

    Args:
        streams: those that each of its models reads (`streams_of`).
        identity_of: the digest of a stream, by name and view.
        frames: digest of the frames table; `labels` and `split` of its labels and of who trains, chooses, is scored.
        class_embeddings: those of the strategy (`class_embeddings_of`).
    """
    identities = {
        model: [identity_of(name, view) for name in names for view in strategy.train.views]
        for model, names in streams.items()
    }
    files = [] if class_embeddings is None else [class_embeddings.digest]
    return _hashed([strategy.essential.flat(), streams, identities, frames, labels, split, *files])


def problem_of(strategy: Strategy, config: Config) -> str | None:
    """What makes `strategy` impossible to train, in one line; None when nothing does."""
    train = strategy.train
    problem = head_problem(strategy.head) or loss_problem(strategy.loss) or range_problem(train)
    if problem := problem or _task_problem(strategy):
        return problem
    if train.method == "separate" and strategy.head.auxiliary:
        words = ", ".join(strategy.head.auxiliary)
        return (
            f"method = 'separate': tasks share nothing, so the auxiliary {words} would help no target; name "
            "the targets alone as tasks, or take method = 'joint' or 'progressive'"
        )
    for name, default in (("coupling", "none"), ("classes_from", "features")):
        if train.method in METHODS_BY_TASK and (value := getattr(strategy.head, name)) != default:
            return f"method = {train.method!r}: its models have a task each, so {name} = {value!r} has none to read"
    try:
        config.schema.ordered(strategy.head.tasks, "tasks")
        kinds = {name: config.schema.tasks[name].group.kind for name in strategy.head.tasks}
        if problem := classes_problem(strategy.head, kinds):
            return problem
        for name in strategy.loss.task_weights:
            config.schema.task(name, "task_weights")
        if not any(strategy.loss.task_weights.get(name, 1.0) for name in strategy.head.tasks):
            return f"task_weights: all of tasks = {list(strategy.head.tasks)} have 0, so nothing would be learned"
    except ValueError as error:
        return str(error)
    if problem := fold_problem(train.fold, config.split):
        return f"fold = {train.fold}: {problem}"
    try:
        streams_of(strategy, config)
        class_embeddings_of(strategy, config)
    except ValueError as error:
        return str(error)
    return None


def _task_problem(strategy: Strategy) -> str | None:
    """What is wrong with the values of tasks' own."""
    method, tasks = strategy.train.method, strategy.head.tasks
    for name, own in strategy.task.items():
        where = f"[task.{name}] {', '.join(own)}"
        if own and method not in METHODS_BY_TASK:
            known = " and ".join(METHODS_BY_TASK)
            return f"{where}: only the methods {known} train a model per task, and method = {method!r}; leave it out"
        if own and name not in tasks:
            return f"{where}: tasks = {list(tasks)} has no {name!r}{nearest(name, tasks)}; leave it out"
        model = strategy.model(name)
        if problem := head_problem(model.head) or range_problem(model.train):
            return f"[task.{name}] {problem}"
    return None


def _hashed(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def _choose(choice: str | tuple[str, ...], tasks: tuple[str, ...], config: Config) -> tuple[str, ...]:
    known = tuple(config.streams)
    if not known:
        raise ValueError(no_backbone(config))
    if choice == "all":
        return known
    chosen = config.own_streams(tasks) if choice == "own" else tuple(choice)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"streams: unknown stream {unknown[0]!r}; mtl.toml has {', '.join(known)}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"streams = {list(chosen)}: name each stream once")
    if not chosen and choice != "own":
        raise ValueError('streams = []: name at least one stream, or write "all" or "own"')
    if not chosen:
        raise ValueError(
            f"streams = {choice!r}: no backbone is made for {', '.join(tasks)}; write tasks = [...] in its section"
        )
    return chosen
