"""Run folders: one training, written whole or not at all, and read back. N frames.

config.toml          the resolved configuration         weights/NAME.safetensors   one per model
history.csv          every evaluation of every model       predictions.parquet        of the select and report rows
model_card.md        data, scores, what it is not for
metrics.json         both scores, apart                 run.json                   the manifest, written last: sealed,
                                                                                   with the digests of the others
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from cache.durable import (
    check_replaceable,
    place_folder,
    recover_folder,
)
from cache.identity import StreamIdentity
from cache.labels import Schema
from cache.locks import alone
from cache.valid_names import check_name
from extract.view_names import in_view
from heads.model import load_single, single_state
from pipelines.cards.records import run_card
from pipelines.config import Config
from pipelines.device import resolve_device
from pipelines.fitting.epochs import Evaluation
from pipelines.fitting.runs import Spec, config_toml, weights_file, write_files
from pipelines.metrics.predictions import Predictions, prediction_table
from pipelines.run_files import (
    AGAIN,
    CONFIG,
    MANIFEST,
    check_schema,
    read_manifest,
    read_metrics,
    run_bytes,
    schema_in,
)
from pipelines.strategy import Strategy, streams_of
from pipelines.training.dataset import Dataset, load_dataset
from pipelines.training.halving import Halving
from pipelines.training.manifest import digest_on, manifest_of, run_name
from pipelines.training.methods import build_model
from pipelines.training.stack_checkpoint import StackCheckpoint, folder_of
from pipelines.training.train import Trained, TrainRequest, predict_models, train_strategies, train_strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: its manifest, its metrics, and its models with the weights that earned the score."""

    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    strategy: Strategy
    models: tuple[tuple[Spec, nn.Module], ...]
    identities: Mapping[str, StreamIdentity]

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.strategy.head.predicted

    @property
    def window(self) -> int:
        """Steps of the longest window of its models."""
        return max(self.strategy.model(spec.name).train.window for spec, _ in self.models)

    @property
    def is_causal(self) -> bool:
        """Whether no step of any of its models sees a later one."""
        return all(self.strategy.model(name).head.is_causal for name in self.strategy.models)

    @property
    def schema(self) -> Schema:
        """What its labels are."""
        return schema_in(self.manifest, self.folder)

    def in_view(self, view: str) -> "Run":
        """The run with another view of its streams as the one that it predicts."""
        return dataclasses.replace(
            self,
            strategy=self.strategy.changed({"view": view}),
            identities={name: in_view(identity, view) for name, identity in self.identities.items()},
        )

    @property
    def streams(self) -> tuple[str, ...]:
        """Every stream that a model of the run reads."""
        return tuple(self.identities)


