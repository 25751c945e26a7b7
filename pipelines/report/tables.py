"""Tables of reports, once as data: on the page, and as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.html import Cell, Markup
from pipelines.metrics.intervals import Interval
from pipelines.results.leaderboard import Spread
from pipelines.words import markdown_text

Value = None | bool | int | float | str | Interval | Spread
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$",
    "[": "{[}", "*": "{*}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """`words` on the page, `key` in CSV; floats have `digits`, with a sign where `signed`."""

    key: str
    words: str
    digits: int = 3
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`name` is that of its files, `caption` says what and of which rows it is."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def cells(self) -> tuple[list[list[Cell]], list[list[Cell]]]:
        """Heads and rows for a page, numbers aligned."""
        numeric = [
            any(not isinstance(row[place], str) and row[place] is not None for row in self.rows)
            for place in range(len(self.columns))
        ]
        classes = ["n" if number else "" for number in numeric]
        heads = [Cell(column.words, css) for column, css in zip(self.columns, classes, strict=True)]
        return [heads], [
            [
                Cell(value if isinstance(value, Markup) else shown(value, column), css)
                for value, column, css in zip(row, self.columns, classes, strict=True)
            ]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """A pipe table with the caption above it."""
        lines = [[column.words for column in self.columns], ["---"] * len(self.columns), *self._texts()]
        cells = [[markdown_text(cell) for cell in line] for line in lines]
        return "\n".join([self.caption, "", *(f"| {' | '.join(line)} |" for line in cells), ""])

    def latex(self) -> str:
        """A table with booktabs' rules."""
        kinds = "".join("l" if isinstance(value, str) else "r" for value in (self.rows[0] if self.rows else ()))
        lines = [" & ".join(map(latex_text, line)) + r" \\" for line in self._texts()]
        head = " & ".join(latex_text(column.words) for column in self.columns) + r" \\"
        opening = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(self.caption)}}}"]
        rows = [rf"\begin{{tabular}}{{{kinds or 'l' * len(self.columns)}}}", r"\toprule", head, r"\midrule", *lines]
        return "\n".join([*opening, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """Numbers in full, an interval as two columns, mean and standard deviation as two."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        widths = [max((len(_parts(row[place])) for row in self.rows), default=1) for place in range(len(self.columns))]
        kinds = [
            next((type(row[place]) for row in self.rows if isinstance(row[place], Interval | Spread)), None)
            for place in range(len(self.columns))
        ]
        writer.writerow(
            [
                f"{column.key}{end}"
                for column, kind in zip(self.columns, kinds, strict=True)
                for end in (ENDS[kind] if kind else ("",))
            ]
        )
        for row in self.rows:
            parts = [_parts(value) for value in row]
            writer.writerow(
                [part for one, width in zip(parts, widths, strict=True) for part in (*one, *[""] * (width - len(one)))]
            )
        return file.getvalue()

    def _texts(self) -> list[list[str]]:
        return [[shown(value, column) for value, column in zip(row, self.columns, strict=True)] for row in self.rows]


ENDS = {Interval: (".low", ".high"), Spread: ("", ".sd")}


def shown(value: Value, column: Column) -> str:
    """As a reader sees it; "–" for what is not known."""
    sign = "+" if column.signed else ""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Interval):
        return f"{value.low:{sign}.{column.digits}f} to {value.high:{sign}.{column.digits}f}"
    if isinstance(value, Spread):
        spread = "" if value.sd is None else f" ± {value.sd:.{column.digits}f}"
        return f"{value.mean:{sign}.{column.digits}f}{spread}"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:{sign}.{column.digits}f}"


def latex_text(text: str) -> str:
    """`text` as it is shown by LaTeX. Brackets and stars are in braces: behind the end of a line they belong to it."""
    return re.sub(r"[\\{}&%$#_~^±–−<>\[*]", lambda found: LATEX[found[0]], text)


def _parts(value: Value) -> Sequence[str]:
    """The cells of `value` in a CSV file."""
    if isinstance(value, Interval):
        return f"{value.low:.6g}", f"{value.high:.6g}"
    if isinstance(value, Spread):
        return f"{value.mean:.6g}", "" if value.sd is None else f"{value.sd:.6g}"
    if value is None:
        return ("",)
    return (f"{value:.6g}" if isinstance(value, float) else str(value),)
