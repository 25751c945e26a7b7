"""From made faces to a frames table by the commands that `mtl demo-data --labels` names, for every schema."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache.frames import read_frames, stored_schema
from cache.labels import ABAW, SCHEMAS
from pipelines.cli import app
from pipelines.config import read_config, read_schema

PAIN = Path(__file__).parents[1] / "fixtures" / "labels" / "pain.toml"
NAMES = [*(name for name in SCHEMAS if name != ABAW.name), str(PAIN)]


def mtl(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", NAMES, ids=lambda name: Path(name).stem)
def test_the_commands_that_come_next(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schema = read_schema(name, "x")
    said = mtl("demo-data", "made data", "--videos", "4", "--frames", "6", "--labels", name)
    for line in said.splitlines()[1:]:
        command = shlex.split(line.removeprefix("next:"))
        assert command[0] == "mtl"
        told = mtl(*command[1:], *(["--json"] if command[1] == "prepare" else []))
    assert set(json.loads(told)["splits"]["train"]["num_labelled"]) == set(schema.names)
    config = read_config(Path("mtl.toml"))
    assert (config.schema.digest, config.head.tasks) == (schema.digest, schema.names)
    assert stored_schema(Path("frames.parquet")) == config.schema
    frames = read_frames(Path("frames.parquet"), config.schema)
    assert all(frames.select(group.columns).count().sum_horizontal().item() for group in schema)
