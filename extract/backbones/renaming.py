"""A user's regular expressions over tensor names, in a process of its own with a budget: some never end, others double.

Python's `re` cannot be stopped in a thread. The process is Python alone, started in some 30 ms, and is ended when its
time is over. Place: below `extract.backbones.rename`.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from cache.regular import RULES_S, TENSOR_NAME_CHARS

# Reads [drop, rename, names, longest name] as JSON and writes the new names, null where dropped; or {"rule": index}.
PROGRAM = """
import json, re, sys
drop, rename, names, longest = json.load(sys.stdin)
try:
    drop = [re.compile(text) for text in drop]
    rename = [(re.compile(text), new) for text, new in rename]
    new_names = []
    for name in names:
        if any(expression.search(name) for expression in drop):
            name = None
        if name is not None:
            for number, (expression, new) in enumerate(rename):
                name = expression.sub(new, name)
                if len(name) > longest:
                    json.dump({"long": number}, sys.stdout)
                    raise SystemExit
        new_names.append(name)
    json.dump(new_names, sys.stdout)
except RecursionError:
    json.dump({"deep": 0}, sys.stdout)
"""


def renamed(
    drop: Sequence[re.Pattern[str]],
    rename: Sequence[tuple[re.Pattern[str], str]],
    names: Sequence[str],
    rules: str,
) -> list[str | None]:
    """The new name of each of `names`, None where it is dropped.

    Raises:
        ValueError: the expressions take longer than the budget, or make a name longer than any has.
    """
    texts = [
        [each.pattern for each in drop],
        [[each.pattern, new] for each, new in rename],
        [*names],
        TENSOR_NAME_CHARS,
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM],
            input=json.dumps(texts),
            capture_output=True,
            text=True,
            timeout=RULES_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"rename {rules}: the expressions take more than {RULES_S:g} s over {len(names):,} names; a repeated group "
            "that repeats itself, such as (a+)+, never ends: make them simpler"
        ) from None
    except subprocess.CalledProcessError as error:
        words = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
        raise ValueError(f"rename {rules}: the expressions cannot be used ({words[-1]})") from None
    found = json.loads(done.stdout)
    if isinstance(found, dict):
        number = found.get("long", 0)
        raise ValueError(
            f"rename {rules}: {rename[number][0].pattern!r} makes a name of more than {TENSOR_NAME_CHARS:,} characters"
        )
    new_names: list[str | None] = found
    return new_names
