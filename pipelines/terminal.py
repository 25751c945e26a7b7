"""All that is printed goes through here: `say`, `say_json`, `make_console`, and the lines of long work.

Text of names, paths and files is never markup, its control characters are shown escaped, and a sign that the output's
encoding lacks is replaced. Held here too: whether `--quiet` was given, and the last line of progress not yet shown.
"""

import codecs
import io
import json
import re
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# C0 and C1 controls but for tab and newline, marks that turn the direction of text, and halves of surrogate pairs (in
# names that are not UTF-8).
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
PLAIN_SIGNS = {
    **{"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "•": "*", "·": "*", "×": "x"},
    **{"±": "+-", "≥": ">=", "≤": "<=", "→": "->", "−": "-", "γ": "gamma", "━": "-", "╸": "-", "╺": "-", "\u00a0": " "},
}
ERRORS = "mtl.plain"
LINE_SECONDS = 5.0  # least time between two lines of progress


class PlainConsole(Console):
    """A console to which text is text: no markup, no emoji codes, no highlighting, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def print(self, *objects: Any, **options: Any) -> None:
        flush_progress()
        super().print(*objects, **options)


class _State:
    quiet = False
    held = ""
    last_s = float("-inf")


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Where tables and lines are printed; a `width` in columns in place of the terminal's."""
    height = None if width is None else 100  # without a height, a "dumb" terminal overrules the width
    return PlainConsole(stderr=stderr, width=width, height=height, markup=False, emoji=False, highlight=False)


def say(text: str = "", *, err: bool = False) -> None:
    """Prints a line (or several) on standard output, or error."""
    flush_progress()
    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)


def say_json(document: Any) -> None:
    """Prints JSON on standard output; in ASCII, so that every encoding holds it."""
    flush_progress()
    print(json.dumps(document, indent=2), flush=True)


def visible(text: str) -> str:
    """`text` with its control characters written out (`\\x1b`), as Python does; newlines and tabs stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def soften_encodings() -> None:
    """From now on a sign that the encoding of an output lacks is replaced by a plain one, or written as `\\u2265`."""
    codecs.register_error(ERRORS, _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def set_quiet(quiet: bool) -> None:
    """Whether progress is shown at all, as a bar or as lines."""
    _State.quiet = quiet


def is_quiet() -> bool:
    return _State.quiet


def say_progress(line: str, *, last: bool = False) -> bool:
    """Shows a line of progress on standard error, unless one was shown a moment ago; tells whether it was shown.

    The `last` line of a piece of work is kept then, and shown before the next thing that is printed: of a fast loop
    one line in some seconds is seen, and always the last.
    """
    if _State.quiet:
        return False
    now = time.monotonic()
    if now - _State.last_s >= LINE_SECONDS:
        _State.held, _State.last_s = "", now
        print(visible(line), file=sys.stderr, flush=True)
        return True
    if last:
        _State.held = line
    return False


def flush_progress() -> None:
    """Shows the line that was kept, if there is one."""
    line, _State.held = _State.held, ""
    if line and not _State.quiet:
        print(visible(line), file=sys.stderr, flush=True)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(
        PLAIN_SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text
    ), error.end
