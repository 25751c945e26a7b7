"""What `mtl search --dry-run` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from pipelines.training.budget import budget_words
from pipelines.words import alike_words, counted, duration_words, value_words

SHOWN_KINDS = 8


def print_preview(found: Mapping[str, Any], console: Console) -> None:
    """The facts of a `Preview`."""
    counts = "" if found["num_left"] is None else f", {found['num_finished']} finished, {found['num_left']} to run"
    console.print(f"{found['grid']}: {counted(found['num_trials'], 'trial')}{counts}", soft_wrap=True)
    if num_alike := found["num_combinations"] - found["num_trials"]:
        console.print(alike_words(num_alike, found["num_combinations"]), soft_wrap=True)
    if found["num_folds"]:
        inner = counted(found["num_inner"], "inner part")
        console.print(f"{counted(found['num_folds'], 'outer fold')}, each with {inner} to select on")
    seconds = found["seconds"]
    shown = "time: " if seconds is None else f"time: {duration_words(seconds)}, "
    console.print(f"{shown}{found['how']}", soft_wrap=True)
    for words in budget_lines(found.get("budgets", [])):
        console.print(words, soft_wrap=True)
    if "num_stacks" in found:
        stacks = f"{counted(found['num_stacks'], 'stack')} of up to {counted(found['largest_stack'], 'trial')} at once"
        console.print(stacks)
    if "resident_bytes" in found:
        console.print(f"memory of the streams: {_mib(found['resident_bytes'])}")
    if "stack_bytes" in found:
        _print_memory(found, console)


def budget_lines(budgets: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per budget, and one per warning."""
    trials: dict[str, int] = {}
    for one in budgets:
        words = budget_words(one)
        trials[words] = trials.get(words, 0) + one["num_trials"]
    lines = [f"each model: at most {words}" for words in trials]
    if len(lines) > 1:
        lines = [f"{line} ({counted(count, 'trial')})" for line, count in zip(lines, trials.values(), strict=True)]
    return [*lines, *(f"warning: {text}" for text in dict.fromkeys(one["warning"] for one in budgets) if text)]


def _print_memory(found: Mapping[str, Any], console: Console) -> None:
    """What a stack needs besides the streams: one line per temporal encoder and method, the largest first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in found["stack_shapes"]:
        kinds.setdefault(f"{value_words('temporal', one['temporal'])}, {one['method']}", []).append(one)
    words = f"memory of a stack besides them: up to {_mib(found['stack_bytes'])} ({found['memory_how']})"
    console.print(words, soft_wrap=True)
    for name, (largest, *_) in list(kinds.items())[:SHOWN_KINDS]:
        weights, batches = _mib(largest["weights_bytes"]), _mib(largest["activation_bytes"])
        words = f"  {name}: {_mib(largest['bytes'])} (weights and AdamW {weights}, batches and activations {batches})"
        console.print(words, soft_wrap=True)
    if len(kinds) > SHOWN_KINDS:
        console.print(f"  and {len(kinds) - SHOWN_KINDS} smaller; every shape is in --json")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
