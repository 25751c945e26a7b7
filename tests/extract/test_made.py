"""The made data set: what it promises about its files, its labels and its faces."""

import dataclasses
import inspect
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS
from extract.annotations.readers import read_annotations
from extract.made import dataset as made
from extract.made.dataset import MadeParameters, make_data, make_official_labels, make_plan, make_signal
from extract.made.face import face_shapes
from extract.made.person import make_person
from extract.made.shapes import Shape, paint, ready
from extract.made.signal import INDEX, MOVEMENTS, REQUIRED

SMALL = {"seed": 3, "num_videos": 4, "frames_per_video": 6}
# Rows and columns of the 112 px crop in which a unit may change the picture most.
REGIONS = {
    "face": (slice(10, 112), slice(10, 102)),
    "brows": (slice(20, 46), slice(24, 88)),
    "eyes": (slice(38, 62), slice(22, 90)),
    "cheeks": (slice(36, 80), slice(16, 96)),
    "nose": (slice(30, 86), slice(36, 76)),
    "mouth": (slice(66, 112), slice(24, 88)),
}
UNIT_REGIONS = {
    "AU1": "brows",
    "AU2": "brows",
    "AU4": "brows",
    "AU6": "cheeks",
    "AU7": "eyes",
    "AU10": "nose",
    "AU12": "mouth",
    "AU15": "mouth",
    "AU23": "mouth",
    "AU24": "mouth",
    "AU25": "mouth",
    "AU26": "mouth",
    "AU5": "eyes",
    "AU9": "nose",
    "AU20": "mouth",
    "AU45": "eyes",
    "AU53": "face",
    "AU54": "face",
}

PERSON = dataclasses.replace(
    make_person(np.random.default_rng(2)), rest=np.zeros(len(MOVEMENTS)), glasses="none", beard="none"
)


