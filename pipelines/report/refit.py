"""The report of a refit: the runs that it was made from, for nothing is held out from itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.parquet import read_parquet
from pipelines.html import Markup, join, tag, tiles
from pipelines.postprocess.run_folders import Truth, read_postprocess
from pipelines.refit.record import read_refit
from pipelines.report.ensemble import check_ensemble
from pipelines.report.model import about_rows, model_sections, timeline
from pipelines.report.pages import Report, Section
from pipelines.report.predicted import read_predicted
from pipelines.report.run import scores_table
from pipelines.report.tables import Column, Table, Value
from pipelines.run_files import PREDICTIONS
from pipelines.timeline.section import explorer_script, explorer_style
from pipelines.words import refit_words, split_words, task_label


def refit_report(folder: Path, truth: Truth, faces: str | None = None, *, brief: bool = False) -> Report:
    """The report of the refit at `folder`, made on `truth`; `brief` leaves out single videos and subjects.

    Raises:
        ValueError: none there, a damaged file, or other frames or labels.
    """
    record, post = read_refit(folder), read_postprocess(folder)
    check_ensemble(folder, record, truth)
    raw = read_parquet((folder / PREDICTIONS).read_bytes())
    shown = read_predicted(folder, raw, record["split"], truth, f"the runs that {folder.name} was made from")
    sections = [
        Section(
            "Scores of the runs",
            (*about_rows(shown), scores_table(shown, record["scores"]["plain"], post, truth.schema)),
        ),
        *model_sections(shown, brief=brief),
        *([] if brief else [timeline(shown, faces)]),
        Section("How it was made", (_made(record),)),
    ]
    return Report(
        title=f"Refit: {folder.name}",
        opening=_opening(record),
        sections=tuple(sections),
        style="" if brief else explorer_style(),
        script="" if brief else explorer_script(),
    )


def _opening(record: Mapping[str, Any]) -> Markup:
    plain, post = record["scores"]["plain"]["report"].get("P"), record["scores"]["post"]["report"].get("P")
    numbers = [
        ("none", "held-out score of the refit"),
        (_number(post), "held-out P of the runs it was made from, post-processed"),
        (_number(plain), "held-out P of these runs without post-processing"),
        (str(len(record["seeds"])), "seeds averaged"),
    ]
    words = f"All scores and figures are of the runs it was made from. {split_words(record['split'])}"
    return join([tag("p", refit_words(record)), tag("p", words), tiles(numbers)])


def _made(record: Mapping[str, Any]) -> Table:
    rows: list[tuple[Value, ...]] = [
        ("made from", ", ".join(record["of"])),
        ("seeds", ", ".join(map(str, record["seeds"]))),
    ]
    rows += [(f"steps, {task_label(model)}", f"{step:,}") for model, step in record["num_steps"].items()]
    return Table(
        name="configuration", caption="", columns=(Column("field", "field"), Column("value", "value")), rows=tuple(rows)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
