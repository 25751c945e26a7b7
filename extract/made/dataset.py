"""The made data set: face videos drawn by the program, in the official layout of s-Aff-Wild2, or labelled by a schema.

Everything follows from the seed: the same parameters give the same bytes on the same machine. A folder is finished when
`made.json` is there; it is written last. Letters: N listed frames, A movements.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from cache.labels import ABAW, Schema
from cache.names import LABEL_COLUMNS, VA_COLUMNS
from extract.made.labels import group_labels, hide
from extract.made.own_files import schema_files
from extract.made.peculiar import LabelledVideo, peculiar_files, row_of, spell
from extract.made.person import make_person
from extract.made.photo import make_scene, photograph
from extract.made.signal import Ints, Traces, drawn_movements, listed_frames, make_habits, make_traces

RECIPE = 1  # raised whenever the same seed gives other bytes
MANIFEST = "made.json"
STARTED = "made.started.json"
FACES = "cropped_aligned"
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
MIN_VIDEOS, MIN_FRAMES = 3, 4
JITTER = 0.10
WITHOUT_UNITS = 4  # every fourth video of a split has no action units at all: another group of annotators
# What the generators are for: a number of its own keeps the draws of one from moving those of another.
PLAN, SUBJECT, SIGNAL, PICTURE, PECULIAR = range(5)


@dataclass(frozen=True, slots=True)
class MadeParameters:
    """What decides every byte of a made data set."""

    seed: int = 0
    num_videos: int = 120
    frames_per_video: int = 80
    recipe: int = RECIPE
    peculiar: bool = False
    schema: Schema = ABAW

    @property
    def is_official(self) -> bool:
        """Whether the labels are the challenge's, in its formats."""
        return self.schema.digest == ABAW.digest

    def to_json(self) -> dict[str, object]:
        """As made.json has it; what is neither peculiar nor of another schema does not say so."""
        names = ("seed", "num_videos", "frames_per_video", "recipe", *(["peculiar"] if self.peculiar else []))
        values = {name: getattr(self, name) for name in names}
        return values if self.is_official else {**values, "labels": self.schema.to_mapping()}


@dataclass(frozen=True, slots=True)
class Made:
    """What is in a made data set; `num_faces` by split, `reused` when it was there already."""

    num_subjects: int
    num_videos: int
    num_faces: dict[str, int]
    reused: bool


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """One video before it is drawn; `subject` counts from 0. `without_units`: nobody annotated its action units."""

    index: int
    subject: int
    split: str
    num_frames: int
    without_units: bool

    @property
    def name(self) -> str:
        """`video1`, `video2`, ... `video10`: some names begin with others, as in the official set."""
        return f"video{self.index + 1}"


def make_data(
    folder: Path,
    *,
    seed: int = 0,
    num_videos: int = 120,
    frames_per_video: int = 80,
    peculiar: bool = False,
    schema: Schema = ABAW,
    advance: Callable[[int], None] = lambda count: None,
) -> Made:
    """Writes the data set into `folder`, or resumes an earlier call with the same parameters that was cut off.

    Args:
        frames_per_video: the average; lengths vary from half to one and a half of it.
        peculiar: names, annotations and lists as the challenge's own files are (see `extract.made.peculiar`).
        schema: what is labelled; the faces are the same.
        advance: told how many faces were drawn, a video at a time; not called when there is nothing left to draw.

    Raises:
        ValueError: too few videos or frames, `peculiar` with another schema than the challenge's, or a folder that
            holds something else.
    """
    parameters = MadeParameters(seed, num_videos, frames_per_video, peculiar=peculiar, schema=schema)
    if peculiar and not parameters.is_official:
        raise ValueError(f"--peculiar: the challenge's own files have labels of the schema abaw, not of {schema.name}")
    plans = make_plan(parameters)
    reused = _claim(folder, parameters)
    if not reused:
        _draw_all(folder / FACES, parameters, plans, advance)
        write = _write_annotations if parameters.is_official else _write_own
        (_write_peculiar if peculiar else write)(folder, parameters, plans)
        _write_text(folder / MANIFEST, json.dumps(parameters.to_json(), indent=2) + "\n")
    (folder / STARTED).unlink(missing_ok=True)
    return Made(
        num_subjects=len({plan.subject for plan in plans}),
        num_videos=len(plans),
        num_faces={split: sum(plan.num_frames for plan in plans if plan.split == split) for split in SHARES},
        reused=reused,
    )


