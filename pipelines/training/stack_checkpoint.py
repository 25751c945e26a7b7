"""The checkpoint of a stack in training: a kill costs a minute, not the stack; Ctrl-C costs nothing. M stacked heads.

It lies beside the run folders, in `.unfinished-` and the name of the stack's first run. torch is imported where it
is used: which stacks a study was stopped in is asked without it.

about.json          which runs the stack trains, and what they are made from
MODEL.safetensors   the checkpoint of one of its models (`joint`, or one per task): weights, best ones, optimiser,
                    position in the data
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.durable import write_durably
from cache.seals import read_sealed_json, sealed_json

if TYPE_CHECKING:
    from pipelines.fitting.checkpoint import Resumed

FORMAT = 2
EVERY_S = 60.0
SHARE = 0.02  # of the time goes into saving at most: large stacks are saved less often
FOLDER = ".unfinished"


class StackCheckpoint:
    """The checkpoint folder of one stack. Nothing is written before `every_s` seconds have passed or Ctrl-C came.

    `poll` is called between any two steps; where it raises KeyboardInterrupt, the stack is saved first.
    """

    def __init__(self, folder: Path, *, every_s: float = EVERY_S, poll: Callable[[], None] = lambda: None) -> None:
        self.folder, self._every_s, self._poll = folder, every_s, poll
        self._about: dict[str, Any] = {}
        self._is_open = False  # the folder is about this stack
        self._done: dict[str, Resumed] = {}
        self._before_s, self._begun = 0.0, time.perf_counter()
        self._saved_at, self._cost_s = self._begun, 0.0

    def open(self, runs: Sequence[str], made_from: Sequence[str]) -> None:
        """Says which stack it is: names of its `runs`, and digests of all that decides what comes out of them.

        What the folder holds of another stack is not read, and goes when this one is saved.
        """
        import torch

        self._about = {"format": FORMAT, "torch": torch.__version__, "runs": list(runs), "made_from": list(made_from)}
        found = _read_about(self.folder)
        self._is_open = bool(found) and all(found.get(key) == value for key, value in self._about.items())
        self._before_s = float(found.get("seconds", 0.0)) if self._is_open else 0.0

    @property
    def seconds_before(self) -> float:
        """Seconds that this stack was trained before this process."""
        return self._before_s

    def load(self, model: str) -> "Resumed | None":
        """What was saved of `model`; None where that is nothing, or cannot be read."""
        from pipelines.fitting.checkpoint import identity_of, read_checkpoint

        if not self._is_open:
            return None
        try:
            return read_checkpoint(self._path(model), identity_of(self._about))
        except ValueError:
            return None

    def save(self, model: str, state: Callable[[], "Resumed"]) -> None:
        """Between two steps: saves `state` when that is due, and stops there on Ctrl-C.

        Raises:
            KeyboardInterrupt: after everything is saved.
        """
        try:
            self._poll()
        except KeyboardInterrupt:
            self._write(model, state())
            raise
        now = time.perf_counter()
        if now - self._saved_at >= max(self._every_s, self._cost_s / SHARE):
            self._write(model, state())

    def mark_done(self, model: str, state: "Resumed") -> None:
        """Marks the training of `model` as done; `state` is saved together with that of the next one."""
        self._done[model] = state

    def flush(self) -> None:
        """Saves what is done, before the first run folder is written: from here on a kill costs no training."""
        if self._done:
            model = next(iter(self._done))
            self._write(model, self._done[model])

    def remove(self) -> None:
        """Removes the folder, once the runs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, model: str, state: "Resumed") -> None:
        from pipelines.fitting.checkpoint import identity_of, write_checkpoint

        begin = time.perf_counter()
        if not self._is_open:
            self.remove()
        for name, (tensors, about) in {**self._done, model: state}.items():
            write_checkpoint(self._path(name), tensors, {**about, "identity": identity_of(self._about)})
        self._done.clear()
        self._is_open = True
        self._saved_at = time.perf_counter()
        self._cost_s = self._saved_at - begin
        seconds = self._before_s + begin - self._begun
        write_durably(self.folder / "about.json", sealed_json({**self._about, "seconds": seconds}))

    def _path(self, model: str) -> Path:
        return self.folder / f"{model}.safetensors"


def folder_of(first_run: Path) -> Path:
    """Where the stack that begins with the run `first_run` is kept: beside it."""
    return first_run.with_name(f"{FOLDER}-{first_run.name}")


def begun_stacks(runs: Path) -> list[tuple[str, ...]]:
    """Names of the runs of every stack that is kept in the folder `runs`."""
    folders = sorted(path for path in runs.iterdir() if path.name.startswith(f"{FOLDER}-")) if runs.is_dir() else []
    return [found for folder in folders if (found := tuple(_read_about(folder).get("runs", ())))]


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed_json(folder / "about.json", "")
    except (OSError, ValueError):
        return {}
