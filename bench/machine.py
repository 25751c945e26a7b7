"""What the machine is, in the words that stand beside a measurement."""

import os
import platform
from importlib.metadata import version

import torch

from extract.backbones.passes import fast_precision

VERSIONS = ("torch", "timm", "zarr", "numpy", "h5py", "simplejpeg", "pillow")


def about(device: torch.device) -> dict[str, str]:
    """Instructions and the precision that they are for, cores, threads, versions; the GPU's name."""
    found = {
        "instructions": instructions(),
        "precision": fast_precision(device),
        "cores": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in VERSIONS),
    }
    if device.type == "cpu":
        return found
    gpu = torch.cuda.get_device_properties(device)
    return found | {"gpu": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}"}


def instructions() -> str:
    """The vector instructions that torch and oneDNN use, which the environment may have narrowed."""
    vectors = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    bfloat16 = "with" if fast_precision(torch.device("cpu")) == "bfloat16" else "without"
    return f"{vectors}, {bfloat16} bfloat16" + (f", oneDNN limited to {limit}" if limit else "")
