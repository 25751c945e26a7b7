"""Pages about one model, from made frames and predictions, without a run folder."""

from pathlib import Path

import polars as pl

from cache.labels import ABAW, Schema
from pipelines.postprocess.run_folders import Truth
from pipelines.report.model import about_rows, model_sections, timeline
from pipelines.report.pages import Report, draw_figures, page_of
from pipelines.report.predicted import Predicted, read_predicted
from pipelines.timeline.section import explorer_script, explorer_style

SPLIT = {part: {"of": words, "videos": 1, "frames": 1} for part, words in (("select", "val"), ("report", "test"))}


def shown(frames: pl.DataFrame, table: pl.DataFrame, schema: Schema = ABAW) -> Predicted:
    """What a report shows of the predictions `table`."""
    truth = Truth(frames=frames, path=Path("f.parquet"), frames_digest="", labels_digest="", schema=schema)
    return read_predicted(Path("nowhere"), table, SPLIT, truth, "the model")


def page_about(one: Predicted) -> str:
    """The page with all sections about a model."""
    sections = (*model_sections(one), timeline(one, None))
    report = Report(
        title="A model",
        opening=about_rows(one)[0],
        sections=sections,
        style=explorer_style(),
        script=explorer_script(),
    )
    return page_of(report, draw_figures(report))
