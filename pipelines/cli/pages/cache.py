"""What `mtl cache` prints: streams as a table, one stream in full, damage with its remedy."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache.summary import StreamSummary
from cache.verify import Damage

# Failed faces and changed faces printed before the rest is only counted; --json gives all.
MAX_LINES = 20


def print_streams(streams: Iterable[StreamSummary], console: Console) -> None:
    table = Table()
    for column in ("stream", "view"):
        table.add_column(column, no_wrap=True)
    for column in ("rows", "done", "failed", "width", "on disk"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("usable")
    for each in streams:
        if each.fault:
            table.add_row(each.name, each.view, *[""] * 4, bytes_text(each.num_bytes), Text(each.fault, "red"))
            continue
        done = _share(each.num_done, each.num_rows) if each.num_rows else "-"
        numbers = (f"{each.num_rows:,}", done, f"{each.num_failed:,}", str(each.width))
        table.add_row(each.name, each.view, *numbers, bytes_text(each.num_bytes), _coverage(each))
    console.print(table)


def print_stream(stream: Mapping[str, Any], console: Console) -> None:
    """`stream` as `cache.summary.describe` gives it."""
    identity, failed = dict(stream["identity"]), stream["failed"]
    preprocessing = identity.pop("preprocessing")
    rows = f"{stream['num_done']:,} of {stream['num_rows']:,} done, {len(failed):,} of them failed"
    shards = f"{stream['num_shards'] - len(stream['missing_shards'])} of {stream['num_shards']} done"
    facts = {
        "rows": rows,
        "shards": f"{shards}, {stream['shard_rows']:,} rows each",
        "on disk": bytes_text(stream["num_bytes"]),
        **identity,
        **{f"preprocessing {key}": value for key, value in preprocessing.items()},
        **{f"provenance {key}": value for key, value in stream["provenance"].items()},
    }
    table = Table(title=f"{stream['name']} (view {stream['view']})", title_justify="left", show_header=False)
    for key, value in facts.items():
        table.add_row(key, str(value))
    console.print(table)
    _print_some([f"row {row}: {reason}" for row, reason in failed.items()], "failed faces", console)


def print_damages(damages: Iterable[Damage], console: Console, *, repaired: bool) -> None:
    """Grouped by stream and remedy, so that the remedy is read once; left out where it was a repair, which is done."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for each in damages:
        place = f"shard {each.shard}: " if each.shard is not None and each.row is None else ""
        remedy = "" if repaired and each.is_repairable else each.remedy
        groups.setdefault((each.stream, each.view, remedy), []).append(f"{each.kind}: {place}{each.what}")
    for (stream, view, remedy), lines in groups.items():
        console.print(Text.assemble((stream, "bold"), f" (view {view}): {len(lines)} found"))
        _print_some(lines, "", console)
        if remedy:
            console.print(f"  type {remedy}", soft_wrap=True)


def bytes_text(num_bytes: float) -> str:
    """In the largest unit that keeps it at 1 or more."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _coverage(stream: StreamSummary) -> str:
    if stream.coverage is None:
        return "-"
    shares = {split: _share(usable, rows) for split, (usable, rows) in stream.coverage.items()}
    if len(set(shares.values())) == 1:
        return next(iter(shares.values()))
    return ", ".join(f"{split} {share}" for split, share in shares.items())


def _share(part: int, whole: int) -> str:
    """100 % only for the whole."""
    return "100%" if part == whole else f"{min(part / whole, 0.999):.1%}"


def _print_some(lines: list[str], title: str, console: Console) -> None:
    if title and lines:
        console.print(f"{title}:")
    for line in lines[:MAX_LINES]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > MAX_LINES:
        console.print(f"  and {len(lines) - MAX_LINES:,} more; --json names them all")
