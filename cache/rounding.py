"""What numbers lose by being stored: said once for a stream, with what helps.

float16 has 11 bits from 6.1e-5 to 65,504. Below it has fewer and fewer, and none below 6e-8; above it has nothing.
"""

from dataclasses import dataclass

import numpy as np

LARGE_SHARE = 0.1  # of values that are not 0; some tiny ones are in every embedding
REMEDY = 'set dtype = "float32" under [cache] in mtl.toml'


@dataclass(slots=True)
class Rounding:
    """Counts over the vectors of a stream: values that are not 0, and those of them that became 0 or lost bits at the
    lower end of the dtype."""

    dtype: str
    num_values: int = 0
    num_lost: int = 0
    num_rows: int = 0

    def add(self, vectors: np.ndarray, stored: np.ndarray) -> None:
        """`stored` are the `vectors` in the dtype."""
        with np.errstate(invalid="ignore"):
            given = (vectors != 0) & np.isfinite(vectors)
            self.num_values += int(given.sum())
            self.num_lost += int((given & (np.abs(stored) < np.finfo(stored.dtype).tiny)).sum())

    def add_stored(self, stored: np.ndarray) -> None:
        """As `add`, where only what is `stored` [R, D] is known: values that became 0 are seen only where all did."""
        if stored.dtype == np.float16:
            bits = stored.view(np.uint16) & 0x7FFF  # without the sign; numpy's own comparison takes ten times as long
            num_values, num_lost = int(np.count_nonzero(bits)), int(np.count_nonzero(bits - 1 < 0x03FF))
        else:
            num_values, num_lost = int(np.count_nonzero(stored)), 0
        self.num_values += num_values
        self.num_lost += num_lost
        self.num_rows += len(stored)

    def note(self, what: str) -> str:
        """A line that says so of the stream or backbone `what`, "" where little was lost."""
        if self.num_rows and not self.num_values:
            return f"{what}: all its values are 0 in {self.dtype}; check its weights{_remedy(self.dtype, ', or ')}"
        if self.num_lost <= LARGE_SHARE * self.num_values:
            return ""
        return (
            f"{what}: {self.num_lost / self.num_values:.0%} of its values are too small for {self.dtype} and lose "
            f"their meaning{_remedy(self.dtype)}"
        )


def too_large(what: str, count: int, dtype: str) -> str:
    """A line that `count` embeddings of `what` do not fit the dtype."""
    return f"{what}: {count:,} of its embeddings are too large for {dtype}{_remedy(dtype)}"


def _remedy(dtype: str, joined: str = "; ") -> str:
    return f"{joined}{REMEDY}" if dtype == "float16" else ""
