"""Trackers of experiments beside our own files: TensorBoard, Weights & Biases, Trackio. Their packages are optional.

What a tracker gets is a copy: scores and losses of every evaluation, what was trained, the scores at the end. Nothing
else is sent, and nothing without `--track`. Where it goes is the tracker's own setting: `WANDB_MODE=offline` keeps
wandb's on this machine; TensorBoard's and Trackio's stay there anyway.
"""

import csv
import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.run_files import read_manifest, read_metrics, run_bytes

HISTORY = "history.csv"
FOLDER = "tensorboard"
Scalar = bool | int | float | str
# Of wandb: what it would send of the machine, its code and its terminal besides.
NOT_SENT = ("disable_code", "disable_git", "x_disable_machine_info", "x_disable_meta", "x_disable_stats")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What is tracked: its `name`, what it was trained with, and the working folder, whose name is the project's."""

    name: str
    config: Mapping[str, Scalar]
    home: Path

    @property
    def project(self) -> str:
        return self.home.resolve().name or "mtl"


class Tracker(Protocol):
    """One training in a tracker."""

    def log(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a model at a step or an epoch."""

    def finish(self, scores: Mapping[str, float]) -> None:
        """The scores at the end; nothing follows."""

    def close(self) -> None:
        """The training was stopped; nothing follows."""


class TensorBoard:
    """Event files in `tensorboard/NAME` of the working folder."""

    def __init__(self, tracked: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(tracked.home / FOLDER / tracked.name))
        self._config = dict(tracked.config)

    def log(self, model: str, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{model}/{key}", value, step)

    def finish(self, scores: Mapping[str, float]) -> None:
        self._writer.add_hparams(self._config, dict(scores), run_name=".")
        self.close()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases. Each model counts its own steps, as several are trained after each other."""

    def __init__(self, tracked: Tracked) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=tracked.project,
            name=tracked.name,
            config=dict(tracked.config),
            dir=str(tracked.home),
            settings=wandb.Settings(**dict.fromkeys(NOT_SENT, True), console="off"),
        )
        self._models: set[str] = set()

    def log(self, model: str, step: int, values: Mapping[str, float]) -> None:
        if model not in self._models:
            self._models.add(model)
            self._run.define_metric(f"{model}/*", step_metric=f"{model}/step")
        self._run.log({f"{model}/step": step, **{f"{model}/{key}": value for key, value in values.items()}})

    def finish(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))
        self.close()

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of Trackio, whose database is on this machine."""

    def __init__(self, tracked: Tracked) -> None:
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(project=tracked.project, name=tracked.name, config=dict(tracked.config))

    def log(self, model: str, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log({f"{model}/{key}": value for key, value in values.items()}, step=step)

    def finish(self, scores: Mapping[str, float]) -> None:
        self._trackio.log(dict(scores))
        self.close()

    def close(self) -> None:
        self._trackio.finish()


class LiveTracker:
    """Tracks a training while it runs, from `open` on; with no `kind` it tracks nothing."""

    def __init__(self, kind: str, config: Mapping[str, Scalar], home: Path) -> None:
        self._kind, self._config, self._home = kind, config, home
        self._tracker: Tracker | None = None

    def __enter__(self) -> "LiveTracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def open(self, name: str) -> None:
        """The training called `name` begins, or has begun."""
        if self._kind and self._tracker is None:
            self._tracker = open_tracker(self._kind, Tracked(name=name, config=self._config, home=self._home))

    def log(self, model: str, step: int, values: Mapping[str, float]) -> None:
        if self._tracker is not None:
            self._tracker.log(model, step, values)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """It has ended with the scores of metrics.json."""
        if self._tracker is not None:
            self._tracker.finish(scores_of(metrics))
            self._tracker = None


def check_tracker(name: str) -> None:
    """Raises `ValueError` for an unknown tracker, and where its package is not installed; "" is none."""
    if not name:
        return
    if name not in TRACKERS:
        raise ValueError(f"--track {name}: unknown tracker; known: {', '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"--track {name}: {name} is not installed; pip install 'mtl-affect[{name}]'")


def open_tracker(name: str, tracked: Tracked) -> Tracker:
    """The tracker `name`, which `check_tracker` has let pass, for one training.

    Raises:
        ValueError: what its package needs is not installed.
    """
    try:
        return TRACKERS[name](tracked)
    except ImportError as error:
        raise ValueError(f"--track {name}: {error}; pip install 'mtl-affect[{name}]'") from None


def config_of(strategy: Mapping[str, Any]) -> dict[str, Scalar]:
    """The fields of a strategy as trackers take them: lists and tables as text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in strategy.items()
    }


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores of metrics.json by flat key: "select.P", "report.va.ccc_mean", ..."""
    return {
        f"{part}.{key}": float(value)
        for part in ("select", "report")
        for key, value in metrics[part].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def track_run(name: str, folder: Path, home: Path, called: str) -> None:
    """Tracks the finished run at `folder` afterwards, from its own files, as `called`."""
    manifest = read_manifest(folder)
    tracker = open_tracker(name, Tracked(name=called, config=config_of(manifest["strategy"]), home=home))
    for row in csv.DictReader(io.StringIO(run_bytes(folder, manifest, HISTORY).decode())):
        step = int(row.get("step") or row.get("epoch") or 0)
        skipped = ("model", "step", "epoch", "best", "duration_s")
        values = {key: float(value) for key, value in row.items() if key not in skipped and value}
        tracker.log(row["model"], step, values)
    tracker.finish(scores_of(read_metrics(folder, manifest)))


TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}
