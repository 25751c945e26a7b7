"""How wide a page is."""

from rich.console import Console

from pipelines.terminal import make_console

WIDTH = 80


def page_console() -> Console:
    """As wide as the terminal, at least 80; in a pipe 80."""
    console = make_console()
    width = max(console.width, WIDTH) if console.is_terminal else WIDTH
    return make_console(width=width)


def wide_console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, however narrow; in a pipe 80, for which tables leave out columns."""
    console = make_console(stderr=stderr)
    return console if console.is_terminal else make_console(stderr=stderr, width=WIDTH)
