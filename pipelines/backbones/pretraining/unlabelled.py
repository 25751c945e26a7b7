"""Which faces a backbone is pretrained on, and which are kept out of it. R faces.

What is scored at the end stays unseen unless it is asked for: even without labels, a model that has drawn the test
faces knows them. Groups are subjects where known, else videos; none stands on two sides.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cache.frames import read_frames
from cache.names import SPLITS
from extract.faces.listing import list_faces
from pipelines.config import Config
from pipelines.splits import groups_of, resolve_split

MOST_HELD_OUT = 0.1  # of all faces, where videos are short enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlabelled:
    """R faces at `paths` under `folder`; `train` and `held_out` are row numbers into them, of different groups.

    `videos` [R] numbers their videos. `num_scored` faces were left out because their videos are scored at the end, and
    `num_unused` because their video is held out and enough others are shown of it. `faults` are archives and videos
    that could not be listed whole.
    """

    folder: Path
    paths: tuple[str, ...]
    videos: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    num_scored: int
    num_unused: int
    splits: str
    faults: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the paths and sides: with other faces it is another training."""
        digest = hashlib.blake2b("\n".join(self.paths).encode(), digest_size=8)
        digest.update(self.train.astype(np.int64).tobytes() + b"|" + self.held_out.astype(np.int64).tobytes())
        return digest.hexdigest()


def choose_faces(config: Config, folder: Path | None = None, splits: str = "") -> Unlabelled:
    """The faces of the frames table, or every face of `folder`, or of [data] where there is no table.

    `splits` ("train,val,test") names whose faces to take; without it all but those that are scored at the end.

    Raises:
        ValueError: no such folder or split, or fewer than two faces.
    """
    own = config.at(config.data.faces)
    root = folder or own
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of faces; name one with --faces, or set faces under [data]")
    table = _table(config, root, root.resolve() == own.resolve())
    wanted = parse_splits(splits)
    if wanted and "split" not in table.columns:
        raise ValueError(f"--split {splits}: the faces of {root} are in no frames table, so they have no splits")
    faces, faults = _faces(config, root, table, listed=folder is not None)
    kept = _kept(config, table, faces, wanted)
    used = faces.filter(kept)
    if used.height < 2:
        raise ValueError(
            f"{root}: {used.height} face{'' if used.height == 1 else 's'} to pretrain on, and at least two are needed"
        )
    groups = used["group"].to_numpy()
    train, held_out, num_unused = hold_out(groups, config.pretrain.held_out_faces, config.pretrain.seed)
    return Unlabelled(
        folder=root,
        paths=tuple(used["path"]),
        videos=np.unique(used["video"].to_numpy(), return_inverse=True)[1],
        train=train,
        held_out=held_out,
        num_scored=int((~kept).sum()),
        num_unused=num_unused,
        splits=", ".join(wanted) if wanted else "all but what is scored" if "split" in table.columns else "none",
        faults=faults,
    )


def parse_splits(text: str) -> tuple[str, ...]:
    """ "train,val" as splits. Raises `ValueError` for an unknown one."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    for name in given:
        if name not in SPLITS:
            raise ValueError(f"--split {text}: {name!r} is no split; expected some of {', '.join(SPLITS)} by commas")
    return tuple(given)


def hold_out(groups: np.ndarray, num_faces: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows that train, rows held out (evenly over their groups), and how many of held-out groups are not used.

    Groups come in a random order, those that would take more than a tenth of all faces passed over; where all would,
    the smallest is held out. A single group cannot be held out of itself.
    """
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    everything = np.arange(len(groups))
    if not num_faces or len(names) < 2:
        return everything, everything[:0], 0
    taken: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(names)):
        total = sizes[taken].sum()
        if total >= num_faces:
            break
        if total + sizes[group] <= MOST_HELD_OUT * len(groups):
            taken.append(int(group))
    taken = taken or [int(sizes.argmin())]
    out = np.isin(place, taken)
    rows = np.flatnonzero(out)
    shown = rows[np.linspace(0, len(rows) - 1, min(num_faces, len(rows))).round().astype(np.int64)]
    return everything[~out], shown, len(rows) - len(shown)


def _table(config: Config, root: Path, is_own: bool) -> pl.DataFrame:
    """The frames table, where there is one and `root` is the folder that it speaks of; else nothing."""
    path = config.at(config.data.frames)
    return read_frames(path, config.schema) if is_own and path.is_file() else pl.DataFrame()


def _faces(config: Config, root: Path, table: pl.DataFrame, *, listed: bool) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Every face with its `path`, `video` and `group`; what could not be listed."""
    if len(table) and not listed:
        return table.select("path", "video").with_columns(group=pl.Series(groups_of(table))), ()
    listing = list_faces(root)
    faces = pl.DataFrame({"path": listing.paths}, schema={"path": pl.String})
    faces = faces.with_columns(video=pl.col("path").str.replace(r"/?[^/]*$", ""))
    if not len(table):
        return faces.with_columns(group=pl.col("video")), listing.faults
    known = table.select("video").with_columns(group=pl.Series(groups_of(table))).unique("video")
    joined = faces.join(known, on="video", how="left", maintain_order="left")
    return joined.with_columns(group=pl.coalesce("group", "video")), listing.faults


def _kept(config: Config, table: pl.DataFrame, faces: pl.DataFrame, wanted: tuple[str, ...]) -> np.ndarray:
    """[all faces] bool: of groups without any row that is to stay unseen."""
    if not len(table):
        return np.ones(faces.height, dtype=bool)
    unseen = ~table["split"].is_in(wanted).to_numpy() if wanted else scored_rows(config, table)
    left_out = np.unique(groups_of(table)[unseen])
    return ~faces["group"].is_in(left_out.tolist()).to_numpy()


def scored_rows(config: Config, table: pl.DataFrame) -> np.ndarray:
    """[N] bool: split test, and what `[split]` reports besides (half of val, where test has no labels)."""
    test = (table["split"] == "test").to_numpy()
    if not (table["split"] == config.split.select).any() or config.split.select == "test":
        return test
    try:
        return np.asarray(test | resolve_split(table, config.split, schema=config.schema).report)
    except ValueError:  # it cannot be cut for scoring, so nothing of it is scored
        return test
