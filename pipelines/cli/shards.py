"""`--shard I/N`: which part of the work one of N processes does, said in full or taken from SLURM's array job."""

import os
import re
from collections.abc import Mapping

from cache.locks import Part

SLURM = "slurm"
VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """`2/8` as (2, 8); `slurm` as the place of this task in its array job.

    Raises:
        ValueError: that is no part, or this is no task of an array job whose indices are evenly spaced.
    """
    text = text.strip()
    if text == SLURM:
        return _of_array(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard {text}: expected I/N with 1 <= I <= N, as in --shard 2/8, or slurm in an array job")
    return int(found[1]), int(found[2])


def _of_array(environment: Mapping[str, str]) -> Part:
    given = [environment.get(name, "") for name in VARIABLES]
    for name, value in zip(VARIABLES, given, strict=True):
        if not re.fullmatch(r"\d{1,9}", value):
            what = f"{name} is {value!r}" if value else f"{name} is not set"
            raise ValueError(f"--shard slurm: {what}; submit it with `sbatch --array=1-N`, or type --shard I/N")
    task, first, last, count = map(int, given)
    step = int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
    if task not in range(first, last + 1, step) or len(range(first, last + 1, step)) != count:
        raise ValueError(
            f"--shard slurm: task {task} of an array of {count} from {first} to {last}: its indices are no range, so "
            "they say no part; submit it with `sbatch --array=1-N`, or type --shard I/N"
        )
    return (task - first) // step + 1, count
