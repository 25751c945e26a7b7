"""The prior adjustment of classes: tau times the logarithm of each class's share is taken from its log probability.

One number in place of one offset per class. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021 (arXiv
2007.07314), after training; there tau is 1 and the shares are those of the training set, here tau is fitted and the
shares are those of the rows that it is fitted on. A tau below 0 undoes weights of a loss. R rows, K classes.
"""

import numpy as np

from pipelines.metrics.predictions import TINY
from pipelines.postprocess.offsets import log_probabilities
from pipelines.postprocess.thresholds import f1_of

TAUS = np.linspace(-2.0, 2.0, 41)


def best_prior(probabilities: np.ndarray, classes: np.ndarray) -> tuple[float, np.ndarray]:
    """tau of the highest macro F1, of equals the one nearest to 0, and what it makes the offsets [K].

    Args:
        probabilities: [R, K] of labelled rows.
        classes: [R] labels from 0.
    """
    num = probabilities.shape[1]
    logs, rates = log_probabilities(probabilities), log_rates(classes, num)
    f1 = np.array([f1_of(counts((logs - tau * rates).argmax(axis=1), classes, num)).mean() for tau in TAUS])
    far = np.where(f1 >= f1.max() - TINY, np.abs(TAUS), np.inf)
    tau = float(TAUS[far.argmin()])
    return tau, -tau * rates


def log_rates(classes: np.ndarray, num: int) -> np.ndarray:
    """[K] logarithms of each class's share of `classes` [R], about their mean; each counts one row more."""
    rates = np.log(np.bincount(classes, minlength=num) + 1.0)
    return np.asarray(rates - rates.mean())


def counts(predicted: np.ndarray, classes: np.ndarray, num: int) -> np.ndarray:
    """[K, 3]: hits, predicted and labelled rows of each class, of `predicted` and `classes` [R]."""
    hits = np.bincount(classes[predicted == classes], minlength=num)
    return np.stack([hits, np.bincount(predicted, minlength=num), np.bincount(classes, minlength=num)], axis=-1)
