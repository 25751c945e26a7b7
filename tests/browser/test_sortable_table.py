"""Tables that sort and filter, and a page's policy on scripts, in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from helpers.browser import check_looks, opened
from pipelines.html import Cell, Markup, page, sortable_table, table

ROWS = [
    ("1", "gru", "0.812 ± 0.010", "10 s", 10.0, "−0.02"),
    ("2", "TCN", "1.204 ± 0.020", "2 min", 120.0, "+0.10"),
    ("3", "none", "–", "1 s", 1.0, ""),
    ("4", "gru", "0.9", "1 h", 3600.0, "+0.10"),
    ("5", "Transformer <b>", "1,000.5", "9 s", 9.0, "0"),
]
HEADS = ["#", "temporal", "P", "time", "optimism"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        [Cell(a, "n"), Cell(b), Cell(c, "n scored"), Cell(d, "n", sort=e), Cell(f, "n chose")]
        for a, b, c, d, e, f in ROWS
    ]
    upper = [Cell("", span=2), Cell("held-out", "group scored", 3)]
    made = sortable_table([upper, [Cell(text) for text in HEADS]], rows, "board", first="first")
    plain = table([[Cell("a"), Cell("b")]], [[Cell("1"), Cell("2")]])
    found = tmp_path_factory.mktemp("table") / "page.html"
    found.write_text(page("Tables", Markup(made + plain)), encoding="utf-8")
    return found


@pytest.fixture
def board(browser: Browser, path: Path) -> Iterator[Page]:
    with opened(browser, path) as found:
        yield found.page
        assert not found.faults
        assert not found.missing


def column(board: Page, number: int) -> str:
    """The first cells of the rows that are seen, in their order."""
    rows = board.locator("#board tbody tr:visible")
    return "".join(rows.nth(k).locator("td").nth(number).inner_text() for k in range(rows.count()))


@pytest.mark.parametrize(
    ("head", "ascending", "descending"),
    [("#", "12345", "54321"), ("temporal", "14325", "52314"), ("P", "14253", "52413"),
     ("time", "35124", "42153"), ("optimism", "15243", "24513")],
)  # fmt: skip
def test_a_press_sorts_up_the_next_down_the_third_not(board: Page, head: str, ascending: str, descending: str) -> None:
    button = board.get_by_role("button", name=head, exact=True)
    button.focus()
    for order, state in ((ascending, "ascending"), (descending, "descending"), ("12345", "none")):
        board.keyboard.press("Enter")
        assert column(board, 0) == order
        assert board.locator("th", has=button).get_attribute("aria-sort") == state


def test_one_column_at_a_time_is_sorted(board: Page) -> None:
    board.get_by_role("button", name="P", exact=True).click()
    board.get_by_role("button", name="time").click()
    states = board.locator("#board th[aria-sort]").evaluate_all("all => all.map((th) => th.getAttribute('aria-sort'))")
    assert states == ["none", "none", "none", "ascending", "none"]
    assert board.locator("tr.first td").first.inner_text() == "1"


def test_rows_are_filtered_by_all_words(board: Page) -> None:
    field, count = board.get_by_label("Filter rows"), board.get_by_role("status")
    assert count.inner_text() == "5 rows"
    field.fill("GRU 0.9")
    assert column(board, 0) == "4"
    assert count.inner_text() == "1 of 5 rows"
    board.get_by_role("button", name="P", exact=True).click()
    assert column(board, 0) == "4"
    field.fill("")
    assert column(board, 0) == "14253"


def test_other_tables_stay_as_they_are(board: Page) -> None:
    assert board.locator("table").nth(1).locator("button").count() == 0
    assert board.get_by_role("searchbox").count() == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable(browser: Browser, path: Path, width: int, dark: bool) -> None:
    with opened(browser, path, width=width, dark=dark) as found:
        check_looks(found.page)


def test_markup_that_slipped_in_runs_nothing_and_loads_nothing(browser: Browser, tmp_path: Path) -> None:
    evil = Markup(
        '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 1">'
        '<img src="https://nowhere.invalid/x.png"><iframe src="https://nowhere.invalid/"></iframe>'
        '<a href="javascript:window.hacked = 1">press</a>'
    )
    (tmp_path / "page.html").write_text(page("x", evil, script="window.own = 1;"), encoding="utf-8")
    with opened(browser, tmp_path / "page.html") as found:
        found.page.get_by_text("press").click()
        assert found.page.evaluate("() => [window.own, window.hacked ?? null]") == [1, None]
        assert not [fault for fault in found.faults if fault.startswith("asked for")]
        assert found.faults  # the browser says what it refused
