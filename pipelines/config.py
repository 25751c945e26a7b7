"""mtl.toml as frozen dataclasses: read, check, override, write back.

Every field of `[head]`, `[loss]` and `[train]` has a name of its own across the three, so a grid can name it alone.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen, MultipleOf

from cache.labels import ABAW, SCHEMAS, Schema, chosen_schema, nearest, schema_of, shipped
from cache.parsing import parse_toml
from cache.regular import CONFIG_BYTES, read_text
from cache.storage.location import Location, parse_location
from cache.valid_names import check_name
from extract.config import BackboneConfig, CropShare, section_problem
from extract.view_names import recipe
from heads.config import HeadConfig, LossConfig
from heads.ranges import hints_of
from pipelines.concerns import warn_of
from pipelines.folds import NO_FOLD, Fold
from pipelines.task_fields import TASK_FIELDS, refusal
from pipelines.typed import convert, from_mapping

# The range of every number stands beside it and is checked wherever the value is read: mtl.toml, --set, grids, runs.
# What several fields share has a name. Upper bounds are far above what is sensible, and below what ends in a crash.
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Epochs = Annotated[int, Interval(ge=1, le=10**6)]
Patience = Annotated[int, Interval(ge=1, le=10**6)]
Rate = Annotated[float, Interval(gt=0, le=100)]
Decay = Annotated[float, Interval(ge=0, le=100)]
Warmup = Annotated[float, Interval(ge=0, le=10**6)]
Clip = Annotated[float, Interval(ge=0, le=1e9)]
Count = Annotated[int, Interval(ge=0, le=10**9)]
BatchSize = Annotated[int, Interval(ge=1, le=10**6)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Probability = Annotated[float, Interval(ge=0, le=1)]
Minutes = Annotated[float, Interval(ge=0, le=10**6)]
SideOrOwn = Annotated[int, Interval(ge=0, le=4096)]
Name = Annotated[str, MinLen(1)]
Pixel = Annotated[float, Interval(ge=-1024, le=2048)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the faces and the frames table are. `ignore_orientation` takes pictures and videos as they are stored,
    whatever their EXIF orientation or rotation says; as programs see them that do not know of it. `fps` is the rate of
    the videos whose frame numbers the table has: a frame of another video stands at its time times `fps`.
    `videos` is the folder of the videos that the faces were cut from, whose sound tracks `mtl extract` embeds.
    `name` and `licence` are notes on the data for model cards; `attributes` is a table of the subjects' attributes, by
    which cards score subgroups (`pipelines.cards.attributes`)."""

    faces: Path = Path("cropped_aligned")
    frames: Path = Path("frames.parquet")
    videos: Path = Path("videos")
    ignore_orientation: bool = False
    fps: Annotated[float, Interval(gt=0, le=1000)] = 30.0
    name: str = ""
    licence: str = ""
    attributes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where embeddings are kept; `shard_rows` rows are written, marked and resumed as one. `dtype` "float32" is for
    embeddings whose values float16 cannot hold (above 65,504, or most of them below 6e-5), at twice the size.

    `path` is a folder, or a URL such as "s3://bucket/prefix"; then shards that are read are kept in the folder `local`,
    of which those not used for longest go where they would be more than `local_gb` (10^9 bytes)."""

    path: Name = "cache.zarr"
    local: Path | None = None
    local_gb: Annotated[float, Interval(gt=0, le=1_000_000)] = 100.0
    shard_rows: Annotated[int, Interval(ge=1, le=2**20)] = 4096
    dtype: Literal["float16", "float32"] = "float16"


@dataclass(frozen=True, slots=True, kw_only=True)
class FacesConfig:
    """How faces are found in videos and pictures, and where their points lie in a crop: all of it decides the crops, so
    it is that of the crops that models were trained on. `detector` is "retinaface" (extra `faces`), "yunet:FILE" or one
    of another package (entry points `mtl.detectors`); it sees pictures of `long_side_px` at most. `template` is
    "arcface", or the eyes, the tip of the nose and the corners of the mouth, [x, y] in crops of `size_px`. `like` is
    the folder of the crops that `mtl align --like` measured it from."""

    detector: Name = "retinaface"
    template: Name | tuple[tuple[Pixel, Pixel], ...] = "arcface"
    size_px: Annotated[int, Interval(ge=16, le=1024)] = 112
    long_side_px: Annotated[int, Interval(ge=64, le=8192)] = 640
    min_score: Annotated[float, Interval(gt=0, lt=1)] = 0.7
    like: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """Where runs and studies go."""

    runs: Path = Path("runs")
    studies: Path = Path("studies")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """How finished runs predict: the mean over `views` of the cache, where none are named over the view that a run was
    trained with. `outside` is the stream of a classifier's scores, whose class post-processing may take where it is
    surer than a threshold. Post-processing and ensembles keep what they were fitted with."""

    views: tuple[Name, ...] = ()
    outside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Who trains, who chooses, who is scored.

    `select` is the split on which epochs and strategies are chosen, `report` the one scored once at the end. "auto"
    reports on test where test has labels, else on one half of the videos of `select`, the other half choosing.
    With `[train] fold` set, train and val are pooled and cut by subject or video into `num_folds` folds instead. Each
    is an outer fold, scored once; inside it one of the other folds chooses and the rest trains. With `inner_folds`
    above 1 a search does that with so many of the others in turn, and goes by the mean of their scores.
    """

    select: Literal["val", "test"] = "val"
    report: Literal["auto", "val", "test"] = "auto"
    num_folds: Annotated[int, Interval(ge=3, le=999)] = 5
    inner_folds: Annotated[int, Interval(ge=1, le=998)] = 1
    fold_seed: Seed = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a head is trained: `steps` optimiser steps, scored every `eval_steps`, until `patience` steps brought nothing
    better. None of these depends on how many windows a data set has; a step sees `batch_windows` windows, where 0 is
    4 to 32 by the size of the data (`pipelines.training.budget`).

    `window` and `stride` count steps of time; `max_gap` counts real frames: a window never spans a longer gap.
    `frozen_steps` concerns the method "progressive": steps of its joint part with the trunks frozen. The others of
    "self-training" are those of its teachers: how many, the probability from which they name a class, that from which
    they say whether a binary column is there, and the share of the values of continuous columns that they give, those
    on which they agree most.
    `fold` "none" means the splits of the frames table; "2.1" is fold 2 with the second of its inner parts to choose on.
    `augment` names further views (`mtl extract --views`) from which training draws windows beside `view`; predictions
    and scores are always of `view`. `precision` is that of the products of a training step; weights, losses and
    predictions are float32."""

    method: Literal["separate", "joint", "progressive", "self-training"] = "joint"
    window: Annotated[int, Interval(ge=1, le=10**6)] = 64
    stride: Annotated[int, Interval(ge=1, le=10**6)] = 32
    max_gap: Annotated[int, Interval(ge=1, le=10**9)] = 300
    batch_windows: Annotated[int, Interval(ge=0, le=10**6)] = 0
    steps: Annotated[int, Interval(ge=1, le=10**9)] = 800
    eval_steps: Annotated[int, Interval(ge=1, le=10**9)] = 40
    patience: Annotated[int, Interval(ge=1, le=10**9)] = 400
    frozen_steps: Annotated[int, Interval(ge=0, le=10**9)] = 120
    teachers: Annotated[int, Interval(ge=1, le=100)] = 3
    class_confidence: Probability = 0.7
    binary_confidence: Annotated[float, Interval(ge=0.5, le=1)] = 0.8
    agreed_share: Probability = 0.75
    lr: Rate = 1e-3
    weight_decay: Decay = 1e-2
    warmup_steps: Annotated[int, Interval(ge=0, le=10**9)] = 40
    schedule: Literal["cosine", "constant"] = "cosine"
    grad_clip: Clip = 1.0
    view: Name = "base"
    augment: tuple[Name, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    fold: Fold = NO_FOLD

    @property
    def views(self) -> tuple[str, ...]:
        """Every view that training reads, that of the scores first."""
        return tuple(dict.fromkeys((self.view, *self.augment)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSection(TrainConfig):
    """The section [train]: what a strategy trains by, and `memory_gb`, which changes no number. Streams that together
    take more than that are read by windows from the cache, not held in memory; 0 is most of what is free."""

    memory_gb: Annotated[float, Interval(ge=0, le=10**6)] = 0.0

    @property
    def strategy_part(self) -> TrainConfig:
        """All but `memory_gb`."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSetConfig:
    """A further set of labelled faces, an entry `[[finetune.data]]`: its `faces` folder and `frames` table.

    Its rows of split train teach `tasks` (default: all it has labels of). `share` is its part of the faces of an
    epoch; 0 is as many as it has rows. `licence` goes into the trained backbone's section.
    """

    faces: Path
    frames: Path
    tasks: tuple[Name, ...] = ()
    share: Share = 0.0
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """How `mtl finetune` trains a backbone; `size_px` 0 keeps the model's own input size.

    `crop_pct` is the part of a face's side that the model sees, cut from the middle: 1 is all of an aligned face, where
    timm's own for most weights, 0.875, cuts 6 % off each side. Extraction then does as training did.

    `lr` "auto" is 1e-3 for a model with batch normalisation and 3e-4 for others (ViTs, ConvNeXts). A step sees
    `batch_size` faces, or `accumulate` batches of that size one after the other, over all processes together.
    `layer_decay` lets each layer learn that much slower than the one above it (1: all alike), `drop_path` is stochastic
    depth, `ema` the decay of averaged weights, which then are scored and saved (0: none), and `grad_clip` 0 clips
    nothing. `freeze` "backbone" trains the outputs alone, "partial" the last `trainable_blocks` besides; for the first
    `probe_epochs` the backbone stands still whatever `freeze` says. `lora_rank` above 0 trains low-rank additions in
    the backbone's place. `checkpoint_gradients` computes activations twice and keeps fewer.

    `balance` "videos" shows a video as often as the root of its length says, "labels" a rare class or positive
    by the root of its rarity more often; `max_faces_per_video` draws at most so many of a video, anew each epoch.
    `erase` is the chance of a rectangle of noise in a face, `rand_augment` timm's words for RandAugment
    ("rand-m9-n2"), `mixup` the alpha of mixup (0: none).

    `rename` names rules by which tensors of the `init` file are renamed. The state is kept every `checkpoint_minutes`
    and after each epoch. `precision` "auto" measures, on a CPU, whether bfloat16 pays; name one where a run must repeat
    another's numbers. `data` are further sets of faces; `licence` is a note on the data for the backbone's section.
    """

    size_px: SideOrOwn = 0
    crop_pct: CropShare = 1.0
    epochs: Epochs = 10
    batch_size: Annotated[int, Interval(ge=2, le=10**6)] = 64
    accumulate: BatchSize = 1
    lr: Literal["auto"] | Rate = "auto"
    min_lr: Annotated[float, Interval(ge=0, le=100)] = 0.0
    weight_decay: Decay = 0.05
    warmup_epochs: Warmup = 0.5
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    grad_clip: Clip = 1.0
    drop_path: Share = 0.0
    ema: Share = 0.0
    freeze: Literal["none", "partial", "backbone"] = "none"
    trainable_blocks: Annotated[int, Interval(ge=1, le=1000)] = 2
    probe_epochs: Annotated[int, Interval(ge=0, le=10**6)] = 0
    lora_rank: Annotated[int, Interval(ge=0, le=4096)] = 0
    lora_alpha: Annotated[float, Interval(gt=0, le=1e6)] = 16.0
    checkpoint_gradients: bool = False
    balance: Literal["none", "videos", "labels", "both"] = "none"
    max_faces_per_epoch: Count = 0
    max_faces_per_video: Count = 0
    flip: Probability = 0.5
    brightness: Probability = 0.2
    contrast: Probability = 0.2
    erase: Probability = 0.0
    rand_augment: str = ""
    mixup: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    patience: Patience = 4
    seed: Seed = 0
    init: Literal["pretrained", "random"] | Name = "pretrained"
    rename: str = ""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: Minutes = 10.0
    data: tuple[FaceSetConfig, ...] = ()
    licence: str = ""

    @property
    def rate(self) -> float:
        """`lr`, once it is known for the model."""
        assert not isinstance(self.lr, str), "pipelines.backbones.finetuning.recipe.with_rate says what auto is"
        return self.lr


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """How `mtl pretrain` trains a ViT as a masked autoencoder; `size_px` and `crop_pct` are those of [finetune].

    The paper's (arXiv 2111.06377) but for the decoder: 4 blocks of 256 cost half of a ViT-S encoder, and its 8 of 512
    gained nothing after fine-tuning (table 1). A step sees `batch_size` faces, or
    `accumulate` batches of that size one after the other, over all processes together; the learning rate is `base_lr`
    for every 256 of them. `crop_min_area` is the least part of a face that a random crop shows (1: no crops).
    `max_faces_per_video` are drawn of a video, anew each epoch (0: all). `held_out_faces` are of videos that are never
    trained on. The state is kept every `checkpoint_minutes`; `precision` is that of [finetune].
    """

    size_px: SideOrOwn = 0
    crop_pct: CropShare = 1.0
    init: Literal["pretrained", "random"] | Name = "random"
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.75
    normalise_targets: bool = True
    decoder_width: Annotated[int, Interval(ge=32, le=8192), MultipleOf(32)] = 256
    decoder_depth: Annotated[int, Interval(ge=1, le=64)] = 4
    epochs: Epochs = 100
    warmup_epochs: Warmup = 5.0
    batch_size: BatchSize = 256
    accumulate: BatchSize = 1
    base_lr: Rate = 1.5e-4
    weight_decay: Decay = 0.05
    grad_clip: Clip = 0.0
    crop_min_area: Annotated[float, Interval(gt=0, le=1)] = 0.2
    flip: Probability = 0.5
    max_faces_per_video: Count = 0
    held_out_faces: Count = 256
    checkpoint_minutes: Minutes = 10.0
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of mtl.toml. `folder` is the folder it was read from; relative paths in it start there. `schema` is that of
    the labels, from the section [labels]. `task` has the sections [task.NAME]: `TASK_FIELDS` that differ for the model
    of that task. `memory_gb` is that of [train] (`TrainSection`)."""

    folder: Path = Path()
    schema: Schema = ABAW
    data: DataConfig = DataConfig()
    faces: FacesConfig = FacesConfig()
    cache: CacheConfig = CacheConfig()
    output: OutputConfig = OutputConfig()
    split: SplitConfig = SplitConfig()
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    memory_gb: float = 0.0
    predict: PredictConfig = PredictConfig()
    task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finetune: FinetuneConfig = FinetuneConfig()
    pretrain: PretrainConfig = PretrainConfig()
    backbones: Mapping[str, BackboneConfig] = field(default_factory=dict)

    def at(self, path: Path | str) -> Path:
        """`path` seen from the folder of mtl.toml; `~` is the home folder."""
        return self.folder / Path(path).expanduser()

    def cache_location(self) -> Location:
        """Where the cache is: a folder, or a prefix of an object store. Raises ValueError where [cache] path is
        neither."""
        local = None if self.cache.local is None else self.at(self.cache.local)
        return parse_location(self.cache.path, self.folder, local, self.cache.local_gb)

    @property
    def streams(self) -> dict[str, str]:
        """Every stream of the backbones, in the order of mtl.toml, and the name of its section."""
        return {stream: name for name, backbone in self.backbones.items() for stream in backbone.streams(name)}

    def backbone_of(self, stream: str) -> BackboneConfig | None:
        """The section that a stream belongs to; None where there is none."""
        return self.backbones.get(self.streams.get(stream, ""))

    def own_streams(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Streams of the backbones made for any of `tasks`, in the order of mtl.toml."""
        made_for = {name: backbone.tasks or (name,) for name, backbone in self.backbones.items()}
        known = {name: [task for task in own if task in self.schema.tasks] for name, own in made_for.items()}
        return tuple(stream for stream, name in self.streams.items() if self.schema.shared(known[name], tasks))


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "faces": FacesConfig,
    "cache": CacheConfig,
    "output": OutputConfig,
    "split": SplitConfig,
    "head": HeadConfig,
    "loss": LossConfig,
    "train": TrainSection,
    "predict": PredictConfig,
    "finetune": FinetuneConfig,
    "pretrain": PretrainConfig,
}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path, CONFIG_BYTES))
    except ValueError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """mtl.toml with `section.key=value` overrides applied.

    Raises:
        ValueError: the file is missing or not TOML, or a section, key or value is not known; says which and where,
            in the file or in `--set`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `mtl init` writes one")
    document = _read_toml(path)
    changed = copy.deepcopy(document)
    for override in overrides:
        apply_override(changed, override)
    try:
        return parse_config(changed, path.parent, str(path))
    except ValueError:
        if overrides:
            parse_config(document, path.parent, str(path))
            parse_config(changed, path.parent, "--set")  # the file by itself is right
        raise


def parse_config(document: Mapping[str, Any], folder: Path, where: str) -> Config:
    """The parsed TOML `document` as a `Config`; `where` names it in errors."""
    known = ["labels", *SECTIONS, "task", "backbones"]
    for name in document:
        if name not in known:
            raise ValueError(f"{where}: unknown section [{name}]{nearest(name, known)}; known: {', '.join(known)}")
    schema = chosen_schema(_table(document.get("labels", {}), f"{where}: [labels]"), f"{where}: [labels]")
    defaults: dict[str, dict[str, Any]] = {"head": {"tasks": schema.names}}
    tables = {name: _table(document.get(name, {}), f"{where}: [{name}]") for name in SECTIONS}
    sections = {
        name: from_mapping(cls, defaults.get(name, {}) | tables[name], f"{where}: [{name}]")
        for name, cls in SECTIONS.items()
    }
    backbones = {
        check_name(name, f"{where}: section [backbones.NAME], NAME ="): from_mapping(
            BackboneConfig, _table(table, f"{where}: [backbones.{name}]"), f"{where}: [backbones.{name}]"
        )
        for name, table in _table(document.get("backbones", {}), f"{where}: [backbones]").items()
    }
    task = {
        name: task_values(_table(table, f"{where}: [task.{name}]"), f"{where}: [task.{name}]")
        for name, table in _table(document.get("task", {}), f"{where}: [task]").items()
    }
    train = sections.pop("train")
    config = Config(
        folder=folder,
        schema=schema,
        backbones=backbones,
        task=task,
        train=train.strategy_part,
        memory_gb=train.memory_gb,
        **sections,
    )
    _check_cache(config, where)
    _check_tasks(config, where)
    _check_outputs(config, where)
    _check_views(config, where)
    return config


def task_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A section [task.NAME], each value as its field in [head] or [train] holds it; raises ValueError as
    `from_mapping`."""
    hints = hints_of(HeadConfig) | hints_of(TrainConfig)
    for key in values:
        if key not in TASK_FIELDS:
            known = ", ".join(TASK_FIELDS)
            what = refusal(key, hints | hints_of(LossConfig)) or f"unknown key {key!r}{nearest(key, TASK_FIELDS)}"
            raise ValueError(f"{where}: {what}; known: {known}")
    return {key: convert(value, hints[key], f"{where} {key}") for key, value in values.items()}


