"""The working folder: mtl.toml and the grids, as `mtl init` writes them."""

import json
import re
from importlib import resources
from pathlib import Path

import tomlkit

from cache.labels import ABAW, SCHEMAS, Schema
from pipelines.json_files import write_text

TEMPLATE = """\
# mtl.toml: settings of all commands.
# Every key has a default; `mtl train-head --set train.lr=0.0003` overrides one for one run.

[data]
faces  = {faces}        # VIDEO/00001.jpg, aligned face crops
frames = "frames.parquet"        # written by `mtl prepare`

{labels}
[cache]
path = "cache.zarr"              # written by `mtl extract`

[split]
select = "val"                   # where weights and strategies are selected
report = "auto"                  # scored once: test where it has labels, else half the videos of val

# A backbone is any timm model. `mtl finetune --task {task} --model NAME` adds its section itself.
# [backbones.{task}]
# model   = "vit_base_patch16_224"
# weights = "backbones/{task}.safetensors"   # a file, or "pretrained" (timm or the hub fetches them)
# tasks   = ["{task}"]                       # what it was trained for; used by streams = "own"

[head]
tasks    = {tasks}
streams  = "all"                 # "all", "own" (backbones made for the task) or a list of names
fusion   = "concat"              # concat, sum, gated, attention, cross-attention
temporal = "ssm"                 # none, gru, lstm, ssm, tcn, tcn-multi, transformer, tcn-transformer

[train]
method = "joint"                 # separate, joint, progressive, self-training
window = 64                      # steps
stride = 32
steps  = 800                     # optimiser steps
seed   = 0
"""


TASKS_OF_GRID = re.compile(r"^(tasks +=) \[\[.*\]\]$", re.MULTILINE)


def write_project(folder: Path, faces: str, schema: Schema = ABAW, *, force: bool = False) -> None:
    """mtl.toml and grids/ in `folder`; a grid that is there stays as it is.

    Raises:
        ValueError: there is an mtl.toml already and not `force`.
    """
    path = folder / "mtl.toml"
    if path.exists() and not force:
        raise ValueError(f"{path} is there already; --force writes over it")
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    for grid in packaged_grids():
        if not (folder / "grids" / grid.name).exists():
            write_text(folder / "grids" / grid.name, _grid(grid.read_text(encoding="utf-8"), schema))
    values = {
        "faces": toml_text(faces),
        "labels": _labels(schema),
        "tasks": json.dumps(schema.names),
        "task": "expr" if "expr" in schema.names else schema.names[0],
    }
    write_text(path, TEMPLATE.format(**values))


def _labels(schema: Schema) -> str:
    """The section [labels]: the name alone of a schema that ships."""
    if schema.name in SCHEMAS:
        name = f"name = {toml_text(schema.name)}"
        return f"[labels]\n{name:<32} # {', '.join(SCHEMAS)}, or one's own: [[labels.groups]]\n"
    return tomlkit.dumps({"labels": schema.to_mapping()})


def _grid(text: str, schema: Schema) -> str:
    """A grid that ships with sets of tasks of `schema`: all, and each by itself."""
    if schema.names == ABAW.names:
        return text
    sets = dict.fromkeys([schema.names, *((name,) for name in schema.names)])
    return TASKS_OF_GRID.sub(lambda found: f"{found[1]} {json.dumps(list(sets))}", text)


def packaged_grids() -> list[Path]:
    """The grids that ship with the program: inside the package once installed, beside it in a checkout."""
    package = Path(str(resources.files("pipelines")))
    folder = package / "grids"
    return sorted((folder if folder.is_dir() else package.parent / "grids").glob("*.toml"))


def toml_text(text: str) -> str:
    """`text` as a TOML string."""
    return json.dumps(text, ensure_ascii=False)
