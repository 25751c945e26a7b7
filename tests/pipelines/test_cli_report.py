"""`mtl report`: pages of runs, studies and ensembles, their files, and one line where there is nothing to show."""

import json
import re
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from helpers.cli import call, refused
from helpers.processes import python
from pipelines import studies
from pipelines.json_files import read_json

GRID = """
[product]
temporal = ["none", "gru"]
tasks = [["va", "expr", "au"], ["va"]]
[set]
steps = 6
"""


@pytest.fixture(scope="module")
def made_once(shared: Path) -> Path:
    """A project with the runs `joint` and `au`, the study `g` and the ensemble `both`; nothing drawn yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        patch.setattr(studies, "write_study_report", lambda *_: None)
        call("train-head", "--name", "joint")
        call("train-head", "--name", "au", "--tasks", "au", "--temporal", "none")
        call("ensemble", "joint", "au", "--name", "both")
        call("postprocess", "joint")
        Path("g.toml").write_text(GRID)
        call("search", "--grid", "g.toml")
    return shared


@pytest.fixture
def project(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(made_once, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def figures_of(page: Path) -> list[str]:
    return re.findall(r'<figure id="([^"]*)"', page.read_text(encoding="utf-8"))


def text_of(page: Path) -> str:
    text = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_a_run_has_a_page_figures_and_tables(project: Path) -> None:
    done = json.loads(call("report", "joint", "--json"))
    assert done == {
        "kind": "run",
        "folder": "runs/joint",
        "page": "runs/joint/report.html",
        "figures": "runs/joint/figures",
        "tables": "runs/joint/tables",
    }
    names = figures_of(Path(done["page"]))
    assert {"learning-curves", "density-va", "confusion-expr", "f1-au", "calibration", "errors-video"} <= set(names)
    written = {path.name for path in Path(done["figures"]).iterdir()}
    assert written == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    text = text_of(Path(done["page"]))
    metrics = read_json(project / "runs/joint/metrics.json")
    assert f"{metrics['select']['P']:.3f}" in text
    assert f"{metrics['report']['P']:.3f} held-out P without post-processing" in text
    scores = pl.read_csv(Path(done["tables"]) / "scores.csv")
    assert scores["report"].to_list()[-1] == pytest.approx(metrics["report"]["P"], rel=1e-5)
    units = pl.read_csv(Path(done["tables"]) / "scores-au.csv")
    assert units["column"].to_list()[0] == "AU1"
    thresholds = read_json(project / "runs/joint/postprocess.json")["parameters"]["thresholds"]
    assert units["threshold"].to_list() == pytest.approx(list(thresholds.values()), abs=1e-4)
    (Path(done["figures"]) / "old.svg").write_text("an earlier figure")
    (Path(done["figures"]) / "notes.txt").write_text("a user's")
    call("report", "joint")
    assert not (Path(done["figures"]) / "old.svg").exists()
    assert (Path(done["figures"]) / "notes.txt").exists()


@pytest.mark.usefixtures("project")
def test_a_study_and_an_ensemble() -> None:
    page = Path(json.loads(call("report", "g", "--json", "--out", "made/new/g.html"))["page"])
    assert page == Path("made/new/g.html")
    assert not Path("studies/g/figures").exists()  # only the page was asked for, elsewhere
    assert {"what-helped", "tasks-together", "seeds", "learning-curves"} <= set(figures_of(page))
    text = text_of(page)
    assert "Tasks trained together" in text
    assert "VA + EXPR + AU" in text
    assert "is there already" in refused("report", "g", "--out", page)
    call("report", "g", "--out", page, "--force")
    page.write_text("a user's page")
    assert "not a file of this command" in refused("report", "g", "--out", page, "--force")
    assert "is no folder; name another place" in refused("report", "g", "--out", page / "g.html")
    call("report", "both")
    names = figures_of(Path("ensembles/both/report.html"))
    assert {"correlation-au", "density-va", "f1-au"} <= set(names)
    assert "correlation-va" not in names  # one member has it
    members = pl.read_csv("ensembles/both/tables/members.csv")
    assert members["weight.au"].sum() == pytest.approx(1)
    diversity = pl.read_csv("ensembles/both/tables/diversity.csv").filter(pl.col("task") == "AU")
    assert diversity["correlation"].n_unique() == 1  # of two members' errors there is one
    assert -1 <= diversity["correlation"][0] <= 1


@pytest.mark.usefixtures("project", "figures")
def test_figures_are_drawn_without_being_asked_for_and_are_no_part_of_the_run() -> None:
    call("train-head", "--name", "second", "--seed", "1")
    call("ensemble", "joint", "second", "--name", "two")
    for folder in (Path("runs/second"), Path("ensembles/two")):
        assert (folder / "figures/confusion-expr.svg").is_file()
        assert (folder / "tables/scores-au.tex").is_file()
    assert not any("figures" in name for name in read_json(Path("runs/second/run.json"))["files"])
    shutil.rmtree("runs/second/figures")
    call("train-head", "--name", "second", "--seed", "1")  # found, so nothing is written
    assert not Path("runs/second/figures").exists()
    call("evaluate", "second", "--split", "report")


@pytest.mark.usefixtures("project")
def test_what_is_not_there_or_damaged_is_one_line() -> None:
    assert "no finished run, no study and no ensemble here" in refused("report", "nothing")
    assert "ends in .html" in refused("report", "joint", "--out", "page.pdf")
    Path("folder.html").mkdir()
    assert "a folder" in refused("report", "joint", "--out", "folder.html")
    shutil.copytree("runs/joint", "studies/joint")
    (Path("studies/joint") / "study.json").write_bytes(Path("studies/g/study.json").read_bytes())
    assert "several have this name" in refused("report", "joint")
    for file, words in {"predictions.parquet": "damaged", "metrics.json": "damaged", "run.json": "damaged"}.items():
        path = Path("runs/au") / file
        data = path.read_bytes()
        path.write_bytes(data[:-9])
        assert words in refused("report", "au"), file
        path.write_bytes(data)
    Path("runs/au/run.json").unlink()
    assert "no finished run" in refused("report", "runs/au")
    shutil.rmtree("studies/g/runs")
    Path("studies/g/runs").mkdir()
    assert "no trial has finished yet" in refused("report", "studies/g")
    frames = read_frames(Path("frames.parquet"))
    write_frames(frames.with_columns(pl.lit(0.5, pl.Float32).alias("valence")), Path("frames.parquet"))
    assert "the labels" in refused("report", "runs/joint")
    assert "the labels" in refused("report", "both")
    assert "the labels have changed" in refused("report", "studies/g")


@pytest.mark.usefixtures("project")
def test_a_damaged_run_of_a_study_is_left_out_and_named() -> None:
    first = sorted(Path("studies/g/runs").iterdir())[0]
    (first / "metrics.json").write_text("{}")
    call("report", "g", "--out", "g.html")
    assert f"runs/{first.name}" in text_of(Path("g.html"))
    assert "Runs that are damaged" in text_of(Path("g.html"))


def test_the_command_loads_matplotlib_only_when_it_draws() -> None:
    code = "import sys, pipelines.cli, pipelines.report.command; print('matplotlib' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"
    assert "pipelines.report.command" in sys.modules
