"""A real browser, headless: the system's chromium, driven by playwright. What a page does wrong is collected."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-3d-apis",  # no WebGL: as on many remote desktops
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """The system's chromium; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS, *flags])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser; `faults` are its console errors, errors of scripts, dialogs and what it asked of a
    network. `missing` are files beside it that it asked for and are not there."""

    page: Page
    session: CDPSession
    faults: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def busy_s(self) -> float:
        """Seconds of the processor that the page's main thread has used since it was opened."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ThreadTime")


@contextmanager
def opened(
    browser: Browser, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[Opened]:
    """The file at `path` as a person opens it from a disk."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    context.set_default_timeout(8000)
    page = context.new_page()
    found = Opened(page, context.new_cdp_session(page))
    found.session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.on("console", lambda message: _note_console(found, message.type, message.text))
    page.on("pageerror", lambda error: found.faults.append(str(error)))
    page.on("dialog", lambda dialog: (found.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: _note_request(found, request.url))
    page.on("requestfailed", lambda request: _note_failure(found, request.url, request.failure))
    page.goto(path.absolute().as_uri())
    yield found
    context.close()


def _note_console(found: Opened, kind: str, text: str) -> None:
    """Files that are not there are in `missing`, by their address."""
    if kind == "error" and not text.endswith("net::ERR_FILE_NOT_FOUND"):
        found.faults.append(text)


def _note_request(found: Opened, url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        found.faults.append(f"asked for {url}")


def _note_failure(found: Opened, url: str, why: str | None) -> None:
    """What the page's own policy refuses is not asked of a network; the console says it."""
    if why == "csp":
        found.faults.remove(f"asked for {url}")
    else:
        found.missing.append(url)


# Text that is seen: the contrast of each text node with the background behind it, as WCAG 2 defines it; where it lies.
MEASURE = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const colourOf = (text) => {
    const n = parse(text);
    const scale = text.startsWith("color(") ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n.length > 3 ? n[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((k) => top[3] * top[k] + (1 - top[3]) * below[k]);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(colourOf(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, style, noscript, option")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!box.width) continue;
    const style = getComputedStyle(element);
    const behind = backgroundOf(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(over(colourOf(ink), behind)), luminance(behind)].sort((x, y) => y - x);
    const scrolls = Boolean(element.closest(".scroll, pre"));
    found.push({
      text: node.textContent.trim().slice(0, 60), contrast: (a + 0.05) / (b + 0.05), left: box.left, right: box.right,
      size: parseFloat(style.fontSize), scrolls,
      cut: !scrolls && element.scrollWidth > element.clientWidth + 1 && style.overflow !== "visible",
    });
  }
  return { texts: found, width: document.documentElement.clientWidth, scroll: document.documentElement.scrollWidth };
}
"""


def check_looks(page: Page, *, least_contrast: float = 4.5, least_px: float = 10.5) -> None:
    """Every text that is seen has contrast and size, lies inside the window, and the page does not scroll sideways."""
    seen = page.evaluate(MEASURE)
    assert seen["texts"]
    assert seen["scroll"] <= seen["width"], f"the page is {seen['scroll']} px wide in a window of {seen['width']} px"
    faint = [text for text in seen["texts"] if text["contrast"] < least_contrast]
    assert not faint, faint[:5]
    small = [text for text in seen["texts"] if text["size"] < least_px]
    assert not small, small[:5]
    inside = [text for text in seen["texts"] if not text["scrolls"]]
    outside = [text for text in inside if text["left"] < -0.5 or text["right"] > seen["width"] + 0.5 or text["cut"]]
    assert not outside, outside[:5]