def _check_cache(config: Config, where: str) -> None:
    """Raises ValueError where the cache's path is neither a folder nor a URL that can be one's."""
    try:
        location = config.cache_location()
    except ValueError as error:
        raise ValueError(f"{where}: [cache] path: {error}") from None
    if isinstance(location, Path) and config.cache.local is not None:
        moot = f"local = {str(config.cache.local)!r} (path = {config.cache.path!r} is a folder)"
        warn_of([moot], f"{where}: [cache]")


def _check_tasks(config: Config, where: str) -> None:
    """Raises ValueError for a task that the schema does not have, with the nearest that it has."""
    named: dict[str, Iterable[str]] = {
        "[head] tasks": config.head.tasks,
        "[head] targets": config.head.targets,
        "[loss] task_weights": config.loss.task_weights,
        "[task.NAME]": config.task,
        **{f"[[finetune.data]] {index + 1} tasks": each.tasks for index, each in enumerate(config.finetune.data)},
        **{f"[backbones.{name}] tasks": backbone.tasks for name, backbone in config.backbones.items()},
    }
    for key, tasks in named.items():
        for task in tasks:
            config.schema.task(task, f"{where}: {key}")


def _check_outputs(config: Config, where: str) -> None:
    """Raises ValueError where outputs of a backbone cannot be, or two backbones have one name for a stream."""
    for name, backbone in config.backbones.items():
        if problem := section_problem(backbone):
            raise ValueError(f"{where}: [backbones.{name}] {problem}")
        for stream in backbone.streams(name):
            if stream != name and stream in config.backbones:
                raise ValueError(
                    f"{where}: [backbones.{stream}] is called as the scores of [backbones.{name}] are; rename"
                )


