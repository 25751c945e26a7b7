"""Which runtime pays for a backbone, given how many faces there are: by short trials, and by none for a few faces."""

import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from extract.backbones.build import Backbone
from extract.backbones.compiling import why_not_compiled
from extract.backbones.passes import Precision, fast_precision
from extract.backbones.runtime import Embedder, Mode, Runtime, embedder, forget, steady

# Below this many faces a trial costs more than it saves.
CALIBRATION_FACES = 2000
ROUNDS = 3
# Eager passes are compared on whole batches, or on so many faces as take a second: EfficientNet-B0 at 112 px is 1.2
# times as fast in bfloat16 by eights, 2.4 times by sixty-fours.
FEWEST, TRIAL_S = 8, 1.0
# bfloat16 must be this much faster to be worth its rounding, and enough for the answer to be the same each time.
PRECISION_GAIN = 1.3


class CandidateMode(NamedTuple):
    """A mode that costs `build_s` to make ready; tried where a gain of `expected` would earn that back, and kept
    where it is at least `kept` times as fast as the best before it."""

    mode: Mode
    build_s: float
    expected: float
    kept: float


RuntimeReport = dict[str, Any]


def choose_runtime(
    backbone: Backbone,
    num_faces: int,
    batch_size: int,
    device: torch.device,
    precision: Literal["auto"] | Precision = "auto",
    mode: Literal["auto"] | Mode = "auto",
) -> tuple[Runtime, RuntimeReport]:
    """The runtime for `num_faces` faces, and what was measured and decided, as JSON values for the provenance.

    What is asked for is not compared with anything. What was compiled or recorded is kept for `embedder`.

    Raises:
        ValueError: the mode asked for cannot be had here.
    """
    report: RuntimeReport = {"faces": num_faces, "faces_per_s": {}, "ready_s": {}, "why": []}
    if not backbone.is_torch:
        return _as_it_is(backbone, precision, mode, report), report
    chosen = Runtime(
        precision=_precision(backbone, num_faces, batch_size, device, report) if precision == "auto" else precision
    )
    if mode == "auto":
        return _faster(backbone, chosen, num_faces, batch_size, device, report), report
    chosen = Runtime(precision=chosen.precision, mode=mode)
    if mode != "eager":
        _made_ready(backbone, chosen, batch_size, device, report)
    return chosen, report


def _as_it_is(backbone: Backbone, precision: str, mode: str, report: RuntimeReport) -> Runtime:
    """For a model that torch does not run."""
    for option, asked, only in (("--precision", precision, "float32"), ("--runtime", mode, "eager")):
        if asked not in ("auto", only):
            raise ValueError(
                f"{backbone.name} is {backbone.config.model}, which runs as it is; leave out {option} {asked}"
            )
    report["why"].append("not a model of torch: it runs as it is")
    return Runtime()


