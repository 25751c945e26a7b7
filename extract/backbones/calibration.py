"""Which runtime pays for a backbone, given how many faces there are: by short trials, and by none for a few faces."""

import copy
from typing import Any, Literal, NamedTuple

import torch

from extract.backbones import kept_trials
from extract.backbones.build import Backbone
from extract.backbones.compiling import why_not_compiled
from extract.backbones.onnx_pass import why_not_onnx
from extract.backbones.passes import Precision, fast_precision
from extract.backbones.runtime import Mode, Runtime, embedder, forget, steady
from extract.backbones.trials import SHORT_S, Allowance, Trial, clock

# Below this many faces a trial costs more than it saves.
CALIBRATION_FACES = 2000
# bfloat16 must be this much faster to be worth its rounding, and enough for the answer to be the same each time.
PRECISION_GAIN = 1.3


class CandidateMode(NamedTuple):
    """A mode that takes about `build_s` to make ready, and `s_per_parameter` of the model, kept where it is at least
    `kept` times as fast as the best before it in that precision; `precision` is the one it has, None where all."""

    mode: Mode
    build_s: float
    kept: float
    precision: Precision | None = None
    s_per_parameter: float = 0.0


RuntimeReport = dict[str, Any]


def choose_runtime(
    backbone: Backbone,
    num_faces: int,
    batch_size: int,
    device: torch.device,
    precision: Literal["auto"] | Precision = "auto",
    mode: Literal["auto"] | Mode = "auto",
    allowance: Allowance | None = None,
) -> tuple[Runtime, RuntimeReport]:
    """The runtime for `num_faces` faces, and what was measured and decided, as JSON values.

    What is asked for is not compared with anything. What was compiled, exported or recorded is kept for `embedder`.
    `allowance` is that of the whole run; without it this backbone is the run.

    Raises:
        ValueError: the mode asked for cannot be had here.
    """
    if not backbone.is_torch:
        return _as_it_is(backbone, precision, mode), _report(num_faces, ["not a model of torch: it runs as it is"])
    if mode == "onnx" and precision == "auto":
        precision = "float32"
    if "auto" not in (precision, mode) or num_faces < CALIBRATION_FACES:
        return _without_trial(backbone, num_faces, batch_size, device, precision, mode)
    choice = _Choice(backbone, num_faces, batch_size, device, allowance or Allowance())
    chosen = Runtime(precision=choice.precision() if precision == "auto" else precision)
    if mode == "auto":
        chosen = choice.faster(chosen, None if precision == "auto" else precision)
    elif mode != "eager":
        chosen = Runtime(precision=chosen.precision, mode=mode)
        choice.make_ready(chosen)
    return chosen, choice.report()


def _as_it_is(backbone: Backbone, precision: str, mode: str) -> Runtime:
    """For a model that torch does not run."""
    for option, asked, only in (("--precision", precision, "float32"), ("--runtime", mode, "eager")):
        if asked not in ("auto", only):
            raise ValueError(
                f"{backbone.name} is {backbone.config.model}, which runs as it is; leave out {option} {asked}"
            )
    return Runtime()


def _without_trial(
    backbone: Backbone,
    num_faces: int,
    batch_size: int,
    device: torch.device,
    precision: Literal["auto"] | Precision,
    mode: Literal["auto"] | Mode,
) -> tuple[Runtime, RuntimeReport]:
    is_cuda, why = device.type == "cuda", []
    if precision == "auto":
        why = [f"{num_faces} faces are too few for a trial"]
        precision = fast_precision(device) if is_cuda else "float32"
    chosen = Runtime(precision=precision, mode="eager" if mode == "auto" else mode)
    report = _report(num_faces, why)
    if chosen.mode != "eager":
        report["ready_s"][str(chosen)] = round(_made_ready(backbone, chosen, batch_size, device), 1)
    return chosen, report


def _report(num_faces: int, why: list[str]) -> RuntimeReport:
    return {"faces": num_faces, "faces_per_s": {}, "ready_s": {}, "trial_s": 0.0, "why": why}


def _made_ready(backbone: Backbone, runtime: Runtime, batch_size: int, device: torch.device) -> float:
    """Compiles, exports or records, and gives its seconds; `embedder` gives the same object again."""
    start = clock()
    with steady(device):
        embedder(backbone, runtime, device, batch_size)
    return clock() - start


