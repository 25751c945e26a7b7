"""What a run was made from, for run.json: strategy, data, streams, split, versions; and the run's name."""

from datetime import UTC, datetime
from typing import Any

from cache.labels import ABAW, Schema
from pipelines.config import Config
from pipelines.faces import alignment_in
from pipelines.fitting.runs import commit, versions, weights_file
from pipelines.folds import NO_FOLD
from pipelines.run_files import FORMAT
from pipelines.strategy import Strategy, class_embeddings_of, run_digest, streams_of
from pipelines.training.budget import budget_of, context_of
from pipelines.training.dataset import Dataset
from pipelines.training.train import Trained


def digest_on(dataset: Dataset, config: Config, strategy: Strategy) -> str:
    """`run_digest` of `strategy`, trained and scored on `dataset`."""
    return run_digest(
        strategy,
        streams_of(strategy, config),
        lambda name, view: dataset.resident.identities[name, view].digest,
        dataset.frames_digest,
        dataset.labels_digest,
        dataset.split(config.split, strategy.train.fold).description["hash"],
        class_embeddings_of(strategy, config),
    )


def run_name(strategy: Strategy, digest: str, schema: Schema = ABAW) -> str:
    """A name a person can read, and no other run has: `concat-tcn-joint-s0-1a2b3c4d`."""
    head, train = strategy.head, strategy.train
    words: list[str] = [head.fusion, head.temporal, train.method]
    if not schema.is_complete(head.predicted):
        words += head.predicted
    if head.auxiliary:
        words += ["with", *head.auxiliary]
    words += [f"s{train.seed}"] + ([f"f{train.fold}"] if train.fold != NO_FOLD else [])
    return "-".join([*words, digest[:8]])


def manifest_of(name: str, trained: Trained, config: Config, dataset: Dataset) -> dict[str, Any]:
    """run.json: enough to know what the run is, and to build it again."""
    strategy, resident = trained.strategy, dataset.resident
    valid = resident.all_valid(trained.streams, strategy.train.view)
    parts = {"train": trained.split.train, "select": trained.split.select, "report": trained.split.report}
    embeddings = class_embeddings_of(strategy, config)
    identities = {stream: resident.identities[stream, strategy.train.view] for stream in trained.streams}
    return {
        "format": FORMAT,
        "name": name,
        "digest": digest_on(dataset, config, strategy),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": trained.seconds,
        "strategy": strategy.flat(),
        "seed": strategy.train.seed,
        "step": trained.metrics["step"],
        "num_parameters": trained.num_parameters,
        "models": [
            {
                "name": model.spec.name,
                "kind": model.spec.kind,
                "tasks": list(model.spec.tasks),
                "targets": list(model.spec.targets),
                "parts": {part: dict(widths) for part, widths in model.spec.parts.items()},
                "file": weights_file(model.spec),
                "step": model.step,
                "num_parameters": sum(p.numel() for p in model.module.parameters()),
            }
            for model in trained.models
        ],
        "streams": {
            stream: {"digest": identity.digest, "identity": identity.to_json()}
            for stream, identity in identities.items()
        },
        "class_embeddings": None if embeddings is None else embeddings.digest,
        "alignment": alignment_in(config),
        "schema": dataset.schema.to_mapping(),
        "frames": dataset.frames_digest,
        "labels": dataset.labels_digest,
        "split": dict(trained.split.description),
        "budget": budget_of(strategy, dataset.frames),
        "context": {part: context_of(dataset, rows, strategy, trained.streams) for part, rows in parts.items()},
        "num_without_embedding": {part: int((rows & ~valid).sum()) for part, rows in parts.items()},
        "device": resident.device_name,
        "commit": commit(),
        "versions": versions(),
    }
