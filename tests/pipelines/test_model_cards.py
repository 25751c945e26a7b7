"""Model cards: in each run, ensemble and bundle; what they say of data, scores and subgroups."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from cache.labels import ABAW
from helpers.cli import call, refused
from pipelines.cards.attributes import attributes_of
from pipelines.cards.card import table
from pipelines.cards.held_out import held_out
from pipelines.labels import labels_of
from pipelines.metrics.challenge import f1
from pipelines.run_files import damage, read_manifest, read_metrics, read_predictions

NOTES = ("--set", 'data.name="Made, for tests"', "--set", 'data.licence="no | licence"')
SUBJECTS = {"1": "ann", "10": "bob", "100": "cid", "clip3": "dot", "clip4": "eve", "clip5": "fay"}
ATTRIBUTES = "video,subject,gender,age group\n1,ann,f,young\nclip4,eve,f,old\n100,cid,m,\nclip5,fay,f,old\n"


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """A project whose frames table knows subjects, with two runs, an ensemble of them and a bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        frames = read_frames(Path("frames.parquet"))
        write_frames(frames.with_columns(subject=pl.col("video").replace_strict(SUBJECTS)), Path("frames.parquet"))
        Path("subjects.csv").write_text(ATTRIBUTES)
        words = (*NOTES, "--set", "backbones.va.licence=research only", "--set", "data.attributes=subjects.csv")
        call("train-head", "--name", "one", *words, "--set", "split.report=val", "--set", "split.select=test")
        call("train-head", "--name", "two", "--tasks", "va", "--temporal", "none")
        call("train-head", "--name", "three", "--tasks", "va", "--temporal", "none", "--seed", "1")
        call("ensemble", "two", "three", "--name", "both", *NOTES)
    return shared


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def rows_of(card: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    below = card.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_what_the_card_of_a_run_says(project: Path) -> None:
    card, manifest = Path("runs/one/model_card.md").read_text(), read_manifest(Path("runs/one"))
    assert "They are of predictions without post-processing." in card
    metrics = read_metrics(Path("runs/one"), manifest)
    assert card.startswith("# Model card: one\n\nA head on the embeddings of 3 backbones (")
    assert "- Data: Made, for tests\n- Licence of the data: no | licence\n" in card
    assert "research only" in card
    scores = {row[0]: row[1:] for row in rows_of(card, "Scores")}
    assert scores["P, the sum of them"][0] == f"{metrics['report']['P']:.3f}"
    assert scores["VA: mean CCC"][2] == f"{metrics['select']['va.ccc_mean']:.3f}"
    assert re.fullmatch(r"-?\d\.\d\d to \d\.\d\d", scores["AU: mean F1"][1])
    trained = rows_of(card, "Data")[0]
    assert trained[1:4] == ["3", "3", f"{manifest['split']['train']['frames']}"]
    for words in ("must not be used for", "Regulation (EU) 2024/1689", "stay on the machine"):
        assert words in card
    assert not damage(Path("runs/one"))
    (project / "runs/one/model_card.md").write_text(card + " ")
    assert "model_card.md: damaged" in damage(Path("runs/one"))
    (project / "runs/one/model_card.md").write_text(card)


def test_notes_that_are_missing_say_what_to_set(project: Path) -> None:
    card = Path("runs/two/model_card.md").read_text()
    assert "- Data: not noted (`name` under [data] of mtl.toml)" in card
    assert "Not scored: nothing is known of the subjects. `attributes` under [data]" in card
    assert [row[0] for row in rows_of(card, "Scores")] == ["VA: mean CCC"]


def test_subgroups(project: Path) -> None:
    """Their scores are those of their rows; of one person there is none."""
    found = {(row[0], row[1]): row[2:] for row in rows_of(Path("runs/one/model_card.md").read_text(), "Subgroups")}
    assert found["gender", "f"][0] == "1"  # held out are cid and fay
    assert found["gender", "f"][2:] == ["–", "–", "–"]
    assert set(found) == {("gender", "f"), ("gender", "m"), ("age group", "old"), ("age group", "not stated")}
    frames = read_frames(Path("frames.parquet"))
    manifest = read_manifest(Path("runs/one"))
    table = read_predictions(Path("runs/one"), manifest)
    beside = table.select("video", "frame").join(frames, on=["video", "frame"], how="left", maintain_order="left")
    whole = held_out(table, beside, labels_of(beside), ABAW.names, ABAW, Path("subjects.csv"))
    of_women = next(each for each in whole.subgroups if each.value == "f")
    rows = beside["video"].is_in(["1", "clip4", "clip5"]).to_numpy()
    assert (of_women.num_groups, of_women.num_frames) == (len(set(beside["video"].filter(rows))), rows.sum())
    value, between = of_women.scores["au"]
    units = [
        f1(
            table[name].filter(rows & beside[name].is_not_null().to_numpy()).to_numpy() > 0,
            beside[name].filter(rows & beside[name].is_not_null().to_numpy()).to_numpy() > 0,
        )
        for name in ABAW.group("au").columns
    ]
    assert value == pytest.approx(np.mean(units))
    assert between is not None
    assert between.low <= value <= between.high


def test_what_is_markup_in_a_cell_is_written_out() -> None:
    text = table(("attribute",), iter([("<b>a|b`*",), ("two\nlines",)]))
    assert text.splitlines()[2:] == [r"| \<b>a\|b\`\* |", "| two lines |"]


def test_attributes_that_cannot_be_read_are_said_so(project: Path, tmp_path: Path) -> None:
    """A training does not fail for them: the card says why there are no subgroups."""
    frames = read_frames(Path("frames.parquet"))
    path = tmp_path / "attributes.csv"
    for text, words in (
        ("name,gender\n1,f\n", "neither a column video nor a column subject"),
        ("video,subject\n1,ann\n", "no column beside video and subject"),
        ("video,age\n" + "".join(f"{each},{each}\n" for each in range(20)), "age has 20 different values"),
        ("video,gender\n1,f\n1,m\n", "video '1' stands there twice"),
        ("video,gender\n1\n", "a cell for each in every row"),
        ("", "neither a column video"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            attributes_of(path, frames)
    with pytest.raises(ValueError, match="No such file"):
        attributes_of(tmp_path / "gone.csv", frames)
    path.write_text("subject,gender\nann,f\n")
    assert attributes_of(path, frames)["gender"].to_list().count("f") == frames["subject"].to_list().count("ann")
    with pytest.raises(ValueError, match="the frames table knows none"):
        attributes_of(path, frames.drop("subject"))
    call("train-head", "--name", "four", "--tasks", "va", "--temporal", "none", "--set", "data.attributes=gone.csv")
    assert "Not scored: gone.csv: No such file or directory." in Path("runs/four/model_card.md").read_text()


def test_the_card_of_an_ensemble_and_of_its_bundle(project: Path) -> None:
    ensemble = Path("ensembles/both")
    card = (ensemble / "model_card.md").read_text()
    assert re.search(r"An ensemble of [12] runs? for VA", card)
    assert "- Data: Made, for tests" in card
    done = json.loads(call("export", "both", "--onnx", "bundle", "--heads-only", "--json"))
    of_bundle = Path("bundle/model_card.md").read_text()
    assert of_bundle.startswith(card)
    assert "## This bundle" in of_bundle
    assert "it takes embeddings (its backbones are not in it)" in of_bundle
    assert ("Post-processing: applied" in of_bundle) == (done["post"] is not None)
    (ensemble / "model_card.md").write_text(card + " ")
    assert "missing, damaged or changed" in refused("export", "both", "--onnx", "again", "--heads-only")


def test_attributes_may_stand_in_the_file_of_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mtl.toml").write_text("")
    Path("cropped_aligned/1").mkdir(parents=True)
    Path("cropped_aligned/1/00001.jpg").touch()
    Path("train.txt").write_text("image,valence,arousal\n1/00001.jpg,0.5,0.5\n")
    Path("subjects.csv").write_text("video,gender,subject\n1,,ann\n")
    call("prepare", "--train", "train.txt", "--subjects", "subjects.csv", "--no-check-faces")
    assert read_frames(Path("frames.parquet"))["subject"].to_list() == ["ann"]
