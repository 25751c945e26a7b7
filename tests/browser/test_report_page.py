"""The page of a report in a browser: readable and whole on a phone and a desktop, light and dark; nothing runs that a
user named."""

from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser

from helpers import stub_runs as stub
from helpers.browser import check_looks, opened
from helpers.stub_report import page_about, shown

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    renamed = pl.format(NASTY + "{}", "video").alias("video")
    frames = stub.make_frames(14, 30)
    table = stub.predict(frames, 0.5, 0).with_columns(renamed)
    found = tmp_path_factory.mktemp("report") / "report.html"
    found.write_text(page_about(shown(frames.with_columns(renamed), table)), encoding="utf-8")
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_and_whole(browser: Browser, path: Path, width: int, dark: bool) -> None:
    with opened(browser, path, width=width, dark=dark) as found:
        check_looks(found.page)
        panels = found.page.locator("svg.panel")
        assert panels.count() > 20
        cut = panels.evaluate_all(
            "(all) => all.filter((one) => { const a = one.getBoundingClientRect();"
            " return [...one.querySelectorAll('text')].some((text) => { const b = text.getBoundingClientRect();"
            " return b.left < a.left - 1 || b.right > a.right + 1 || b.top < a.top - 1 || b.bottom > a.bottom + 1; })"
            " }).map((one) => one.getAttribute('aria-label'))"
        )
        assert cut == []
        assert NASTY in found.page.locator("#table-errors-video").inner_text()
        assert not found.faults
