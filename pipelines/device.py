"""Which device a command runs on."""

import re

import torch


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
