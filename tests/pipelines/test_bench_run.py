"""`python -m bench`: time limits, rows as they come, what is written when a measurement does not end."""

import ast
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench.__main__ as command
from bench import measure, processes
from bench.entries import ENTRIES, IDS, Entry, chosen
from bench.lines import Line
from bench.machine import instructions
from bench.measure import Row, Target, affordable, interleave, seconds_left, shares, within
from helpers.bench_rows import dies, one_and_then_too_long, sends_all_and_lingers

BENCH = Path(command.__file__).parent
ABOUT = {"instructions": "AVX2, without bfloat16"}


def test_all_entries_together_end_within_ten_minutes_and_by_quick_within_two() -> None:
    assert sum(entry.limit_s or 0 for entry in ENTRIES) <= 570
    assert sum(entry.quick_s or 0 for entry in ENTRIES) <= 115
    assert all(entry.limit_s is not None for entry in ENTRIES if entry.quick_s is not None)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: ",".join(entry.ids))
def test_a_module_measures_what_its_entry_names(entry: Entry) -> None:
    rows, on_cuda = _names(f"{entry.module}.py", "ROWS"), _names(f"{entry.module}.py", "ON_CUDA")
    assert set(entry.ids) <= rows
    assert on_cuda <= rows


def test_only_takes_rows_out_of_an_entry_and_those_without_a_limit() -> None:
    picked = chosen(["A3", "Q1"])
    assert [(each.ids, each.limit_s is None) for each in picked] == [(("A3",), False), (("Q1",), True)]
    assert all(each.limit_s for each in chosen([]))


def test_rounds_shrink_to_the_time_and_never_below_three() -> None:
    calls = []
    assert len(interleave({"a": lambda: calls.append(1)})["a"]) == 5
    with within(-1.0):
        assert len(interleave({"a": lambda: calls.append(1)})["a"]) == 3
    assert len(calls) == 6 + 4
    assert measure.SHRUNK.pop() == 3
    with within(60.0):
        assert len(interleave({"a": lambda: None}, rounds=9)["a"]) == 9


def test_shares_divide_what_is_left_and_never_outlast_the_limit_around_them() -> None:
    left = []
    with within(90.0):
        for item in shares("abc"):
            left.append((item, round(seconds_left())))
        assert round(seconds_left()) == 90
    assert left == [("a", 30), ("b", 45), ("c", 90)]
    assert seconds_left() == float("inf")


def test_work_shrinks_to_the_time() -> None:
    assert affordable(1000, 0.1, 4, 64) == 960
    with within(40.01):
        assert affordable(1000, 0.1, 4) == 100
        assert affordable(1000, 0.1, 4, 64) == 64
    with within(-5.0):
        assert affordable(1000, 0.1, 4, 64) == 64


def test_a_measurement_that_does_not_end_is_cut_with_its_processes_and_keeps_its_rows() -> None:
    entry = Entry(ids=("A1",), module="none")
    first, child, why = processes.rows_of(entry, "cpu", 3.0, one_and_then_too_long)
    assert isinstance(first, Row)
    assert isinstance(child, Row)
    assert first.id == "A1"
    assert why == "cut after 3 s"
    assert _has_ended(int(child.value))


def test_a_process_that_ends_late_is_not_cut() -> None:
    rows = list(processes.rows_of(Entry(ids=("A1",), module="none"), "cpu", 1.5, sends_all_and_lingers))
    assert [each.id if isinstance(each, Row) else each for each in rows] == ["A1"]


def test_a_process_that_dies_is_a_line() -> None:
    assert list(processes.rows_of(Entry(ids=("A1",), module="none"), "cpu", None, dies)) == [
        "failed: the process ended with 3"
    ]


