"""How far to trust a table of the leaderboard, in sentences: for the terminal, the report and leaderboard.json."""

from collections.abc import Sequence

from pipelines.metrics.nested import Nested
from pipelines.metrics.paired import LIMIT
from pipelines.results.leaderboard import Ranking, Row
from pipelines.words import counted_units, units_words

# Swapped groups give 2^G cases, of which what was found and its mirror image are two: with 5, no p is below 0.06.
FEWEST = 6


def verdict_words(ranking: Ranking) -> list[str]:
    """How far to trust the first rank, the ranking and the held-out score; empty where nothing is known."""
    found = [
        significance_words(ranking),
        stability_words(ranking),
        nested_words(ranking.nested),
        resampled_words(ranking),
    ]
    return [words for words in found if words]


def unit_of(rows: Sequence[Row]) -> str:
    """What was resampled for `rows`: "subject", "video", or the one "else" the other; videos where nothing was."""
    return next((row.interval.sample.unit for row in rows if row.interval), "video")


def resampled_words(ranking: Ranking) -> str:
    """Of how many subjects or videos the intervals are."""
    first = ranking.rows[0].interval
    if first is None:
        return ""
    sample = first.sample
    more = "" if sample.num_videos == sample.num_groups else f" (of {counted_units(sample.num_videos, 'video')})"
    held_out = counted_units(sample.num_groups, sample.unit, "held-out ")
    return f"Intervals are from resampling {held_out}{more}, whole, never single frames."


def compared(ranking: Ranking) -> list[Row]:
    """The rows that were tested against the first."""
    return [row for row in ranking.rows if row.versus is not None]


def num_not_significant(ranking: Ranking) -> int | None:
    """How many strategies do not differ significantly from the first; None where none was compared."""
    rows = compared(ranking)
    return sum(not row.versus.significant for row in rows if row.versus) if rows else None


def significance_words(ranking: Ranking) -> str:
    """Whether the others differ significantly from the first on held-out rows."""
    rows = compared(ranking)
    if not rows:
        return ""
    others, alike, units = len(rows), num_not_significant(ranking) or 0, units_words(unit_of(ranking.rows))
    more = " compared" if others + 1 < len(ranking.rows) else ""
    if others == 1:
        differs = "does not differ" if alike else "differs"
        words = f"The other strategy{more} {differs} significantly from #1"
    elif alike:
        do = "does" if alike == 1 else "do"
        words = f"{alike} of {others} other strategies{more} {do} not differ significantly from #1"
    else:
        both = "Both" if others == 2 else f"All {others}"
        words = f"{both} other strategies{more} differ significantly from #1"
    words += f" on the held-out {units}"
    first = ranking.rows[0].interval
    if alike and first and first.sample.num_groups < FEWEST:
        words += f": with {first.sample.words}, no difference can be significant"
    higher = sum(row.versus.significant and row.versus.difference.value < 0 for row in rows if row.versus)
    words += f"; {higher} scored significantly higher there than #1" if higher else ""
    return f"{words} (these runs only; family-wise error rate at most {100 * LIMIT:.0f} %)."


def stability_words(ranking: Ranking) -> str:
    """How often the first ranks first over resampled selection videos."""
    first = ranking.rows[0].stability
    if first is None:
        return ""
    ends = f"{first.low}" if first.low == first.high else f"{first.low} to {first.high}"
    sample = first.sample
    number = counted_units(sample.num_groups, sample.unit, "selection ")
    return (
        f"Over resamples of the {number}, with the same runs, #1 ranks first in {100 * first.first:.0f} %; 95 % "
        f"interval of its rank: {ends}."
    )


def nested_words(nested: Nested | None) -> str:
    """The score of the selection procedure, beside the optimistic one of selecting and scoring on the same rows."""
    if nested is None:
        return ""
    between = nested.interval
    ends = f" ({between.low:.3f} to {between.high:.3f})" if between else ""
    where = f"inner {units_words(between.sample.unit if between else 'video')}"
    where = where if nested.num_inner == 1 else f"the mean over {nested.num_inner} inner parts"
    chosen = len(set(nested.chosen.values()))
    same = "always the same one" if chosen == 1 else f"{chosen} different ones"
    return (
        f"Nested estimate of this selection procedure: P = {nested.score:.3f}{ends}. In each of "
        f"{len(nested.chosen)} outer folds the strategy is selected on {where} ({same}) and scored once on the fold. "
        f"The best mean over the same folds, selected on the rows that score it, is {nested.naive:.3f} (rank "
        f"{nested.naive_rank}). The held-out column is each strategy's mean over the folds, and what selects in one "
        "fold is held out in another."
    )
