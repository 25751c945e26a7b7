"""`mtl` with a signal at a chosen moment: a test that sent it from outside would have to hit that moment.

`signalled MODULE FUNCTION CALLS SIGNAL WORDS...` is `mtl WORDS...`, in which this very process gets SIGNAL when
MODULE.FUNCTION has been called so many times.
"""

import importlib
import os
import sys
from typing import Any

from pipelines.cli import main as mtl


def main() -> None:
    module, name, calls, number, *words = sys.argv[1:]
    owner, done = importlib.import_module(module), 0
    function = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        result = function(*arguments, **options)
        done += 1
        if done == int(calls):
            os.kill(os.getpid(), int(number))
        return result

    setattr(owner, name, counted)
    sys.argv = ["mtl", *words]
    mtl()