def make_plan(parameters: MadeParameters) -> list[VideoPlan]:
    """Videos with subject, split and length; every subject is in one split, every split has a subject."""
    if parameters.num_videos < MIN_VIDEOS or parameters.frames_per_video < MIN_FRAMES or parameters.seed < 0:
        raise ValueError(
            f"made data: {parameters.num_videos} videos of {parameters.frames_per_video} frames from seed "
            f"{parameters.seed}; at least {MIN_VIDEOS} videos, {MIN_FRAMES} frames and seed 0 are needed"
        )
    rng = _generator(parameters, PLAN)
    subjects = _subjects(rng, parameters.num_videos)
    splits = _splits(subjects)
    lengths = np.maximum(MIN_FRAMES, parameters.frames_per_video * rng.uniform(0.5, 1.5, len(subjects))).round()
    order = rng.permutation(len(subjects))  # so that the videos of a split do not stand in a row
    plans: list[VideoPlan] = []
    for index, at in enumerate(order.tolist()):
        subject = int(subjects[at])
        before = sum(plan.split == splits[subject] for plan in plans)
        without_units = before % WITHOUT_UNITS == WITHOUT_UNITS - 1
        plans.append(VideoPlan(index, subject, splits[subject], int(lengths[at]), without_units))
    return plans


def make_signal(parameters: MadeParameters, plan: VideoPlan) -> tuple[Ints, Traces]:
    """The listed frame numbers [N] of a video and what happens in it."""
    habits = make_habits(_generator(parameters, SUBJECT, plan.subject, 1))
    rng = _generator(parameters, SIGNAL, plan.index)
    frames = listed_frames(rng, plan.num_frames)
    return frames, make_traces(rng, int(frames[-1]) + 1, habits)


def make_labels(parameters: MadeParameters, plan: VideoPlan) -> tuple[Ints, np.ndarray]:
    """Frame numbers [N] and labels [N, C] in the order of the schema's columns, NaN where one is missing."""
    frames, traces = make_signal(parameters, plan)
    rng = _generator(parameters, SIGNAL, plan.index, 1)
    labels = [group_labels(group, traces, frames) for group in parameters.schema]
    for group, values in zip(parameters.schema, labels, strict=True):
        hide(rng, group, values, without_units=plan.without_units)
    return frames, np.concatenate(labels, axis=1)


def make_official_labels(parameters: MadeParameters, plan: VideoPlan) -> tuple[Ints, np.ndarray]:
    """Frame numbers [N] and labels [N, 15] in the order of LABEL_COLUMNS, -5 and -1 where one is missing."""
    frames, labels = make_labels(parameters, plan)
    marks = [-5 if name in VA_COLUMNS else -1 for name in LABEL_COLUMNS]
    return frames, np.where(np.isnan(labels), marks, labels)


def draw_video(parameters: MadeParameters, plan: VideoPlan) -> Iterator[tuple[int, bytes]]:
    """Frame number and JPEG bytes of every listed frame."""
    frames, traces = make_signal(parameters, plan)
    person = make_person(_generator(parameters, SUBJECT, plan.subject))
    rng = _generator(parameters, PICTURE, plan.index)
    movements = drawn_movements(rng, traces.intensity[frames], JITTER)
    return zip(frames.tolist(), photograph(rng, person, make_scene(rng), movements, frames), strict=True)


def _generator(parameters: MadeParameters, *path: int) -> Generator:
    return np.random.default_rng([parameters.seed, *path])


