"""`--shard`: parts said in full, and parts that SLURM's array jobs say."""

import pytest

from pipelines.cli.shards import parse_shard


def array(task: object, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    values = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_a_part_is_said_in_full() -> None:
    assert parse_shard("2/8") == (2, 8)
    assert parse_shard(" 1/1 ", array(3, 1, 8, 8)) == (1, 1)


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N with 1 <= I <= N"):
        parse_shard(text)


@pytest.mark.parametrize(("first", "last", "step"), [(1, 8, 1), (0, 7, 1), (0, 9, 3), (5, 5, 1), (2, 4, 2)])
def test_the_tasks_of_an_array_are_all_parts_each_once(first: int, last: int, step: int) -> None:
    tasks = range(first, last + 1, step)
    found = [parse_shard("slurm", array(task, first, last, len(tasks), step)) for task in tasks]
    assert found == [(number, len(tasks)) for number in range(1, len(tasks) + 1)]


def test_indices_that_are_no_range_say_no_part() -> None:
    for task in (1, 3, 7):
        with pytest.raises(ValueError, match=r"task \d of an array of 3 from 1 to 7: .* type --shard I/N"):
            parse_shard("slurm", array(task, 1, 7, 3))


def test_outside_of_an_array_job_it_is_one_line() -> None:
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID is not set; submit it with `sbatch --array=1-N`"):
        parse_shard("slurm", {})
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID is 'x'"):
        parse_shard("slurm", array("x", 1, 2, 2))
