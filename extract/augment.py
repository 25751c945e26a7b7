"""timm's RandAugment on faces as they are in their files; what it does to a face follows from a number alone.

timm draws from the random numbers of the process, which threads share: who comes first would get what. Its module is
loaded here once more, as a copy of our own whose random numbers are those of the face a thread is at. So operations,
magnitudes and the meaning of timm's words are timm's to the letter, and `timm.data.auto_augment` stays as it is.
Place: beside `extract.views`, which changes faces for extraction. Letters: H and W of a face file.
"""

import functools
import importlib.util
import random
import re
import threading
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

MODULE = "timm.data.auto_augment"
WORDS = re.compile(r"rand(-(m|n|mmax|inc)\d+|-(mstd|p)\d+(\.\d+)?|-t[a-z0-9]+)*")


class RandAugment:
    """RandAugment (Cubuk et al., arXiv 1909.13719) as timm's `words` say, `rand-m9-n2-mstd0.5` for example: magnitude 9
    of 10, give or take 0.5, two operations, each with a chance of a half (`p`). Any thread may use it."""

    def __init__(self, words: str, mean: Sequence[float] = (0.5, 0.5, 0.5)) -> None:
        """`mean` in [0, 1] is the colour of what moves into the picture.

        Raises:
            ValueError: words that timm does not know.
        """
        if not WORDS.fullmatch(words):
            raise ValueError(
                f"rand_augment = {words!r}: expected timm's words, such as 'rand-m9-n2-mstd0.5-inc1', or '' for none"
            )
        fill = tuple(round(255 * each) for each in mean)
        self._change = _module().rand_augment_transform(words, {"img_mean": fill})

    def __call__(self, face: np.ndarray, seed: int) -> np.ndarray:
        """The `face` [H, W, 3] uint8 augmented by `seed`; same shape."""
        _draws.local.rng = random.Random(seed)
        return np.asarray(self._change(Image.fromarray(face)))


class _Draws:
    """Stands in for the modules `random` and `numpy.random`: draws from the random numbers of the thread's face."""

    def __init__(self) -> None:
        self.local = threading.local()

    def random(self) -> float:
        drawn: float = self.local.rng.random()
        return drawn

    def uniform(self, low: float, high: float) -> float:
        drawn: float = self.local.rng.uniform(low, high)
        return drawn

    def gauss(self, mean: float, std: float) -> float:
        drawn: float = self.local.rng.gauss(mean, std)
        return drawn

    def choice(self, items: Sequence[Any], num: int = 0, replace: bool = True, p: Sequence[float] | None = None) -> Any:
        """One of `items`, or `num` of them; both modules call it so."""
        if not num:
            return self.local.rng.choice(items)
        if replace:
            return self.local.rng.choices(items, weights=p, k=num)
        left, weights, found = list(items), list(p if p is not None else [1.0] * len(items)), []
        for _ in range(num):
            (index,) = self.local.rng.choices(range(len(left)), weights=weights)
            found.append(left.pop(index))
            weights.pop(index)
        return found


_draws = _Draws()


@functools.cache
def _module() -> ModuleType:
    """Our own copy of timm's module."""
    spec = importlib.util.find_spec(MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    real: Any = module.np
    drawing = {"random": _draws, "array": real.array, "sum": real.sum}
    module.random, module.np = _draws, SimpleNamespace(**drawing)  # type: ignore[attr-defined]
    posterize = module.posterize  # of no bits, which is a black picture, newer Pillows raise an error
    for name in [each for each, function in module.NAME_TO_OP.items() if function is posterize]:
        module.NAME_TO_OP[name] = lambda image, bits, **rest: posterize(image, max(bits, 1), **rest)
    return module
