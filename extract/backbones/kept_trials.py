"""What trials of runtimes measured, kept for the next run: a small file per machine, model, size and versions.

The files lie in the user's cache folder. Nothing in them is taken for granted: a file that is damaged, or of anything
else than what is asked for, is as good as none, and a folder that cannot be written costs the next run a trial.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cache.durable import write_durably
from cache.regular import KIB, check_regular
from extract.backbones.build import Backbone
from extract.backbones.compiling import user_folder
from extract.backbones.passes import native_bfloat16

FORMAT = 1
MAX_BYTES = 64 * KIB  # one has about 1 KiB
VERSIONS = ("torch", "timm", "onnxruntime", "onnx", "onnxscript")
LEAST_RATE = 1e-6  # faces per second: no trial ends that found less, and a run's time would be beyond floats
PROCESSOR_FILE = Path("/proc/cpuinfo")

Key = dict[str, Any]


@dataclass(slots=True)
class Measured:
    """Of each runtime, by "precision mode": faces per second, and the seconds it takes to make ready."""

    faces_per_s: dict[str, float] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)


def key_of(backbone: Backbone, batch_size: int, device: torch.device) -> Key:
    """All that a trial's outcome depends on. Weights of one architecture are equally fast."""
    return {
        "format": FORMAT,
        "machine": _machine(device),
        "model": backbone.architecture,
        "parameters": sum(parameter.numel() for parameter in backbone.module.parameters()),
        "size_px": backbone.preprocessing.size_px,
        "batch_size": batch_size,
        "dtype": backbone.dtype,
        "versions": {name: _version(name) for name in VERSIONS},
    }


def load(key: Key) -> Measured:
    """What was measured before for just this `key`; empty where nothing usable is kept."""
    try:
        path = _path(key)
        check_regular(path, MAX_BYTES)
        values = json.loads(path.read_bytes())
        if values.pop("key") == key:
            return _checked(Measured(**values))
    # RuntimeError: there is no home folder; the others: not what `store` writes.
    except (OSError, RuntimeError, ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return Measured()


def store(key: Key, measured: Measured) -> None:
    """Keeps it, where the folder can be written."""
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps({"key": key, **asdict(measured)}, indent=1).encode())


def _path(key: Key) -> Path:
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    return user_folder() / "trials" / f"{digest}.json"


def _checked(measured: Measured) -> Measured:
    """Raises ValueError or TypeError where a value is not what `store` writes."""
    rates, seconds = measured.faces_per_s.values(), measured.ready_s.values()
    if not all(math.isfinite(value) and value >= LEAST_RATE for value in rates):
        raise ValueError("faces per second")
    if not all(math.isfinite(value) and value >= 0 for value in seconds):
        raise ValueError("seconds")
    return measured


def _machine(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {
        "device": device.type,
        "processor": f"{platform.machine()} {_processor()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "limit": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "bfloat16": native_bfloat16(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Its name; Python's `platform` does not know it on Linux."""
    with contextlib.suppress(OSError):
        for line in PROCESSOR_FILE.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
