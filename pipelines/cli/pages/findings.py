"""The findings of `mtl prepare` as one page for the terminal; readable at 80 columns, plain text when piped."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cache.labels import Group
from cache.names import VA_COLUMNS
from extract.annotations.checks import Finding, noun_of, plural
from extract.annotations.findings import FaceCounts, Findings, SplitCounts

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
GUTTER = 4


def print_findings(findings: Findings, console: Console) -> None:
    """Counts, balance and findings of one frames table."""
    subjects = "" if findings.num_subjects is None else f", {plural(findings.num_subjects, 'subject')}"
    console.print(f"{plural(findings.num_rows, 'frame')} of {plural(findings.num_videos, 'video')}{subjects}\n")
    split_table = _split_table(findings, findings.schema.names)
    if _width(split_table, console) > console.width:
        console.print(_split_table(findings, ()), "")
        split_table = _labelled_table(findings)
    console.print(split_table, "")
    tables = [_class_table(findings, group) for group in findings.schema if group.kind == "classes"]
    _print_beside([table for table in (*tables, _value_table(findings)) if table.row_count], console)
    if findings.faces is not None:
        console.print(_face_line(findings.faces))
    _print_list(findings, console)


def _print_beside(tables: list[Table], console: Console) -> None:
    """The tables side by side where the terminal is wide enough, else one below the other."""
    if len(tables) > 1 and sum(_width(table, console) for table in tables) + GUTTER <= console.width:
        console.print(Columns(tables, padding=(0, GUTTER)), "")
    else:
        for table in tables:
            console.print(table, "")


def _width(table: Table, console: Console) -> int:
    """Columns of the terminal that the whole table takes, however many there are."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _split_table(findings: Findings, names: Sequence[str]) -> Table:
    """A row per split, with the labelled rows of the groups `names`."""
    title = "Rows and labelled rows" if names else "Rows"
    table = _table(title, "split", "videos", "rows", *names, "no label", "gaps 50 % / 90 % / max")
    for split, counts in findings.splits.items():
        labelled = [f"{counts.num_labelled[name]:,}" for name in names]
        table.add_row(
            split,
            f"{counts.num_videos:,}",
            f"{counts.num_rows:,}",
            *labelled,
            f"{counts.num_unlabelled:,}",
            _gaps(counts),
        )
    return table


def _labelled_table(findings: Findings) -> Table:
    """A row per group, where one column per group is too wide."""
    table = _table("Labelled rows", "", *findings.splits)
    for name in findings.schema.names:
        table.add_row(name, *[f"{counts.num_labelled[name]:,}" for counts in findings.splits.values()])
    return table


def _class_table(findings: Findings, group: Group) -> Table:
    """Frames of each class; no row where nothing is labelled."""
    splits = _labelled(findings, [group])
    title = "Expressions" if noun_of(group) == "expression" else f"Classes of {group.name}"
    table = _table(title, "", *splits)
    for name in group.classes if splits else ():
        found = [counts.classes[group.name] for counts in splits.values()]
        table.add_row(name, *[_share(by_class[name], sum(by_class.values())) for by_class in found])
    return table


def _value_table(findings: Findings) -> Table:
    """Positives of each binary column, mean and standard deviation of each continuous one; unlabelled ones left out."""
    binary, continuous = (
        [group for group in findings.schema if group.kind == kind and _labelled(findings, [group])]
        for kind in ("binary", "continuous")
    )
    splits = _labelled(findings, [*binary, *continuous])
    table = _table(_title_of_values(binary, continuous), "", *splits)
    for group in binary:
        for name in group.columns:
            table.add_row(name, *[_share(*counts.positives[name]) for counts in splits.values()])
    for group in continuous:
        for name in group.columns:
            moments = [counts.moments[name] for counts in splits.values()]
            sign = "+" if group.low < 0 else ""
            table.add_row(name, *["-" if pair is None else f"{pair[0]:{sign}.2f} ± {pair[1]:.2f}" for pair in moments])
    return table


def _title_of_values(binary: list[Group], continuous: list[Group]) -> str:
    if binary and continuous:
        return "Positives; mean ± SD"
    if binary:
        return f"Positives of {', '.join('action units' if group.name == 'au' else group.name for group in binary)}"
    if [group.columns for group in continuous] == [VA_COLUMNS]:
        return "Valence and arousal"
    return f"Mean ± SD of {', '.join(group.name for group in continuous)}"


def _labelled(findings: Findings, groups: list[Group]) -> dict[str, SplitCounts]:
    """The splits that have a label of any of `groups`."""
    return {
        name: counts
        for name, counts in findings.splits.items()
        if any(counts.num_labelled[group.name] for group in groups)
    }


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
        console.print("No findings.")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings.findings:
        style = STYLES[finding.severity]
        table.add_row(Text(finding.severity, style), _words(finding))
    console.print(table)


def _words(finding: Finding) -> Text:
    more = ", ..." if len(finding.examples) > 1 and finding.count > len(finding.examples) else ""
    examples = f": {', '.join(finding.examples)}{more}" if finding.examples else ""
    return Text.assemble(finding.message + examples, (f"\n-> {finding.remedy}", "dim"))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.min_width = len(title)  # or a narrow table would break its title
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table