class _Choice:
    """The choice for one backbone, by trials of this run and of earlier ones."""

    def __init__(
        self, backbone: Backbone, num_faces: int, batch_size: int, device: torch.device, allowance: Allowance
    ) -> None:
        self._backbone, self._num_faces, self._batch_size, self._device = backbone, num_faces, batch_size, device
        self._allowance, self._spent_before_s, self._is_announced = allowance, allowance.spent_s, False
        allowance.begin()
        self._key = kept_trials.key_of(backbone, batch_size, device)
        self._measured = kept_trials.load(self._key)
        self._kept = copy.deepcopy(self._measured)
        self._trial = Trial(backbone, batch_size, device, allowance, self._measured)
        self._why: list[str] = []

    def precision(self) -> Precision:
        """bfloat16 on GPUs made for it, and on CPUs that have it where a short trial shows that it pays."""
        fast = fast_precision(self._device)
        if self._device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(self._device)
            self._why.append(f"CUDA capability {major}.{minor}")
            return fast
        if fast == "float32":
            self._why.append("this processor has no instructions for bfloat16")
            return fast
        full, half = Runtime(precision="float32"), Runtime(precision="bfloat16")
        self._measure(full)
        if self._allowance.left_s <= 0 and not self._trial.knows(half):
            self._why.append("no time for a trial of bfloat16")
            return "float32"
        self._trial.compare(full, half)
        gain = self._gain(full, half)
        self._why.append(f"bfloat16 is {gain:.1f} x as fast as float32")
        return "bfloat16" if gain >= PRECISION_GAIN else "float32"

    def faster(self, eager: Runtime, precision: Precision | None) -> Runtime:
        """The best of the modes that may pay; `precision` is the one asked for."""
        self._measure(eager)
        best = eager
        for entry in CANDIDATE_MODES.get(self._device.type, ()):
            if precision is not None and entry.precision not in (None, precision):
                continue
            candidate = Runtime(precision=entry.precision or eager.precision, mode=entry.mode)
            reason = self._reason_against(entry, candidate, best)
            if reason is not None:
                self._why.append(f"{candidate} {reason}")
                forget(self._backbone, candidate, self._device)
                continue
            self._why.append(f"{candidate} is {self._gain(best, candidate):.2f} x as fast as {best}")
            forget(self._backbone, best, self._device)
            best = candidate
        return best

    def make_ready(self, runtime: Runtime) -> None:
        self._measured.ready_s[str(runtime)] = _made_ready(self._backbone, runtime, self._batch_size, self._device)

    def report(self) -> RuntimeReport:
        """JSON values; what was measured here is kept for the next run."""
        if self._measured.faces_per_s != self._kept.faces_per_s:
            kept_trials.store(self._key, self._measured)
        rates = {name: float(f"{rate:.3g}") for name, rate in self._measured.faces_per_s.items()}
        ready = {name: round(seconds, 1) for name, seconds in self._measured.ready_s.items()}
        spent_s = self._allowance.spent_s - self._spent_before_s
        return _report(self._num_faces, self._why) | {"faces_per_s": rates, "ready_s": ready, "trial_s": spent_s}

    def _measure(self, baseline: Runtime) -> None:
        """And tells the allowance how long the run will take, once."""
        self._trial.measure(baseline)
        if not self._is_announced:
            self._allowance.announce(self._run_s(baseline))
            self._is_announced = True

    def _reason_against(self, entry: CandidateMode, candidate: Runtime, best: Runtime) -> str | None:
        """None where the candidate is to be used, and is ready."""
        build_s = entry.build_s + entry.s_per_parameter * self._key["parameters"]
        ready_s = self._measured.ready_s.get(str(candidate), build_s)
        if self._trial.knows(candidate):
            if reason := self._too_slow(entry, candidate, best):
                return reason
            if max(self._run_s(best) - self._run_s(candidate), self._allowance.left_s) < ready_s:
                return f"not used: it takes {ready_s:.0f} s to make ready, which so few faces do not earn back"
            return self._tried(candidate, None)
        if ready_s + SHORT_S > self._allowance.left_s:
            return f"not tried: it takes {ready_s:.0f} s to make ready, and trials have {self._allowance.left_s:.1f} s"
        # It imports, once a process: outside of what making ready takes, which decides for the next backbone too.
        with self._allowance.spending():
            missing = WHY_NOT[entry.mode](self._device)
        if missing:
            return f"not tried: {missing}"
        return self._tried(candidate, best) or self._too_slow(entry, candidate, best)

    def _tried(self, candidate: Runtime, best: Runtime | None) -> str | None:
        """Makes it ready and, where `best` is given, compares the two."""
        try:
            if best is None:
                self.make_ready(candidate)
                return None
            with self._allowance.spending():
                self.make_ready(candidate)
            self._trial.compare(best, candidate)
        except (ValueError, OSError) as error:
            return f"cannot be had: {error}"
        return None

    def _too_slow(self, entry: CandidateMode, candidate: Runtime, best: Runtime) -> str | None:
        gain, wanted = self._gain(best, candidate), entry.kept
        if candidate.precision != best.precision:
            wanted = 1 / PRECISION_GAIN if candidate.precision == "float32" else max(wanted, PRECISION_GAIN)
        return None if gain >= wanted else f"is {gain:.2f} x as fast as {best}, and {wanted:.2f} is wanted"

    def _gain(self, best: Runtime, candidate: Runtime) -> float:
        return self._trial.rate(candidate) / self._trial.rate(best)

    def _run_s(self, runtime: Runtime) -> float:
        return self._num_faces / self._trial.rate(runtime)


# On two cores (Zen 4, whose bf16 matrix product is 2.2 times its float32), compiling took 20 s (ViT-B) to 74 s
# (EfficientNet-B0), more than twice that beside other programs, and about 10 s in the next process. Then it was 1.07
# (ViT-B), 1.02 to 1.08 (EfficientNet-B0 at 112 px) and 1.3 times (MobileNetV2) as fast as eager, all in bfloat16.
# Exporting for ONNX Runtime took 0.1 s (test_mambaout), 0.5 s (EfficientNet-B0) to 3.5 s (ViT-B), its imports 0.4 s.
# The numbers for CUDA are guesses on the careful side: a batch that fills the device leaves a graph little to save.
CANDIDATE_MODES: dict[str, tuple[CandidateMode, ...]] = {
    "cpu": (
        CandidateMode("onnx", build_s=0.5, kept=1.1, precision="float32", s_per_parameter=3e-8),
        CandidateMode("compiled", build_s=90, kept=1.15),
    ),
    "cuda": (CandidateMode("graph", build_s=5, kept=1.08), CandidateMode("compiled", build_s=120, kept=1.15)),
}
WHY_NOT = {"onnx": lambda device: why_not_onnx(), "compiled": why_not_compiled, "graph": lambda device: None}
