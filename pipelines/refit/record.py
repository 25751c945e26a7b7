"""refit.json as it is read; no torch."""

from pathlib import Path
from typing import Any

from cache.seals import digest_of, read_sealed_json
from pipelines.run_files import PREDICTIONS, REFIT
from pipelines.words import counted

FORMAT = 1
AGAIN = "`mtl refit --force` makes it again"


def read_refit(folder: Path) -> dict[str, Any]:
    """refit.json of the refit at `folder`.

    Raises:
        ValueError: none there, damaged, or of another format.
    """
    record = read_sealed_json(folder / REFIT, AGAIN)
    if record.get("format") != FORMAT:
        raise ValueError(f"{folder / REFIT}: not a refit of format {FORMAT}; {AGAIN}")
    path = folder / PREDICTIONS
    if not path.is_file() or digest_of(path.read_bytes()) != record["predictions"]:
        raise ValueError(f"{path}: missing, damaged or of another refit; {AGAIN}")
    return record


def refit_notes(home: Path) -> list[str]:
    """What leaderboards say of the refits beside the runs in `home`: a line each, with the score of the runs."""
    notes = []
    for path in sorted(home.glob("refits/[!.]*/refit.json")):
        name = path.parent.relative_to(home)
        try:
            record = read_refit(path.parent)
        except ValueError as error:
            notes.append(str(error))
            continue
        scores = [record["scores"][kind]["report"].get("P") for kind in ("plain", "post")]
        words = "–" if None in scores else f"{scores[0]:.3f}, post-processed {scores[1]:.3f}"
        runs = counted(len(record["of"]), "run")
        notes.append(f"{name}: a refit on train and val, without a held-out score; that of its {runs}: {words}")
    return notes