def shapes_of(unit: str) -> list[Shape]:
    """The same face at rest (frame 0) and with one unit at its full strength (frame 1)."""
    movements = np.zeros((2, len(MOVEMENTS)))
    movements[1, INDEX[unit]] = 1
    return face_shapes(PERSON, movements, np.zeros(2), np.zeros(2))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "data"
    make_data(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Labels [N, 15] of a set of the default size."""
    parameters = MadeParameters()
    return np.concatenate([make_official_labels(parameters, plan)[1] for plan in make_plan(parameters)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_same_bytes(small: Path, tmp_path: Path) -> None:
    make_data(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(small)


def test_other_seed_gives_other_faces_and_labels(small: Path, tmp_path: Path) -> None:
    make_data(tmp_path, **{**SMALL, "seed": 4})
    assert not set(contents(tmp_path).values()) & set(contents(small).values())


def test_official_layout(small: Path) -> None:
    header, *rows = (small / "train_set.txt").read_text().splitlines()
    assert header == "image,valence,arousal,expression,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    faces = {path.relative_to(small / "cropped_aligned").as_posix() for path in small.rglob("*.jpg")}
    listed = {split: read_annotations(small / f"{split}_set.txt", split)[0] for split in ("train", "val", "test")}
    assert sorted(path for table in listed.values() for path in table["path"]) == sorted(faces)
    assert all(row.partition(",")[0] in faces for row in rows)
    assert all(len(Path(row.partition(",")[0]).stem) == 5 for row in rows)
    names = (small / "test_list.txt").read_text().splitlines()
    assert sorted(names[1:]) == sorted(listed["test"]["path"])
    assert read_annotations(small / "test_list.txt", "test")[0].height == listed["test"].height


def test_faces_are_small_rgb_jpegs(small: Path) -> None:
    for path in small.rglob("*.jpg"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (112, 112))
        assert 2_000 < path.stat().st_size < 7_000


def test_finished_folder_is_reused(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    drawn: list[int] = []
    assert make_data(small, **SMALL, advance=drawn.append).reused
    assert not drawn
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


def test_interrupted_folder_is_completed(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, seen = made.draw_video, []

    def interrupted(parameters, plan):
        for at, face in enumerate(draw(parameters, plan)):
            if len(seen) == 2 and at == 3:
                raise KeyboardInterrupt
            yield face
        seen.append(plan)

    monkeypatch.setattr(made, "draw_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_data(tmp_path, **SMALL)
    assert not (tmp_path / "made.json").exists()
    monkeypatch.setattr(made, "draw_video", draw)
    with pytest.raises(ValueError, match="other parameters"):
        make_data(tmp_path, **{**SMALL, "seed": 9})
    make_data(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(small)


def test_subjects_do_not_cross_splits(small: Path) -> None:
    plans = make_plan(MadeParameters())
    splits: dict[int, set[str]] = {}
    for plan in plans:
        splits.setdefault(plan.subject, set()).add(plan.split)
    assert {len(found) for found in splits.values()} == {1}
    assert len(splits) >= 35
    assert len(splits) < len(plans)
    shares = [sum(plan.num_frames for plan in plans if plan.split == split) for split in ("train", "val", "test")]
    assert np.allclose(np.array(shares) / sum(shares), (0.6, 0.2, 0.2), atol=0.04)
    assert len({plan.num_frames for plan in plans}) > 30
    rows = (small / "subjects.csv").read_text().splitlines()
    assert rows[0] == "video,subject"
    assert len(rows) == 1 + SMALL["num_videos"]


@pytest.mark.parametrize("num_videos", [3, 4, 8, 9])
def test_small_sets_have_every_split(num_videos: int) -> None:
    plans = make_plan(MadeParameters(num_videos=num_videos, frames_per_video=4))
    assert {plan.split for plan in plans} == {"train", "val", "test"}


def test_gaps_between_frames() -> None:
    parameters = MadeParameters()
    gaps = np.concatenate([np.diff(make_signal(parameters, plan)[0]) for plan in make_plan(parameters)])
    assert gaps.min() == 1
    assert 2 <= np.median(gaps) <= 4
    assert 100 < gaps.max() < 1000


def test_missing_labels(labels: np.ndarray) -> None:
    columns = dict(zip(LABEL_COLUMNS, labels.T, strict=True))
    assert np.array_equal(columns["valence"] == -5, columns["arousal"] == -5)
    assert 0.05 < np.mean(columns["valence"] == -5) < 0.2
    assert 0.33 < np.mean(columns["expression"] == -1) < 0.47
    missing = labels[:, 3:] == -1
    assert 0.15 < np.mean(missing.all(axis=1)) < 0.3
    assert np.mean(missing.any(axis=1) & ~missing.all(axis=1)) > 0.1
    present = labels[:, :2][labels[:, 0] != -5]
    assert np.abs(present).max() <= 1
    assert set(np.unique(columns["expression"])) == set(range(-1, 8))
    assert set(np.unique(labels[:, 3:])) == {-1, 0, 1}


def test_classes_and_units_are_unbalanced_and_all_there(labels: np.ndarray) -> None:
    classes = np.bincount(labels[labels[:, 2] >= 0, 2].astype(int), minlength=8)
    assert classes.max() > 5 * classes.min()
    assert classes.min() > 50
    assert EXPRESSIONS[int(classes.argmax())] == "Neutral"
    rates = [np.mean(unit[unit >= 0] == 1) for unit in labels[:, 3:].T]
    assert min(rates) > 0.02
    assert max(rates) > 6 * min(rates)


def test_expressions_follow_from_units(labels: np.ndarray) -> None:
    """Label lags differ a little, so a unit may already be gone when its expression still stands."""
    expression, units = labels[:, 2], dict(zip(ACTION_UNITS, labels[:, 3:].T, strict=True))
    for name, (required, _) in REQUIRED.items():
        for au in set(required) & set(ACTION_UNITS):
            known = units[au] >= 0
            inside = known & (expression == EXPRESSIONS.index(name))
            outside = known & (expression == EXPRESSIONS.index("Neutral"))
            assert np.mean(units[au][inside]) > 0.6, (name, au)
            assert np.mean(units[au][outside]) < 0.3, (name, au)


def test_valence_and_arousal_come_late_and_smooth() -> None:
    parameters = MadeParameters(num_videos=12, frames_per_video=200)
    traces = [make_signal(parameters, plan)[1] for plan in make_plan(parameters)]
    for column in (0, 1):
        scores = []
        for lag in range(-10, 60):
            seen = np.concatenate([trace.affect[60:-60, column] for trace in traces])
            told = np.concatenate(
                [trace.valence_arousal[60 + lag : len(trace.affect) - 60 + lag, column] for trace in traces]
            )
            scores.append(np.corrcoef(seen, told)[0, 1])
        assert 10 <= int(np.argmax(scores)) - 10 <= 35
        assert max(scores) > 0.8
    steps = [np.abs(np.diff(values, axis=0)).max() for t in traces for values in (t.affect, t.valence_arousal)]
    assert max(steps[1::2]) < 0.5 * max(steps[::2])


@pytest.mark.parametrize("unit", MOVEMENTS)
def test_unit_changes_the_picture_in_its_region(unit: str) -> None:
    still = np.tile(np.eye(2, 3), (2, 1, 1))
    strokes = ready(shapes_of(unit), 2, still)
    pictures = [paint(strokes, frame, Image.new("RGB", (224, 224))).astype(int) for frame in (0, 1)]
    change = np.abs(pictures[1] - pictures[0]).sum(axis=2)
    assert change[REGIONS[UNIT_REGIONS[unit]]].sum() > 0.8 * change.sum()
    assert np.count_nonzero(change > 30) > 150


@pytest.mark.parametrize(
    ("unit", "part", "point", "axis", "way"),
    [
        ("AU1", "brow", 0, 1, -1),  # the inner end goes up
        ("AU2", "brow", 7, 1, -1),  # the outer end goes up
        ("AU4", "brow", 0, 1, 1),  # the inner end goes down
        ("AU4", "brow", 0, 0, -1),  # and towards the middle
        ("AU12", "lip", 12, 1, -1),  # the corner goes up
        ("AU12", "lip", 12, 0, 1),  # and out
        ("AU15", "lip", 12, 1, 1),  # the corner goes down
        ("AU20", "lip", 12, 0, 1),  # the corner goes out
        ("AU23", "lip", 12, 0, -1),  # the corner goes in
        ("AU25", "lip", 6, 1, 1),  # the lower lip goes down
        ("AU26", "lip", 6, 1, 1),
    ],
)
def test_unit_moves_the_right_way(unit: str, part: str, point: int, axis: int, way: int) -> None:
    """The right brow's upper edge runs from its inner to its outer end, the lower lip's from corner to corner."""
    colour = {"brow": np.minimum(PERSON.hair * 0.8, PERSON.skin * 0.55), "lip": PERSON.lips}[part]
    shape = [shape for shape in shapes_of(unit) if np.array_equal(shape.colour, colour)][-1]
    moved = shape.points[1] - shape.points[0]
    assert way * moved[point, axis] > 2.5


def test_command_refuses_a_foreign_folder(tmp_path: Path) -> None:
    from pipelines.cli.demo_data import register

    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(command(register), [str(tmp_path), "--videos", "3", "--frames", "4"])
    assert isinstance(result.exception, ValueError)
    assert "not empty" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_command_says_what_it_made_and_what_comes_next(small: Path) -> None:
    from pipelines.cli.demo_data import register

    options = ["--seed", "3", "--videos", "4", "--frames", "6"]
    result = CliRunner().invoke(command(register), [str(small), *options])
    assert result.exit_code == 0
    assert "4 videos" in result.output
    assert "mtl init" in result.output
    assert "mtl prepare --train" in result.output


@pytest.mark.parametrize("change", [{"num_videos": 2}, {"frames_per_video": 3}, {"seed": -1}])
def test_impossible_parameters(change: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 3 videos"):
        make_data(tmp_path / "data", **{**SMALL, **change})
    assert not (tmp_path / "data").exists()


def command(register):
    import typer

    app = typer.Typer()
    register(app)
    return app


def test_command_and_library_have_the_same_defaults() -> None:
    from pipelines.cli.demo_data import demo_data

    asked = {name: option.default for name, option in inspect.signature(demo_data).parameters.items()}
    told = {name: option.default for name, option in inspect.signature(make_data).parameters.items()}
    usual = MadeParameters()
    assert (asked["seed"], asked["videos"], asked["frames"]) == (usual.seed, usual.num_videos, usual.frames_per_video)
    assert all(told[name] == getattr(usual, name) for name in ("seed", "num_videos", "frames_per_video"))