def _precision(
    backbone: Backbone, num_faces: int, batch_size: int, device: torch.device, report: RuntimeReport
) -> Precision:
    """bfloat16 on GPUs made for it, and on CPUs that have it where a short trial shows that it pays."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        report["why"].append(f"CUDA capability {capability[0]}.{capability[1]}")
        return fast_precision(device)
    if num_faces < CALIBRATION_FACES:
        report["why"].append(f"{num_faces} faces are too few for a trial of bfloat16")
        return "float32"
    if fast_precision(device) == "float32":
        report["why"].append("this processor has no instructions for bfloat16")
        return "float32"
    full, half = Runtime(precision="float32"), Runtime(precision="bfloat16")
    gain = _compared(backbone, [full, half], _trial_faces(backbone, full, batch_size, device), device, report)
    report["why"].append(f"bfloat16 is {gain:.1f} x as fast as float32")
    return "bfloat16" if gain >= PRECISION_GAIN else "float32"


def _faster(
    backbone: Backbone, eager: Runtime, num_faces: int, batch_size: int, device: torch.device, report: RuntimeReport
) -> Runtime:
    """The best of the modes that may pay, in the precision of `eager`."""
    if num_faces < CALIBRATION_FACES:
        return eager
    if str(eager) not in report["faces_per_s"]:
        _compared(backbone, [eager], _trial_faces(backbone, eager, batch_size, device), device, report)
    best, eager_s = eager, num_faces / report["faces_per_s"][str(eager)]
    for entry in CANDIDATE_MODES.get(device.type, ()):
        if reason := _not_worth_trying(entry, eager_s, device):
            report["why"].append(f"{entry.mode} not tried: {reason}")
            continue
        candidate = Runtime(precision=eager.precision, mode=entry.mode)
        try:
            _made_ready(backbone, candidate, batch_size, device, report)
            gain = _compared(backbone, [best, candidate], batch_size, device, report)
        except (ValueError, OSError) as error:
            report["why"].append(str(error))
            continue
        report["why"].append(f"{candidate} is {gain:.2f} x as fast as {best}")
        dropped, best = (best, candidate) if gain >= entry.kept else (candidate, best)
        forget(backbone, dropped, device)
    return best


def _not_worth_trying(entry: CandidateMode, eager_s: float, device: torch.device) -> str | None:
    saved_s = eager_s * (1 - 1 / entry.expected)
    if saved_s < entry.build_s:
        return f"eager takes about {eager_s:.0f} s, which it would not shorten by its own {entry.build_s:.0f} s"
    return why_not_compiled(device) if entry.mode == "compiled" else None


def _made_ready(
    backbone: Backbone, runtime: Runtime, batch_size: int, device: torch.device, report: RuntimeReport
) -> None:
    """Compiles or records, outside of which nothing is measured; `embedder` gives the same object again."""
    start = time.monotonic()
    with steady(device):
        embedder(backbone, runtime, device, batch_size)
    report["ready_s"][str(runtime)] = round(time.monotonic() - start, 1)


def _trial_faces(backbone: Backbone, eager: Runtime, batch_size: int, device: torch.device) -> int:
    """A whole batch, or as many faces as take about `TRIAL_S`."""
    few = min(FEWEST, batch_size)
    measured: RuntimeReport = {"faces_per_s": {}}
    _compared(backbone, [eager], few, device, measured, rounds=1)
    return min(batch_size, max(few, int(measured["faces_per_s"][str(eager)] * TRIAL_S)))


def _compared(
    backbone: Backbone,
    runtimes: Sequence[Runtime],
    num_faces: int,
    device: torch.device,
    report: RuntimeReport,
    rounds: int = ROUNDS,
) -> float:
    """Runs batches of `num_faces` in turn, after one to warm up; how many times as fast the last is as the first."""
    size_px = backbone.preprocessing.size_px
    faces = torch.zeros(num_faces, size_px, size_px, 3, dtype=torch.uint8, device=device)
    with steady(device):
        embedders = [embedder(backbone, runtime, device, num_faces) for runtime in runtimes]
        times = [[_seconds(each, faces) for each in embedders] for _ in range(rounds + 1)][1:]
    best = [min(each) for each in zip(*times, strict=True)]
    for runtime, seconds in zip(runtimes, best, strict=True):
        report["faces_per_s"][str(runtime)] = float(f"{num_faces / seconds:.3g}")
    return best[0] / best[-1]


def _seconds(embed: Embedder, faces: torch.Tensor) -> float:
    """Of one batch. On a CPU its time a thread, in which other programs on the machine do not count."""
    if faces.device.type != "cuda":
        start = time.process_time()
        embed(faces)
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize(faces.device)
    start = time.perf_counter()
    embed(faces)
    torch.cuda.synchronize(faces.device)
    return time.perf_counter() - start


# On two cores (Zen 4, whose bf16 matrix product is 2.2 times its float32), compiling took 20 s (ViT-B) to 74 s
# (EfficientNet-B0), more than twice that beside other programs, and about 10 s in the next process. Then it was 1.07
# (ViT-B), 1.02 to 1.08 (EfficientNet-B0 at 112 px) and 1.3 times (MobileNetV2) as fast as eager, all in bfloat16.
# The numbers for CUDA are guesses on the careful side: a batch that fills the device leaves a graph little to save.
CANDIDATE_MODES: dict[str, tuple[CandidateMode, ...]] = {
    "cpu": (CandidateMode("compiled", build_s=90, expected=1.25, kept=1.15),),
    "cuda": (
        CandidateMode("graph", build_s=5, expected=1.05, kept=1.08),
        CandidateMode("compiled", build_s=120, expected=1.2, kept=1.15),
    ),
}
