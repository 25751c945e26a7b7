"""A strategy: one full choice of tasks, streams, fusion, temporal encoder, losses, method, seed and fold."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.labels import nearest
from heads.config import HeadConfig, LossConfig, head_problem, loss_problem
from heads.ranges import hints_of, range_problem
from pipelines.config import Config, TrainConfig
from pipelines.splits import fold_problem
from pipelines.typed import convert, to_mapping

REPEATS = ("seed", "fold")
PARTS: dict[str, type] = {"head": HeadConfig, "loss": LossConfig, "train": TrainConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """`head`, `loss` and `train` of one training; its fields can be named without the section, as grids do."""

    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @property
    def essential(self) -> "Strategy":
        """The strategy without weights of tasks that it does not train, and without targets where they are all its
        tasks: what has the same essential trains the same."""
        weights = {task: weight for task, weight in self.loss.task_weights.items() if task in self.head.tasks}
        targets = self.head.predicted if self.head.auxiliary else ()
        if len(weights) == len(self.loss.task_weights) and targets == self.head.targets:
            return self
        return dataclasses.replace(
            self,
            head=dataclasses.replace(self.head, targets=targets),
            loss=dataclasses.replace(self.loss, task_weights=weights),
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
        """This strategy with the fields `values`, named flat (`{"fusion": "sum", "lr": 0.01}`).

        Raises:
            ValueError: a name that no part has, or a value of the wrong type; says `where`.
        """
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for key, value in values.items():
            part, annotation = field_of(key, where)
            parts[part][key] = convert(value, annotation, f"{where} {key}")
        return Strategy(
            head=dataclasses.replace(self.head, **parts["head"]),
            loss=dataclasses.replace(self.loss, **parts["loss"]),
            train=dataclasses.replace(self.train, **parts["train"]),
        )

    def flat(self) -> dict[str, Any]:
        """Every field by its flat name, as TOML/JSON values."""
        return {key: value for part in to_mapping(self).values() for key, value in part.items()}


def strategy_of(config: Config) -> Strategy:
    """The strategy that mtl.toml itself describes."""
    return Strategy(head=config.head, loss=config.loss, train=config.train)


def flat_fields() -> dict[str, tuple[str, Any]]:
    """Flat field name -> (part, annotation)."""
    return {key: (part, hint) for part, cls in PARTS.items() for key, hint in hints_of(cls).items()}


def field_of(key: str, where: str) -> tuple[str, Any]:
    """(part, annotation) of a flat field name, or a `ValueError` with the nearest right name."""
    fields = flat_fields()
    if key not in fields:
        raise ValueError(f"{where}: unknown key {key!r}{nearest(key, fields)}; known: {', '.join(fields)}")
    return fields[key]


def streams_of(strategy: Strategy, config: Config) -> dict[str, tuple[str, ...]]:
    """The streams each model of `strategy` reads: key "joint", or one key per task for the method "separate".

    "all" is every backbone of mtl.toml; "own" the backbones made for the model's tasks.

    Raises:
        ValueError: an unknown stream, or no stream at all.
    """
    tasks = strategy.head.tasks
    groups = {"joint": tasks} if strategy.train.method == "joint" else {task: (task,) for task in tasks}
    return {name: _choose(strategy.head.streams, group, config) for name, group in groups.items()}


def tasks_with_labels(strategy: Strategy, part: str) -> tuple[str, ...]:
    """The tasks that need a labelled frame in `part`, "train" or "select": an auxiliary task chooses no weights, except
    those of its own model in the method "progressive"."""
    head = strategy.head
    chooses_all = part == "train" or strategy.train.method == "progressive"
    return head.tasks if chooses_all else head.predicted


def run_digest(
    strategy: Strategy,
    streams: Mapping[str, Sequence[str]],
    identity_of: Callable[[str, str], str],
    frames: str,
    labels: str,
    split: str,
) -> str:
    """16 hex digits over `strategy` and all it is trained and scored on: the same digest is the same run.

    Args:
        streams: those that each of its models reads (`streams_of`).
        identity_of: the digest of a stream, by name and view.
        frames: digest of the frames table; `labels` and `split` of its labels and of who trains, chooses, is scored.
    """
    identities = {
        model: [identity_of(name, view) for name in names for view in strategy.train.views]
        for model, names in streams.items()
    }
    return _hashed([strategy.essential.flat(), streams, identities, frames, labels, split])


def problem_of(strategy: Strategy, config: Config) -> str | None:
    """What makes `strategy` impossible to train, in one line; None when nothing does."""
    train = strategy.train
    problem = head_problem(strategy.head) or loss_problem(strategy.loss) or range_problem(train)
    if problem:
        return problem
    if train.method == "separate" and strategy.head.auxiliary:
        words = ", ".join(strategy.head.auxiliary)
        return (
            f"method = 'separate': tasks share nothing, so the auxiliary {words} would help no target; name "
            "the targets alone as tasks, or take method = 'joint' or 'progressive'"
        )
    try:
        config.schema.ordered(strategy.head.tasks, "tasks")
        for name in strategy.loss.task_weights:
            config.schema.task(name, "task_weights")
    except ValueError as error:
        return str(error)
    if problem := fold_problem(train.fold, config.split):
        return f"fold = {train.fold}: {problem}"
    try:
        streams_of(strategy, config)
    except ValueError as error:
        return str(error)
    return None


def _hashed(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def _choose(choice: str | tuple[str, ...], tasks: tuple[str, ...], config: Config) -> tuple[str, ...]:
    known = tuple(config.backbones)
    if not known:
        raise ValueError("mtl.toml names no backbone; add a section [backbones.NAME] or run `mtl finetune`")
    if choice == "all":
        return known
    chosen = config.own_streams(tasks) if choice == "own" else tuple(choice)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"streams: unknown stream {unknown[0]!r}; mtl.toml has {', '.join(known)}")
    if not chosen:
        raise ValueError(
            f"streams = {choice!r}: no backbone is made for {', '.join(tasks)}; write tasks = [...] in its section"
        )
    return chosen
