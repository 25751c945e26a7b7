"""Runs of fine-tuned backbones: `runs/backbone-NAME` holds its own predictions, as a head's run does. No torch.

So a backbone can be scored, compared, post-processed and be a member of an ensemble beside the heads that stand on it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.json_files import read_json
from pipelines.run_files import BACKBONE_PREFIX, read_manifest

KIND = "backbone"


def run_name(section: str) -> str:
    """What the run of [backbones.SECTION] is called."""
    return f"{BACKBONE_PREFIX}{section}"


def run_folder(config: Config, section: str) -> Path:
    """Where the run of [backbones.SECTION] is."""
    return config.at(config.output.runs) / run_name(section)


def is_backbone(manifest: Mapping[str, Any]) -> bool:
    """Whether run.json is that of a backbone, not of a head."""
    return isinstance(manifest, Mapping) and manifest.get("kind") == KIND


def check_place(config: Config, section: str) -> None:
    """Raises ValueError where something else has the place of the run of [backbones.SECTION]: it stays."""
    folder = run_folder(config, section)
    if not folder.exists():
        return
    path = folder / "run.json"
    if not path.is_file() or not is_backbone(read_json(path)):  # a damaged one may be replaced, so no seal is asked for
        raise ValueError(f"{folder}: is there already and is no backbone's run; move it away, or choose another --name")


def fitting_runs(config: Config, about: Mapping[str, Any]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Runs of the backbones in mtl.toml whose scores stand beside those of heads; and those left out, with the reason.

    `about` has the digests "frames" and "labels", and the "split" by its hash: runs of another split are not named.
    A backbone without a run is in neither.
    """
    found: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    for name, section in config.backbones.items():
        folder = run_folder(config, name)
        if not (folder / "run.json").is_file():
            continue
        try:
            manifest = read_manifest(folder)
            if not is_backbone(manifest) or manifest["split"]["hash"] != about["split"]:
                continue
            reason = _unfit(manifest, name, section.file_digest, about)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = (
                str(error) if isinstance(error, ValueError) else "run.json is damaged; `mtl finetune` makes it again"
            )
        if reason:
            skipped.append((folder, reason))
        else:
            found.append(folder)
    return found, skipped


def _unfit(manifest: Mapping[str, Any], name: str, file_digest: str, about: Mapping[str, Any]) -> str:
    """Why the scores of this run are not those of [backbones.NAME] on these rows; nothing where they are."""
    if manifest["backbone"]["file_digest"] != file_digest:
        return f"[backbones.{name}] has other weights now; `mtl finetune` makes it again"
    if any(manifest[key] != about[key] for key in ("frames", "labels")):
        return "frames or labels have changed since; `mtl finetune` makes it again"
    return ""
