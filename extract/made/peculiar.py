"""The made data set in the challenge's own handwriting: every peculiarity of its annotation files and lists.

Place: beside the other parts of the made data set, below `extract.made.dataset`, which draws faces and labels and
writes the files. The labels are those of the plain data set. Letters: V videos, N frames of a video with a face.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cache.labels import ABAW
from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, VA_COLUMNS

BOM = b"\xef\xbb\xbf"
REPEATED = 0.03  # of the rows of a file or list stand in it twice
HEADER = ",".join(["image", *LABEL_COLUMNS])
MTL_HEADER = "image,valence,arousal,expression,aus"
CE_HEADER = (
    "image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,Angrily_Surprised,"
    "Sadly_Fearful,Sadly_Angry"
)
# Names of face files: the number with five, no and six digits, another ending, a word in front.
FILE_NAMES = ("{:05d}.jpg", "{:d}.jpg", "{:06d}.jpg", "{:05d}.JPG", "frame_{:04d}.jpg")
TRACK_FOLDERS = {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}
SPLIT_FOLDERS = {"train": "Train_Set", "val": "Validation_Set"}
MISSING = {"va": -5, "expr": -1, "au": -1}
NOTES = """# What is peculiar here

The labels are those of the plain data set of this seed; files and lists are written as the challenge writes its own.
-5 (valence, arousal) and -1 (expression, action units) mean "no label" everywhere. Behind each arrow stands what
`mtl prepare` is to make of it.

## Faces

- `cropped_aligned/VIDEO/` has `00001.jpg`, `1.jpg`, `000001.jpg`, `00001.JPG` or `frame_0001.jpg`, by video;
  annotations and lists say `00001.jpg`. -> Found by video and frame number; an info counts those under another name.
- The first video of train has its accent as a sign of its own on the disk (NFD), with its letter in the files (NFC);
  the first of test the other way round. -> One video each.
- Where train has four videos or more: `N-30-484x360_left`, `N-30-484x360_right` and `N`. -> Three videos; infos name
  those that are two sides of one recording, and those whose names begin another's.

## Labels

- `train_set.txt`: byte order mark, CRLF, blank lines, trailing commas; {train_twice} rows twice, alike.
  -> {rows} rows; an info counts the repeated ones.
- `val_set.txt`: no header; {val_twice} rows twice, alike. -> An info counts them.
- `train_set_disagreeing.txt`: the training rows, some again with another label ({pairs}).
  -> Refused, two lines named. `--on-conflict first` gives the labels of `train_set.txt`, `last` those of the lower
  line, `missing` neither where they differ; a warning counts the frames.
- `test_set.txt`: the labels of the test rows, tidy; nobody hands these out. -> Rows of split test (`--test`).
- `tracks/`: the per-track folders of train and val, one text file per video, one row per frame, with a face or
  not. -> The same labels (`--tracks`); frames without a face are left out, an info counts them.
- `subjects.csv`: who is seen, by video. -> The column subject (`--subjects`).

## Lists

For `mtl prepare --test-list`, `mtl predict --list` and `mtl submit --list`, which read the names alone. A submission
has every row of its list, in the list's order.

- `test_list.txt` (track mtl): header `image`, bare names in an order of their own: {asked} frames, {listed_twice} of
  them twice, {without_crop} without a crop. -> Infos count both; frames without a crop are no rows, and filled by
  `mtl submit`.
- `lists/mtl_bare.txt`: the same without a header.
- `lists/mtl_short_rows.txt`: the same, rows shorter than their header `{header}`.
- `lists/mtl_commas.txt`: the same with trailing commas, byte order mark, CRLF, a blank line at the end.
- `lists/va_commas.txt` (track va): every frame of the test videos ({every}), with a crop or not; no header, trailing
  commas.
- `lists/va_dummies.txt`, `lists/expr_dummies.txt`, `lists/au_dummies.txt` (tracks va, expr, au): the same frames in the
  form of a submission, filled with dummy values. -> Names with `--test-list`; refused as labels (`--test`).
- `lists/ce_dummies.txt` (track ce): the list of the compound expressions, the same frames. -> Names.
- `lists/videos.txt` (tracks va, expr, au): bare names of videos. -> All their faces; `mtl submit` takes
  `--num-frames lists/num_frames.csv` and answers with a folder.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """What a video is called: its `folder` of faces, its name in annotations and lists, its face files."""

    folder: str
    listed: str
    file_name: str

    def file(self, frame: int) -> str:
        """The face file of a frame number."""
        return self.file_name.format(frame)

    def row_name(self, frame: int) -> str:
        """The frame's name in annotations and lists, which write five digits whatever the file is called."""
        return f"{self.listed}/{frame:05d}.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledVideo:
    """One video's names, split, frame numbers [N] and labels [N, 15] in the order of LABEL_COLUMNS."""

    spelling: Spelling
    split: str
    frames: NDArray[np.int64]
    labels: np.ndarray

    def rows(self) -> list[str]:
        """The video's rows of an annotation file."""
        return [
            row_of(self.spelling.row_name(frame), values)
            for frame, values in zip(self.frames.tolist(), self.labels.tolist(), strict=True)
        ]


