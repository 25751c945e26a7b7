"""Tables of reports as Markdown, LaTeX and CSV: what users named stays text in each."""

import csv
import io

import pytest

from pipelines.metrics.intervals import Interval, Sample
from pipelines.report.tables import Column, Table, latex_text
from pipelines.results.leaderboard import Spread

SAMPLE = Sample(4, "subject", 8)
TABLE = Table(
    name="t",
    caption="50 % of $x_1$",
    columns=(
        Column("name", "who"),
        Column("score", "P ± sd"),
        Column("interval", "95 % interval", 2),
        Column("n", "n"),
    ),
    rows=(
        ('a|b_"c",\n', Spread(1.23456, 0.01), Interval(0.123456, 0.5, SAMPLE), 1200),
        ("x & y", Spread(1.0, None), None, None),
    ),
)


def test_markdown_keeps_its_columns() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| who | P ± sd | 95 % interval | n |"
    assert lines[4] == '| a\\|b_"c",  | 1.235 ± 0.010 | 0.12 to 0.50 | 1,200 |'
    assert lines[5] == "| x & y | 1.000 | – | – |"


def test_names_are_no_markup_in_files() -> None:
    table = Table(name="t", caption="c", columns=(Column("v", "v"),), rows=(("<b>[x](y) `z` *w*",), ("[2ex]",), ("*",)))
    assert r"| \<b>\[x](y) \`z\` \*w\* |" in table.markdown()
    lines = table.latex().splitlines()
    assert not [line for line in lines if line.startswith(("[", "*"))]
    assert r"{[}2ex] \\" in lines


def test_latex_has_no_command_of_a_users() -> None:
    text = TABLE.latex()
    assert r"x \& y & 1.000 & -- & -- \\" in text
    assert r"\caption{50 \% of \$x\_1\$}" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert latex_text(r"\input{x}") == r"\textbackslash{}input\{x\}"


def test_csv_has_numbers_in_full_and_two_columns_per_interval() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["name", "score", "score.sd", "interval.low", "interval.high", "n"]
    assert rows[1] == ['a|b_"c",\n', "1.23456", "0.01", "0.123456", "0.5", "1200"]
    assert rows[2] == ["x & y", "1", "", "", "", ""]


@pytest.mark.parametrize("rows", [(), (("a", None, None, None),)])
def test_tables_of_little_have_a_head_and_as_many_cells(rows: tuple) -> None:
    table = Table(name="t", caption="", columns=TABLE.columns, rows=rows)
    lines = list(csv.reader(io.StringIO(table.csv())))
    assert {len(line) for line in lines} == {4}
    assert len(table.markdown().splitlines()) == 4 + len(rows)
    assert r"\midrule" in table.latex()
