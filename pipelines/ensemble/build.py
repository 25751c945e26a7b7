"""An ensemble of runs, made unless it is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.durable import recover_folder
from pipelines.config import Config
from pipelines.ensemble.candidates import find_runs, read_library
from pipelines.ensemble.ensemble_folder import place_of, read_ensemble, write_ensemble
from pipelines.ensemble.members import make_ensemble, num_choices
from pipelines.postprocess.reader import predictions_reader
from pipelines.postprocess.run_folders import read_truth
from pipelines.progress import progress


def ensemble_runs(
    config: Config, given: Sequence[Path], *, size: int, name: str, force: bool, device: str = "auto"
) -> tuple[Path, dict[str, Any], bool]:
    """The folder and ensemble.json of an ensemble of the runs `given`, made unless it is there; and if it was there.

    Raises:
        ValueError: see `find_runs`; or an ensemble of this name was made from other runs or of another size.
    """
    truth = read_truth(config)
    output = config.output
    found = find_runs(given, truth, runs=config.at(output.runs), studies=config.at(output.studies), config=config)
    folder = place_of(found, name)
    recover_folder(folder)
    if folder.exists() and not force:
        record = read_ensemble(folder)
        same_views = not config.predict.views or record["views"] == list(config.predict.views)
        if record["considered"] != found.digests or record["size"] != size or not same_views:
            raise ValueError(
                f"{folder}: made from other runs, of another size or other views; --force makes it again, --name "
                "picks another name"
            )
        return folder, record, True
    with progress("reading predictions", len(found.candidates), "runs") as advance:
        library, used = read_library(found, truth, advance, predictions_reader(config, device))
    with progress("choosing members", num_choices(library), "choices") as advance:
        made = make_ensemble(library, size, advance)
    return folder, write_ensemble(folder, made, used, size, found.digests, truth, config), False