def spell(splits: Sequence[str]) -> list[Spelling]:
    """The names of the videos [V] whose `splits` are given, in the style of the official ones.

    The first of train lies on the disk with its accent as a sign of its own (NFD) and is listed with one sign (NFC);
    of test it is the other way round. The second and third of train are two people of one recording, and the fourth
    has a name that begins theirs.
    """
    train = [index for index, split in enumerate(splits) if split == "train"]
    recording = train[1] + 1 if len(train) > 1 else 0
    sides = (f"{recording}-30-484x360_left", f"{recording}-30-484x360_right", f"{recording}")
    named = dict(zip(train[1:], sides, strict=False))
    spelt = []
    for index, split in enumerate(splits):
        place = list(splits[:index]).count(split)
        usual = f"{index + 1}-30-640x360" if place % 2 else f"video{index + 1}_1"
        folder = listed = named.get(index, usual)
        if place == 0 and split != "val":
            forms = [unicodedata.normalize(form, f"vid\u00e9o{index + 1}") for form in ("NFD", "NFC")]
            folder, listed = forms if split == "train" else forms[::-1]
        spelt.append(Spelling(folder=folder, listed=listed, file_name=FILE_NAMES[place % len(FILE_NAMES)]))
    return spelt


def peculiar_files(rng: Generator, videos: Sequence[LabelledVideo], subjects: Sequence[int]) -> dict[str, bytes]:
    """Path below the data set's folder -> content, of every file but the faces.

    Args:
        rng: its draws are for these files alone.
        subjects: the number [V] of each video's person.
    """
    of = {split: [video for video in videos if video.split == split] for split in ("train", "val", "test")}
    train, val, test = ([row for video in of[split] for row in video.rows()] for split in of)
    train_rows, num_train = _with_repeats(rng, train)
    val_rows, num_val = _with_repeats(rng, val)
    disagreeing, pairs = _with_disagreements(rng, of["train"])
    asked, num_without_crop = _asked(rng, of["test"])
    own_order, num_listed_twice = _with_repeats(rng, asked)
    every = [video.spelling.row_name(frame) for video in of["test"] for frame in range(1, _length(video) + 1)]
    people = [f"{video.spelling.listed},subject{subject + 1}" for video, subject in zip(videos, subjects, strict=True)]
    counts = [f"{video.spelling.listed},{_length(video)}" for video in of["test"]]
    files = {
        "train_set.txt": BOM + _text([HEADER, *_untidy(rng, train_rows)], "\r\n"),
        "val_set.txt": _text(val_rows),
        "train_set_disagreeing.txt": _text([HEADER, *disagreeing]),
        "test_set.txt": _text([HEADER, *test]),
        "subjects.csv": _text(["video,subject", *people]),
        "test_list.txt": _text(["image", *own_order]),
        "lists/mtl_bare.txt": _text(own_order),
        "lists/mtl_short_rows.txt": _text([MTL_HEADER, *own_order]),
        "lists/mtl_commas.txt": BOM + _text([MTL_HEADER, *(f"{name}," for name in own_order), ""], "\r\n"),
        "lists/va_commas.txt": _text([f"{name}," for name in every]),
        "lists/va_dummies.txt": _dummies(f"image_location,{','.join(VA_COLUMNS)}", every, ".5,-.5"),
        "lists/expr_dummies.txt": _dummies(f"image_location,{','.join(EXPRESSIONS)}", every, "0"),
        "lists/au_dummies.txt": _dummies(f"image_location,{','.join(ACTION_UNITS)}", every, "1,0,1,1,1,0,0,1,0,0,0,1"),
        "lists/ce_dummies.txt": _dummies(CE_HEADER, every, "0"),
        "lists/videos.txt": _text([video.spelling.listed for video in of["test"]]),
        "lists/num_frames.csv": _text(["video,num_frames", *counts]),
        **_tracks(of),
    }
    numbers = {
        "header": MTL_HEADER,
        "pairs": "; ".join(f"lines {first} and {second}" for first, second in pairs),
        "rows": len(train),
        "train_twice": num_train,
        "val_twice": num_val,
        "asked": len(asked),
        "listed_twice": num_listed_twice,
        "without_crop": num_without_crop,
        "every": len(every),
    }
    return {**files, "NOTES.md": NOTES.format(**numbers).encode()}


