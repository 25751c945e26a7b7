"""How far to trust a table of the leaderboard, in sentences: for the terminal, the report and leaderboard.json."""

from collections.abc import Sequence

from pipelines.metrics.nested import Nested
from pipelines.metrics.paired import LIMIT
from pipelines.results.leaderboard import Group, Row
from pipelines.words import counted_units, units_words

# Swapped groups give 2^G cases, of which what was found and its mirror image are two: with 5, no p is below 0.06.
FEWEST = 6


def verdict_words(group: Group) -> list[str]:
    """What the first place, the ranking and the held-out score are worth; nothing where nothing is known."""
    found = [separation_words(group), stability_words(group), nested_words(group.nested), resampled_words(group)]
    return [words for words in found if words]


def unit_of(rows: Sequence[Row]) -> str:
    """What was resampled for `rows`: "subject", "video", or the one "else" the other; videos where nothing was."""
    return next((row.interval.sample.unit for row in rows if row.interval), "video")


def resampled_words(group: Group) -> str:
    """Of how many subjects or videos the intervals are."""
    first = group.rows[0].interval
    if first is None:
        return ""
    sample = first.sample
    more = "" if sample.num_videos == sample.num_groups else f" (of {counted_units(sample.num_videos, 'video')})"
    held_out = counted_units(sample.num_groups, sample.unit, "held-out ")
    return f"Intervals are from resampling {held_out}{more}, whole, never single frames."


def compared(group: Group) -> list[Row]:
    """The rows that were tested against the first."""
    return [row for row in group.rows if row.versus is not None]


def num_inseparable(group: Group) -> int | None:
    """How many strategies cannot be told from the first; None where none was compared."""
    rows = compared(group)
    return sum(not row.versus.separable for row in rows if row.versus) if rows else None


def separation_words(group: Group) -> str:
    """Whether the first place is separable from the others on held-out rows."""
    rows = compared(group)
    if not rows:
        return ""
    others, alike, units = len(rows), num_inseparable(group) or 0, units_words(unit_of(group.rows))
    more = " compared" if others + 1 < len(group.rows) else ""
    if others == 1:
        words = (
            f"The other strategy{more} {'cannot' if alike else 'can'} be told from the first on the held-out {units}"
        )
    elif alike:
        words = f"{alike} of {others} other strategies{more} cannot be told from the first on the held-out {units}"
    else:
        both = "Both" if others == 2 else f"All {others}"
        words = f"{both} other strategies{more} can be told from the first on the held-out {units}"
    first = group.rows[0].interval
    if alike and first and first.sample.num_groups < FEWEST:
        words += f": with {first.sample.words}, no difference could be"
    higher = sum(row.versus.separable and row.versus.difference.value < 0 for row in rows if row.versus)
    words += f"; {higher} scored higher there than the first, beyond chance" if higher else ""
    return f"{words} (of these runs; at most {100 * LIMIT:.0f} % chance of a false difference)."


def stability_words(group: Group) -> str:
    """How often the first comes first when other videos choose."""
    first = group.rows[0].stability
    if first is None:
        return ""
    places = f"{first.low}" if first.low == first.high else f"{first.low} to {first.high}"
    sample = first.sample
    number = counted_units(sample.num_groups, sample.unit, "selection ")
    return (
        f"Had other {units_words(sample.unit)} chosen among the same runs ({number}, resampled), the "
        f"first would come first in {100 * first.first:.0f} % of cases; 95 % of its places: {places}."
    )


def nested_words(nested: Nested | None) -> str:
    """What choosing earns, beside what it seems to earn where it is chosen and scored on the same rows."""
    if nested is None:
        return ""
    between = nested.interval
    ends = f" ({between.low:.3f} to {between.high:.3f})" if between else ""
    where = f"inner {units_words(between.sample.unit if between else 'video')}"
    where = where if nested.num_inner == 1 else f"the mean over {nested.num_inner} inner parts"
    chosen = len(set(nested.chosen.values()))
    same = "always the same one" if chosen == 1 else f"{chosen} different ones"
    return (
        f"Choosing by this procedure gives P = {nested.score:.3f}{ends}: in each of {len(nested.chosen)} outer folds "
        f"the strategy is chosen on {where} ({same}) and the fold is scored once. "
        f"The best mean over the same folds, chosen on the rows that score it, is {nested.naive:.3f} (rank "
        f"{nested.naive_rank}). The held-out column is each strategy's mean over the folds, and what chooses in "
        "one fold is held out in another."
    )
