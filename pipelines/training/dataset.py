"""What every training and prediction in a process shares: frames, labels, resident streams, splits, window plans.

N frames, B windows, T steps, D width, R rows, C windows per row. Row number N stands for padding everywhere here: no
label, not valid.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cache.frames import Frames, FramesFile, frames_digest, labels_digest, open_frames
from cache.labels import ABAW, Schema
from cache.names import SPLITS
from heads.config import HeadConfig, age_of
from pipelines.config import Config, SplitConfig, TrainConfig
from pipelines.folds import Fold
from pipelines.label_table import NO_LABEL, LabelTable, label_table
from pipelines.nearest import NO_ROW, nearest_rows, video_codes
from pipelines.needed_streams import open_cache
from pipelines.splits import Split, group_numbers, resolve_split
from pipelines.training.inputs import (
    RowMoments,
    Rows,
    StreamInput,
    running_means,
    seen_rows,
    video_means,
    without_ages,
)
from pipelines.training.resident import Resident, load_resident
from pipelines.training.stored import StoredRows
from pipelines.training.windows import PADDING, Windows, context_rows, make_segments, overlaps, place_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReader:
    """Gathers windows: `inputs` over N rows each, `valid` [N + 1], `times` [N + 1], all on the device.

    `others` are the same streams of further views, each with its own `valid`: row number v (N + 1) + i is row i of view
    v, and view 0 is that of `inputs`. On a GPU nothing here waits for the device.
    """

    inputs: Mapping[str, StreamInput]
    valid: Tensor
    times: Tensor
    others: tuple[tuple[Mapping[str, StreamInput], Tensor], ...] = ()
    schema: Schema = ABAW

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """`rows` [..., T] as inputs [..., T, D] float32 per stream, valid [..., T] and times [..., T].

        The inputs hold until the next call.
        """
        flat = self.in_table(rows).flatten()
        inside = flat.clamp(max=len(self.valid) - 2)
        streams = {name: stream.rows(inside) for name, stream in self.inputs.items()}
        valid = self.valid.index_select(0, flat)
        for number, other in enumerate(self.others, start=1):
            places = rows.flatten() // len(self.valid) == number
            (_in_place if flat.device.type == "cpu" else _everywhere)(streams, valid, other, flat, inside, places)
        return (
            {name: gathered.unflatten(0, rows.shape) for name, gathered in streams.items()},
            valid.view(rows.shape),
            self.times.index_select(0, flat).view(rows.shape).long(),
        )

    def in_table(self, rows: Tensor) -> Tensor:
        """Rows of the frames table, whichever view they are of."""
        return rows % len(self.valid) if self.others else rows

    @property
    def is_stored(self) -> bool:
        """Whether a stream stays in the cache."""
        return any(stream.is_stored for stream in self.inputs.values())

    def prefetch(self, rows: Tensor) -> None:
        """Begins to read the inputs of `rows` [..., T], of the first view, of streams that stay in the cache."""
        inside = self.in_table(rows).flatten().clamp(max=len(self.valid) - 2)
        for stream in self.inputs.values():
            stream.prefetch(inside)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each stream's inputs."""
        return {name: stream.width for name, stream in self.inputs.items()}


View = tuple[Mapping[str, StreamInput], Tensor]


def _in_place(
    streams: Mapping[str, Tensor], valid: Tensor, view: View, flat: Tensor, inside: Tensor, mask: Tensor
) -> None:
    """Puts the rows under `mask` from another view: only those are read."""
    places = mask.nonzero().squeeze(1)
    for name, gathered in streams.items():
        gathered[places] = view[0][name].rows(inside[places])
    valid[places] = view[1].index_select(0, flat[places])


