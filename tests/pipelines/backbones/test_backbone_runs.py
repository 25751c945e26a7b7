"""A fine-tuned backbone is scored once on the held-out rows, and its run is used as a head's is; by the commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from cache.frames import read_frames, write_frames
from extract.backbones.build import normalise
from helpers.cli import call, refused
from helpers.small_faces import Given, load_trained
from pipelines import cli
from pipelines.backbones.data import Faces
from pipelines.backbones.finetuning import finetune as job
from pipelines.backbones.finetuning import heldout, loop
from pipelines.config import read_config
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.postprocess.apply import probabilities_of
from pipelines.splits import resolve_split

RUN = Path("runs/backbone-joint")
TOML = """[data]
faces = "faces"
[finetune]
size_px = 32
epochs = 2
batch_size = 32
lr = 2e-3
precision = "float32"
[head]
width = 16
[train]
steps = 40
eval_steps = 20
"""
GRID = """[product]
fusion = ["sum", "concat"]
temporal = ["none"]
tasks = [["va", "expr", "au"]]
"""


def train(tasks: str = "va,expr,au", *words: str) -> dict[str, Any]:
    command = ["finetune", "--task", tasks, "--model", "test_vit2", "--init", "random", "--device", "cpu", "--json"]
    found = CliRunner().invoke(cli.app, [*command, *words])
    assert found.exit_code == 0, f"{found.output} {found.exception!r}"
    return dict(json.loads(found.stdout))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, faces: Given) -> Path:
    """A folder with two backbones, `joint` and `expr`, their streams and a search of two heads."""
    folder = tmp_path_factory.mktemp("trained")
    prepare(folder, faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train()
        train("expr")
        call("extract", "--device", "cpu")
        call("search", "--grid", "grids/g.toml", "--device", "cpu")
    return folder


def prepare(folder: Path, faces: Given) -> None:
    shutil.copytree(faces[0], folder / "faces", dirs_exist_ok=True)
    write_frames(faces[1], folder / "frames.parquet")
    (folder / "mtl.toml").write_text(TOML)
    (folder / "grids").mkdir()
    (folder / "grids" / "g.toml").write_text(GRID)


@pytest.fixture
def project(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which commands are typed."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def untrained(tmp_path: Path, faces: Given, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path, faces)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_predictions(section: str, frames: pl.DataFrame) -> dict[str, np.ndarray]:
    """What the registered files say of `frames`, computed here."""
    model, preprocessing = load_trained(read_config(Path("mtl.toml")), section)
    with Faces(Path("faces"), frames["path"].to_list(), preprocessing) as reader, torch.no_grad():
        (batch,) = reader.batches([np.arange(len(frames))])
        outputs = model(normalise(batch.faces, preprocessing, torch.float32))
    shape = {"va": lambda x: x, "expr": lambda x: x.softmax(-1), "au": torch.sigmoid}
    return {task: shape[task](value).numpy() for task, value in outputs.items()}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("section", "tasks"), [("joint", ("va", "expr", "au")), ("expr", ("expr",))])
def test_the_held_out_score_is_that_of_its_own_outputs(section: str, tasks: tuple[str, ...]) -> None:
    """Every row of both parts is predicted, labelled or not; each part is scored over its labelled rows alone."""
    frames, run = read_frames(Path("frames.parquet")), Path("runs") / f"backbone-{section}"
    table, metrics = pl.read_parquet(run / "predictions.parquet"), json.loads((run / "metrics.json").read_text())
    split = resolve_split(frames, read_config(Path("mtl.toml")).split)
    assert metrics["tasks"] == list(tasks)
    for part in ("select", "report"):
        rows = frames.filter(getattr(split, part))
        told = table.filter(pl.col("part") == part)
        assert told.select("video", "frame").equals(rows.select("video", "frame"))
        wanted = own_predictions(section, rows)
        said = probabilities_of(told)
        for task in tasks:
            np.testing.assert_allclose(said.parts[task], wanted[task], atol=1e-5)
        whole = score(said.decide(), labels_of(rows), tasks)
        assert metrics[part]["P"] == pytest.approx(whole["P"], abs=1e-6)
        assert all(metrics[part][f"num_frames.{task}"] < len(rows) for task in tasks)
    history = json.loads(Path(f"backbones/{section}.json").read_text())
    assert history["select"]["P"] == pytest.approx(metrics["select"]["P"], abs=1e-4)
    assert history["report"]["P"] == metrics["report"]["P"]
    assert (history["run"], history["report_of"]) == (str(run), "test")


@pytest.mark.usefixtures("project")
def test_commands_take_it_as_a_heads_run() -> None:
    metrics = json.loads((RUN / "metrics.json").read_text())
    for part in ("select", "report"):  # from the cache, in float16: what the faces gave
        again = json.loads(call("evaluate", "backbone-joint", "--split", part, "--json"))
        assert again["P"] == pytest.approx(metrics[part]["P"], abs=5e-3)
        assert again["num_seen"] == (0 if part == "report" else again["num_seen"]) >= 0
    assert "backbone joint by itself" in call("compare", "backbone-joint", "backbone-expr")
    call("postprocess", "backbone-joint")
    assert "post" in json.loads(call("evaluate", "backbone-joint", "--split", "report", "--post", "--json"))
    made = json.loads(call("ensemble", "backbone-joint", "backbone-expr", "--json"))
    assert {Path(run).name for run in made["library"]["runs"]} == {"backbone-joint", "backbone-expr"}
    assert {Path(one["run"]).name for one in made["members"]["va"]} == {"backbone-joint"}  # who has no VA is no member


@pytest.mark.usefixtures("project")
def test_a_study_lists_it_and_its_ensemble_may_choose_it() -> None:
    board = json.loads(Path("studies/g/leaderboard.json").read_text())
    assert [row["backbone"] for row in board["backbones"]] == ["joint", "expr"]
    joint, expr = board["backbones"]
    assert joint["report"]["P"] == json.loads((RUN / "metrics.json").read_text())["report"]["P"]
    heads = [row["select"]["P"]["mean"] for row in board["rankings"][0]["rows"]]
    assert joint["rank_among_strategies"] == {"rank": 1 + sum(p > joint["select"]["P"] for p in heads), "of": 3}
    assert (expr["tasks"], expr["rank_among_strategies"]) == (
        ["expr"],
        None,
    )  # no strategy has its tasks
    assert "va.ccc_mean" not in expr["report"]
    assert [row["rank"] for row in board["rankings"][0]["rows"]] == [1, 2]
    table = pl.read_csv("studies/g/leaderboard.csv")
    assert table["kind"].to_list() == ["strategy", "strategy", "backbone", "backbone"]
    assert table["rank"].to_list() == [1, 2, None, None]
    assert table["report.P"][2] == pytest.approx(joint["report"]["P"])
    assert "Backbones by themselves" in Path("studies/g/report.html").read_text()
    shown = call("search", "--grid", "grids/g.toml", "--device", "cpu")
    assert "backbones by themselves, frame by frame, not ranked" in shown
    made = json.loads(call("ensemble", "g", "--json"))
    assert {"backbone-joint", "backbone-expr"} < {Path(run).name for run in made["library"]["runs"]}
    assert Path(made["ensemble"]) == Path("studies/g/ensembles/best")


@pytest.mark.usefixtures("project")
def test_what_is_no_longer_its_own_is_left_out_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    """Other weights under the name; another run.json; other labels make another study anyway."""
    path = Path("mtl.toml")
    text = path.read_text()
    kept = read_config(path).backbones["expr"].file_digest
    path.write_text(text.replace(kept, "0" * 32))
    shown = call("search", "--grid", "grids/g.toml", "--device", "cpu")
    why = "backbone expr left out: [backbones.expr] has other weights now; `mtl finetune` makes it again"
    assert why in " ".join(shown.split())
    path.write_text(text)
    for name, damage in (("predictions.parquet", b"no table"), ("metrics.json", b"{"), ("run.json", b"[1]")):
        file = Path("runs/backbone-expr") / name
        whole = file.read_bytes()
        file.write_bytes(damage)
        shown = call("search", "--grid", "grids/g.toml", "--device", "cpu")
        assert "backbone expr left out: " in shown, name
        assert [row["backbone"] for row in json.loads(Path("studies/g/leaderboard.json").read_text())["backbones"]] == [
            "joint"
        ]
        file.write_bytes(whole)
    for run in Path("runs").iterdir():
        shutil.rmtree(run)
    assert "backbones by themselves" not in call("search", "--grid", "grids/g.toml", "--device", "cpu")


@pytest.mark.usefixtures("project")
def test_trained_again_it_is_replaced(faces: Given) -> None:
    before = json.loads((RUN / "run.json").read_text())
    train("va,expr,au", "--set", "finetune.seed=1")
    after = json.loads((RUN / "run.json").read_text())
    assert after["digest"] != before["digest"]
    assert after["backbone"]["file_digest"] == read_config(Path("mtl.toml")).backbones["joint"].file_digest
    assert after["seed"] == 1


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("there", ["a head's run", "a folder", "a file"])
def test_what_has_its_place_stays(there: str) -> None:
    """It is found before the training, not after it."""
    place = Path("runs/backbone-expr")
    place.parent.mkdir()
    if there == "a file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
        if there == "a head's run":
            (place / "run.json").write_text('{"format": 1}')
    said = refused("finetune", "--task", "expr", "--model", "test_vit2", "--init", "random", "--device", "cpu")
    assert "runs/backbone-expr: is there already and is no backbone's run; move it away" in said
    assert not Path("backbones").exists()
    assert (place if there == "a file" else place / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("untrained")
def test_a_face_that_cannot_be_read_takes_what_the_nearest_says() -> None:
    Path("faces/v3/00005.jpg").write_bytes(b"")
    shutil.rmtree("faces/v7")
    train("expr")
    table = pl.read_parquet("runs/backbone-expr/predictions.parquet")
    values = {
        (video, frame): row for video, frame, *row in table.select("video", "frame", pl.col("^p_.*$")).iter_rows()
    }
    assert values["v3", 5] == values["v3", 4] != values["v3", 6]
    assert all(value == 0 for value in values["v7", 3])
    assert json.loads(Path("runs/backbone-expr/run.json").read_text())["num_without_embedding"] == {
        "select": 0,
        "report": 17,
    }


@pytest.mark.usefixtures("untrained")
def test_without_a_held_out_face_there_is_no_score_and_no_run(faces: Given) -> None:
    for path in faces[1].filter(pl.col("split") == "test")["path"]:
        (Path("faces") / path).unlink()
    found = train("expr")
    assert (found["report"], found["run"]) == (None, None)
    assert found["not_scored"] == "no face of test can be read, so there is no held-out score"
    assert not Path("runs").exists()
    shown = call("finetune", "--task", "expr", "--init", "random", "--device", "cpu")
    assert "held out: not scored: no face of test can be read" in shown


@pytest.mark.usefixtures("untrained")
def test_a_task_without_held_out_labels_has_no_score(faces: Given) -> None:
    hidden = pl.when(pl.col("split") == "test").then(None).otherwise(pl.col("AU12")).alias("AU12")
    write_frames(faces[1].with_columns(hidden), Path("frames.parquet"))
    found = train("expr,au")
    assert (found["report"]["P"], found["report"]["au.f1_mean"], found["report"]["unscored"]) == (None, None, ["au"])
    assert found["report"]["expr.f1_macro"] > 0
    assert "AU: mean F1 no label" in call("finetune", "--task", "expr,au", "--init", "random", "--device", "cpu")


@pytest.mark.usefixtures("untrained")
def test_further_sets_are_not_scored(faces: Given) -> None:
    """With several sets, the rows of [data] are those that are scored, though another set alone teaches the task."""
    hidden = pl.when(pl.col("split") == "train").then(None).otherwise(pl.col("expression")).alias("expression")
    write_frames(faces[1], Path("more.parquet"))
    write_frames(faces[1].with_columns(hidden), Path("frames.parquet"))
    Path("mtl.toml").write_text(TOML + '[[finetune.data]]\nfaces = "faces"\nframes = "more.parquet"\n')
    train("expr")
    table = pl.read_parquet("runs/backbone-expr/predictions.parquet")
    assert set(table["video"]) == set(faces[1].filter(pl.col("split").is_in(["val", "test"]))["video"])


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("where", ["while it is scored", "before its run is written"])
def test_stopped_at_the_end_the_same_command_finishes(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """No step is trained again, and the run has the bits of an undisturbed one."""
    command = ["finetune", "--task", "expr", "--model", "test_vit2", "--init", "random", "--device", "cpu"]
    train("expr", "--name", "undisturbed")
    with monkeypatch.context() as patch:
        if where == "while it is scored":
            patch.setattr(heldout, "_filled", raising(KeyboardInterrupt))
        else:
            patch.setattr(heldout, "place_folder", raising(KeyboardInterrupt))
        result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 130
    assert "the same command resumes from backbones/expr.checkpoint.safetensors" in result.stderr
    assert not Path("runs/backbone-expr").exists()
    monkeypatch.setattr(loop, "backward", raising(AssertionError))
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    one, other = (pl.read_parquet(f"runs/backbone-{name}/predictions.parquet") for name in ("undisturbed", "expr"))
    assert one.equals(other)
    assert not list(Path("backbones").glob("*checkpoint*"))


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def raised(*arguments: Any, **named: Any) -> Any:
        raise error

    return raised


@pytest.mark.usefixtures("untrained")
def test_held_out_rows_are_looked_at_once_and_last(monkeypatch: pytest.MonkeyPatch, faces: Given) -> None:
    order: list[str] = []
    held_out = set(faces[1].filter(pl.col("split") == "test")["path"])
    predict, scored = loop.predict_readable, job.score_held_out

    def predicted(context: Any, rows: np.ndarray, *rest: Any) -> Any:
        seen = {context.faces.paths[row] for row in rows} & held_out
        order.append("held out" if seen else "select")
        return predict(context, rows, *rest)

    for module in (loop, heldout):
        monkeypatch.setattr(module, "predict_readable", predicted)
    monkeypatch.setattr(job, "score_held_out", scored)
    train("expr")
    assert order == ["select", "select", "held out"]


@pytest.mark.usefixtures("project")
def test_heads_do_not_replace_it() -> None:
    """`mtl train-head --force` under its name would lose it."""
    result = CliRunner().invoke(
        cli.app, ["train-head", "--fusion", "sum", "--temporal", "none", "--name", "backbone-joint"]
    )
    assert result.exit_code != 0
    assert "another run has this name" in str(result.exception)
