"""One extraction by one process, on one device; its options and its progress bar."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cache.frames_file import Frames
from cache.locks import WHOLE, Part
from cache.store import Cache
from extract.report import Hooks, Report
from extract.view_names import BASE
from pipelines.cluster.connection import ClusterChoices
from pipelines.config import Config
from pipelines.progress import Bar, Lines, progress, waiting
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    from extract.backbones.build import Backbone
    from extract.jobs import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The options of `mtl extract`. `devices` is one name or several, separated by commas; 0 means a default; None for
    `cluster`: on this machine."""

    devices: str = "auto"
    batch_size: int = 0
    num_threads: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    runtime: Literal["auto", "eager", "compiled", "graph", "onnx"] = "auto"
    exact: bool = False
    views: tuple[str, ...] = (BASE,)
    part: Part = WHOLE
    cluster: ClusterChoices | None = None


def extract_on(
    config: Config, names: Sequence[str], frames: Frames, choices: Choices, device: str, hooks: Hooks
) -> Report:
    """Extracts on one device, in this process. Raises as `run_extraction`."""
    from extract.engine import extract

    cache, backbones, settings = loaded(config, names, choices, device)
    return extract(frames, config.at(config.data.faces), cache, backbones, settings, hooks)


def loaded(
    config: Config, names: Sequence[str], choices: Choices, device: str
) -> tuple[Cache, "list[Backbone]", "Settings"]:
    """The cache, the backbones and the settings of an extraction on `device`. Raises as `run_extraction`."""
    import_torch()
    import torch

    from extract.backbones.build import load_backbone
    from extract.engine import default_batch_size, default_num_threads
    from extract.jobs import Settings

    where = torch.device(device)
    if where.index is not None:
        torch.cuda.set_device(where)  # memory is pinned in the context of the current GPU, one more if that is another
    backbones = [
        dataclasses.replace(load_backbone(name, config.backbones[name], config.folder), dtype=config.cache.dtype)
        for name in names
    ]
    settings = Settings(
        device=where,
        batch_size=choices.batch_size or default_batch_size(where),
        num_threads=choices.num_threads or default_num_threads(),
        shard_rows=config.cache.shard_rows,
        precision=choices.precision,
        runtime=choices.runtime,
        exact=choices.exact,
        views=choices.views,
        part=choices.part,
        folder=config.folder,
        follow_orientation=not config.data.ignore_orientation,
    )
    return Cache.open(config.cache_location(), create=True), backbones, settings


class ExtractionBar:
    """A note while backbones load, then a progress bar; silent where standard error is not a terminal."""

    def __init__(self, title: str, unit: str = "faces") -> None:
        self._title, self._unit = title, unit
        self._stack = contextlib.ExitStack()
        self._bar: Bar | Lines | None = None

    def __enter__(self) -> "ExtractionBar":
        self._stack.enter_context(waiting(f"{self._title}: loading, choosing the runtime"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, total: int) -> None:
        """From now on it counts to `total` faces, or what its unit is."""
        self._stack.close()
        self._bar = self._stack.enter_context(progress(self._title, total, self._unit))

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar(count)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        if self._bar is not None:
            self._bar.reach(done)

    def hooks(self, opened: Callable[[], None] = lambda: None) -> Hooks:
        return Hooks(opened=opened, begin=self.begin, advance=self.advance)
