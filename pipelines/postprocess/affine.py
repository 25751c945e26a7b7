"""The affine match of continuous columns: values scaled and shifted to the mean and the deviation of the labels.

CCC is Pearson's correlation times a factor that is 1 where means and deviations are equal (Lin, "A concordance
correlation coefficient to evaluate reproducibility", Biometrics 1989); as post-processing of valence and arousal:
Trigeorgis et al., "Adieu features?", ICASSP 2016. R rows, K columns.
"""

import numpy as np

from cache.labels import Group
from pipelines.postprocess.thresholds import SHRINK_VIDEOS

# Of the scale: a trace that hardly moves says little about how far it should.
LEAST_SCALE, MOST_SCALE = 0.25, 4.0
LEAST_DEVIATION = 1e-6
IDENTITY = (1.0, 0.0)


def best_affine(sums: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """[K, 2] scale and shift of each column from its sums [K, 6] (`pipelines.metrics.sums`), drawn towards no change
    by n / (n + 2), n [K] the `videos` with a label: the scale as a power, the shift of the mean in proportion."""
    n, x, y, xx, yy, _ = np.moveaxis(sums, -1, 0)
    count, drawn = np.maximum(n, 1), videos / (videos + SHRINK_VIDEOS)
    mean, wanted = x / count, y / count
    deviation, aim = (np.sqrt(np.maximum(square / count - m**2, 0)) for square, m in ((xx, mean), (yy, wanted)))
    moves = (deviation > LEAST_DEVIATION) & (aim > LEAST_DEVIATION)
    ratio = np.where(moves, aim, 1.0) / np.where(moves, deviation, 1.0)
    scale = ratio.clip(LEAST_SCALE, MOST_SCALE) ** drawn
    return np.stack([scale, mean + (wanted - mean) * drawn - scale * mean], axis=1)


def matched_sums(sums: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The sums [..., K, 6] of columns after scale and shift `affine` [K, 2], without the clipping."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    a, b = affine.T
    return np.stack([n, a * x + b * n, y, a * a * xx + 2 * a * b * x + b * b * n, yy, a * xy + b * y], axis=-1)


def match(values: np.ndarray, affine: np.ndarray, group: Group) -> np.ndarray:
    """`values` [R, K] scaled, shifted and clipped to the range of the group; as they are where nothing changes."""
    if (affine == IDENTITY).all():
        return values
    return np.asarray((values * affine[:, 0] + affine[:, 1]).clip(group.low, group.high))
