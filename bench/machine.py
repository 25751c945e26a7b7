"""What the machine is, in the words that stand beside a measurement."""

import os
import platform
from importlib.metadata import version

import torch

from extract.backbones.passes import fast_precision

LIMITS = {"oneDNN": "ONEDNN_MAX_CPU_ISA", "MKL": "MKL_ENABLE_INSTRUCTIONS"}
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
    """The vector instructions that torch uses, and what the environment narrows; ONNX Runtime heeds none of it."""
    vectors = torch.backends.cpu.get_cpu_capability()
    bfloat16 = "with" if fast_precision(torch.device("cpu")) == "bfloat16" else "without"
    limits = [f"{name} limited to {os.environ[each]}" for name, each in LIMITS.items() if os.environ.get(each)]
    others = [f"{name} not" for name, each in LIMITS.items() if limits and not os.environ.get(each)]
    return ", ".join([vectors, f"{bfloat16} bfloat16", *limits, *others])
