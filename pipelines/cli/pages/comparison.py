"""What `mtl compare` prints: two strategies side by side, in 80 columns."""

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.metrics.paired import LIMIT
from pipelines.results.comparison import Comparison
from pipelines.results.verdict import FEWEST
from pipelines.words import SCORE_WORDS, counted, counted_units, probability_words, task_label, units_words


def comparison_page(found: Comparison) -> Group:
    """The table, which two these are, and whether the difference in P is significant."""
    paired, schema = found.paired, found.schema
    tasks = {task.name: task for task in schema.scored(found.tasks)}
    whole = "P" if schema.is_complete(found.tasks) else f"P over {len(tasks)} of {len(schema.names)} tasks"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("held-out")
    for head in ("A", "B", "A - B", "95 % interval", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    for key, one in paired.differences.items():
        words = whole if key == "P" else f"{task_label(key)} ({SCORE_WORDS[tasks[key].group.score]})"
        scores = [f"{side[key]:.3f}" for side in (paired.first, paired.second)]
        ends = f"{one.low:+.3f} to {one.high:+.3f}"
        table.add_row(words, *scores, f"{one.value:+.3f}", ends, probability_words(one.p))
    sides = [
        Text.assemble(f"{letter}: ", (side.name, "bold"), f" ({side.words})")
        for letter, side in (("A", found.first), ("B", found.second))
    ]
    return Group(*sides, table, Text(conclusion(found)))


def conclusion(found: Comparison) -> str:
    """Whether the two differ significantly on the held-out subjects or videos, and how many there are."""
    paired = found.paired
    sample, units = paired.sample, units_words(paired.sample.unit)
    held_out = counted_units(sample.num_groups, sample.unit, "held-out ")
    much = f"{held_out}, {counted(paired.num_pairs, 'pair')} of runs"
    if paired.differences["P"].p < LIMIT:
        better = "A" if paired.differences["P"].value > 0 else "B"
        return f"{better} is significantly better, taken alone ({much})."
    few = f" With fewer than {FEWEST} {units} no difference can be significant." if sample.num_groups < FEWEST else ""
    return f"No significant difference ({much}).{few}"
