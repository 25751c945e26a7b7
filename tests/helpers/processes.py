"""Python in a process of its own, in which the repository and `helpers` can be imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


def environment(**changes: str) -> dict[str, str]:
    """That of this process; one thread, however many cores."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS))), "OMP_NUM_THREADS": "1", **changes}


def python(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """`python WORDS` to its end, which must be a success unless `check=False`; one that hangs fails after 300 s."""
    defaults = {"env": environment(), "capture_output": True, "text": True, "timeout": 300}
    check = options.pop("check", True)
    done = subprocess.run([sys.executable, *map(str, words)], **{**defaults, **options}, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def program(name: str, *words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """`helpers/NAME.py WORDS` to its end."""
    return python("-m", f"helpers.{name}", *words, **options)
