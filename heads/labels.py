"""Labels of frames by label group: values, and which of them are labels. NumPy arrays or tensors alike; no torch.

Letters: N frames (or any shape of them), K columns of a group.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Array = Any  # np.ndarray or torch.Tensor, one kind in one record


@dataclass(frozen=True, slots=True)
class Labels:
    """`values` and `masks` by group, both [..., K]: a mask is True where the value beside it is a label.

    A continuous group's values are numbers in its range, a binary one's 0 or 1 (float32); a group of classes has K = 1,
    the number of the class (int64). What stands under a mask that is False means nothing.
    """

    values: Mapping[str, Array]
    masks: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.masks.values())))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the schema's order."""
        return tuple(self.masks)

    def map(self, change: Callable[[Array], Array]) -> "Labels":
        """`change` of every array."""
        return Labels(
            {name: change(array) for name, array in self.values.items()},
            {name: change(array) for name, array in self.masks.items()},
        )

    def take(self, rows: Array) -> "Labels":
        """The labels of `rows`: row numbers in any shape, or a mask [N]."""
        return self.map(lambda array: array[rows])

    def hide(self, hidden: Array) -> "Labels":
        """Without the labels of frames that are `hidden` [...] bool."""
        return self.where(dict.fromkeys(self.masks, ~hidden[..., None]))

    def where(self, kept: Mapping[str, Array]) -> "Labels":
        """The labels of each group where `kept` [..., K] or [..., 1] bool of that group; none of one not named."""
        masks = {name: mask & kept[name] if name in kept else mask & False for name, mask in self.masks.items()}
        return Labels(self.values, masks)

    def labelled(self, group: str) -> Array:
        """[...] bool: frames with at least one label of `group`."""
        return self.masks[group].any(-1)
