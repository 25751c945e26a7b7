"""Labels that no schema of the program has, from made faces to a report: another scale, intensities, classes, units."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from helpers.cli import call, refused
from pipelines.config import read_config

PAIN = Path(__file__).parents[1] / "fixtures" / "labels" / "pain.toml"
GRID = """
[set]
steps = 40
width = 16
window = 16
[product]
tasks    = [["pain", "intensity", "state", "seen"], ["AU4", "AU43", "state"]]
temporal = ["none", "gru"]
[when.temporal.gru]
task_weights = [{pain = 2.0, intensity = 0.5}]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, their frames table, a fine-tuned backbone, its stream, two runs and a study."""
    folder = tmp_path_factory.mktemp("pain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("demo-data", "data", "--videos", "12", "--frames", "16", "--labels", PAIN)
        call("init", ".", "--faces", "data/cropped_aligned", "--labels", PAIN)
        call("prepare", "--table", "data/labels.csv", "--subjects", "data/subjects.csv")
        small = ("--set", "finetune.epochs=1", "--set", "finetune.size_px=32", "--init", "random", "--name", "face")
        call("finetune", "--task", "pain,intensity,state,seen", "--model", "test_resnet", *small)
        call("extract")
        short = ("--set", "train.steps=40", "--set", "head.width=16", "--set", "train.window=16")
        call("train-head", "--name", "whole", *short)
        call("train-head", "--name", "part", "--tasks", "state,AU43,AU4", "--method", "separate", *short)
        Path("g.toml").write_text(GRID)
        call("search", "--grid", "g.toml")
        call("postprocess", "whole")
        call("predict", "whole", "--split", "test")
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_what_is_predicted_has_the_columns_of_the_schema(here: Path) -> None:
    schema = read_config(Path("mtl.toml")).schema
    table = pl.read_parquet("predictions/whole-test.parquet")
    assert table.columns[4:] == [
        name
        for group in schema
        for name in (*(group.columns if group.kind != "continuous" else ()), *group.output_columns)
    ]
    pain, au4 = table["pain"], table["AU4"]
    assert 0 <= pain.min() <= pain.max() <= 10
    assert 0 <= au4.min() <= au4.max() <= 5
    assert set(table["state"]) <= {0, 1, 2}
    assert table.select(pl.sum_horizontal(pl.col("^p_(Calm|Tense|Distressed)$"))).to_series().round(4).eq(1).all()


@pytest.mark.usefixtures("here")
def test_p_counts_each_group_by_its_weight_and_columns_predicted_alone() -> None:
    whole, part = (json.loads(Path(f"runs/{name}/metrics.json").read_text())["report"] for name in ("whole", "part"))
    scores = {name: whole[key] for name, key in KEYS.items()}
    assert whole["P"] == pytest.approx(2 * scores["pain"] + scores["intensity"] + scores["state"] + scores["seen"])
    assert part["intensity.pearson_mean"] == pytest.approx(
        (part["intensity.pearson_AU4"] + part["intensity.pearson_AU43"]) / 2
    )
    assert "intensity.pearson_AU6" not in part
    assert part["P"] == pytest.approx(part["intensity.pearson_mean"] + part["state.f1_macro"])


KEYS = {
    "pain": "pain.ccc_mean",
    "intensity": "intensity.pearson_mean",
    "state": "state.f1_macro",
    "seen": "seen.f1_mean",
}


@pytest.mark.usefixtures("here")
def test_evaluate_and_score_agree_with_the_run() -> None:
    post = json.loads(Path("runs/whole/postprocess.json").read_text())["post"]["report"]
    evaluated = json.loads(call("evaluate", "whole", "--split", "test", "--post", "--json"))
    scored = json.loads(call("score", "predictions/whole-test.parquet", "frames.parquet", "--split", "test", "--json"))
    for key in ("P", *KEYS.values()):
        assert evaluated["post"][key] == pytest.approx(post[key], abs=1e-6)
        assert scored[key] == pytest.approx(post[key], abs=1e-4)
    table = call("score", "predictions/whole-test.parquet", "frames.parquet", "--split", "test", "--tasks", "AU4,seen")
    assert "AU4" in table
    assert "AU6" not in table
    assert "not scored: pain (not asked for)" in table


@pytest.mark.usefixtures("here")
def test_the_leaderboard_and_the_report_speak_of_these_labels() -> None:
    board = json.loads(Path("studies/g/leaderboard.json").read_text())
    assert [group["tasks"] for group in board["rankings"]] == [
        ["pain", "intensity", "state", "seen"],
        ["AU4+AU43", "state"],
    ]
    page = Path("studies/g/report.html").read_text()
    for words in ("pain: CCC", "state: macro F1", "seen: mean F1", "AU4: correlation", "Distressed"):
        assert words in page, words
    assert "arousal" not in page
    said = call("ensemble", "studies/g", "--size", "3")
    assert "pain intensity state seen" in " ".join(said.split())
    assert "AU4+AU43" in call("compare", "whole", "part")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train-head", "--tasks", "va"], "unknown task 'va'; the schema pain has pain, intensity, AU4"),
        (["train-head", "--tasks", "pain,intensity,AU4"], "at least one task, and each column once"),
        (["finetune", "--task", "Pain", "--model", "test_resnet"], "unknown task 'Pain' (did you mean 'pain'?)"),
        (["submit", "whole", "--track", "expr", "--list", "data/labels.csv", "--out", "x.txt"], "needs expr"),
        (["score", "predictions/whole-test.parquet", "data/labels.csv"], "choose the labels of one split with --split"),
        (["prepare", "--table", "a.csv", "--table=b.csv"], "--table is given 2 times, but only the last would count"),
        (["train-head", "--set", "loss.task_weights={pian = 2}"], "task_weights: unknown task 'pian'"),
    ],
)
def test_what_the_schema_does_not_have_is_one_line(words: list[str], says: str) -> None:
    assert says in refused(*words)


def test_another_schema_says_what_differs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "other", symlinks=True)
    monkeypatch.chdir(tmp_path / "other")
    text = Path("mtl.toml").read_text()
    Path("mtl.toml").write_text(text.replace('"Calm", "Tense"', '"Tense", "Calm"'))
    words = "state: classes Tense, Calm, Distressed in [labels], but Calm, Tense, Distressed in the table"
    assert words in refused("train-head")
    call("prepare", "--table", "data/labels.csv", "--subjects", "data/subjects.csv")
    said = refused("evaluate", "whole", "--split", "val")
    assert said.startswith("mtl: error: runs/whole: of another label schema than [labels]")
    assert "Tense, Calm" in said
    assert "Tense, Calm, Distressed in mtl.toml" in refused("search", "--grid", "g.toml")


def test_another_score_is_no_other_label(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs stay; a study was ranked by its scores, and says so."""
    shutil.copytree(project, tmp_path / "other", symlinks=True)
    monkeypatch.chdir(tmp_path / "other")
    text = Path("mtl.toml").read_text()
    Path("mtl.toml").write_text(
        text.replace('score = "ccc"', 'score = "pearson"').replace("weight = 2.0", "weight = 1")
    )
    found = json.loads(call("evaluate", "whole", "--split", "test", "--json"))
    assert found["P"] == pytest.approx(
        sum(found[key] for key in ("pain.pearson_mean", "intensity.pearson_mean", "state.f1_macro", "seen.f1_mean"))
    )
    assert "pain: score pearson in mtl.toml, but ccc in the study" in refused("search", "--grid", "g.toml")
