"""Linear heads as users of scikit-learn write them: a penalty each, chosen on the select rows. N frames, D width."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from bench.rival_frames import Frames, Predicted, au_score, expr_score, va_score

ALPHAS, INVERSES = (1e1, 1e2, 1e3, 1e4, 1e5), (1e-4, 1e-3, 1e-2, 1e-1)


def linear_models(frames: Frames, seed: int) -> Predicted:
    """Ridge regression of VA, logistic regression of expressions and of each AU, a penalty each from the select rows.

    Nothing is drawn: every `seed` gives the same.
    """
    frames = frames.standardised()
    va = _best([_ridge(frames, alpha) for alpha in ALPHAS], va_score, frames.va, frames)
    expr = _best([_logistic(frames, frames.expr, c) for c in INVERSES], expr_score, frames.expr, frames)
    units = []
    for unit in frames.au.T:
        label = np.where(np.isnan(unit), -1, unit).astype(np.int64)
        units.append(_best([_logistic(frames, label, c)[:, 1:] for c in INVERSES], au_score, unit[:, None], frames))
    num = (frames.x.shape[1] + 1) * (2 + 8 + 12)
    return Predicted(va=va, expr=expr, au=np.concatenate(units, axis=1), num_parameters=num)


def _best(tried: list[np.ndarray], score: Callable[..., float], label: np.ndarray, frames: Frames) -> np.ndarray:
    return max(tried, key=lambda one: score(one[frames.select], label[frames.select]))


def _ridge(frames: Frames, alpha: float) -> np.ndarray:
    columns = []
    for label in frames.va.T:
        rows = frames.train & ~np.isnan(label)
        columns.append(Ridge(alpha=alpha).fit(frames.x[rows], label[rows]).predict(frames.x))
    return np.clip(np.stack(columns, axis=1), -1, 1)


def _logistic(frames: Frames, label: np.ndarray, inverse: float) -> np.ndarray:
    """[N, classes] probabilities; a class that is not taught has 0."""
    rows = frames.train & (label >= 0)
    num_classes = max(int(label.max()) + 1, 2)
    found = np.zeros((len(label), num_classes))
    if len(np.unique(label[rows])) < 2:
        return found
    model = LogisticRegression(C=inverse, class_weight="balanced", max_iter=1000).fit(frames.x[rows], label[rows])
    found[:, model.classes_] = model.predict_proba(frames.x)
    return found
