"""Gradient-boosted trees on embeddings and their differences over time, as users of scikit-learn write them.

Letters: N frames, D width, K outputs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from bench.rival_frames import Frames, Predicted, au_score, expr_score, va_score

NUM_TREES, NUM_LEAVES = 100, 15
NUM_COMPONENTS, NUM_BINS = 64, 255
LAGS = (1, 4)  # steps, to either side
NUMBERS = 2 * NUM_LEAVES - 1  # of a tree: a threshold at each node, a value at each leaf


def boosted_trees(frames: Frames, seed: int) -> Predicted:
    """A model of each output; how many of its trees count, the select rows choose."""
    x, num = binned(over_time(frames, seed), frames.train), frames.x.shape[1] * NUM_COMPONENTS
    va, au = np.zeros((len(x), 2), np.float32), np.zeros((len(x), 12), np.float32)
    settings = {
        "max_iter": NUM_TREES,
        "max_leaf_nodes": NUM_LEAVES,
        "l2_regularization": 1.0,
        "max_features": 0.2,
        "early_stopping": False,
        "random_state": seed,
    }
    for column, label in enumerate(frames.va.T):
        rows = frames.train & ~np.isnan(label)
        model = HistGradientBoostingRegressor(**settings).fit(x[rows], label[rows])
        stages = (each[:, None] for each in model.staged_predict(x))
        found, chosen = _best(stages, va_score, label[:, None], frames)
        va[:, column], num = np.clip(found[:, 0], -1, 1), num + chosen * NUMBERS
    expr, chosen = _classifier(x, frames.expr, expr_score, frames.expr, frames, settings)
    num += chosen * NUMBERS * expr.shape[1]
    for column, label in enumerate(frames.au.T):
        known = np.where(np.isnan(label), -1, label).astype(np.int64)
        found, chosen = _classifier(x, known, _positive_score, label[:, None], frames, settings)
        au[:, column], num = found[:, 1], num + chosen * NUMBERS
    return Predicted(va=va, expr=expr, au=au, num_parameters=num)


def over_time(frames: Frames, seed: int) -> np.ndarray:
    """[N, 5 * components] the principal components of the embeddings beside their differences from those `LAGS` steps
    before and after, in the same video."""
    x = frames.standardised().x
    num = min(NUM_COMPONENTS, x.shape[1], int(frames.train.sum()))
    x = PCA(num, random_state=seed).fit(x[frames.train]).transform(x)
    here, parts = np.arange(len(x)), [x]
    for lag in (sign * lag for lag in LAGS for sign in (-1, 1)):
        there = np.clip(here + lag, 0, len(x) - 1)
        there = np.where(frames.video[there] == frames.video, there, here)
        parts.append(x - x[there])
    return np.concatenate(parts, axis=1).astype(np.float32)


def binned(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """`x` as numbers of bins between quantiles of the training rows, once for all models: with weights of samples
    scikit-learn takes many times as long for it, in each."""
    cuts = np.quantile(x[train], np.linspace(0, 1, NUM_BINS + 1)[1:-1], axis=0)
    return np.stack([np.searchsorted(*each) for each in zip(cuts.T, x.T, strict=True)], axis=1).astype(np.float32)


def _classifier(
    x: np.ndarray,
    label: np.ndarray,
    score: Callable[..., float],
    truth: np.ndarray,
    frames: Frames,
    settings: dict[str, Any],
) -> tuple[np.ndarray, int]:
    """Probabilities [N, K] of a model of `label` [N], -1 where missing, and its number of rounds."""
    rows = frames.train & (label >= 0)
    num_classes = max(int(label.max()) + 1, 2)
    if len(np.unique(label[rows])) < 2:
        return np.zeros((len(x), num_classes), np.float32), 0
    model = HistGradientBoostingClassifier(class_weight="balanced", **settings).fit(x[rows], label[rows])

    def stages() -> Iterator[np.ndarray]:
        for each in model.staged_predict_proba(x):
            found = np.zeros((len(x), num_classes), np.float32)
            found[:, model.classes_] = each
            yield found

    return _best(stages(), score, truth, frames)


def _positive_score(predicted: np.ndarray, truth: np.ndarray) -> float:
    return au_score(predicted[:, 1:], truth)


def _best(
    stages: Iterator[np.ndarray], score: Callable[..., float], truth: np.ndarray, frames: Frames
) -> tuple[np.ndarray, int]:
    """The stage of the best score on the select rows, and its number from 1."""
    best, best_score, chosen = None, -np.inf, 0
    for number, found in enumerate(stages, 1):
        value = score(found[frames.select], truth[frames.select])
        if value > best_score:
            best, best_score, chosen = found, value, number
    assert best is not None, "there is at least one tree"
    return best, chosen
