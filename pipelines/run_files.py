"""Run folders as they are read: run.json is sealed and has the digest of every other file, checked by every reader.

So neither a damaged file nor one of another run is taken for this run's. No torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cache.labels import Schema, schema_of
from cache.parquet import read_parquet
from cache.parsing import parse_json
from cache.seals import digest_of, has_seal, is_whole, read_sealed_json, sealed_json

FORMAT = 3
MANIFEST, METRICS, CONFIG, PREDICTIONS = "run.json", "metrics.json", "config.toml", "predictions.parquet"
CARD = "model_card.md"
REFIT = "refit.json"
AGAIN = "train it again"
BACKBONE_PREFIX = "backbone-"  # of the name of a fine-tuned backbone's run
# Further manifests that may lie beside a table of predictions, and where in each the digest of a file stands.
OTHER_MANIFESTS = {
    "ensemble.json": {PREDICTIONS: "predictions"},
    REFIT: {PREDICTIONS: "predictions"},
    "postprocess.json": {"predictions.post.parquet": "processed"},
}


def find_folder(given: Path, home: Path) -> Path:
    """`given` where it is a path or exists, else the folder of that name in `home`."""
    return given if given.exists() or given.parent != Path() else home / given


def redo(folder: Path) -> str:
    """What makes the run at `folder` anew, in words that begin with `AGAIN`."""
    if folder.name.startswith(BACKBONE_PREFIX):
        return f"{AGAIN} (`mtl finetune`)"
    is_of_study = (folder.parent.parent / "study.json").is_file()
    return f"{AGAIN} (`mtl search` of its grid does)" if is_of_study else f"{AGAIN} (`--force` replaces it)"


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """run.json with the digests of all files that `folder` has by now."""
    files = {
        path.relative_to(folder).as_posix(): digest_of(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    (folder / MANIFEST).write_bytes(sealed_json({**manifest, "files": files}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """run.json of the run at `folder`.

    Raises:
        ValueError: no finished run, a damaged one, or one of another version of the program.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}: no finished run here (no run.json); `mtl train-head` makes one")
    manifest = read_sealed_json(path, redo(folder))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{folder}: run format {manifest.get('format')}, this program reads {FORMAT}; {redo(folder)}")
    return manifest


def schema_in(manifest: Mapping[str, Any], folder: Path) -> Schema:
    """The label schema that the run at `folder` was trained on; raises ValueError where run.json has none."""
    return schema_of(manifest.get("schema"), f"{folder}/{MANIFEST}: schema")


def check_schema(found: Schema, schema: Schema, what: str) -> None:
    """Raises ValueError where `what` ("runs/tcn") was made with another label schema than that of [labels]."""
    if found.digest != schema.digest:
        differences = "; ".join(schema.differences(found, "in mtl.toml", "in the run"))
        raise ValueError(
            f"{what}: of another label schema than [labels] of mtl.toml ({differences}); train it again, or set "
            "[labels] to what it was trained on"
        )


def run_bytes(folder: Path, manifest: Mapping[str, Any], file: str) -> bytes:
    """The file `file` of the run whose `manifest` was read from `folder`.

    Raises:
        ValueError: it is missing, or not the one that the run wrote.
    """
    try:
        data = (folder / file).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{folder / file}: no such file; {redo(folder)}") from None
    if digest_of(data) != manifest["files"].get(file):
        raise ValueError(f"{folder / file}: damaged, or of another run; {redo(folder)}")
    return data


def read_metrics(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """metrics.json of the run; raises as `run_bytes`."""
    found: dict[str, Any] = parse_json(run_bytes(folder, manifest, METRICS).decode())
    return found


def read_predictions(folder: Path, manifest: Mapping[str, Any], columns: Sequence[str] | None = None) -> pl.DataFrame:
    """predictions.parquet of the run, of `columns` those that it has; raises as `run_bytes`."""
    return read_parquet(run_bytes(folder, manifest, PREDICTIONS), columns)


def check_table(path: Path) -> None:
    """Raises ValueError where the table at `path`, read by itself, is not what its seal or a manifest beside it says.

    So the predictions of a run or an ensemble are proven wherever they are read; a table of your own has no proof.
    """
    data, folder = path.read_bytes(), path.parent
    if has_seal(data) and not is_whole(data):
        raise ValueError(f"{path}: damaged or changed since it was written; make it again")
    wanted: dict[str, str] = {}
    if (folder / MANIFEST).is_file():
        wanted |= read_manifest(folder)["files"]
    for name, keys in OTHER_MANIFESTS.items():
        if (folder / name).is_file():
            record = read_sealed_json(folder / name, "make it again")
            wanted |= {file: record[key] for file, key in keys.items() if key in record}
    if digest_of(data) != wanted.get(path.name, digest_of(data)):
        raise ValueError(f"{path}: damaged, or of another run; make it again")


def damage(folder: Path) -> str:
    """Why the run at `folder` cannot be used, or nothing: every file of it is read."""
    try:
        manifest = read_manifest(folder)
        for file in manifest["files"]:
            if file != PREDICTIONS or (folder / file).exists():  # these may be removed to save room
                run_bytes(folder, manifest, file)
    except ValueError as error:
        return str(error)
    return ""
