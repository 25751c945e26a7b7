"""Which device a command runs on."""

import os
import re
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # version 2: of the container that this process is in


def resolve_devices(names: str) -> list[str]:
    """One device, several separated by commas, or `all` GPUs, as names for torch; naming a device twice gives it two
    processes.

    Raises:
        ValueError: as `resolve_device`; or `all` where there is no GPU.
    """
    if names == "all":
        if not torch.cuda.is_available():
            raise ValueError("--device all: PyTorch finds no CUDA GPU here; use --device cpu, or check the driver")
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found = [str(resolve_device(name.strip())) for name in names.split(",") if name.strip()]
    if not found:
        raise ValueError(f"--device {names!r}: names no device")
    return found


def resolve_device(name: str) -> torch.device:
    """`auto` (the first GPU where there is one), `cpu`, `cuda` or `cuda:N` as a device.

    Raises:
        ValueError: another name, or a GPU that is not there; never falls back to the CPU in silence.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if name == "auto" else name)
    if found is None:
        raise ValueError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ValueError(f"--device {name}: PyTorch finds no CUDA GPU here; use --device cpu, or check the driver")
    index, count = int(found.group(1) or 0), torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"--device {name}: there are {count} GPUs here, cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`: of a CPU what the system can give without swapping, within the limit of the
    container that this process is in; of a GPU also what torch keeps for this process and has no tensor in."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        found = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free = int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 2 * 2**30
    try:
        limit = int((CGROUP / "memory.max").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(stat["inactive_file"])
    except (OSError, KeyError, ValueError):  # no container, or one without a limit ("max")
        return free
    return max(0, min(free, limit - used))
