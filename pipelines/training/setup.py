"""What a method of training needs of one strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.class_embeddings import ClassEmbeddings
from pipelines.fitting.epochs import Evaluation, ShouldStop
from pipelines.label_table import LabelTable
from pipelines.splits import Split
from pipelines.strategy import Strategy
from pipelines.training.dataset import Dataset
from pipelines.training.halving import Halving
from pipelines.training.stack_checkpoint import StackCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a method needs. `streams` names the streams of each model, as `strategy.streams_of` gives them; `num_steps`
    how long each model trains where nothing chooses: its last weights are taken. `taught` are the labels that training
    sees where these are not the data set's own."""

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
    taught: LabelTable | None = None

    @property
    def labels(self) -> LabelTable:
        """The labels that training sees, of all rows of the frames table."""
        return self.dataset.labels if self.taught is None else self.taught

    @property
    def rows_and_labels(self) -> tuple[int, int]:
        """Equal for setups of one stack that learn from the same labels of the same rows."""
        return id(self.split), id(self.labels)

    @property
    def used(self) -> tuple[str, ...]:
        """Every stream of every model: a step is valid where all of them have an embedding, whatever the method."""
        return tuple(dict.fromkeys(name for names in self.streams.values() for name in names))
