"""`mtl` in this process, as a caller or as a shell sees it."""

import io
import sys
from typing import NamedTuple

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli import app, main


class Ended(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def invoke(*words: object, code: int | None = 0, columns: int = 200) -> Result:
    """Typer's result of `mtl WORDS`; it must end with `code` unless that is None, and an error comes back as it is."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code is None or result.exit_code == code, result.output
    return result


def call(*words: object, columns: int = 200) -> str:
    """What `mtl WORDS` prints; it must succeed, an error comes back as it is."""
    return invoke(*words, columns=columns).stdout


def typed(*words: object, stdin: str = "", columns: int = 80) -> Ended:
    """`mtl WORDS` as a shell runs it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mtl", *map(str, words)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
    printed = []
    for stream in (out, err):
        stream.flush()
        printed.append(stream.buffer.getvalue().decode("utf-8"))
    return Ended(int(stop.value.code or 0), *printed)


def refused(*words: object) -> str:
    """The one line that `mtl WORDS` prints when it ends with exit code 2."""
    code, out, err = typed(*words)
    assert (code, out, err.count("\n"), err[-1:]) == (2, "", 1, "\n"), (code, out, err)
    assert err.startswith("mtl: error: ")
    return err
