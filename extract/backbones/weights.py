"""Checkpoints: read without ever running code from them, fitted to a model, digested, written durably.

A checkpoint is a state dict {tensor name: tensor}; training programs wrap it in keys and prefixes of their own.
"""

import argparse
import hashlib
import json
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cache.durable import write_durably
from extract.backbones.catalogue import origin_of_file
from extract.backbones.matching import INERT, Match, advice, compare, complaint
from extract.backbones.rename import Rules
from extract.config import Preprocessing

StateDict = dict[str, Tensor]

DIGEST = "mtl-digest"  # of a file that this program wrote, among its metadata

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
CHECKPOINT_STARTS = (b"PK", b"\x80")  # zip archive, plain pickle
# What training programs keep beside tensors and what only holds values: their arguments, and paths among these. Paths
# are named as every Python writes or reads them, whichever it is here.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *(
        (PurePath, f"{module}.{kind}")
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "WindowsPath")
    ),
]
# In the order timm looks for them: averaged weights first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "teacher")
PREFIXES = ("", "module.", "model.", "backbone.", "encoder.", "_orig_mod.", "module.backbone.", "model.backbone.")
ENOUGH = 0.5  # the share of a module's numbers from which on a training may start from a partial match


def read_weights(path: Path) -> tuple[StateDict, dict[str, str]]:
    """The tensors of a checkpoint and, for safetensors, its metadata.

    Raises:
        ValueError: no such file, not a checkpoint, damaged, or a pickle that would run code when read.
    """
    if not path.is_file():
        origin = origin_of_file(path)
        raise ValueError(f"{path}: no such weights file" + (f"; get {origin}" if origin else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _tensors_of(_read_pickle(path), path), {}
    raise ValueError(f"{path}: weights are read from .safetensors or {', '.join(PICKLED)}; convert the file to one")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with the digest of all that is in it, in one step; `tensors` are on the CPU.

    Equal content gives equal bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {**metadata, DIGEST: content_digest(tensors, metadata)}
    write_durably(path, _with_sorted_metadata(safetensors.torch.save(dict(tensors), entries)))


def _with_sorted_metadata(data: bytes) -> bytes:
    """`data` with the metadata in the order of their names: safetensors writes them in an order of chance.

    The format (github.com/huggingface/safetensors): 8 bytes with the length of the header, little-endian; the header as
    JSON, filled up with spaces to a multiple of 8; the tensors.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    return b"".join((len(words).to_bytes(8, "little"), words, memoryview(data)[end:]))


def content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """32 hex digits over tensors (name, dtype, shape and bytes) and metadata, in whatever order."""
    digest = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or save it again") from None
    digest = metadata.pop(DIGEST, None)  # files from elsewhere have none
    if digest is not None and digest != content_digest(tensors, metadata):
        raise ValueError(f"{path}: damaged or changed since it was written; copy it again, or train it again")
    return tensors, metadata


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # of pickle protocols, where an error follows anyhow
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        with open(path, "rb") as file:
            readable = file.read(2).startswith(CHECKPOINT_STARTS)
        if readable:
            raise ValueError(
                f"{path}: holds more than tensors and could run code when read, so it is refused; "
                "save its state_dict() as .safetensors where you trust it, and name that file"
            ) from None
        raise ValueError(f"{path}: not a PyTorch checkpoint, or damaged; copy or save it again") from None
    except Exception as error:  # of many kinds, by where the file is damaged
        raise ValueError(f"{path}: not a PyTorch checkpoint, or damaged ({_first_line(error)})") from None


def _tensors_of(checkpoint: Any, path: Path) -> StateDict:
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    tensors = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    state = {name: value for name, value in tensors if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path}: no tensors by name in it; save the model's state_dict()")
    return state


def load_into(
    module: nn.Module, state: StateDict, path: Path, model: str, rename: Rules | None = None, *, partial: bool = False
) -> Match:
    """Loads `state` into a headless timm `module`, under new names where there are rules, and says what matched.

    The module must find every one of its tensors there; with `partial` it must find `ENOUGH` of its numbers, and keeps
    its own for the rest. The checkpoint may have a classifier besides. Where names or shapes differ, timm's own
    conversion for the model is tried (original releases, position embeddings of another input size).

    Raises:
        ValueError: weights of another model; says how many tensors match, what differs and which rule would help.
    """
    given = state if rename is None else rename.apply(state)
    state = _without_prefix(given, module)
    match = compare(module, state)
    if complaint(module, match) is not None:
        state, match = _better(module, state, match)
    wrong = complaint(module, match)
    if wrong is not None and not (partial and match.share >= ENOUGH):
        raise ValueError(_refusal(module, given, match, path, model, wrong, partial))
    fitting = {*match.matched, *_inert(module, state)}
    module.load_state_dict({name: value for name, value in state.items() if name in fitting}, strict=False)
    return match


def _better(module: nn.Module, state: StateDict, match: Match) -> tuple[StateDict, Match]:
    """The tensors after timm's conversion, where more of the module is found in them, with what matches."""
    converted = _converted(module, state)
    if converted is None:
        return state, match
    found = compare(module, converted)
    is_fit = complaint(module, found) is None
    return (converted, found) if is_fit or found.share > match.share else (state, match)


def _refusal(
    module: nn.Module, given: StateDict, match: Match, path: Path, model: str, wrong: str, partial: bool
) -> str:
    """One line: how much matched, what differs first on both sides, what would help."""
    count = f"{path}: {len(match.matched)} of {match.num_wanted} tensors match {model} ({wrong}"
    if match.left_over and match.left_over[0] not in wrong:
        count += f"; {match.left_over[0]} is left over"
    share = f", {match.share:.0%} of its parameters where {ENOUGH:.0%} are wanted" if partial else ""
    hint = advice(module, given)
    return f"{count}){share}; {hint or 'weights of another model?'}"


def _inert(module: nn.Module, state: StateDict) -> list[str]:
    """Buffers without influence that are in both and of one shape."""
    buffers = {name: value for name, value in module.state_dict().items() if name.endswith(INERT)}
    return [name for name, value in buffers.items() if name in state and state[name].shape == value.shape]


def _without_prefix(state: StateDict, module: nn.Module) -> StateDict:
    """`state` without the prefix by whose removal most of the module's tensors are found."""
    wanted = set(module.state_dict())
    best = max(PREFIXES, key=lambda prefix: sum(prefix + name in state for name in wanted))
    return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}


def _converted(module: nn.Module, state: StateDict) -> StateDict | None:
    """`state` through the conversion that timm keeps in the model's own file, if it has one and that succeeds."""
    convert: Callable[..., StateDict] | None = getattr(
        sys.modules[type(module).__module__], "checkpoint_filter_fn", None
    )
    if convert is None:
        return None
    try:
        return dict(convert(dict(state), module))
    except Exception:  # it was written for this model's checkpoints and may fail anyhow on another's
        return None


def weights_digest(module: nn.Module) -> str:
    """32 hex digits over every tensor of the module that can change its output: name, dtype, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # counts training steps; old checkpoints lack it
            continue
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_backbone(
    path: Path, module: nn.Module, model: str, preprocessing: Preprocessing, extra: Mapping[str, Any]
) -> None:
    """Writes a headless `module` as safetensors; `path` either holds all of it or is left as it was.

    The metadata keep `model`, `preprocessing` and every entry of `extra`, as JSON where they are not text.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    entries = {"model": model, "preprocessing": preprocessing.to_json(), **extra}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
    save_tensors(path, tensors, {"format": "pt", **metadata})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
