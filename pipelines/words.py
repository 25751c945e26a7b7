"""How fields, values, tasks and splits are called in tables and reports: words for readers, not names from the code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cache.labels import Task
from pipelines.concerns import concerns
from pipelines.task_fields import split_field

FIELD_WORDS = {
    "tasks": "tasks",
    "auxiliary": "auxiliary tasks",
    "streams": "streams",
    "temporal": "temporal encoder",
    "num_heads": "attention heads",
    "kernel": "kernel (steps)",
    "window": "window (steps)",
    "stride": "stride (steps)",
    "max_gap": "longest gap (frames)",
    "batch_windows": "windows per step",
    "mean_frames": "mean over (frames)",
    "frozen_steps": "steps with frozen trunks",
    "lr": "learning rate",
    "latent": "latent width",
    "latent_va": "VA and the latent",
    "classes_from": "classes from",
    "latent_kl": "latent KL weight",
    "latent_warmup_steps": "latent KL warm-up (steps)",
    "subject_adversarial": "subject-adversarial strength",
    "balanced_sigma": "balanced MSE σ",
    "ldam_margin": "LDAM margin",
    "logit_tau": "logit adjustment τ",
    "focal_gamma": "focal γ",
    "asymmetric_gamma_positive": "asymmetric γ, positives",
    "asymmetric_gamma_negative": "asymmetric γ, negatives",
    "asymmetric_clip": "asymmetric margin",
    "grad_clip": "gradient clip",
}
SHORT_WORDS = {"temporal": "temporal", "num_heads": "heads", "window": "window", "stride": "stride", "kernel": "kernel"}
VALUE_WORDS = {
    "gru": "GRU",
    "lstm": "LSTM",
    "ssm": "SSM",
    "tcn": "TCN",
    "tcn-multi": "multi-scale TCN",
    "tcn-transformer": "TCN + transformer",
    "ccc": "CCC",
    "mse": "MSE",
    "ccc+mse": "CCC + MSE",
    "balanced_mse": "balanced MSE",
    "ldam": "LDAM",
    "bce": "cross-entropy",
    "cross_entropy": "cross-entropy",
}
# Values that mean another one.
AUTOMATIC: dict[str, tuple[int, str]] = {
    "depth": (0, "its own"),
    "batch_windows": (0, "by size"),
    "mean_frames": (0, "whole video"),
    "latent": (0, "none"),
}
OTHER_HALF = "the other half of "
SCORE_WORDS = {
    "ccc": "mean CCC",
    "pearson": "mean correlation",
    "f1_macro": "macro F1",
    "accuracy": "accuracy",
    "f1": "mean F1",
}
ABBREVIATIONS = ("va", "expr", "au")


def field_words(name: str, short: bool = False) -> str:
    """A strategy field's name for readers; "VA window" for a task's own."""
    task, name = split_field(name)
    if task:
        return f"{task_label(task)} {field_words(name, short)}"
    if short and name in SHORT_WORDS:
        return SHORT_WORDS[name]
    return FIELD_WORDS.get(name, name.replace("_", " "))


def value_words(field: str, value: Any) -> str:
    """A strategy field's value for readers; "–" where it has none."""
    _, field = split_field(field)
    if value is None:
        return "–"
    if field in ("tasks", "auxiliary", "targets"):
        return task_words(value) or ("all" if field == "targets" else "none")
    if field in AUTOMATIC and value == AUTOMATIC[field][0]:
        return AUTOMATIC[field][1]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item:g}" for key, item in value.items()) or "1 each"
    if isinstance(value, float):
        return f"{value:g}"
    return VALUE_WORDS.get(value, str(value))


def value_in(field: str, values: Mapping[str, Any]) -> str:
    """The value of `field` among a strategy's `values`, or "–" where it makes no difference."""
    return value_words(field, values[field]) if concerns(field, values) else "–"


def task_words(tasks: Sequence[str]) -> str:
    """ "VA + EXPR + AU"."""
    return " + ".join(map(task_label, tasks))


def trained_words(tasks: Sequence[str], auxiliary: Sequence[str]) -> str:
    """ "EXPR with VA + AU": targets, and the tasks that were trained beside."""
    return f"{task_words(tasks)} with {task_words(auxiliary)}" if auxiliary else task_words(tasks)


