"""What `mtl report` does, and what other commands write of a report: pages, figures and tables in a model's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.folds import parse_fold
from pipelines.outfile import check_place
from pipelines.postprocess.run_folders import Truth, read_truth
from pipelines.report.ensemble import ensemble_report
from pipelines.report.pages import FIGURES, PAGE, TABLES, Report, draw_figures, write_files, write_page
from pipelines.report.refit import refit_report
from pipelines.report.run import run_report
from pipelines.report.study import study_report
from pipelines.results.backbone_rows import with_backbones
from pipelines.results.comparison import check_data
from pipelines.results.effects import effects_of
from pipelines.results.evidence import Reader, with_intervals
from pipelines.results.leaderboard import Leaderboard, make_leaderboard
from pipelines.run_files import REFIT, find_folder
from pipelines.search.study import Study, StudyInputs, read_about, read_study
from pipelines.timeline.videos import relative_folder

KINDS = {"study": "study.json", "ensemble": "ensemble.json", "refit": REFIT, "run": "run.json"}


def make_report(config: Config, given: Path, out: Path | None, *, force: bool = False) -> dict[str, Any]:
    """Writes the report of the run, study or ensemble `given`: the page, and in its folder figures and tables.

    With `out` only the page, and there. Returns what was written where.

    Raises:
        ValueError: there is none of this name, it is not finished or damaged, or `out` holds something else.
    """
    folder, kind = find_model(given, config)
    page = out or folder / PAGE
    if out is not None:
        check_out(out, force=force)
    truth = read_truth(config)
    report = REPORTS[kind](config, folder, truth, page)
    pictures = draw_figures(report)
    write_page(report, pictures, page)
    done = {"kind": kind, "folder": str(folder), "page": str(page)}
    if out is None:
        write_files(report, pictures, folder)
        done |= {"figures": str(folder / FIGURES), "tables": str(folder / TABLES)}
    return done


def find_model(given: Path, config: Config) -> tuple[Path, str]:
    """The folder of a run, study or ensemble, and which it is: `given` as a path, or a name in its usual folder.

    Raises:
        ValueError: there is none, or several of that name.
    """
    runs, studies = config.at(config.output.runs), config.at(config.output.studies)
    parents = [runs.parent, *(sorted(studies.iterdir()) if studies.is_dir() else [])]
    homes = (runs, studies, *(parent / name for parent in parents for name in ("ensembles", "refits")))
    folders = dict.fromkeys(find_folder(given, home) for home in homes)
    found = {folder: kind for folder in folders for kind, mark in KINDS.items() if (folder / mark).is_file()}
    if len(found) > 1:
        raise ValueError(f"{given}: several have this name; give a path: {' or '.join(map(str, found))}")
    if not found:
        raise ValueError(
            f"{given}: no finished run, no study and no ensemble here; `mtl train-head` makes a run, `mtl search` a "
            "study, `mtl ensemble` an ensemble"
        )
    return next(iter(found.items()))


def check_out(out: Path, *, force: bool) -> None:
    """Raises `ValueError` where the page cannot be written to `out`, or would replace what may not be replaced."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out}: the report is an HTML page; give --out a name that ends in .html")
    check_place(out, force=force, is_ours=_is_page)


def _is_page(path: Path) -> bool:
    """Whether `path` is a page that this program made."""
    with open(path, "rb") as file:
        return b"Content-Security-Policy" in file.read(1000)


def write_study_report(study: Study, board: Leaderboard, reader: Reader, truth: Truth, faces: Path) -> Path:
    """report.html, figures and tables in the folder of `study`; `board` holds at least one row."""
    page = study.path / PAGE
    report = study_report(study, board, effects_of(board, reader), truth, _faces(faces, page))
    pictures = draw_figures(report)
    write_page(report, pictures, page)
    write_files(report, pictures, study.path)
    return page


def write_model_files(config: Config, folder: Path, kind: str) -> None:
    """Figures and tables of the run or ensemble at `folder` without a page, and without single videos and subjects."""
    truth = read_truth(config)
    report = MODELS[kind](folder, truth, brief=True)
    write_files(report, draw_figures(report), folder)


def _run(config: Config, folder: Path, truth: Truth, page: Path) -> Report:
    return run_report(folder, truth, _faces(config.at(config.data.faces), page))


def _ensemble(config: Config, folder: Path, truth: Truth, page: Path) -> Report:
    return ensemble_report(folder, truth, _faces(config.at(config.data.faces), page))


def _refit(config: Config, folder: Path, truth: Truth, page: Path) -> Report:
    return refit_report(folder, truth, _faces(config.at(config.data.faces), page))


def _study(config: Config, folder: Path, truth: Truth, page: Path) -> Report:
    study, about = read_study(folder), read_about(folder)
    check_data(folder / "study.json", about, truth.frames, truth.schema)
    damaged = [(f"runs/{trial.digest}", reason) for trial, reason in study.damaged()]
    board = make_leaderboard(study.results(), truth.schema)
    if not board.rows:
        raise ValueError(f"{folder}: no trial has finished yet; `mtl search` resumes it")
    reader = Reader(truth.frames, truth.schema)
    board = with_intervals(board, truth.frames, reader=reader)
    inputs = StudyInputs(
        frames=about["frames"],
        labels=about["labels"],
        num_rows=about["num_rows"],
        streams=about["streams"],
        splits={parse_fold(name): split for name, split in about["splits"].items()},
        schema=truth.schema,
    )
    board = with_backbones(board, config, inputs, truth.frames)
    faces = _faces(config.at(config.data.faces), page)
    return study_report(study, board, effects_of(board, reader), truth, faces, damaged)


def _faces(folder: Path, page: Path) -> str | None:
    """The folder of the faces as the page sees it; None where it is not there, as with faces in an archive."""
    return relative_folder(folder, page) if folder.is_dir() else None


MODELS: dict[str, Callable[..., Report]] = {"run": run_report, "ensemble": ensemble_report, "refit": refit_report}
REPORTS: dict[str, Callable[[Config, Path, Truth, Path], Report]] = {
    "run": _run,
    "ensemble": _ensemble,
    "refit": _refit,
    "study": _study,
}
