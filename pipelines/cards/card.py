"""The text of a model card, from a run's or an ensemble's records: `model_card.md`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.labels import Group, Schema, Task
from pipelines.cards.held_out import HeldOut, Subgroup
from pipelines.metrics.challenge import main_key
from pipelines.metrics.intervals import LEVEL, Interval
from pipelines.words import markdown_text, score_title, task_label

PARTS = {"train": "trained its weights", "select": "selected its weights", "report": "held out, scored once"}
NOT_NOTED = "not noted"
OWN_SCORES = "Its weights were selected by the score on the right."
REFIT_SCORES = (
    "All scores, and those of subgroups, are of the runs that it was refitted from; it was not scored itself, for "
    "nothing of train and val is held out from it."
)
MISUSE = """\
## What it must not be used for

- To conclude what a person feels, thinks, intends or suffers from. It predicts how annotators label the look of a face.
- For decisions about people: hiring, work, school, credit, insurance, policing, borders, medicine. In the European
  Union, systems that infer emotions of people at work or in education are prohibited, but for medical or safety reasons
  (Regulation (EU) 2024/1689, Article 5).
- To identify people, or to watch people who have not agreed to it.
- On people, cultures, cameras or alignments unlike those it was trained on, without labelled data of one's own that
  show how it scores there. Where no subgroups are listed above, nothing is known of differences between people.
- Beyond what the licences of the data and of the backbones' weights allow; many allow research only.
"""
PRIVACY = """\
## Where data go