def train_run(
    config: Config,
    dataset: Dataset,
    strategy: Strategy,
    folder: Path,
    *,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    force: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """`train_strategy`, then `write_run`; returns the metrics as metrics.json has them.

    Where `poll`, which is called between two steps, raises KeyboardInterrupt, the training is saved beside the folder,
    and the next call resumes it; it is also saved once per minute, in case of a kill.
    """
    checkpoint = StackCheckpoint(folder_of(folder), poll=poll)
    checkpoint.open([folder.name], [digest_on(dataset, config, strategy)])
    trained = train_strategy(config, dataset, strategy, on_evaluation=on_evaluation, checkpoint=checkpoint)
    write_run(folder, trained, config, dataset, force=force)
    checkpoint.remove()
    return dict(trained.metrics)


def train_runs(
    config: Config,
    dataset: Dataset,
    stack: Sequence[tuple[Strategy, Path]],
    *,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    halving: Halving | None = None,
    poll: Callable[[], None] = lambda: None,
) -> list[Exception | None]:
    """Trains strategies of one shape at once and writes each one's run folder, replacing what is there.

    `poll` and an interrupted training are as in `train_run`; the stack is kept beside its first run.

    Returns:
        For each why there is no run, or None.
    """
    requests = [TrainRequest(strategy=strategy, on_evaluation=on_evaluation) for strategy, _ in stack]
    checkpoint = StackCheckpoint(folder_of(stack[0][1]), poll=poll)
    checkpoint.open([folder.name for _, folder in stack], _made_from(config, dataset, stack, halving))
    outcomes = train_strategies(config, dataset, requests, halving, checkpoint)
    if len(stack) > 1:
        checkpoint.flush()
    found: list[Exception | None] = []
    for (_, folder), trained in zip(stack, outcomes, strict=True):
        if isinstance(trained, ValueError):
            found.append(trained)
            continue
        write_run(folder, trained, config, dataset, force=True)
        found.append(None)
    checkpoint.remove()
    return found


def _made_from(
    config: Config, dataset: Dataset, stack: Sequence[tuple[Strategy, Path]], halving: Halving | None
) -> list[str]:
    """Digests of the runs of a stack, and what ends them early; a strategy that cannot be trained stands for itself."""
    digests = []
    for strategy, _ in stack:
        try:
            digests.append(digest_on(dataset, config, strategy))
        except (ValueError, KeyError):
            digests.append(strategy.digest)
    return [*digests, repr(halving)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run, its manifest and its metrics; `found` if it had been trained before."""

    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    found: bool


def train_or_find(
    config: Config,
    strategy: Strategy,
    device: str,
    *,
    folder: Path | None = None,
    name: str = "",
    force: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    on_start: Callable[[str], None] = lambda name: None,
    on_stored: Callable[[Sequence[str]], None] = lambda names: None,
    poll: Callable[[], None] = lambda: None,
) -> RunResult:
    """The run of `strategy` in `folder` (default: the runs of `config`), trained unless it is there already.

    `on_start` is called with its name before it is trained, `on_stored` with streams that do not fit into memory.

    Raises:
        ValueError: the run `name` is there and was made from something else; or as `load_dataset`, `train_strategy`.
    """
    if name:
        check_name(name, "--name")
    used = [stream for names in streams_of(strategy, config).values() for stream in names]
    wanted = [(stream, view) for stream in used for view in strategy.train.views]
    dataset = load_dataset(config, wanted, resolve_device(device))
    digest = digest_on(dataset, config, strategy)
    path = (folder or config.at(config.output.runs)) / (name or run_name(strategy, digest, config.schema))
    found = path.exists() and not force  # then nothing is written, and the folder may be read-only
    if not found:
        with writing(path):
            recover_folder(path)
            found = path.exists() and not force  # another process made it meanwhile
            if not found:
                check_replaceable(path, MANIFEST)
                on_start(path.name)
                if dataset.resident.stored:
                    on_stored(dataset.resident.stored)
                train_run(config, dataset, strategy, path, on_evaluation=on_evaluation, force=force, poll=poll)
    manifest = read_manifest(path)
    if manifest["digest"] != digest:
        raise ValueError(f"{path}: another run has this name; --name picks another, --force replaces it")
    return RunResult(folder=path, manifest=manifest, metrics=read_metrics(path, manifest), found=found)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """One process for the run `folder`; of what is made for that nothing stays where no run comes of it."""
    is_new = not folder.parent.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder.with_name(f".lock-{folder.name}"), str(folder)):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.parent.rmdir()


def write_run(folder: Path, trained: Trained, config: Config, dataset: Dataset, *, force: bool = False) -> None:
    """The run at `folder`, put there in one step after everything in it is durable; `force` replaces an older one.

    Raises:
        ValueError: something is there already and not `force`.
    """
    if folder.exists() and not force:
        raise ValueError(f"{folder} is there already; --force trains again and replaces it, --name picks another name")
    place_folder(folder, MANIFEST, lambda made: _fill(made, folder.name, trained, config, dataset))


def load_run(folder: Path, device: torch.device | None = None) -> Run:
    """The run at `folder`, its models rebuilt and their weights loaded.

    Raises:
        ValueError: no finished run, or one of a newer program.
    """
    manifest = read_manifest(folder)
    strategy = Strategy().replace(manifest["strategy"], f"{folder}/run.json")
    models, schema = [], schema_in(manifest, folder)
    for entry in manifest["models"]:
        spec = Spec(
            name=entry["name"],
            kind=entry["kind"],
            tasks=tuple(entry["tasks"]),
            parts=entry["parts"],
            schema=schema,
            targets=tuple(entry["targets"]),
        )
        module = build_model(spec, [strategy])
        _load_weights(module, run_bytes(folder, manifest, entry["file"]), folder / entry["file"])
        models.append((spec, module.to(device or torch.device("cpu")).eval()))
    identities = {name: StreamIdentity.from_json(entry["identity"]) for name, entry in manifest["streams"].items()}
    run_bytes(folder, manifest, CONFIG)  # read where the run is evaluated on its own rows
    return Run(
        folder=folder,
        manifest=manifest,
        metrics=read_metrics(folder, manifest),
        strategy=strategy,
        models=tuple(models),
        identities=identities,
    )


def predict_run(run: Run, dataset: Dataset, rows: np.ndarray) -> Predictions:
    """The predictions of `run` for the rows `rows` [N] bool of any dataset with the same streams.

    Raises:
        ValueError: a stream is not the one that the run was trained on; says what differs.
    """
    check_schema(run.schema, dataset.schema, str(run.folder))
    check_streams(run, dataset)
    return predict_models(run.models, dataset, run.strategy, run.streams, rows)


def check_streams(run: Run, dataset: Dataset) -> None:
    """Raises `ValueError` where a stream differs from the run's in anything but the list of frames."""
    for name, trained in run.identities.items():
        found = dataset.resident.identities[name, run.strategy.train.view]
        if differences := found.as_made_by(trained).differences(trained):
            if trained.is_imported and found.is_imported and not (trained.maker and found.maker):
                raise ValueError(
                    f"{run.folder}: stream {name} was imported from other files, and it is not said that one backbone "
                    "made both; import each with the same --made-by TEXT (`mtl cache import`), and train on the first"
                )
            raise ValueError(
                f"{run.folder}: stream {name} is not the one this run was trained on: {'; '.join(differences)}"
            )


def _load_weights(module: nn.Module, data: bytes, path: Path) -> None:
    try:
        load_single(module, load(data))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of this run ({type(error).__name__}); {AGAIN}") from None


def _fill(made: Path, name: str, trained: Trained, config: Config, dataset: Dataset) -> None:
    manifest, report = manifest_of(name, trained, config, dataset), trained.predictions["report"].rows
    tables = {
        part: prediction_table(predicted, dataset.frames, part) for part, predicted in trained.predictions.items()
    }
    write_files(
        made,
        config_toml=config_toml(config, trained.strategy),
        states={weights_file(model.spec): single_state(model.module, 0) for model in trained.models},
        history=trained.history,
        predictions=list(tables.values()),
        metrics=trained.metrics,
        card=run_card(
            manifest, trained.metrics, config, tables["report"], dataset.rows(report), dataset.labels.take(report)
        ),
        manifest=manifest,
    )
