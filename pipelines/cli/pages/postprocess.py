"""What `mtl postprocess` prints: every step's score in fold, out of fold and held out, and what was kept."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.postprocess.affine import IDENTITY
from pipelines.words import counted_units, task_label


def print_postprocess(record: Mapping[str, Any], console: Console) -> None:
    """The table of steps, then affine match, offsets, thresholds, gain and optimism."""
    table = Table(title=f"{record['name']}: post-processing", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for head in ("selection\nin fold", "selection\nout of fold", "\nheld out"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("\nkept")
    for task in dict.fromkeys(step["task"] for step in record["steps"]):
        for step in (step for step in record["steps"] if step["task"] == task):
            values = [number(step[key]) for key in ("in_fold", "out_of_fold", "report")]
            table.add_row(_step_words(step), *values, "yes" if step["kept"] else "")
        table.add_section()
    plain, post = record["plain"], record["post"]
    table.add_row("P plain", *map(_p, (plain["select"], plain["select"], plain["report"])))
    table.add_row("P post-processed", *map(_p, (post["in_fold"], post["out_of_fold"], post["report"])), style="bold")
    console.print(table)
    _print_fitted(record["parameters"], console)
    console.print(gain_words(record))


def gain_words(record: Mapping[str, Any]) -> str:
    """The gain in one line or two, with its interval and the optimism."""
    if record["optimism"] is None:
        return "the selection rows hold one video or subject: nothing can be fitted out of fold"
    gain, between = record["gain"], record["gain"]["interval"]
    lines = [
        f"gain in P out of fold {gain['out_of_fold']:+.4f}; optimism (in fold - out of fold) {record['optimism']:+.4f}"
    ]
    if gain["report"] is None:
        lines.append(f"held-out gain unknown: no held-out label of {', '.join(record['plain']['report']['unscored'])}")
    else:
        lines.append(f"gain in P held out {gain['report']:+.4f}{interval_words(between)}")
    return "\n".join(lines)


def interval_words(between: Mapping[str, Any] | None) -> str:
    """ ", 95 % interval -0.0100 to +0.0300 over 12 subjects"."""
    if between is None:
        return ""
    over = counted_units(between["num_groups"], between["unit"])
    return f", 95 % interval {between['low']:+.4f} to {between['high']:+.4f} over {over}"


def number(value: float | None) -> str:
    """Four digits, or "–" where there is none."""
    return "–" if value is None else f"{value:.4f}"


def _p(metrics: Mapping[str, Any] | None) -> str:
    return number(metrics["P"] if metrics else None)


def _step_words(step: Mapping[str, Any]) -> str:
    task, width = task_label(step["task"]), step["smoothing"]["width"]
    kernel = "none" if step["smoothing"]["kernel"] == "none" else f"{step['smoothing']['kernel']} {width:g}"
    tau = "" if step["tau"] is None else f"{step['tau']:.1f}"
    words = {
        "smoothing": f"smoothing ({kernel})",
        "affine": "affine match",
        "thresholds": "thresholds",
        "prior": f"prior (tau {tau})",
        "offsets": "class offsets",
        "outside": f"outside from {step['outside']:g}" if step["outside"] else "",
    }
    return f"{task} " + (" + ".join(words[name] for name in step["components"]) or "plain")


def _print_fitted(parameters: Mapping[str, Any], console: Console) -> None:
    """What differs from the default of scale and shift, offsets and thresholds."""
    affine = {name: each for name, each in parameters["affine"].items() if (each["scale"], each["shift"]) != IDENTITY}
    if affine:
        words = [f"{name} x {each['scale']:.2f} {each['shift']:+.2f}" for name, each in affine.items()]
        console.print("affine match  " + "  ".join(words))
    offsets, thresholds = parameters["offsets"], parameters["thresholds"]
    for name, one in parameters["outside"].items():
        console.print(f"outside classifier  {name} of {one['stream']} from {one['threshold']:g} on", soft_wrap=True)
    if any(offsets.values()):
        console.print("offsets  " + "  ".join(f"{name} {value:+.2f}" for name, value in offsets.items()))
    if any(value != 0.5 for value in thresholds.values()):
        console.print("thresholds  " + "  ".join(f"{name} {value:.2f}" for name, value in thresholds.items()))