Nowhere: faces, labels, embeddings and predictions stay on the machine. The runner of bundles opens no connection. mtl
opens one only to fetch pretrained weights by their name, where mtl.toml asks for them, to keep the record of a search
in the database that its grid names (`storage`), and to report the curves of a training to the service that `--track`
names.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A stream's backbone: what it is, the digest of its weights, and the note on their licence."""

    name: str
    model: str
    weights: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card says. `made_of` is a sentence on the model, `data` and `licence` are notes on the data, `split` is as
    in run.json; `metrics` have the parts "select" and "report", and `whose` says whose they are."""

    name: str
    created: str
    made_of: str
    schema: Schema
    tasks: Sequence[str]
    data: str
    licence: str
    split: Mapping[str, Any]
    backbones: Sequence[Backbone]
    alignment: Mapping[str, Any] | None
    metrics: Mapping[str, Mapping[str, Any]]
    held_out: HeldOut
    whose: str
    versions: Mapping[str, str]
    commit: str | None


def card_text(card: Card) -> str:
    """model_card.md."""
    sections = [
        f"# Model card: {card.name}\n\n{card.made_of} Made {card.created}.\n",
        "## What it predicts\n\n"
        + table(("task", "of each face", "as"), map(_predicts, card.schema.scored(card.tasks))),
        "## Data\n\n" + "\n".join(_data(card)) + "\n",
        "## Scores\n\n" + "\n".join(_scores(card)) + "\n",
        "## Subgroups\n\n" + "\n".join(_subgroups(card)) + "\n",
        MISUSE,
        PRIVACY,
        f"## Versions\n\n{', '.join(f'{name} {version}' for name, version in card.versions.items())}"
        f"{f'; commit {card.commit}' if card.commit else ''}\n",
    ]
    return "\n".join(sections)


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | map) -> str:
    """A Markdown table; what would be markup in a cell is written out."""
    lines = [[*map(markdown_text, head)], ["---"] * len(head), *([*map(markdown_text, row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _predicts(task: Task) -> tuple[str, str, str]:
    group = task.group
    words = {
        "continuous": f"a number from {group.low:g} to {group.high:g} each",
        "classes": f"one of {len(group.classes)} classes, with probabilities: {', '.join(group.classes)}",
        "binary": "present or absent each, with probabilities",
    }
    return task_label(task.name), ", ".join(task.columns), words[group.kind]


def _data(card: Card) -> Iterator[str]:
    yield f"- Data: {card.data or NOT_NOTED + ' (`name` under [data] of mtl.toml)'}"
    yield f"- Licence of the data: {card.licence or NOT_NOTED + ' (`licence` under [data] of mtl.toml)'}"
    yield f"- Alignment of the faces: {_alignment_words(card.alignment)}"
    yield ""
    tasks = [task.group.name for task in card.schema.scored(card.tasks)]
    rows = [
        (
            f"{card.split[part]['of']}: {words}",
            f"{card.split[part]['videos']:,}",
            _number(card.split[part].get("subjects")),
            f"{card.split[part]['frames']:,}",
            *(_number(card.split[part]["labelled"].get(name)) for name in tasks),
        )
        for part, words in PARTS.items()
        if card.split[part]["frames"]
    ]
    yield table(
        ("rows", "videos", "subjects", "frames", *(f"labelled {task_label(name)}" for name in tasks)), iter(rows)
    )
    backbones = [(each.name, each.model, each.weights[:12], each.licence or NOT_NOTED) for each in card.backbones]
    yield table(("stream", "backbone", "weights", "licence of its weights and their data"), iter(backbones))
    yield (
        "A backbone saw data of its own before: its licence is noted by `licence` in its section [backbones.NAME], and "
        "holds for this model too."
    )


def _alignment_words(alignment: Mapping[str, Any] | None) -> str:
    if alignment is None:
        return "not known"
    size = alignment["template"]["size_px"]
    return f"crops of {size} x {size} px by the detector {alignment['detector']}"


def _scores(card: Card) -> Iterator[str]:
    select, report, ends = card.metrics["select"], card.metrics["report"], card.held_out.intervals
    tasks = card.schema.scored(card.tasks)
    whole = "P, the sum of them" if card.schema.is_complete(card.tasks) else "the sum of them"
    rows = [(score_title(task), main_key(task.group), task.name) for task in tasks]
    rows += [(whole, "P", "P")] if len(tasks) > 1 else []
    yield table(
        ("score", "held out", f"{100 * LEVEL:.0f} % interval", "selection"),
        iter(
            (words, _score(report.get(key)), _ends(ends.get(name)), _score(select.get(key)))
            for words, key, name in rows
        ),
    )
    yield f"Intervals are over resampled {card.held_out.unit}s. {card.whose}"
    yield (
        "They are of predictions without post-processing. `mtl predict` applies that of a postprocess.json beside this "
        "card, which has the scores with it."
    )
    for task in tasks:
        yield from _columns(task.group, report)


def _columns(group: Group, metrics: Mapping[str, Any]) -> Iterator[str]:
    """A line with the held-out score of each column or class, where there is one."""
    prefixes = (f"{group.name}.{group.score}_", f"{group.name}.f1.", f"{group.name}.accuracy.")
    found = {
        key.removeprefix(prefix): value
        for prefix in prefixes
        for key, value in metrics.items()
        if key.startswith(prefix) and key != main_key(group) and value is not None
    }
    if found:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        yield f"\n{task_label(group.name)}, held out: {scores}."


def _subgroups(card: Card) -> Iterator[str]:
    found, tasks = card.held_out.subgroups, card.schema.scored(card.tasks)
    if not found:
        yield (
            f"Not scored: {card.held_out.problem}."
            if card.held_out.problem
            else "Not scored: nothing is known of the subjects. `attributes` under [data] of mtl.toml names a table "
            "with columns such as gender or age group."
        )
        return
    head = ("attribute", "group", f"{card.held_out.unit}s", "frames", *(score_title(task) for task in tasks))
    yield table(head, iter([_subgroup_row(each, [task.name for task in tasks]) for each in found]))
    yield "Held-out rows; F1 is over the classes and columns that are labelled as present in the group."


def _subgroup_row(each: Subgroup, tasks: Sequence[str]) -> tuple[str, ...]:
    cells = []
    for name in tasks:
        value, between = each.scores.get(name, (None, None))
        cells.append(_score(value) + (f" ({_ends(between)})" if between else ""))
    return each.attribute, each.value, f"{each.num_groups:,}", f"{each.num_frames:,}", *cells


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ends(between: Interval | None) -> str:
    return "–" if between is None else f"{between.low:.2f} to {between.high:.2f}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