def _check_views(config: Config, where: str) -> None:
    """Raises ValueError for a view that there is not, or that is named twice."""
    views = config.predict.views
    for view in views:
        try:
            recipe(view)
        except ValueError as error:
            raise ValueError(f"{where}: [predict] views: {error}") from None
    if len(set(views)) < len(views):
        raise ValueError(f"{where}: [predict] views: each once; found {list(views)}")


def read_schema(text: str, where: str) -> Schema:
    """The schema that an option names: one that ships, or a TOML file with `name` and `[[groups]]`.

    Raises:
        ValueError: there is none of that name and no such file, or the file is not one of a schema; says `where`.
    """
    path = Path(text).expanduser()
    if text in SCHEMAS or not path.suffix:
        return shipped(text, where)
    if not path.is_file():
        raise ValueError(f"{where} {text}: no such file, nor a schema that ships: {', '.join(SCHEMAS)}")
    document = _read_toml(path)
    if isinstance(document.get("labels"), dict):  # an mtl.toml
        return chosen_schema(document["labels"], f"{path}: [labels]")
    return chosen_schema(document, str(path)) if "groups" in document else schema_of(document, str(path))


def apply_override(document: dict[str, Any], override: str) -> None:
    """Sets `section.key=value` in `document`; the value is TOML, or else taken as a string."""
    dotted, equals, text = override.partition("=")
    keys = [part.strip() for part in dotted.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise ValueError(f"--set {override}: expected section.key=value, as in --set train.lr=0.001")
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ValueError(f"--set {override}: {key} is a value, not a section")
    table[keys[-1]] = _toml_value(text)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a section, found {value!r}")
    return value


def _toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text.strip()
