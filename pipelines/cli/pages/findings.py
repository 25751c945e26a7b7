"""The findings of `mtl prepare` as one page for the terminal; readable at 80 columns, plain text when piped."""

from rich.columns import Columns
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS, VA_COLUMNS
from extract.annotations.checks import Finding, plural
from extract.annotations.findings import FaceCounts, Findings, SplitCounts

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
GUTTER = 4


def print_findings(findings: Findings, console: Console) -> None:
    """Counts, balance and findings of one frames table."""
    subjects = "" if findings.num_subjects is None else f", {plural(findings.num_subjects, 'subject')}"
    console.print(f"{plural(findings.num_rows, 'frame')} of {plural(findings.num_videos, 'video')}{subjects}\n")
    console.print(_split_table(findings), "")
    _print_beside(
        [table for table in (_expression_table(findings), _value_table(findings)) if table.row_count], console
    )
    if findings.faces is not None:
        console.print(_face_line(findings.faces))
    _print_list(findings, console)


def _print_beside(tables: list[Table], console: Console) -> None:
    """The tables side by side where the terminal is wide enough, else one below the other."""
    width = sum(Measurement.get(console, console.options, table).maximum for table in tables)
    if len(tables) > 1 and width + GUTTER <= console.width:
        console.print(Columns(tables, padding=(0, GUTTER)), "")
    else:
        for table in tables:
            console.print(table, "")


def _split_table(findings: Findings) -> Table:
    table = _table("Rows and labelled rows", "split", "videos", "rows", *TASKS, "no label", "gaps 50 % / 90 % / max")
    for split, counts in findings.splits.items():
        labelled = [f"{counts.num_labelled[task]:,}" for task in TASKS]
        table.add_row(
            split,
            f"{counts.num_videos:,}",
            f"{counts.num_rows:,}",
            *labelled,
            f"{counts.num_unlabelled:,}",
            _gaps(counts),
        )
    return table


def _expression_table(findings: Findings) -> Table:
    """Frames of each class; no row where nothing is labelled."""
    splits = _labelled(findings, "expr")
    table = _table("Expressions", "", *splits)
    for name in EXPRESSIONS if splits else ():
        cells = [_share(counts.expressions[name], sum(counts.expressions.values())) for counts in splits.values()]
        table.add_row(name, *cells)
    return table


def _value_table(findings: Findings) -> Table:
    """Positives of each action unit; valence and arousal as mean and deviation; what nobody labelled is left out."""
    with_units, with_values = _labelled(findings, "au"), _labelled(findings, "va")
    splits = {name: counts for name, counts in findings.splits.items() if name in with_units or name in with_values}
    table = _table("Positives of action units" if with_units else "Valence and arousal", "", *splits)
    for name in ACTION_UNITS if with_units else ():
        table.add_row(name, *[_share(*counts.action_units[name]) for counts in splits.values()])
    for name in VA_COLUMNS if with_values else ():
        moments = [counts.moments[name] for counts in splits.values()]
        table.add_row(name, *["-" if pair is None else f"{pair[0]:+.2f} ± {pair[1]:.2f}" for pair in moments])
    return table


def _labelled(findings: Findings, task: str) -> dict[str, SplitCounts]:
    return {name: counts for name, counts in findings.splits.items() if counts.num_labelled[task]}


def _share(count: int, total: int) -> str:
    """`1,234  12 %`, or a dash where nothing is labelled."""
    return f"{count:,} {100 * count / total:5.1f} %" if total else "-"


def _gaps(counts: SplitCounts) -> str:
    return "-" if counts.gaps is None else " / ".join(f"{int(value):,}" for value in counts.gaps.values())


def _face_line(faces: FaceCounts) -> str:
    if not faces.num_read and not faces.num_unreadable:
        opened = "not opened"
    else:
        sizes = ", ".join(size.replace("x", " x ") + " px" for size in list(faces.sizes)[:3])
        opened = f"{faces.num_read:,} decoded ({sizes}), {faces.num_unreadable:,} unreadable"
    return f"Faces: {faces.num_rows - faces.num_missing:,} on disk, {faces.num_missing:,} missing; {opened}\n"


def _print_list(findings: Findings, console: Console) -> None:
    if not findings.findings:
        console.print("Nothing found that needs a look.")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings.findings:
        style = STYLES[finding.severity]
        table.add_row(Text(finding.severity, style), _words(finding))
    console.print(table)


def _words(finding: Finding) -> Text:
    more = ", ..." if finding.count > len(finding.examples) else ""
    examples = f": {', '.join(finding.examples)}{more}" if finding.examples else ""
    return Text.assemble(finding.message + examples, (f"\n-> {finding.remedy}", "dim"))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.min_width = len(title)  # or a narrow table would break its title
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table
