"""Commands of the tests of bad input, and the working folder they are typed in."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

TOML = """# mine
[data]
faces = "data/cropped_aligned"
[cache]
shard_rows = 16
[backbones.expr]
model = "test_resnet"
weights = "random"
size_px = 32
[head]
fusion = "sum"
temporal = "none"
width = 8
depth = 1
[train]
window = 8
stride = 8
steps = 2
[finetune]
size_px = 32
epochs = 1
init = "random"
precision = "float32"
"""
GRID = '[product]\nseed = [0, 1]\n[set]\nmethod = "joint"\n'
PREPARE = [
    *["prepare", "--no-check-faces", "--subjects", "data/subjects.csv"],
    *(word for split in ("train", "val", "test") for word in (f"--{split}", f"data/{split}_set.txt")),
]
FINETUNE = ["finetune", "--model", "test_vit2", "--task"]
EXTRACT = ["extract", "--precision", "float32"]
SEARCH = ["search", "--grid", "grid.toml"]
READERS = {
    "prepare": PREPARE,
    "finetune": [*FINETUNE, "va"],
    "extract": EXTRACT,
    "train-head": ["train-head"],
    "evaluate": ["evaluate", "one"],
    "search": SEARCH,
    "cache ls": ["cache", "ls"],
    "cache verify": ["cache", "verify"],
}


Refused = Callable[..., str]


def use(name: str) -> pytest.MarkDecorator:
    """The test's `project` is a copy of that folder."""
    return pytest.mark.parametrize("project", [name], indirect=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`; folders, with nothing in them, too."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


def face(project: Path, index: int) -> Path:
    """The face of the row `index` of the frames table."""
    return project / "data/cropped_aligned" / pl.read_parquet(project / "frames.parquet")["path"][index]