def task_label(task: str) -> str:
    """ "VA", "EXPR", "AU"; other names as they are."""
    return task.upper() if task in ABBREVIATIONS else task


def score_title(task: Task) -> str:
    """ "VA: mean CCC"."""
    return f"{task_label(task.name)}: {SCORE_WORDS[task.group.score]}"


def strategy_words(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """What sets a strategy apart: "fusion attention, temporal TCN"."""
    named = [name for name in varied if concerns(name, values)]
    words = [f"{field_words(name, short=True)} {value_words(name, values[name])}" for name in named]
    return ", ".join(words) or "the strategy of mtl.toml"


def refit_words(record: Mapping[str, Any]) -> str:
    """What the refit of refit.json was trained on and for how long, and that nothing is held out."""
    rows = record["trained_on"]["train"]
    found = record["num_steps"]
    steps = ", ".join(f"{step:,}" + f" ({task_label(model)})" * (len(found) > 1) for model, step in found.items())
    runs = counted(len(record["of"]), "run")
    return (
        f"Trained on {rows['of']} together ({_size(rows)}), for {steps} steps, chosen by {runs} on "
        f"{record['split']['select']['of']}. No held-out score of it exists."
    )


def split_words(split: Mapping[str, Any]) -> str:
    """Which rows trained, selected and were scored, one sentence per part."""
    parts = {name: f"{split[name]['of']} ({_size(split[name])})" for name in ("train", "select", "report")}
    return (
        f"Heads were trained on {parts['train']}. Weights and strategies were selected on {parts['select']}. "
        f"The held-out score is from {parts['report']}, which played no part in the selection." + halved_words(split)
    )


def halved_words(split: Mapping[str, Any]) -> str:
    """Why one half of a split selected and the other was scored; nothing where that is not so."""
    whole = split["report"]["of"].removeprefix(OTHER_HALF)
    if whole == split["report"]["of"]:
        return ""
    return (
        f" Nothing but {whole} has labels to select and to score by, so it was split in two, no video or subject on "
        "both sides: splits.csv in the study's folder names the half of every video."
    )


def chosen_words(splits: Sequence[Mapping[str, Any]]) -> str:
    """Which rows selected and which were scored, with their numbers; of several folds the first."""
    if not splits:
        return ""
    chose, scored = (f"{splits[0][name]['of']} ({_size(splits[0][name])})" for name in ("select", "report"))
    folds = f" in the first of {len(splits)} splits" if len(splits) > 1 else ""
    where = "; splits.csv says which video is in which" if halved_words(splits[0]) else ""
    return f"Selected on {chose}, scored on {scored}{folds}{where}."


def probability_words(p: float) -> str:
    """ "0.04", "0.004", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def _size(part: Mapping[str, Any]) -> str:
    return f"{counted(part['videos'], 'video')}, {counted(part['frames'], 'frame')}"


def stored_words(names: Sequence[str]) -> str:
    """Of streams that are left in the cache; training is slower where the disk is."""
    return f"{', '.join(names)}: beyond [train] memory_gb, so read from the cache while training"


def counted(number: int, thing: str) -> str:
    """ "1 trial", "1,204 trials"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def alike_words(num_alike: int, num_combinations: int) -> str:
    """ "4 of 24 combinations train the same as another and are no trials of their own"."""
    verbs = ("trains", "is no trial of its own") if num_alike == 1 else ("train", "are no trials of their own")
    return f"{num_alike:,} of {num_combinations:,} combinations {verbs[0]} the same as another and {verbs[1]}"


def units_words(unit: str) -> str:
    """What is resampled, in the plural: "videos", "subjects", or both where some subjects are not known."""
    return "subjects or videos" if "," in unit else f"{unit}s"


def counted_units(number: int, unit: str, before: str = "") -> str:
    """ "1 video", "12 subjects", "12 held-out subjects or videos" (`before`: "held-out ")."""
    return f"{number:,} {before}{unit.partition(',')[0] if number == 1 else units_words(unit)}"


def duration_words(seconds: float) -> str:
    """ "40 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def markdown_text(text: str) -> str:
    """`text` as it is shown by Markdown, where it would be markup, HTML among it."""
    return re.sub(r"([\\|`*\[<])", r"\\\1", " ".join(text.split("\n")))
