"""Which device a command runs on."""

import re

import torch


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
