"""`mtl init`: where mtl.toml says that the faces are, and what it says to type next."""

from pathlib import Path

import pytest

from helpers.cli import invoke
from pipelines.config import read_config


@pytest.mark.parametrize("recipe", [[], ["--recipe", "liu-2024"]])
def test_faces_that_are_there_are_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: list[str]
) -> None:
    (tmp_path / "made" / "faces").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    invoke("init", "work", "--faces", "made/faces", *recipe)
    config = read_config(Path("work/mtl.toml"))
    assert config.at(config.data.faces).resolve() == tmp_path / "made" / "faces"


def test_faces_of_the_working_folder_stay_as_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "faces").mkdir(parents=True)
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    said = invoke("init", "work", "--faces", "faces")
    assert read_config(Path("work/mtl.toml")).data.faces == Path("faces")
    assert "next: cd work && mtl prepare --train TRAIN.txt --val VAL.txt" in said.stdout
