"""Where a backbone came from, told without loading it: enough to see that a finished stream is still the one asked for.

Needs no torch and no timm: a command that has nothing to do starts and ends in a moment.
"""

import hashlib
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cache.labels import nearest
from cache.regular import open_regular
from extract.backbones.catalogue import origin_of_file
from extract.config import BackboneConfig, Output

FETCHED = ("pretrained", "random")
ONNX = "onnx:"
LIBRARIES = ("timm", "torch")  # another version may build, prepare or draw otherwise
ONNX_LIBRARIES = ("onnxruntime",)
NOTES = ("tasks", "licence", "score", "file_digest", "outputs")


def origin_of(config: BackboneConfig, folder: Path, output: Output = "embedding") -> dict[str, Any] | None:
    """The section's choices for a stream of the `output`, the digest of its weights file and the libraries' versions,
    as JSON values.

    None where a stream cannot be told by them: a model of a hub may be another tomorrow, and an imported stream has no
    backbone. `NOTES` change no embedding.
    """
    if config.is_imported or (":" in config.model and not config.model.startswith(ONNX)):
        return None
    is_onnx = config.model.startswith(ONNX)
    file = config.model.removeprefix(ONNX) if is_onnx else config.weights
    notes = NOTES if output == "scores" or is_onnx else (*NOTES, "classes")
    values = {key: value for key, value in asdict(config).items() if key not in notes}
    known = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    try:
        versions = {name: version(name) for name in (ONNX_LIBRARIES if is_onnx else LIBRARIES)}
        digest = "" if file in FETCHED else file_digest(folder / file)
    except (OSError, PackageNotFoundError):
        return None
    return {"section": {key: value for key, value in known.items() if value is not None}, "file": digest, **versions}


def maker_of(config: BackboneConfig, folder: Path, where: str) -> str:
    """A backbone in words, for embeddings that it made elsewhere: its model, and its weights file's digest.

    Raises:
        ValueError: it was imported itself, or its weights file cannot be read.
    """
    if config.is_imported:
        raise ValueError(f"{where}: was imported itself; name what made it by --made-by TEXT")
    file = config.model.removeprefix(ONNX) if config.is_onnx else config.weights
    if file in FETCHED:
        return f"{config.model} {file}" + (f" {config.seed}" if file == "random" else "")
    try:
        return f"{config.model} {file_digest(folder / file)}"
    except OSError as error:
        raise ValueError(f"{where}: {folder / file}: {error.strerror}; name what made them by --made-by TEXT") from None


def check_file(config: BackboneConfig, folder: Path, where: str) -> None:
    """Raises ValueError where the weights file is not there, or not the one whose digest the section notes."""
    if config.weights in FETCHED or config.is_imported:
        return
    if not (folder / config.weights).exists():
        origin = origin_of_file(config.weights)
        todo = f"get {origin}" if origin else "train it with `mtl finetune`, put it back, or name it under weights"
        raise ValueError(
            f"{where}: {folder / config.weights}: no such weights file{nearest(config.weights, FETCHED)}; {todo}"
        )
    if config.file_digest and file_digest(folder / config.weights) != config.file_digest:
        raise ValueError(
            f"{where}: {folder / config.weights} is not the file that was trained for it, by its digest; run "
            "`mtl finetune` again, or take file_digest out of the section to use the file as it is"
        )


def missing_file(config: BackboneConfig, folder: Path) -> str:
    """The weights file of the section, as it names it, where it is not there; else empty."""
    if config.is_imported or config.is_audio:
        return ""
    file = config.model.removeprefix(ONNX) if config.is_onnx else config.weights
    return "" if file in FETCHED or (folder / file).exists() else file


def file_digest(path: Path) -> str:
    """32 hex digits over the file's bytes."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
