"""Run folders as they are written: whole or not at all, run.json last. `pipelines.run_files` reads them."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import tomlkit
from safetensors.torch import save
from torch import Tensor

from cache.labels import ABAW, Schema
from cache.parquet import parquet_bytes
from pipelines.config import SECTIONS, Config
from pipelines.fitting.epochs import Epoch, Evaluation
from pipelines.run_files import CARD, CONFIG, METRICS, PREDICTIONS, write_manifest
from pipelines.strategy import Strategy
from pipelines.typed import to_mapping

PACKAGES = ("mtl-affect", "torch", "numpy", "polars", "zarr", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a model is made of, enough to build it again before its weights are loaded.

    `parts` maps each trunk's task to its streams and their widths D; a joint head has one trunk, called "joint".
    `targets` are those of `tasks` that it predicts, all of them where it names none.
    """

    name: str
    kind: str
    tasks: tuple[str, ...]
    parts: Mapping[str, Mapping[str, int]]
    schema: Schema = ABAW
    targets: tuple[str, ...] = ()

    @property
    def predicted(self) -> tuple[str, ...]:
        """The tasks that it predicts and is scored on."""
        return self.targets or self.tasks

    @property
    def streams(self) -> tuple[str, ...]:
        """Every stream the model reads."""
        return tuple(dict.fromkeys(name for widths in self.parts.values() for name in widths))


def weights_file(spec: Spec) -> str:
    """Where in the run folder the model's weights are."""
    return f"weights/{spec.name}.safetensors"


def config_toml(config: Config, strategy: Strategy) -> str:
    """The whole configuration with `strategy` put in: what mtl.toml would have to be for this run."""
    values = to_mapping(config)
    sections = {name: values[name] for name in SECTIONS} | {
        name: part for name, part in to_mapping(strategy).items() if part
    }
    return tomlkit.dumps({"labels": config.schema.to_mapping(), **sections, "backbones": values["backbones"]})


def history_table(history: Sequence[Evaluation | Epoch]) -> pl.DataFrame:
    """One row per evaluation: losses, scores on the rows that choose, and whether it was the best so far."""
    rows = [
        {
            "model": scored.model,
            **({"step": scored.step} if isinstance(scored, Evaluation) else {"epoch": scored.epoch}),
            "lr": scored.lr,
            **scored.losses,
            **{f"score.{task}": value for task, value in scored.scores.items()},
            "P": scored.p if scored.scores else None,
            "best": scored.best,
            "duration_s": scored.duration_s,
        }
        for scored in history
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ordered = [c for c in columns if not c.startswith(("loss", "score"))]
    middle = sorted(c for c in columns if c.startswith(("loss", "score")))
    return pl.DataFrame(rows, infer_schema_length=None).select(*ordered[:3], *middle, *ordered[3:])


@cache
def commit() -> str | None:
    """The commit of this program where it runs from a git checkout, "-dirty" if files were changed; else None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


@cache
def _version(package: str) -> str:
    """Found once per process: the search for six packages took a tenth of the time of writing a run."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def write_files(
    made: Path,
    *,
    config_toml: str,
    states: Mapping[str, Mapping[str, Tensor]],
    history: Sequence[Evaluation | Epoch],
    predictions: Sequence[pl.DataFrame],
    metrics: Mapping[str, Any],
    card: str,
    manifest: Mapping[str, Any],
) -> None:
    """Everything of a run in the folder `made`, run.json last; `states` are weights by file, `card` the model card."""
    (made / "weights").mkdir()
    (made / CONFIG).write_text(config_toml, encoding="utf-8")
    for file, state in states.items():
        plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        # As bytes, here and below: on a full disk save_file and write_parquet raise errors that are no OSError.
        (made / file).write_bytes(save(plain))
    history_table(history).write_csv(made / "history.csv")
    (made / PREDICTIONS).write_bytes(parquet_bytes(pl.concat(predictions).sort("video", "frame")))
    words = json.dumps(dict(metrics), indent=2, ensure_ascii=False, allow_nan=False)
    (made / METRICS).write_text(words + "\n", encoding="utf-8")
    (made / CARD).write_text(card, encoding="utf-8")
    write_manifest(made, manifest)
