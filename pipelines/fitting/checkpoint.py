"""The state of a training in one file: whole or absent, and never resumed by another training.

Training draws its random numbers from (seed, epoch, step), so weights, moments, counters and history are all there is
to keep: a training resumed from a checkpoint ends with the bits of one that was never stopped.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from extract.backbones.weights import DIGEST, read_weights, save_tensors

ANEW = "--restart begins anew"
Resumed = tuple[dict[str, Tensor], dict[str, Any]]


class SupportsCheckpoint(Protocol):
    """An object that a checkpoint can hold: tensors by name, and what JSON can hold."""

    def tensors(self) -> dict[str, Tensor]: ...

    def about(self) -> dict[str, Any]: ...


@dataclass(slots=True, kw_only=True)
class Checkpoints:
    """The checkpoint of one training at `path`, written by the process that `writes`, every `minutes` and when asked.

    `identity` says what is trained on what; `about` is kept beside the state.
    """

    path: Path
    identity: str
    minutes: float
    writes: bool = True
    about: dict[str, Any] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic)

    def read(self) -> Resumed | None:
        """What the file keeps, or None. Raises ValueError: it is damaged, or of another training."""
        return read_checkpoint(self.path, self.identity)

    def save(self, state: SupportsCheckpoint) -> None:
        if self.writes:
            write_checkpoint(self.path, state.tensors(), {"identity": self.identity, **self.about, **state.about()})
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= 60 * self.minutes

    def remove(self) -> None:
        if self.writes:
            self.path.unlink(missing_ok=True)


def identity_of(about: Mapping[str, Any]) -> str:
    """The identity of a training that `about` describes: JSON, so that a refusal can name the entries that differ."""
    return json.dumps(about, sort_keys=True)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replaces the checkpoint at `path` by copies of `tensors` (on any device) and `about`, which JSON can hold.

    `about["identity"]` says whose it is. After a crash there is the old checkpoint or the new one.
    """
    assert isinstance(about["identity"], str), "read_checkpoint asks for it"
    copies = {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors.items()}
    save_tensors(path, copies, {"about": json.dumps(dict(about))})


def read_checkpoint(path: Path, identity: str) -> Resumed | None:
    """The tensors, on the CPU, and `about` of the checkpoint at `path`; None where there is none.

    Raises:
        ValueError: it is damaged, or of a training with another identity; says what differs where both are JSON.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            is_ours = DIGEST in (file.metadata() or {})
        tensors, metadata = read_weights(path)
        about = json.loads(metadata["about"])
    except (SafetensorError, ValueError, KeyError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path}: not a whole checkpoint; {ANEW}")
    if about["identity"] != identity:
        raise ValueError(f"{path}: a checkpoint of another training{difference(about['identity'], identity)}; {ANEW}")
    return tensors, about


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all `parts`, their names after that of the part and a dot."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The `tensors` whose name begins with `part` and a dot, without it."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def difference(found: str, wanted: str) -> str:
    """What differs, as " (then lr = 0.1; now lr = 0.2)", where both are JSON objects, else nothing."""
    try:
        before, now = _flat(json.loads(found)), _flat(json.loads(wanted))
    except (json.JSONDecodeError, AttributeError):
        return ""
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    was, now_is = (", ".join(f"{key} = {values.get(key)}" for key in keys) for values in (before, now))
    return f" (then {was}; now {now_is})"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
