"""Several sets of faces at once, each labelled for its own tasks: who teaches, who judges, and that no names meet."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from cache.frames import conform, write_frames
from helpers.small_faces import MODEL, Given, draw, run
from pipelines.backbones.finetuning.dry_run import dry_run
from pipelines.backbones.finetuning.facesets import FaceDataset, gather
from pipelines.backbones.finetuning.request import make_request
from pipelines.backbones.sampling import draw_rows
from pipelines.config import Config, FaceSetConfig, read_config

SPLITS = ("train", "train", "val")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A second set beside mtl.toml: three "videos" v0 to v2 of 12 faces, labelled for expressions and one unit."""
    rng, rows = np.random.default_rng(1), []
    for index in range(36):
        path, expression = f"v{index // 12}/{index % 12:05d}.png", index % 8
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(expression, index % 2, 0.0, rng)).save(tmp_path / "photos" / path)
        split = SPLITS[index // 12]
        row = {"video": f"v{index // 12}", "frame": index % 12, "path": path, "split": split}
        rows.append({**row, "expression": expression, "AU1": index % 2})
    write_frames(conform(pl.DataFrame(rows), "photos"), tmp_path / "photos.parquet")
    return tmp_path


def with_sets(config: Config, *sets: dict[str, Any], **settings: Any) -> Config:
    entries = tuple(
        FaceSetConfig(**{"faces": Path("photos"), "frames": Path("photos.parquet"), **each}) for each in sets
    )
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, data=entries, **settings))


def only(frames: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`frames` with the labels of these columns alone."""
    return frames.select("video", "frame", "path", "split", *columns)


def of_set(dataset: FaceDataset, number: int) -> np.ndarray:
    return np.flatnonzero(dataset.pool.source == number)


def test_rows_of_both_sets_are_one_list(project: Config, faces: Given, photos: Path) -> None:
    dataset = gather(with_sets(project, {}), faces[1], ("va", "expr"))
    main, further = of_set(dataset, 0), of_set(dataset, 1)
    assert len(further) == 24
    paths = [dataset.folder / path for path in dataset.paths]
    assert all(path.is_file() for path in paths)
    assert {path.parent.parent for path in np.array(paths)[further]} == {photos / "photos"}
    assert not set(dataset.pool.video[main]) & set(dataset.pool.video[further])  # both have a video v0
    assert set(further) <= set(dataset.pool.rows)
    assert not set(dataset.select) & set(further)  # [data] has expressions to choose by
    assert not dataset.labels.masks["va"][further].any()
    assert dataset.labels.masks["expr"][further].all()
    assert not dataset.labels.masks["au"].any()


def test_a_set_teaches_its_own_tasks_only(project: Config, faces: Given, photos: Path) -> None:
    config = with_sets(project, {"tasks": ("au",)})
    dataset = gather(config, faces[1], ("expr", "au"))
    further = of_set(dataset, 1)
    assert dataset.labels.masks["au"][further, 0].all()
    assert not dataset.labels.masks["expr"][further].any()
    assert gather(config, faces[1], ("expr",)).pool.source.max() == 0


def test_a_task_is_evaluated_where_it_is_labelled_first(project: Config, faces: Given, photos: Path) -> None:
    """[data] knows valence alone: expressions are evaluated on val of the second set, which teaches nothing there."""
    frames = conform(only(faces[1], "valence", "arousal"), "test")
    dataset = gather(with_sets(project, {}), frames, ("va", "expr"))
    evaluated = set(dataset.select) & set(of_set(dataset, 1))
    assert len(evaluated) == 12
    assert {Path(dataset.paths[row]).parent.name for row in evaluated} == {"v2"}
    assert not evaluated & set(dataset.pool.rows)
    assert not dataset.labels.masks["expr"][of_set(dataset, 0)].any()


def test_it_learns_from_both(project: Config, faces: Given, photos: Path) -> None:
    frames = conform(only(faces[1], "valence", "arousal"), "test")
    config = with_sets(project, {"share": 0.5, "licence": "research only"}, epochs=12, licence="mine", mixup=0.1)
    result = run(config, frames, "va,expr")
    assert result.metrics["expr.f1_macro"] > 0.3  # 0.125 by chance; val of the photos
    assert result.metrics["va.ccc_valence"] > 0.3
    assert result.metrics["num_frames.expr"] == 12
    assert [each["set"] for each in result.to_json()["data"]] == ["[data]", "[[finetune.data]] 1"]
    section = read_config(project.folder / "mtl.toml").backbones["joint"]
    assert section.licence == "mine"


def test_licences_of_the_sets_are_joined(project: Config, faces: Given, photos: Path) -> None:
    config = with_sets(project, {"licence": "research only"}, {"licence": "CC BY 4.0"}, {"licence": "research only"})
    assert gather(config, faces[1], ("expr",)).licence == "research only; CC BY 4.0"


def test_shares_of_an_epoch(project: Config, faces: Given, photos: Path) -> None:
    config = with_sets(project, {"share": 0.25}, balance="videos")
    dataset = gather(config, faces[1], ("expr",))
    rows = draw_rows(dataset.pool, config.finetune, np.random.default_rng(0))
    assert np.mean(dataset.pool.source[rows]) == pytest.approx(0.25, abs=0.01)
    planned = dry_run(config, faces[1], make_request(config, config.folder / "mtl.toml", "expr", model=MODEL))
    assert planned.sets[1]["train"] == 24
    assert planned.sets[1]["shown"] == pytest.approx(0.25 * len(rows), abs=1)
    assert planned.num_learning == planned.num_parameters
    assert "[[finetune.data]] 1: 24 faces train" in "\n".join(planned.print_lines())
    json.dumps(planned.to_json())
    assert not (project.folder / "backbones").exists()


def test_what_is_held_out_in_one_set_cannot_train_in_another(project: Config, faces: Given, photos: Path) -> None:
    everything = faces[1].with_columns(split=pl.lit("train"))
    write_frames(everything, project.folder / "again.parquet")
    with pytest.raises(ValueError, match=r"trains in \[\[finetune\.data\]\] 1 and is held out in \[data\] \(12 such\)"):
        gather(with_sets(project, {"faces": faces[0], "frames": Path("again.parquet")}), faces[1], ("expr",))
    write_frames(faces[1], project.folder / "again.parquet")
    gather(with_sets(project, {"faces": faces[0], "frames": Path("again.parquet")}), faces[1], ("expr",))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"faces": Path("none")}, "none: no such folder of faces; set faces of"),
        ({"frames": Path("none.parquet")}, "none.parquet: no frames table"),
        ({"share": 1.0}, "together below 1"),
    ],
)
def test_what_is_wrong_with_a_set(
    project: Config, faces: Given, photos: Path, entry: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        run(with_sets(project, entry), faces[1], epochs=1)


def test_sets_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text('[[finetune.data]]\nfaces = "a"\nframes = "a.parquet"\ntasks = ["au"]\nshare = 0.2\n')
    (entry,) = read_config(path).finetune.data
    assert (entry.faces, entry.tasks, entry.share) == (Path("a"), ("au",), 0.2)
    (given,) = read_config(path, ['finetune.data=[{faces="b", frames="b.parquet"}]']).finetune.data
    assert given.frames == Path("b.parquet")
    for line, says in (("fases = 'x'", "unknown key 'fases'"), ("", "missing key 'frames'")):
        path.write_text(f'[[finetune.data]]\nfaces = "a"\n{line}\n')
        with pytest.raises(ValueError, match=says):
            read_config(path)
