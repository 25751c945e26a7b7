"""What of a checkpoint fits a model: the report of it, whether it is enough, and what to do where it is not."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from extract.backbones.rename import PRESETS

# Buffers that some versions save and others compute or leave unused.
INERT = ("num_batches_tracked", "relative_position_index", "attn_mask")
SHOWN = 5  # names of a kind in the lines for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The tensors of a checkpoint beside those of a model, in the model's names.

    `missing` are in the model alone, `left_over` in the checkpoint alone, `mismatched` in both, in two shapes: name,
    the checkpoint's, the model's. `share` is the part of the model's numbers that the checkpoint gives, 0 to 1.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    share: float

    @property
    def num_wanted(self) -> int:
        """How many tensors the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the model is given."""
        return not self.missing and not self.mismatched

    def print_lines(self) -> list[str]:
        """The report in lines for people; only the first one where everything matched."""
        shapes = [f"{name} {list(theirs)}, model {list(ours)}" for name, theirs, ours in self.mismatched]
        table = {"missing": [*self.missing], "left over": [*self.left_over], "other shape": shapes}
        lines = [f"matched      {len(self.matched)} of {self.num_wanted} tensors, {self.share:.1%} of the parameters"]
        for kind, names in table.items():
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"{kind:<12} {len(names)}: {', '.join(names[:SHOWN])}{more}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "matched": len(self.matched),
            "wanted": self.num_wanted,
            "share": round(self.share, 6),
            "missing": [*self.missing],
            "left_over": [*self.left_over],
            "mismatched": [
                {"name": name, "checkpoint": [*theirs], "model": [*ours]} for name, theirs, ours in self.mismatched
            ],
        }


def compare(module: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """`state` beside the tensors of `module`, without those that cannot change its output."""
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith(INERT)}
    matched = [name for name, value in wanted.items() if name in state and state[name].shape == value.shape]
    total = sum(value.numel() for value in wanted.values())
    return Match(
        matched=tuple(matched),
        missing=tuple(name for name in wanted if name not in state),
        left_over=tuple(name for name in state if name not in wanted and not name.endswith(INERT)),
        mismatched=tuple(
            (name, tuple(state[name].shape), tuple(value.shape))
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ),
        share=sum(wanted[name].numel() for name in matched) / max(total, 1),
    )


def complaint(module: nn.Module, match: Match) -> str | None:
    """Why the checkpoint is not this module's, or None: a tensor lacking, of another shape, or one too many in a block.

    A classifier may be left over, and so may whatever lies beside the module's own parts.
    """
    if match.missing:
        return f"{match.missing[0]} is missing"
    for name, theirs, ours in match.mismatched:
        return f"{name} is {list(theirs)} instead of {list(ours)}"
    parts = {name.partition(".")[0] for name in match.matched}
    heads = _classifiers(module)
    for name in match.left_over:
        if name.partition(".")[0] in parts and not name.startswith(heads):
            return f"{name} has no place"
    return None


def advice(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The preset or the one rule by which a quarter of the module more, and half of it in all, is found; else empty."""
    now = compare(module, state)
    best, advised = max(len(now.matched) + now.num_wanted // 4, now.num_wanted // 2), ""
    for name, rules in PRESETS.items():
        try:
            found = len(compare(module, rules.apply(state)).matched)
        except ValueError:  # not this family's names
            continue
        if found > best:
            best, advised = found, f"--rename {name} matches {found} tensors"
    heads = _likely_heads(module, state, now)
    if heads:
        (theirs, ours), count = heads.most_common(1)[0]
        if count + len(now.matched) > best:
            return f"the rule '^{re.escape(theirs)}' = '{ours}' matches {count} more"
    return advised


def _likely_heads(module: nn.Module, state: Mapping[str, Tensor], match: Match) -> Counter[tuple[str, str]]:
    """How often a left-over tensor and a missing one of its shape differ in nothing but how their names begin."""
    wanted = module.state_dict()
    by_end: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in match.left_over:
        by_end.setdefault((name.rpartition(".")[2], tuple(state[name].shape)), []).append(name)
    counts: Counter[tuple[str, str]] = Counter()
    for ours in match.missing:
        for theirs in by_end.get((ours.rpartition(".")[2], tuple(wanted[ours].shape)), ()):
            counts[_heads(theirs, ours)] += 1
    return counts


def _heads(theirs: str, ours: str) -> tuple[str, str]:
    """The two names without the whole parts in which they end alike, up to and with the dot."""
    a, b = theirs.split("."), ours.split(".")
    while a and b and a[-1] == b[-1]:
        a.pop(), b.pop()
    return "".join(f"{part}." for part in a), "".join(f"{part}." for part in b)


def _classifiers(module: nn.Module) -> tuple[str, ...]:
    names = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