def test_a_measurement_sends_its_rows_and_why_others_are_missing() -> None:
    def rounds_shrink(device: str) -> Iterator[Row]:
        with within(-1.0):
            interleave({"a": lambda: None})
        yield Row(id="A1", what="ratio", values=[1.0, 1.0, 1.0], note="float32")
        yield Row(id="A2", what="not asked for", values=[1.0])
        raise RuntimeError("no memory\nand more")

    def lacks(device: str) -> list[Row]:
        raise measure.LeftOut("no video")

    sent: list[Row | str] = []
    sender = SimpleNamespace(send=sent.append)
    for function in (rounds_shrink, lacks, lambda device: []):
        processes.send_rows_of(function, "cpu", ["A1"], sender)  # type: ignore[arg-type]
    row, *words = sent
    assert isinstance(row, Row)
    assert row.note == "float32; no time for more than 3 rounds"
    assert words == [
        "failed: RuntimeError: no memory",
        "left out: no video",
        "left out: there is nothing to measure on cpu",
    ]


def test_lines_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(id="A1", what="ratio", values=[0.9, 1.0, 1.1], target=Target(0.93), note="float32")

    def until_it_is_killed(*arguments: object, **options: object) -> Iterator[Line]:
        yield Line(ids=("A1",), device="cpu", about=ABOUT, row=row)
        yield Line(ids=("A2", "A3"), device="cpu", about=ABOUT, why="cut after 75 s")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(command, "measured", until_it_is_killed)
    monkeypatch.setattr(processes, "start_server", lambda: None)
    monkeypatch.setattr(processes, "machines", lambda: {"cpu": ABOUT})
    assert command.main([]) == 130
    found = json.loads((tmp_path / "latest.json").read_text())
    assert list(found) == ["A1", "A2,A3"]
    assert (found["A1"]["value"], found["A1"]["rounds"], found["A1"]["verdict"]) == (1.0, 3, "met")
    assert found["A1"]["measured_with"]["instructions"] == "AVX2, without bfloat16"
    assert (found["A2,A3"]["value"], found["A2,A3"]["note"]) == (None, "cut after 75 s")
    assert [each.name for each in tmp_path.iterdir()] == ["latest.json"]


def test_a_row_that_came_stands_beside_what_was_cut_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row(id="B1", what="ratio", values=[1.0])
    monkeypatch.setattr(command, "LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(processes, "start_server", lambda: None)
    monkeypatch.setattr(processes, "machines", lambda: {"cpu": ABOUT})
    monkeypatch.setattr(processes, "rows_of", lambda entry, device, limit_s: iter([row, "cut after 8 s"]))
    assert command.main(["--only", "B1"]) == 0
    found = json.loads((tmp_path / "latest.json").read_text())
    assert {name: each["value"] for name, each in found.items()} == {"B1": 1.0, "B1, the rest": None}
    assert "1 cut: " in capsys.readouterr().out


def test_the_table_names_what_was_cut(capsys: pytest.CaptureFixture[str]) -> None:
    command.print_table([Line(ids=("S4",), device="cpu", about=ABOUT, why="cut after 50 s")])
    assert "cut after 50 s" in capsys.readouterr().out


def test_an_unknown_id_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "A1,A99"]) == 2
    assert capsys.readouterr().err.startswith("--only A99: no such measurement; there: C1")


@pytest.mark.parametrize(
    "options", [["--only", ""], ["--only", ",,"], ["--time-factor", "0"], ["--time-factor", "nan"]]
)
def test_options_that_mean_nothing_are_refused(options: list[str]) -> None:
    assert command.main(options) == 2


def _names(file: str, variable: str) -> set[str]:
    """The ids of a module's table, read and not imported, which would take seconds."""
    tree = ast.parse((BENCH / file).read_text())
    targets = [(each.target, each.value) for each in tree.body if isinstance(each, ast.AnnAssign)]
    targets += [(each.targets[0], each.value) for each in tree.body if isinstance(each, ast.Assign)]
    (value,) = (value for target, value in targets if isinstance(target, ast.Name) and target.id == variable)
    assert isinstance(value, ast.Dict | ast.Tuple)
    elements = value.keys if isinstance(value, ast.Dict) else value.elts
    return {each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def _has_ended(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_what_the_environment_narrows_stands_beside_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.delenv("MKL_ENABLE_INSTRUCTIONS", raising=False)
    assert instructions().endswith("bfloat16, oneDNN limited to AVX2, MKL not")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert instructions().endswith("bfloat16")
