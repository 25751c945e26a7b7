"""`mtl score`: anybody's predictions, matched by video and frame."""

import json
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from cache.names import LABEL_COLUMNS
from pipelines.cli import score as command
from pipelines.results.score import score_tables

HEADER = ",".join(("image", *LABEL_COLUMNS))


def write(path: Path, rows: list[tuple[str, float, float, int, int]]) -> Path:
    """Rows of (face, valence, arousal, expression, value of every AU)."""
    lines = [f"{face},{v},{a},{e}," + ",".join([str(au)] * 12) for face, v, a, e, au in rows]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


LABELS = [("v/00001.jpg", 0.1, 0.2, 0, 0), ("v/00002.jpg", 0.3, 0.1, 4, 1), ("v/00005.jpg", -5, -5, -1, -1)]


def test_perfect_predictions_score_one_each(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.txt", LABELS)
    said = write(
        tmp_path / "said.txt", [*LABELS[:2][::-1], ("v/00005.jpg", 0.9, 0.9, 1, 0), ("w/00001.jpg", 0, 0, 0, 0)]
    )
    metrics = score_tables(said, labels)
    assert metrics["va.ccc_mean"] == pytest.approx(1)
    assert metrics["au.f1_mean"] == pytest.approx(1)
    assert metrics["expr.f1_macro"] == pytest.approx(2 / 8)
    assert metrics["num_frames.expr"] == 2
    assert set(metrics["undefined"]) == {"Anger", "Disgust", "Fear", "Sadness", "Surprise", "Other"}


def test_a_labelled_frame_without_prediction_is_an_error(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.txt", LABELS)
    said = write(tmp_path / "said.txt", LABELS[:1])
    with pytest.raises(ValueError, match="1 labelled frames have no prediction of valence, the first is v frame 2"):
        score_tables(said, labels)


def test_ids_are_matched_whole(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.txt", [("10/00001.jpg", 0.1, 0.2, 0, 0)])
    said = write(tmp_path / "said.txt", [("100/00001.jpg", 0.1, 0.2, 0, 0)])
    with pytest.raises(ValueError, match="do video and frame match"):
        score_tables(said, labels)


def test_a_table_with_probabilities_beside_it_is_read(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.txt", LABELS)
    table = pl.DataFrame({"video": ["v", "v"], "frame": [1, 2], "part": ["report"] * 2, "valence": [0.1, 0.3],
                          "arousal": [0.2, 0.1], "p_Neutral": [0.9, 0.1]})  # fmt: skip
    table.write_parquet(tmp_path / "said.parquet")
    metrics = score_tables(tmp_path / "said.parquet", labels)
    assert metrics["P"] == pytest.approx(1)
    assert "expr.f1_macro" not in metrics


def test_the_command_prints_json_and_a_table(tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)
    app.command(name="other")(lambda: None)  # two commands, so that the name is part of the line
    labels = str(write(tmp_path / "labels.txt", LABELS))
    asked = CliRunner().invoke(app, ["score", labels, labels, "--json", "--tasks", "va,expr"])
    assert json.loads(asked.output)["va.ccc_mean"] == pytest.approx(1)
    asked = CliRunner().invoke(app, ["score", labels, labels, "--tasks", "va,expr"])
    assert "not the official P" in asked.output
    with pytest.raises(ValueError, match="unknown task 'vaa'"):
        CliRunner().invoke(app, ["score", labels, labels, "--tasks", "vaa"], catch_exceptions=False)


def test_what_is_not_labelled_is_not_scored(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,valence,arousal\nv/1.jpg,0.1,0.2\nv/2.jpg,0.3,0.1\n")
    said = write(tmp_path / "said.txt", LABELS[:2])
    metrics = score_tables(said, labels)
    assert metrics["P"] == metrics["va.ccc_mean"] == pytest.approx(1)
    assert set(metrics["not_scored"]) == {"expr", "au"}
    assert "expr.f1_macro" not in metrics
    with pytest.raises(ValueError, match="no label of expr, so it cannot be scored"):
        score_tables(said, labels, "va,expr")


def test_dummy_labels_are_refused_and_alike_rows_are_one(tmp_path: Path) -> None:
    said = write(tmp_path / "said.txt", [*LABELS[:2], LABELS[0]])
    assert score_tables(said, write(tmp_path / "labels.txt", [*LABELS, *LABELS]))["va.ccc_mean"] == pytest.approx(1)
    dummies = write(tmp_path / "list.txt", [(f"v/{frame}.jpg", 0.5, -0.5, 0, 1) for frame in (1, 2, 5)])
    with pytest.raises(ValueError, match=r"every one of 3 rows has the same labels .*dummy values, not labels"):
        score_tables(said, dummies)
