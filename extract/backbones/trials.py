"""Trials of runtimes that cost at most 2 % of the run, or one second where that is more.

Letters: B faces, S side of the input in pixels.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from extract.backbones.build import Backbone
from extract.backbones.kept_trials import Measured
from extract.backbones.runtime import Embedder, Runtime, embedder, steady

SHARE, LEAST_S = 0.02, 1.0
ROUNDS = 3
# Eager passes are compared on whole batches, or on so many faces as take a second: EfficientNet-B0 at 112 px is 1.2
# times as fast in bfloat16 by eights, 1.5 times by sixty-fours.
FEWEST, TRIAL_S = 8, 1.0
# A runtime whose first pass takes so many times as long as the first in float32 is given up: bfloat16 took 17 times as
# long on a processor without its instructions.
HOPELESS = 4.0
SHORT_S = 0.1  # of a pass so short, preparing the kernels for its size takes a good part: once more
FIXED_BATCH = ("compiled", "graph")  # modes made for one number of faces

clock = time.monotonic


class Allowance:
    """The time that trials may take, of all `num_backbones` of a run together."""

    def __init__(self, num_backbones: int = 1) -> None:
        self._run_s, self._spent_s, self._num_begun, self._num_backbones = 0.0, 0.0, 0, num_backbones
        self._since: float | None = None

    def begin(self) -> None:
        """The next backbone, which of the one second may use its part and what those before it left."""
        self._num_begun += 1

    def announce(self, run_s: float) -> None:
        """The run will take so much longer."""
        self._run_s += run_s

    @property
    def spent_s(self) -> float:
        return self._spent_s if self._since is None else self._spent_s + clock() - self._since

    @property
    def left_s(self) -> float:
        least_s = LEAST_S * min(1.0, self._num_begun / self._num_backbones)
        return max(least_s, SHARE * self._run_s) - self.spent_s

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Around all that is done for a trial alone."""
        self._since = clock()
        try:
            yield
        finally:
            self._spent_s, self._since = self.spent_s, None


class Trial:
    """Speeds of one backbone's runtimes: those in `measured`, by earlier runs, and those that it adds there."""

    def __init__(
        self, backbone: Backbone, batch_size: int, device: torch.device, allowance: Allowance, measured: Measured
    ) -> None:
        self._backbone, self._batch_size, self._device = backbone, batch_size, device
        self._allowance, self._measured = allowance, measured
        self._first_face_s = 0.0  # of the first pass of all
        self._end_s = 0.0  # by the clock: where the comparison under way has used its time

    def knows(self, runtime: Runtime) -> bool:
        return str(runtime) in self._measured.faces_per_s

    def rate(self, runtime: Runtime) -> float:
        """Faces per second in a runtime that was measured."""
        return self._measured.faces_per_s[str(runtime)]

    def measure(self, baseline: Runtime) -> None:
        """The speed of the runtime that others are compared with."""
        if self.knows(baseline):
            return
        few = self._few(baseline)
        with self._allowance.spending(), steady(self._device):
            embed = self._embedder(baseline)
            self._first_face_s = self._seconds(embed, self._least(baseline)) / self._least(baseline)
            taken_s = self._seconds(embed, few)
            if taken_s < SHORT_S:
                taken_s = min(taken_s, self._seconds(embed, few))
            self._measured.faces_per_s[str(baseline)] = few / taken_s

    def compare(self, best: Runtime, candidate: Runtime) -> None:
        """The speed of `candidate`, in turns with the best so far, for as long as there is time, once at least."""
        if self.knows(candidate):
            return
        self._end_s = clock() + self._allowance.left_s / 2  # the rest is for other candidates
        with self._allowance.spending(), steady(self._device):
            gain = self._gain(best, candidate)
        # By the gain, and not by its own time: then the next run finds the same gain.
        self._measured.faces_per_s[str(candidate)] = self.rate(best) * gain

    def _gain(self, best: Runtime, candidate: Runtime) -> float:
        pair = [self._embedder(each) for each in (best, candidate)]
        least = max(self._least(best), self._least(candidate))
        face_s = self._seconds(pair[1], least) / least
        if self._first_face_s and face_s > HOPELESS * self._first_face_s:
            return self._first_face_s / face_s
        few = max(self._few(best), self._few(candidate))
        pair_s = face_s + 1 / self.rate(best)
        few = max(least, min(few, int(max(self._left_s, SHORT_S) / pair_s)))
        start_s = clock()
        best_s, candidate_s = self._round(pair, few)
        num_faces = self._trial_faces(best, few, (clock() - start_s) / few)
        return best_s / candidate_s if num_faces == few else self._repeated(best, pair, num_faces)

    def _repeated(self, best: Runtime, pair: Sequence[Embedder], num_faces: int) -> float:
        """By the shortest passes of up to `ROUNDS` rounds after one that warms up."""
        self._round(pair, num_faces)
        rounds: list[list[float]] = []
        round_s = 0.0
        while len(rounds) < ROUNDS and (not rounds or round_s < self._left_s):
            start_s = clock()
            rounds.append(self._round(pair, num_faces))
            round_s = clock() - start_s
        best_s, candidate_s = (min(each) for each in zip(*rounds, strict=True))
        if len(self._measured.faces_per_s) == 1:  # until now measured on few faces
            self._measured.faces_per_s[str(best)] = num_faces / best_s
        return best_s / candidate_s

    def _least(self, runtime: Runtime) -> int:
        """Faces of a first pass. A GPU is not filled by few, and what is made for a batch takes as long for fewer."""
        return self._batch_size if self._device.type == "cuda" or runtime.mode in FIXED_BATCH else 1

    @property
    def _left_s(self) -> float:
        return self._end_s - clock()

    def _few(self, runtime: Runtime) -> int:
        return max(self._least(runtime), min(FEWEST, self._batch_size))

    def _trial_faces(self, best: Runtime, few: int, pair_s: float) -> int:
        """A whole batch, as many faces as take about `TRIAL_S`, or so many that there is time for two rounds; `pair_s`
        is the time of one face in both runtimes."""
        affordable = int(self._left_s / (2 * pair_s))
        return max(few, min(self._batch_size, int(self.rate(best) * TRIAL_S), affordable))

    def _embedder(self, runtime: Runtime) -> Embedder:
        return embedder(self._backbone, runtime, self._device, self._batch_size)

    def _round(self, pair: Sequence[Embedder], num_faces: int) -> list[float]:
        return [self._seconds(each, num_faces) for each in pair]

    def _seconds(self, embed: Embedder, num_faces: int) -> float:
        size_px = self._backbone.preprocessing.size_px
        return pass_s(embed, torch.zeros(num_faces, size_px, size_px, 3, dtype=torch.uint8, device=self._device))


def pass_s(embed: Embedder, faces: torch.Tensor) -> float:
    """Seconds of one pass. On a CPU its time per thread, in which other programs on the machine do not count."""
    if faces.device.type != "cuda":
        start = time.process_time()
        embed(faces)
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize(faces.device)
    start = time.perf_counter()
    embed(faces)
    torch.cuda.synchronize(faces.device)
    return time.perf_counter() - start