def _everywhere(
    streams: Mapping[str, Tensor], valid: Tensor, view: View, flat: Tensor, inside: Tensor, mask: Tensor
) -> None:
    """The same without counting them, for which a GPU would have to be waited for: all rows are read."""
    for name, gathered in streams.items():
        gathered.copy_(torch.where(mask.unsqueeze(1), view[0][name].rows(inside), gathered))
    valid.copy_(torch.where(mask, view[1].index_select(0, flat), valid))


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionPlan:
    """Windows `rows` [W, T] that predict `covered` [R], and the `places` [R, C] of each such row in them."""

    rows: Tensor
    covered: np.ndarray
    places: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A frames table and its resident streams; what is derived from them is made once and kept."""

    frames: pl.DataFrame
    schema: Schema
    resident: Resident
    labels: LabelTable
    videos: np.ndarray
    times: np.ndarray
    targets: LabelTable
    device_times: Tensor
    file: FramesFile | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def frames_digest(self) -> str:
        """Digest over the list of frames."""
        if "frames" not in self._kept:
            self._kept["frames"] = frames_digest(self.frames)
        digest: str = self._kept["frames"]
        return digest

    @property
    def labels_digest(self) -> str:
        """Digest over labels, splits and subjects."""
        if "labels" not in self._kept:
            self._kept["labels"] = labels_digest(self.frames, self.schema)
        digest: str = self._kept["labels"]
        return digest

    @property
    def subjects(self) -> np.ndarray:
        """[N + 1] int64: the number of the subject of each row, else of its video; 0 for padding."""
        if "subjects" not in self._kept:
            self._kept["subjects"] = np.append(group_numbers(self.frames)[1], 0).astype(np.int64)
        subjects: np.ndarray = self._kept["subjects"]
        return subjects

    def labelled(self, tasks: Sequence[str]) -> np.ndarray:
        """[N] bool: rows with a label of any of `tasks`."""
        return self.labels.labelled_for(self.schema.tasks[name] for name in tasks)

    def split(self, config: SplitConfig, fold: Fold) -> Split:
        """`resolve_split` of these frames."""
        key = ("split", config, fold)
        if key not in self._kept:
            self._kept[key] = resolve_split(self.frames, config, fold, self.schema, self.labels)
        split: Split = self._kept[key]
        return split

    def reader(self, names: Sequence[str], used: Sequence[str], head: HeadConfig, views: Sequence[str]) -> WindowReader:
        """Gathers the inputs that `head` asks for of the streams `names`, in the first of `views` and the others; a
        step is valid where every stream in `used` has an embedding. A stream whose rows have ages is two inputs."""
        (inputs, valid), *others = [self._of_view(names, used, head, view) for view in views]
        return WindowReader(
            inputs=inputs, valid=valid, times=self.device_times, others=tuple(others), schema=self.schema
        )

    def _of_view(
        self, names: Sequence[str], used: Sequence[str], head: HeadConfig, view: str
    ) -> tuple[dict[str, StreamInput], Tensor]:
        valid = np.append(self.resident.all_valid(used, view), False)
        inputs: dict[str, StreamInput] = {}
        for name in without_ages(names):
            inputs |= self._inputs(name, head, view)
        return inputs, torch.from_numpy(valid).to(self.resident.device)

    def _inputs(self, name: str, head: HeadConfig, view: str) -> dict[str, StreamInput]:
        stream, valid = self.resident.streams[name, view], self.resident.valid[name, view]
        if not self.resident.identities[name, view].has_age:
            return {name: self._input(name, head, view, stream, valid)}
        embeddings = self._input(name, head, view, stream[:, :-1], seen_rows(stream, valid))
        return {name: embeddings, age_of(name): StreamInput(stream=stream[:, -1:])}

    def _input(self, name: str, head: HeadConfig, view: str, stream: Rows, valid: np.ndarray) -> StreamInput:
        moments = self._kept.setdefault(("moments", name, view, head.inputs, head.mean_frames), RowMoments())
        if head.inputs == "embedding":
            return StreamInput(stream=stream, moments=moments)
        key = ("means", name, view, head.mean_frames)
        if key not in self._kept:
            if not head.mean_frames:
                self._kept[key] = video_means(stream, valid, self.videos)
            elif isinstance(stream, StoredRows):
                raise ValueError(
                    f"stream {name}: larger than [train] memory_gb, and inputs = {head.inputs!r} with mean_frames = "
                    f"{head.mean_frames} needs a mean per frame in memory; set mean_frames = 0, or memory_gb higher"
                )
            else:
                self._kept[key] = running_means(stream, valid, self.videos, self.times, head.mean_frames)
        return StreamInput(stream=stream, choice=head.inputs, means=self._kept[key], moments=moments)

    def windows(self, keep: np.ndarray, train: TrainConfig, offset: int = 0) -> np.ndarray:
        """[W, T] int64 over the rows `keep` and their unlabelled neighbours; padding is -1."""
        return self.place_windows(keep, train, offset).rows()

    def place_windows(self, keep: np.ndarray, train: TrainConfig, offset: int = 0) -> Windows:
        """`windows`, where not all are wanted at once."""
        key = ("segments", mask_key(keep), train.max_gap)
        if key not in self._kept:
            context = context_rows(self.frames, self.videos, keep)
            self._kept[key] = make_segments(self.videos, self.times, context, train.max_gap)
        return place_windows(self._kept[key], train.window, train.stride, offset)

    def rows(self, rows: np.ndarray) -> pl.DataFrame:
        """`rows` of the frames table, in the types of one that is read whole."""
        return self.frames[rows].with_columns(
            pl.col(pl.Categorical, pl.Enum).cast(pl.String), pl.col("frame").cast(pl.Int64)
        )

    def named(self, part: np.ndarray) -> pl.DataFrame:
        """(video, frame, path) of the rows under the mask `part` [N]."""
        if self.file is None:
            return self.frames.select("video", "frame", "path").filter(part)
        found, rows = self.rows(np.flatnonzero(part)), np.flatnonzero(part)
        return found.select("video", "frame").with_columns(path=self.file["path"].gather(rows))

    def plan(
        self, part: np.ndarray, train: TrainConfig, used: Sequence[str], *, overlapping: bool = True
    ) -> PredictionPlan:
        """The windows to predict the rows of `part` from, `train.stride` apart; without `overlapping` side by side, but
        for the last one of a segment.

        A row without an embedding takes the prediction of the row nearest in time in its video, so that a score is
        always one over all labelled rows; where its video has none, everything predicted of it is 0.
        """
        train = train if overlapping else dataclasses.replace(train, stride=train.window)
        valid = self.resident.all_valid(used, train.view)
        key = ("plan", mask_key(part), mask_key(valid), train.window, min(train.stride, train.window), train.max_gap)
        if key not in self._kept:
            rows = self.windows(part, train)
            covered, places = overlaps(rows)
            places = np.append(places, np.full((1, places.shape[1]), rows.size), axis=0)
            asked, good = np.flatnonzero(part), covered[valid[covered]]
            source = nearest_rows(self.videos, self.times, good, asked)
            chosen = np.where(source == NO_ROW, len(covered), np.searchsorted(covered, source))
            self._kept[key] = PredictionPlan(
                rows=self.on_device(rows),
                covered=asked,
                places=torch.from_numpy(places[chosen]).to(self.resident.device),
            )
        plan: PredictionPlan = self._kept[key]
        return plan

    def on_device(self, rows: np.ndarray) -> Tensor:
        """Rows as a tensor on the device, padding as N."""
        return torch.from_numpy(np.where(rows == PADDING, len(self.times), rows)).to(self.resident.device)


def make_dataset(
    frames: pl.DataFrame,
    resident: Resident,
    schema: Schema = ABAW,
    padded: LabelTable | None = None,
    file: FramesFile | None = None,
) -> Dataset:
    """Frames and streams, row for row, ready to train on. On a CPU labels and targets are one memory; `padded` are the
    labels, and `file` has the paths, where `frames` does not have them."""
    padded = label_table([frames], len(frames), schema) if padded is None else padded
    times, device = frames["frame"].to_numpy(), resident.device
    return Dataset(
        frames=frames,
        schema=schema,
        resident=resident,
        labels=padded.map(lambda array: array[:-1]),
        videos=video_codes(frames),
        times=times,
        targets=padded.map(lambda array: torch.from_numpy(array).to(device)),
        device_times=torch.from_numpy(np.append(times, times.dtype.type(0))).to(device),
        file=file,
    )


def load_dataset(
    config: Config,
    wanted: Iterable[tuple[str, str]],
    device: torch.device,
    frames: Frames | None = None,
) -> Dataset:
    """The frames table of mtl.toml, or `frames` where it has been read, and the streams `wanted`, (name, view) each, of
    its cache. A large table is read without paths, videos and splits as categories.

    Raises:
        ValueError: the table or a stream is not there or does not fit; says what to type.
    """
    path = config.at(config.data.frames)
    if frames is None and not path.is_file():
        raise ValueError(f"{path}: no frames table here; `mtl prepare` makes it")
    table = open_frames(path, config.schema) if frames is None else frames
    keys = list(wanted)
    resident = load_resident(open_cache(config, keys), table, keys, device, config.memory_gb)
    if not isinstance(table, FramesFile):
        return make_dataset(table, resident, config.schema)
    labels = label_table(table.tables(config.schema.columns), len(table), config.schema)
    dataset = make_dataset(table.compact(SPLITS), resident, config.schema, labels, table)
    identities = list(resident.identities.values())
    dataset._kept["frames"] = identities[0].frames if identities else frames_digest(table)
    dataset._kept["labels"] = labels_digest(table, config.schema)
    return dataset


def mask_key(mask: np.ndarray) -> bytes:
    """Equal for equal masks [N]; masks themselves as keys would be kept."""
    return hashlib.blake2b(np.ascontiguousarray(mask).data, digest_size=16).digest()


def padded_targets(labels: LabelTable, device: torch.device) -> LabelTable:
    """`labels` [N, K] on the device, with a row of padding that has none."""
    none = {name: np.full((1, array.shape[1]), NO_LABEL[labels.kinds[name]]) for name, array in labels.arrays.items()}
    arrays = {name: np.append(array, none[name].astype(array.dtype), axis=0) for name, array in labels.arrays.items()}
    return LabelTable(arrays, labels.kinds).map(lambda array: torch.from_numpy(array).to(device))
