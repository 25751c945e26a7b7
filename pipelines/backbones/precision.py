"""In which precision a backbone is trained, and that it can be repeated. S is the side of a face in pixels."""

import copy
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from extract.backbones.passes import Precision, fast_precision
from extract.config import Preprocessing
from pipelines.fitting.optimise import seeded

# bfloat16 rounds; on a CPU it has to be clearly faster to be worth that, and by more than a measurement wavers.
WORTH_IT = 1.5
MEASURED_FACES, MEASURED_S = 16, 4.0


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision: matrix products in bfloat16, the rest and the weights in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def choose_precision(model: nn.Module, preprocessing: Preprocessing, device: torch.device) -> Precision:
    """bfloat16 on a GPU that has it; on a CPU only where it is native and measured to be clearly faster."""
    fast = fast_precision(device)
    if device.type != "cpu" or fast == "float32":
        return fast
    side = preprocessing.size_px
    pixels = torch.zeros(MEASURED_FACES, 3, side, side)
    trial = copy.deepcopy(model).train()  # a step moves the running means of batch normalisation
    best: dict[Precision, float] = {"float32": math.inf, "bfloat16": math.inf}
    begin = time.perf_counter()
    for round_number in range(4):  # the first warms up
        for precision in best:
            taken = _step_s(trial, pixels, precision)
            best[precision] = min(best[precision], taken if round_number else math.inf)
        if round_number and time.perf_counter() - begin > MEASURED_S:
            break
    return "bfloat16" if best["float32"] > WORTH_IT * best["bfloat16"] else "float32"


def _step_s(model: nn.Module, pixels: Tensor, precision: Precision) -> float:
    """CPU seconds per step, all threads: other programs on the machine do not count."""
    begin = time.process_time()
    with seeded(0, pixels.device), autocast(pixels.device, precision):
        outputs = model(pixels)
    torch.stack([output.square().mean() for output in outputs.values()]).sum().backward()
    model.zero_grad(set_to_none=True)
    return time.process_time() - begin


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """On a GPU only algorithms whose sums have one order, inside; on a CPU they have that anyway."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
