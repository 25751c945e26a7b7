"""Settings that matter only with certain values of others: which make a difference, and which have no effect."""

import dataclasses
import warnings
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, Protocol

from heads.config import ATTENTIVE, CONVOLUTIONAL
from pipelines.task_fields import flat_name, split_field

Conditions = tuple[tuple[str, Container[Any]], ...]  # another setting and its values: one that holds is enough


class AllBut:
    """Every value but these."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __contains__(self, value: object) -> bool:
        return value not in self._values


class Strategy(Protocol):
    """What is asked of a strategy (`pipelines.strategy.Strategy`, which asks this module)."""

    @property
    def head(self) -> Any: ...
    @property
    def loss(self) -> Any: ...
    @property
    def train(self) -> Any: ...
    @property
    def task(self) -> Mapping[str, Any]: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    def model(self, name: str) -> "Strategy": ...
    def value(self, name: str) -> Any: ...


TAUGHT = (("method", ("self-training",)),)
LATENT = (("latent", AllBut(0)),)
ASYMMETRIC = (("binary_loss", ("asymmetric",)),)
CONCERNS: dict[str, Conditions] = {
    "num_heads": (("temporal", ATTENTIVE), ("fusion", ("attention", "cross-attention"))),
    "kernel": (("temporal", CONVOLUTIONAL),),
    "mean_frames": (("inputs", ("deviation", "both")),),
    "frozen_steps": (("method", ("progressive",)),),
    "teachers": TAUGHT,
    "class_confidence": TAUGHT,
    "binary_confidence": TAUGHT,
    "agreed_share": TAUGHT,
    "latent_va": LATENT,
    "latent_kl": LATENT,
    "latent_warmup_steps": LATENT,
    "latent_smoothness": LATENT,
    "class_embeddings_weight": (("class_embeddings", AllBut("")),),
    "class_weights": (("class_loss", ("cross_entropy", "focal", "ldam")),),
    "balanced_sigma": (("continuous_loss", ("balanced_mse",)),),
    "ldam_margin": (("class_loss", ("ldam",)),),
    "logit_tau": (("class_loss", ("logit_adjusted",)),),
    "focal_gamma": (("class_loss", ("focal",)),),
    "asymmetric_gamma_positive": ASYMMETRIC,
    "asymmetric_gamma_negative": ASYMMETRIC,
    "asymmetric_clip": ASYMMETRIC,
}
# Of sections of mtl.toml and of grids that are no part of a strategy.
IN_SECTIONS: dict[str, dict[str, Conditions]] = {
    "finetune": {
        # Low-rank additions are asked for by another command than what mtl.toml is for, with its own freeze.
        "trainable_blocks": (("freeze", ("partial",)), ("lora_rank", AllBut(0))),
        "probe_epochs": (("freeze", AllBut("backbone")),),
        "lora_alpha": (("lora_rank", AllBut(0)),),
        "rename": (("init", AllBut("pretrained", "random")),),
    },
    "study": {
        "sampler_seed": (("sampler", AllBut("grid")),),
        "halving_first": (("halving", AllBut(0)),),
    },
}


def concerns(field: str, values: Mapping[str, Any]) -> bool:
    """Whether `field` makes a difference to the strategy with these `values`; a task's own field that they do not have
    does not. That of all models does where it does to any."""
    task, key = split_field(field)
    if values.get(field) is None:
        return False
    conditions = CONCERNS.get(key, ())
    models = [task] if task else ["", *{split_field(name)[0] for name, value in values.items() if value is not None}]
    given = ({name: values.get(flat_name(model, name), values[name]) for name, _ in conditions} for model in models)
    return any(_hold(conditions, one) for one in given)


def without_effect(strategy: Strategy) -> dict[str, str]:
    """The fields of `strategy` that are not as by default and make no difference to any of its models, each in words:
    "kernel = 5 (temporal = 'ssm')"."""
    models = [strategy.model(name) for name in strategy.models] if strategy.task else [strategy]
    found = {}
    for part in (strategy.head, strategy.loss, strategy.train):
        for name, value in _changed(part, CONCERNS).items():
            given = [{other: model.value(other) for other, _ in CONCERNS[name]} for model in models]
            if not any(_hold(CONCERNS[name], one) for one in given):
                found[name] = _words(name, value, given[0])
    return found


def own_without_effect(strategy: Strategy) -> dict[str, str]:
    """As `without_effect`, of what `strategy` has for single tasks, by flat name: values of their own that their models
    do not heed, and weights of tasks that it does not train."""
    found, tasks = {}, list(strategy.head.tasks)
    for task, own in strategy.task.items():  # that such a model is trained is checked elsewhere
        for key in (key for key in own if key in CONCERNS and task in strategy.models):
            given = {other: strategy.model(task).value(other) for other, _ in CONCERNS[key]}
            if not _hold(CONCERNS[key], given):
                found[flat_name(task, key)] = _words(flat_name(task, key), own[key], given)
    for task, weight in strategy.loss.task_weights.items():
        if task not in tasks and weight != 1:
            found[f"task_weights.{task}"] = _words(f"task_weights.{task}", weight, {"tasks": tasks})
    return found


def without_effect_in(section: str, config: Any) -> list[str]:
    """As `without_effect`, of the dataclass `config` of a section that is no part of a strategy."""
    table, found = IN_SECTIONS[section], []
    for name, value in _changed(config, table).items():
        given = {other: getattr(config, other) for other, _ in table[name]}
        if not _hold(table[name], given):
            found.append(_words(name, value, given))
    return found


def without_effect_in_all(strategies: Iterable[Strategy], fields: Collection[str]) -> list[str]:
    """Those of `fields` that make no difference to any of `strategies` in which they are not as by default, in the
    words of the first."""
    words: dict[str, str] = {}
    with_effect = set[str]()
    for strategy in strategies:
        found = without_effect(strategy) | own_without_effect(strategy)
        for part in (strategy.head, strategy.loss, strategy.train):
            with_effect |= _changed(part, CONCERNS).keys() - found.keys()
        with_effect |= {flat_name(task, key) for task, own in strategy.task.items() for key in own} - found.keys()
        with_effect |= {f"task_weights.{task}" for task in strategy.head.tasks}
        words = found | words
    asked = [*fields, *(name for name in words if name.startswith("task_weights.") and "task_weights" in fields)]
    return [words[name] for name in asked if name in words and name not in with_effect]


def warn_of(found: Iterable[str], where: str) -> None:
    """One warning for all that `without_effect` and its like `found`; none where that is nothing."""
    if words := "; ".join(found):
        warnings.warn(f"{where}: without effect: {words}", stacklevel=3)


def _changed(config: Any, among: Iterable[str]) -> dict[str, Any]:
    """The values of those fields of a dataclass `among` that are not as by default."""
    default = {field.name: field.default for field in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in among if name in default}
    return {name: value for name, value in values.items() if value != default[name]}


def _hold(conditions: Conditions, given: Mapping[str, Any]) -> bool:
    return not conditions or any(given[other] in wanted for other, wanted in conditions)


def _words(name: str, value: Any, given: Mapping[str, Any]) -> str:
    others = ", ".join(f"{other} = {found!r}" for other, found in given.items())
    return f"{name} = {value!r} ({others})"
