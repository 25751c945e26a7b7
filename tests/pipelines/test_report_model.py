"""Sections of a report about one model where data are few or odd: drawn, and honest about what is not known."""

import re

import numpy as np
import polars as pl
import pytest

from cache.frames import conform
from cache.labels import ABAW, SCHEMAS, Schema, schema_of
from helpers import stub_runs as stub
from helpers.stub_report import page_about, shown
from pipelines.labels import labels_of
from pipelines.metrics.predictions import Probabilities, prediction_columns
from pipelines.report.predicted import Predicted


def drawn(one: Predicted) -> tuple[str, list[str]]:
    """The text of the page, and the names of its figures."""
    page = page_about(one)
    text = re.sub(r"<(script|style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split()), re.findall(r'<figure id="([^"]*)"', page)


def made(num_videos: int = 2, num_frames: int = 40, noise: float = 0.5) -> tuple[pl.DataFrame, pl.DataFrame]:
    frames = stub.make_frames(num_videos, num_frames)
    return frames, stub.predict(frames, noise, 0)


def test_one_held_out_video_has_scores_and_no_interval() -> None:
    frames, table = made()
    text, names = drawn(shown(frames, table))
    assert {"density-va", "confusion-expr", "f1-au", "precision-recall-au", "calibration", "errors-video"} <= set(names)
    assert "Held-out rows (test): 40 labelled frames of 1 video." in text
    assert "VA: mean CCC 0." in text
    assert "(95 %" not in text
    assert "resampled" not in text.replace("over resampled videos, where two or more", "")


def test_without_held_out_labels_the_selection_rows_are_shown_and_said_to_be() -> None:
    frames, table = made(8)
    labels = [pl.when(pl.col("split") != "test").then(pl.col(name)).alias(name) for name in ABAW.columns]
    one = shown(frames.with_columns(labels), table)
    text, names = drawn(one)
    assert one.of == "select"
    assert "no held-out row has a label of its tasks, so they show the selection rows" in text
    assert "Selection rows (val): 160 labelled frames of 4 videos." in text
    assert "Held-out rows" not in text
    assert "density-va" in names


def test_a_task_without_held_out_labels_is_named_and_left_out() -> None:
    frames, table = made(8)
    blind = frames.with_columns(pl.when(pl.col("split") != "test").then("expression").alias("expression"))
    text, names = drawn(shown(blind, table))
    assert "No held-out row has a label of EXPR, so it is not shown." in text
    assert not [name for name in names if "expr" in name]
    assert "f1-au" in names


def test_one_class_no_positive_and_constant_predictions() -> None:
    frames = stub.make_frames(4, 30).with_columns(
        pl.lit(3, pl.Int8).alias("expression"), pl.lit(0, pl.Int8).alias("AU1"), pl.lit(1, pl.Int8).alias("AU2")
    )
    table = stub.predict(frames, 0.0, 0).with_columns(valence=pl.lit(0.25, pl.Float32))
    text, names = drawn(shown(frames, table))
    assert "No held-out frame is labelled Neutral, Anger, Disgust, Happiness, Sadness, Surprise, Other." in text
    assert "AU1 60 0 0.50 – – – – –" in text  # no positive: no precision, recall, F1 or curve
    assert {"confusion-expr", "precision-recall-au"} <= set(names)


def test_without_any_positive_there_is_no_figure_of_f1() -> None:
    units = [name for name in ABAW.columns if name.startswith("AU")]
    frames = stub.make_frames(2, 4).with_columns(pl.lit(0, pl.Int8).alias(name) for name in units)
    table = stub.predict(frames, 0.0, 0)
    table = table.with_columns(pl.lit(0.0, table[f"p_{name}"].dtype).alias(f"p_{name}") for name in units)
    text, names = drawn(shown(frames, table))
    assert not [name for name in names if name in ("f1-au", "precision-recall-au")]
    assert "AU26 4 0" in text


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_that_ships_has_its_figures(name: str) -> None:
    schema = SCHEMAS[name]
    kinds = {"continuous": "density", "classes": "confusion", "binary": "f1"}
    frames, table = of_schema(schema)
    text, names = drawn(shown(frames, table, schema))
    assert {f"{kinds[group.kind]}-{group.name}" for group in schema} <= set(names)
    assert ("calibration" in names) == any(group.kind != "continuous" for group in schema)
    assert "nan" not in text.lower().split()


def test_a_hundred_classes_are_drawn_without_numbers_in_their_cells() -> None:
    classes = [f"class {number}" for number in range(100)]
    group = {"name": "kind", "kind": "classes", "columns": ["state"], "classes": classes}
    schema = schema_of({"name": "many", "groups": [group]}, "test")
    _, names = drawn(shown(*of_schema(schema), schema))
    assert "confusion-kind" in names


def of_schema(schema: Schema) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Frames of four videos, and predictions that are labels and noise."""
    rng = np.random.default_rng(0)
    columns: dict[str, object] = {
        "video": np.repeat([f"v{index}" for index in range(4)], 25),
        "frame": np.tile(np.arange(1, 26), 4),
        "split": np.repeat(["val", "test", "val", "test"], 25),
    }
    for group in schema:
        for column in group.columns:
            columns[column] = {
                "continuous": lambda group=group: rng.uniform(group.low, group.high, 100),
                "classes": lambda group=group: rng.integers(0, group.num_outputs, 100),
                "binary": lambda: rng.integers(0, 2, 100),
            }[group.kind]()
    table = pl.DataFrame(columns).with_columns(path=pl.format("{}/{}.jpg", "video", "frame"))
    frames = conform(table, "made", schema)
    labels, parts = labels_of(frames, schema), {}
    for group in schema:
        value = labels.values[group.name]
        if group.kind == "classes":
            value = 0.5 * np.eye(group.num_outputs)[value[:, 0]] + 0.5 / group.num_outputs
        parts[group.name] = value if group.kind == "continuous" else np.clip(value, 0.2, 0.8)
    probabilities = Probabilities(parts=parts, schema=schema)
    predicted = prediction_columns(probabilities, probabilities.decide())
    part = pl.when(pl.col("split") == "val").then(pl.lit("select")).otherwise(pl.lit("report")).alias("part")
    keys = frames.select("video", "frame", part)
    return frames, keys.with_columns(pl.Series(name, values) for name, values in predicted.items())
