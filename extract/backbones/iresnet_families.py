"""The three families of published IR face nets: how they differ, and their tensors' names. Used by `iresnet`.

insightface's names are the house's. AdaFace and face.evoLVe number all blocks through and name parts by their places.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What tells the published families apart; `iresnet` says what each choice means.

    `bgr` families were trained on faces whose first channel is blue.
    """

    middle_norm: bool = True
    strided_shortcut: bool = False
    last_norm_weights: bool = True
    se: bool = False
    bgr: bool = False


INSIGHTFACE = Family()
ADAFACE = Family(strided_shortcut=True, last_norm_weights=False, bgr=True)
EVOLVE = Family(strided_shortcut=True, middle_norm=False)
EVOLVE_SE = Family(strided_shortcut=True, middle_norm=False, se=True)


def in_our_names(state: Mapping[str, Tensor], family: Family, depths: Sequence[int]) -> dict[str, Tensor]:
    """A checkpoint in AdaFace's or face.evoLVe's names, in insightface's; one in other names as it is.

    Raises:
        ValueError: its blocks are not those of `family` and `depths`, so that equal names would mean different things.
    """
    first = next((name for name in state if name.endswith("input_layer.0.weight")), None)
    if first is None:
        return dict(state)
    prefix = first.removesuffix("input_layer.0.weight")
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not _is_built_alike(inside, family, depths):
        raise ValueError("a checkpoint of another family or depth of IR nets")
    renamed = {_our_name(name, family, depths): tensor for name, tensor in inside.items()}
    if family.bgr:
        renamed["conv1.weight"] = renamed["conv1.weight"].flip(1)
    return renamed


def _is_built_alike(state: Mapping[str, Tensor], family: Family, depths: Sequence[int]) -> bool:
    """Whether the blocks have the family's parts, and are as many."""
    blocks = {match[1] for name in state if (match := re.match(r"body\.(\d+)\.", name))}
    return (
        len(blocks) == sum(depths)
        and family.strided_shortcut == ("body.0.shortcut_layer.0.weight" not in state)
        and family.middle_norm == ("body.0.res_layer.2.running_mean" in state)
        and family.se == ("body.0.res_layer.5.fc1.weight" in state)
    )


def _our_name(name: str, family: Family, depths: Sequence[int]) -> str:
    """input_layer.0.weight: conv1.weight; body.3.res_layer.0.weight: layer2.0.bn1.weight, where layer1 has 3 blocks."""
    for theirs, ours in OUTSIDE.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    found = re.match(r"body\.(\d+)\.(res_layer|shortcut_layer)\.(\d+)\.", name)
    if found is None:
        return name
    parts = PARTS_WITH_MIDDLE_NORM if family.middle_norm else PARTS
    part = parts[int(found[3])] if found[2] == "res_layer" else f"downsample.{found[3]}"
    return f"{_place(int(found[1]), depths)}.{part}.{name[found.end() :]}"


def _place(block: int, depths: Sequence[int]) -> str:
    """Where the block stands that is number `block` of all."""
    for stage, depth in enumerate(depths, start=1):
        if block < depth:
            return f"layer{stage}.{block}"
        block -= depth
    raise ValueError("a checkpoint of a deeper net")


OUTSIDE = {
    "input_layer.0.": "conv1.",
    "input_layer.1.": "bn1.",
    "input_layer.2.": "prelu.",
    "output_layer.0.": "bn2.",
    "output_layer.3.": "fc.",
    "output_layer.4.": "features.",
}
PARTS = ("bn1", "conv1", "prelu", "conv2", "bn3", "se")
PARTS_WITH_MIDDLE_NORM = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "se")
