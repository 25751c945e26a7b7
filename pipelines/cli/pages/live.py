"""What `mtl live` prints: a table that is drawn anew, lines, or JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from cache.labels import Schema
from pipelines.terminal import make_console, say
from pipelines.words import counted, task_label

if TYPE_CHECKING:
    from pipelines.predict.live import LiveFace, LivePredictor, LiveUpdate

LINE_S = 1.0  # between two lines off a terminal


def show_json(updates: Iterable["LiveUpdate"], predictor: "LivePredictor", schema: Schema) -> None:
    """A JSON object per update and line."""
    for update in updates:
        say(json.dumps({**asdict(update), "delay_steps": predictor.delay, "delay_s": predictor.delay_s}))


def show_lines(updates: Iterable["LiveUpdate"], predictor: "LivePredictor", schema: Schema) -> None:
    """A table on a terminal, elsewhere a line per face and second."""
    console = make_console()
    if console.is_terminal and not console.is_dumb_terminal:
        faces: dict[int, LiveFace] = {}
        finals: dict[int, Mapping[str, float]] = {}  # the newest of each face
        with Live(console=console, auto_refresh=False) as screen:
            for update in updates:
                found = {face.face: face for face in update.faces}
                if update.latency_s is not None:
                    faces = found
                elif found.keys() <= faces.keys():  # what was held back of faces that are still shown
                    faces = faces | found
                else:
                    continue
                finals |= {face.face: face.finals[-1].columns for face in update.faces if face.finals}
                screen.update(_table(update, faces.values(), finals, predictor, schema), refresh=True)
        return
    last_s = -LINE_S
    for update in updates:
        if update.time_s - last_s >= LINE_S:
            last_s = update.time_s
            for face in update.faces:
                say(f"{update.time_s:.1f} s  face {face.face}: {prediction_words(face.prompt, schema)}")
            if not update.faces:
                say(f"{update.time_s:.1f} s  no face")


def show_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """What was done, at the end."""
    if as_json:
        say(json.dumps(summary))
        return
    for why in summary["incomplete"]:
        say(f"INCOMPLETE: {why}")
    latency = summary["latency_s"]
    found = (
        ""
        if latency is None
        else f", median latency {1000 * latency['median']:.0f} ms (95th percentile {1000 * latency['p95']:.0f} ms)"
    )
    final = f"after {summary['delay_s']:.1f} s" if summary["delay_steps"] else "at once"
    say(
        f"{counted(summary['num_frames'], 'frame')} seen, {summary['num_dropped']:,} dropped{found}; a prediction is "
        f"final {final}"
    )


def prediction_words(columns: Mapping[str, float] | None, schema: Schema) -> str:
    """ "valence +0.31  arousal -0.02  Happiness 0.87  AU6 AU12"."""
    if columns is None:
        return "-"
    words = []
    for group in schema:
        names = [name for name in group.columns if name in columns]
        if group.kind == "continuous":
            words += [f"{name} {columns[name]:+.2f}" for name in names]
        elif group.kind == "classes" and names:
            name = group.classes[int(columns[names[0]])]
            words.append(f"{name} {columns[f'p_{name}']:.2f}")
        elif names:
            words.append(" ".join(name for name in names if columns[name]) or f"no {task_label(group.name)}")
    return "  ".join(words)


def _table(
    update: "LiveUpdate",
    faces: Iterable["LiveFace"],
    finals: Mapping[int, Mapping[str, float]],
    predictor: "LivePredictor",
    schema: Schema,
) -> Table:
    latency = "" if update.latency_s is None else f", latency {1000 * update.latency_s:.0f} ms"
    table = Table(title=f"{update.time_s:.1f} s{latency}", min_width=60)
    table.add_column("face")
    table.add_column("now")
    if predictor.delay:
        table.add_column(f"{predictor.delay_s:.1f} s ago, final")
    for face in faces:
        known = [face.prompt, finals.get(face.face)] if predictor.delay else [face.prompt]
        # As text, since rich takes brackets in the names of labels for styles.
        table.add_row(str(face.face), *(Text(prediction_words(each, schema)) for each in known))
    return table
