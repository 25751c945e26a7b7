"""What a method of training needs of one strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.class_embeddings import ClassEmbeddings
from pipelines.fitting.epochs import Evaluation, ShouldStop
from pipelines.splits import Split
from pipelines.strategy import Strategy
from pipelines.training.dataset import Dataset
from pipelines.training.fit import Halving
from pipelines.training.stack_checkpoint import StackCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a method needs. `streams` names the streams of each model, as `strategy.streams_of` gives them; `num_steps`
    how long each model trains where nothing chooses: its last weights are taken."""

    dataset: Dataset
    strategy: Strategy
    split: Split
    streams: Mapping[str, tuple[str, ...]]
    class_embeddings: ClassEmbeddings | None = None
    on_evaluation: Callable[[Evaluation], None] | None = None
    should_stop: ShouldStop | None = None
    halving: Halving | None = None
    checkpoint: StackCheckpoint | None = None
    num_steps: Mapping[str, int] | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """Every stream of every model: a step is valid where all of them have an embedding, whatever the method."""
        return tuple(dict.fromkeys(name for names in self.streams.values() for name in names))