def row_of(name: str, labels: Sequence[float]) -> str:
    """A row of an annotation file: -5 and -1 where a label is missing."""
    return f"{name}," + ",".join(f"{value:g}" for value in labels)


def _text(lines: Sequence[str], end: str = "\n") -> bytes:
    return (end.join(lines) + end).encode()


def _dummies(header: str, names: Sequence[str], values: str) -> bytes:
    """A list in the form of a submission, the same values on every row."""
    return _text([header, *(f"{name},{values}" for name in names)])


def _length(video: LabelledVideo) -> int:
    """Frames of the video itself: some behind the last face."""
    return int(video.frames[-1]) + 5


def _with_repeats(rng: Generator, rows: Sequence[str]) -> tuple[list[str], int]:
    """`rows` with some of them once more further down, and how many."""
    num = max(2, round(REPEATED * len(rows)))
    found = list(rows)
    for place in sorted(rng.choice(len(rows), num, replace=False).tolist(), reverse=True):
        found.insert(int(rng.integers(place + 1, len(found) + 1)), rows[place])
    return found, num


def _untidy(rng: Generator, rows: Sequence[str]) -> list[str]:
    """`rows`, one in three with a trailing comma, a blank line in front of one in ten and of the first."""
    commas, blanks = rng.random(len(rows)) < 1 / 3, rng.random(len(rows)) < 1 / 10
    blanks[0] = commas[-1] = True
    lines = [
        [""] * bool(blank) + [row + "," * bool(comma)] for row, comma, blank in zip(rows, commas, blanks, strict=True)
    ]
    return [line for group in lines for line in group]


def _with_disagreements(rng: Generator, videos: Sequence[LabelledVideo]) -> tuple[list[str], list[tuple[int, int]]]:
    """All rows of `videos`, and below them up to three again with another valence, expression, or without an AU.

    Also the two line numbers of each such pair, below a header.
    """
    names = [video.spelling.row_name(frame) for video in videos for frame in video.frames.tolist()]
    labels = np.concatenate([video.labels for video in videos])
    rows = [row_of(name, values) for name, values in zip(names, labels.tolist(), strict=True)]
    added: list[str] = []
    pairs: list[tuple[int, int]] = []
    for column, missing in ((0, -5), (2, -1), (9, -1)):
        free = np.flatnonzero(
            (labels[:, column] != missing) & ~np.isin(np.arange(len(rows)), [a - 2 for a, _ in pairs])
        )
        if not len(free):
            continue
        row = int(rng.choice(free))
        other = labels[row].copy()
        other[column] = {0: 0.5 if other[0] < 0 else -0.5, 2: (other[2] + 1) % len(EXPRESSIONS), 9: -1}[column]
        added.append(row_of(names[row], other.tolist()))
        pairs.append((row + 2, len(rows) + 1 + len(added)))
    return [*rows, *added], pairs


def _asked(rng: Generator, videos: Sequence[LabelledVideo]) -> tuple[list[str], int]:
    """Names of all frames with a face and of some without, in an order of their own; how many are without."""
    names, num = [], 0
    for video in videos:
        absent = np.setdiff1d(np.arange(1, _length(video) + 1), video.frames)
        drawn = rng.choice(absent, min(3, len(absent)), replace=False)
        num += len(drawn)
        names += [video.spelling.row_name(int(frame)) for frame in (*video.frames, *drawn)]
    return [names[place] for place in rng.permutation(len(names))], num


def _tracks(of: dict[str, list[LabelledVideo]]) -> dict[str, bytes]:
    """The per-track folders of train and val: one text file per video, one row per frame, with a face or not."""
    files = {}
    places = {task: [LABEL_COLUMNS.index(name) for name in ABAW.group(task).columns] for task in TRACK_FOLDERS}
    headers = {task: EXPRESSIONS if task == "expr" else ABAW.group(task).columns for task in TRACK_FOLDERS}
    for split, folder in SPLIT_FOLDERS.items():
        for video in of[split]:
            for task, track in TRACK_FOLDERS.items():
                values = np.full((_length(video), len(places[task])), float(MISSING[task]))
                values[video.frames - 1] = video.labels[:, places[task]]
                rows = [",".join(f"{value:g}" for value in row) for row in values.tolist()]
                path = f"tracks/{track}/{folder}/{video.spelling.listed}.txt"
                files[path] = _text([",".join(headers[task]), *rows])
    return files
