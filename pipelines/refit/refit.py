"""`mtl refit`: a run, or the first strategy of a study, trained again on train and val, several seeds averaged."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.durable import check_replaceable, recover_folder
from pipelines.config import Config, read_config
from pipelines.device import resolve_device
from pipelines.fitting.epochs import Evaluation
from pipelines.postprocess.fit import fit
from pipelines.postprocess.reader import predictions_reader
from pipelines.postprocess.run_folders import read_postprocess, read_truth
from pipelines.refit.folder import digests_of, write_refit
from pipelines.refit.record import read_refit
from pipelines.refit.sources import Sources, find_sources
from pipelines.refit.training import train_refit
from pipelines.run_files import CONFIG, REFIT
from pipelines.strategy import Strategy, streams_of
from pipelines.training.dataset import Dataset, load_dataset
from pipelines.training.manifest import digest_on
from pipelines.training.run import check_streams, load_run, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRequest:
    """The run or study `model` to be refitted with so many `seeds`; `force` replaces a refit that is there."""

    model: Path
    seeds: int = 3
    name: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitResult:
    """A refit and its refit.json; `found` if it had been made before."""

    folder: Path
    record: dict[str, Any]
    found: bool


def refit(
    config: Config,
    request: RefitRequest,
    device: str,
    *,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    poll: Callable[[], None] = lambda: None,
) -> RefitResult:
    """The refit of `request`, made unless it is there. `poll` and an interrupted training are as in `train_run`.

    Raises:
        ValueError: as `find_sources`; or the data have changed since the runs, or a refit of this name is another's.
    """
    sources = find_sources(config, request.model, read_truth(config), request.name)
    config = _with_stored_post(_without_later_backbones(config, sources), sources)
    truth, place = read_truth(config), sources.place
    with writing(place):
        recover_folder(place)
        if place.exists() and not request.force:
            record = read_refit(place)
            if record["made_from"] != digests_of(sources) or len(record["seeds"]) != request.seeds:
                raise ValueError(f"{place}: made from other runs or seeds; --force makes it again, --name another")
            post, wanted = read_postprocess(place), config.predict
            if set(post["views"]) != set(wanted.views) or (post["outside"] or "") != wanted.outside:
                raise ValueError(
                    f"{place}: its post-processing has other views or another outside classifier; --force makes it "
                    "again, --name another"
                )
            return RefitResult(folder=place, record=record, found=True)
        check_replaceable(place, REFIT)
        parts = sources.parts(truth, predictions_reader(config, device))
        dataset = _dataset(config, sources, device)
        trained, checkpoints = train_refit(
            config,
            dataset,
            _strategies(sources, request.seeds),
            sources.num_steps,
            place,
            on_evaluation=on_evaluation,
            poll=poll,
        )
        record = write_refit(sources, trained, parts, fit(*parts), truth, config, dataset)
        for checkpoint in checkpoints:
            checkpoint.remove()
    return RefitResult(folder=place, record=record, found=False)


def _without_later_backbones(config: Config, sources: Sources) -> Config:
    """`config` without backbones of which the runs read no stream, so that streams = "all" means those of then."""
    streams = sources.manifests[0]["streams"]
    kept = {name: one for name, one in config.backbones.items() if not streams.keys().isdisjoint(one.streams(name))}
    return dataclasses.replace(config, backbones=kept)


def _with_stored_post(config: Config, sources: Sources) -> Config:
    """`config` with the views and the outside classifier of the runs' post-processing, where it names none itself."""
    views, outside = sources.post
    predict = config.predict
    chosen = dataclasses.replace(predict, views=predict.views or views, outside=predict.outside or outside)
    return dataclasses.replace(config, predict=chosen)


def _dataset(config: Config, sources: Sources, device: str) -> Dataset:
    """The frames table and the streams of the runs, which must be those that they were trained on."""
    strategy, where = sources.strategy, resolve_device(device)
    run, names = load_run(sources.folders[0]), [name for used in streams_of(strategy, config).values() for name in used]
    if set(names) != set(run.streams):
        raise ValueError(
            f"{run.folder}: read the streams {', '.join(sorted(run.streams))}; by mtl.toml its strategy now reads "
            f"{', '.join(sorted(set(names)))}; name them in [head] streams, and train it again"
        )
    dataset = load_dataset(config, [(name, view) for name in names for view in strategy.train.views], where)
    check_streams(run, dataset)
    own = dataclasses.replace(config, split=read_config(run.folder / CONFIG).split)
    if digest_on(dataset, own, strategy) != run.manifest["digest"]:
        raise ValueError(f"{run.folder}: what it was made from has changed since; train it again")
    return dataset


def _strategies(sources: Sources, num: int) -> list[Strategy]:
    """The strategy with `num` seeds, from the lowest of the runs."""
    first = min(int(manifest["seed"]) for manifest in sources.manifests)
    strategy = sources.strategy
    return [
        dataclasses.replace(strategy, train=dataclasses.replace(strategy.train, seed=first + number))
        for number in range(num)
    ]