def _subjects(rng: Generator, num_videos: int) -> Ints:
    """The subject of each video [V]: one to three videos each, fewer in a small set."""
    sizes = rng.choice([1, 1, 1, 2, 3], size=num_videos).clip(1, max(1, num_videos // 4))
    return np.repeat(np.arange(num_videos), sizes)[:num_videos]


def _splits(subjects: Ints) -> list[str]:
    """The split of each subject: always the one whose share of the videos is least filled."""
    lacking = {split: share * len(subjects) for split, share in SHARES.items()}
    splits = []
    for videos in np.bincount(subjects).tolist():
        split = max(lacking, key=lambda name: lacking[name] / SHARES[name])
        lacking[split] -= videos
        splits.append(split)
    return splits


def _claim(folder: Path, parameters: MadeParameters) -> bool:
    """Whether `folder` is finished already; if not, marks it as started.

    Raises:
        ValueError: the folder holds something else, or a made data set of other parameters.
    """
    wanted = parameters.to_json()
    for name in (MANIFEST, STARTED):
        if (folder / name).is_file():
            found = _read_json(folder / name)
            if {key: found.get(key) for key in (*wanted, *found)} != wanted:
                raise ValueError(f"{folder}: holds a made data set of other parameters; name another folder")
            return name == MANIFEST
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty and not a made data set; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / STARTED, json.dumps(wanted) + "\n")
    return False


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    return found if isinstance(found, dict) else {}


def _draw_all(faces: Path, parameters: MadeParameters, plans: list[VideoPlan], advance: Callable[[int], None]) -> None:
    """Draws the videos that are not there yet; a video's folder appears when it is whole."""
    faces.mkdir(exist_ok=True)
    spelt = spell([plan.split for plan in plans]) if parameters.peculiar else None
    for plan in plans:
        folder = faces / (plan.name if spelt is None else spelt[plan.index].folder)
        if not folder.is_dir():
            file_name = "{:05d}.jpg" if spelt is None else spelt[plan.index].file_name
            _write_video(folder, draw_video(parameters, plan), file_name)
        advance(plan.num_frames)


def _write_video(folder: Path, faces: Iterator[tuple[int, bytes]], file_name: str) -> None:
    """A file for each of `faces`; `file_name` is the pattern of its name."""
    unfinished = folder.with_name(f".{folder.name}.partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    for frame, data in faces:
        (unfinished / file_name.format(frame)).write_bytes(data)
    unfinished.rename(folder)


def _write_annotations(folder: Path, parameters: MadeParameters, plans: list[VideoPlan]) -> None:
    """train_set.txt, val_set.txt, test_set.txt (labels are known here), test_list.txt, subjects.csv."""
    header = ",".join(["image", *LABEL_COLUMNS])
    for split in SHARES:
        rows = [row for plan in plans if plan.split == split for row in _rows(parameters, plan)]
        _write_text(folder / f"{split}_set.txt", "\n".join([header, *rows]) + "\n")
        if split == "test":
            names = [row.partition(",")[0] for row in rows]
            _write_text(folder / "test_list.txt", "\n".join(["image", *names]) + "\n")
    _write_subjects(folder, plans)


def _write_subjects(folder: Path, plans: list[VideoPlan]) -> None:
    subjects = [f"{plan.name},subject{plan.subject + 1}" for plan in plans]
    _write_text(folder / "subjects.csv", "\n".join(["video,subject", *subjects]) + "\n")


def _write_own(folder: Path, parameters: MadeParameters, plans: list[VideoPlan]) -> None:
    """labels.csv with a column `split`, labels.toml, README.md and subjects.csv."""
    rows = [
        (f"{plan.name}/{frame:05d}.jpg", plan.split, values)
        for plan in plans
        for frame, values in zip(*(part.tolist() for part in make_labels(parameters, plan)), strict=True)
    ]
    for name, data in schema_files(parameters.schema, rows, parameters.seed).items():
        _write(folder / name, data)
    _write_subjects(folder, plans)


def _write_peculiar(folder: Path, parameters: MadeParameters, plans: list[VideoPlan]) -> None:
    """Annotations and lists as the challenge writes them, and NOTES.md, which says what each holds."""
    spelt = spell([plan.split for plan in plans])
    labels = [make_official_labels(parameters, plan) for plan in plans]
    videos = [
        LabelledVideo(spelling=names, split=plan.split, frames=frames, labels=values)
        for plan, names, (frames, values) in zip(plans, spelt, labels, strict=True)
    ]
    files = peculiar_files(_generator(parameters, PECULIAR), videos, [plan.subject for plan in plans])
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _write(folder / name, data)


def _rows(parameters: MadeParameters, plan: VideoPlan) -> list[str]:
    """A video's rows of the annotation file."""
    frames, labels = make_official_labels(parameters, plan)
    return [
        row_of(f"{plan.name}/{frame:05d}.jpg", row) for frame, row in zip(frames.tolist(), labels.tolist(), strict=True)
    ]


def _write_text(path: Path, text: str) -> None:
    _write(path, text.encode())


def _write(path: Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
