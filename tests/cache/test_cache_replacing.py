"""Folders replaced by folders, and names held by one process: stopped anywhere, neither the old nor the new is lost."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from cache import durable
from cache.durable import check_replaceable, recover_folder, replace_folder
from cache.locks import alone

MANIFEST = "run.json"
STEPS = ("rename", "rmtree", "sync")


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_text(text)
    (folder / MANIFEST).write_text(text)
    return folder


def stop_at(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """The `number`-th change of the disk from here is not made: the process is gone. Returns the changes made."""
    made: list[str] = []

    def stopping(name, change):
        def call(*arguments, **options):
            if len(made) == number:
                raise SystemExit(137)
            made.append(name)
            return change(*arguments, **options)

        return call

    patch.setattr(os, "rename", stopping("rename", os.rename))
    patch.setattr(shutil, "rmtree", stopping("rmtree", shutil.rmtree))
    patch.setattr(durable, "sync", stopping("sync", durable.sync))
    return made


@pytest.mark.parametrize("there", [True, False])
def test_stopped_at_any_step_there_is_the_old_or_the_new_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    with monkeypatch.context() as patch:
        made = stop_at(patch, -1)
        folder = tmp_path / "count" / "r"
        if there:
            write(folder, "old")
        replace_folder(write(tmp_path / "count" / ".tmp-r", "new"), folder, MANIFEST)
    assert len(made) >= 4
    assert [path.name for path in folder.parent.iterdir()] == ["r"]
    seen = set()
    for number in range(len(made)):
        folder = tmp_path / str(number) / "r"
        if there:
            write(folder, "old")
        new = write(tmp_path / str(number) / ".tmp-r", "new")
        with monkeypatch.context() as patch:
            stop_at(patch, number)
            with pytest.raises(SystemExit):
                replace_folder(new, folder, MANIFEST)
        recover_folder(folder)
        recover_folder(folder)  # twice is as once
        if new.exists():  # stopped before the first step: nothing has happened
            shutil.rmtree(new)
            assert folder.exists() is there
        if folder.exists():
            assert [path.name for path in folder.parent.iterdir()] == ["r"]
            texts = {path.read_text() for path in folder.iterdir()}
            assert len(texts) == 1, "a mixture"
            seen |= texts
        else:
            assert number == 0
    assert seen == ({"old", "new"} if there else {"new"})


@pytest.mark.parametrize("there", ["a folder", "a file", "an empty folder", "a broken link"])
def test_what_is_of_another_kind_stays(tmp_path: Path, there: str) -> None:
    folder, new = tmp_path / "r", write(tmp_path / ".tmp-r", "new")
    if there == "a folder":
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
    elif there == "a file":
        folder.write_text("mine")
    elif there == "an empty folder":
        folder.mkdir()
    else:
        folder.symlink_to(tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for call in (lambda: replace_folder(new, folder, MANIFEST), lambda: check_replaceable(folder, MANIFEST)):
        with pytest.raises(ValueError, match=r"is there and has no run\.json, so it is not replaced; move it away"):
            call()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def hold(path: Path, ready, done) -> None:
    with alone(path, "the run r"):
        ready.set()
        done.wait(30)


def test_a_name_has_one_writer_and_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock-r"
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(path, ready, done))
    process.start()
    assert ready.wait(30)
    with (
        pytest.raises(ValueError, match=rf"^the run r is being written by process {process.pid}; wait"),
        alone(path, "the run r"),
    ):
        pass
    done.set()
    process.join()
    assert not path.exists()
    with alone(path, "the run r"):
        assert path.exists()
    assert not path.exists()


def test_a_lock_of_a_process_that_died_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / ".lock-r"
    path.write_text("999999999")
    with alone(path, "the run r"):
        pass
    assert not path.exists()


def test_a_lock_file_that_was_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder removes it between this one's opening and locking it."""
    from cache import locks

    path, flock, calls = tmp_path / ".lock-r", locks._flock, []

    def removed(*arguments) -> None:
        flock(*arguments)
        calls.append(1)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(locks, "_flock", removed)
    with alone(path, "the run r"):
        assert path.exists(), "locked what nobody else can see"
    assert len(calls) == 2
