"""Heads on cached embeddings as users of scikit-learn and plain PyTorch write them: rivals of `mtl train-head`.

Nothing here knows of `heads` or `pipelines`. A rival sees embeddings and labels, chooses its regularisation or its
epoch on the select rows, and predicts every row. Letters: N frames, D width, W windows, T steps.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

VERSION = 1  # of the recipes: what was kept of another one is trained again
LONGEST_GAP = 300  # frames; a window never spans a longer one
MOST_WEIGHT = 10.0  # of a positive of a rare AU
ALPHAS, INVERSES = (1e1, 1e2, 1e3, 1e4, 1e5), (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What is known of N frames, sorted by video and frame number: `x` [N, D] float32; `va` [N, 2] and `au` [N, 12],
    NaN where missing; `expr` [N], -1 where missing; masks of the rows that train, choose and are scored."""

    x: np.ndarray
    va: np.ndarray
    expr: np.ndarray
    au: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    train: np.ndarray
    select: np.ndarray
    report: np.ndarray

    def beside_deviation(self) -> "Frames":
        """Each embedding beside its deviation from the mean of its video's."""
        _, video = np.unique(self.video, return_inverse=True)
        sums = np.zeros((video.max() + 1, self.x.shape[1]))
        np.add.at(sums, video, self.x)
        mean = sums / np.bincount(video)[:, None]
        return replace(self, x=np.concatenate([self.x, self.x - mean[video]], axis=1).astype(np.float32))

    def standardised(self) -> "Frames":
        """Every dimension with mean 0 and deviation 1 over the training rows."""
        mean, deviation = self.x[self.train].mean(axis=0), self.x[self.train].std(axis=0)
        return replace(self, x=((self.x - mean) / np.maximum(deviation, 1e-6)).astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Of N frames `va` [N, 2], probabilities `expr` [N, 8] and `au` [N, 12]; and the numbers that were fitted."""

    va: np.ndarray
    expr: np.ndarray
    au: np.ndarray
    num_parameters: int


def va_score(predicted: np.ndarray, label: np.ndarray) -> float:
    """Mean CCC of [R, 2], over what is labelled."""
    values = []
    for x, y in zip(predicted.T, label.T, strict=True):
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        values.append(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2 + 1e-12))
    return float(np.mean(values))


def expr_score(predicted: np.ndarray, label: np.ndarray) -> float:
    """Macro F1 of the most probable class of [R, 8], over what is labelled."""
    classes = np.arange(predicted.shape[1])
    known = label >= 0
    on, true = predicted[known].argmax(axis=1)[:, None] == classes, label[known][:, None] == classes
    return float((2 * (on & true).sum(axis=0) / np.maximum(on.sum(axis=0) + true.sum(axis=0), 1)).mean())


def au_score(predicted: np.ndarray, label: np.ndarray, thresholds: np.ndarray | float = 0.5) -> float:
    """Mean F1 of [R, 12] at `thresholds`, over what is labelled."""
    known = ~np.isnan(label)
    on, true = (predicted >= thresholds) & known, (label > 0.5) & known
    return float((2 * (on & true).sum(axis=0) / np.maximum(on.sum(axis=0) + true.sum(axis=0), 1)).mean())


def select_score(predicted: Predicted, frames: Frames) -> float:
    """P on the select rows."""
    rows = frames.select
    va, expr = va_score(predicted.va[rows], frames.va[rows]), expr_score(predicted.expr[rows], frames.expr[rows])
    return va + expr + au_score(predicted.au[rows], frames.au[rows])


# --- scikit-learn ---


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


# --- PyTorch ---


class Outputs(nn.Module):
    """The three tasks, a linear layer each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.va, self.expr, self.au = nn.Linear(width, 2), nn.Linear(width, 8), nn.Linear(width, 12)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"va": torch.tanh(self.va(x)), "expr": self.expr(x), "au": self.au(x)}


def _front(width: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))


class PerFrame(nn.Module):
    """A hidden layer of 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front, self.outputs = _front(width, 256, 0.3), Outputs(256)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.front(x))


class Gru(nn.Module):
    """A linear layer, a GRU of 128 each way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.gru = nn.GRU(128, 128, batch_first=True, bidirectional=True)
        self.dropout, self.outputs = nn.Dropout(0.3), Outputs(256)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        lengths = valid.sum(dim=1).cpu()  # what is not valid stands at the end
        packed = pack_padded_sequence(self.front(x), lengths, batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.outputs(self.dropout(found))


class Tcn(nn.Module):
    """A linear layer, five dilated convolutions of 128 with a mix of channels each, as in MS-TCN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(128, 128, 3, padding=dilation, dilation=dilation),
                nn.ReLU(),
                nn.Conv1d(128, 128, 1),
                nn.Dropout(0.3),
            )
            for dilation in (1, 2, 4, 8, 16)
        )
        self.outputs = Outputs(128)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        mask = valid.unsqueeze(1)
        x = self.front(x).transpose(1, 2) * mask
        for block in self.blocks:
            x = (x + block(x)) * mask
        return self.outputs(x.transpose(1, 2))


class LeadingGru(nn.Module):
    """Two layers of 256 each way on the embeddings themselves: the leading entry of ABAW11 (arXiv 2607.16290)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, 256, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.dropout, self.outputs = nn.Dropout(0.2), Outputs(512)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.dropout(self.gru(x)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. `drawn` draws the starts of windows anew each epoch, `leading` is the way of ABAW11's
    leading entry: no standardisation, focal loss, learned weights of tasks, only full batches, whole videos when
    predicting, no clipping."""

    model: Callable[[int], nn.Module]
    window: int = 64
    stride: int = 32
    batch: int = 16
    epochs: int = 60
    patience: int = 10
    lr: float = 1e-3
    weight_decay: float = 1e-2
    drawn: bool = True
    leading: bool = False


class Losses(nn.Module):
    """1 - CCC, cross-entropy weighted by classes (or its focal form), binary cross-entropy weighted by positives."""

    def __init__(self, frames: Frames, leading: bool) -> None:
        super().__init__()
        expr, au = frames.expr[frames.train], frames.au[frames.train]
        count = np.bincount(expr[expr >= 0], minlength=8)
        weights = np.where(count > 0, count.sum() / (8 * np.maximum(count, 1)), 0.0)
        positives, known = np.nansum(au, axis=0), (~np.isnan(au)).sum(axis=0)
        ratio = np.clip((known - positives) / np.maximum(positives, 1), 1.0, MOST_WEIGHT)
        self.register_buffer("classes", torch.tensor(weights, dtype=torch.float32))
        self.register_buffer("positives", torch.tensor(ratio, dtype=torch.float32))
        self.log_variances = nn.Parameter(torch.zeros(3)) if leading else None

    def forward(self, outputs: Mapping[str, Tensor], va: Tensor, expr: Tensor, au: Tensor) -> Tensor:
        losses = torch.stack(
            [self._va(outputs["va"], va), self._expr(outputs["expr"], expr), self._au(outputs["au"], au)]
        )
        if self.log_variances is None:
            return losses.sum()
        return (0.5 * torch.exp(-self.log_variances) * losses + 0.5 * self.log_variances).sum()

    def _va(self, outputs: Tensor, labels: Tensor) -> Tensor:
        total = outputs.sum() * 0
        for column in range(2):
            known = ~labels[..., column].isnan()
            x, y = outputs[..., column][known], labels[..., column][known]
            if len(x) > 1:
                covariance = ((x - x.mean()) * (y - y.mean())).mean()
                spread = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean()) ** 2
                total = total + 0.5 * (1 - 2 * covariance / (spread + 1e-8))
        return total

    def _expr(self, outputs: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        if not known.any():
            return outputs.sum() * 0
        if self.log_variances is None:
            return nn.functional.cross_entropy(outputs[known], labels[known], weight=self.classes)
        log = outputs[known].log_softmax(dim=1).gather(1, labels[known][:, None]).squeeze(1)
        return (-((1 - log.exp()) ** 2) * log * self.classes[labels[known]]).mean()

    def _au(self, outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        if not known.any():
            return outputs.sum() * 0
        loss = nn.functional.binary_cross_entropy_with_logits(
            outputs, labels.nan_to_num(0.0), pos_weight=self.positives, reduction="none"
        )
        return loss[known].mean()


def train_network(recipe: Recipe, frames: Frames, seed: int) -> Predicted:
    """The usual loop: the best epoch by P on the select rows, after which nothing is chosen any more."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    frames = frames if recipe.leading else frames.standardised()
    x = torch.from_numpy(np.append(frames.x, np.zeros((1, frames.x.shape[1]), np.float32), axis=0))  # the last: padding
    labels = [torch.from_numpy(np.append(each, fill, axis=0)) for each, fill in _padded(frames)]
    model, losses = recipe.model(frames.x.shape[1]), Losses(frames, recipe.leading)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *losses.parameters()], recipe.lr, weight_decay=recipe.weight_decay
    )
    best, best_score, since = copy.deepcopy(model.state_dict()), -np.inf, 0
    for _ in range(recipe.epochs):
        model.train()
        for rows in _batches(frames, recipe, generator):
            outputs = model(x[rows], rows >= 0)
            loss = losses(outputs, *(label[rows] for label in labels))
            optimiser.zero_grad()
            loss.backward()
            if not recipe.leading:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        score = select_score(_predict(model, x, frames, recipe, frames.select), frames)
        since += 1
        if score > best_score:
            best, best_score, since = copy.deepcopy(model.state_dict()), score, 0
        if since >= recipe.patience:
            break
    model.load_state_dict(best)
    return _predict(model, x, frames, recipe, frames.select | frames.report)


def _padded(frames: Frames) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels as float32 and int64, and what a padded step has: none."""
    va, au = frames.va.astype(np.float32), frames.au.astype(np.float32)
    nothing = np.full((1, 12), np.nan, np.float32)
    return [(va, nothing[:, :2]), (frames.expr.astype(np.int64), np.array([-1])), (au, nothing)]


def _batches(frames: Frames, recipe: Recipe, generator: np.random.Generator) -> list[Tensor]:
    """Shuffled batches [B, T] of rows, -1 for padding."""
    rows = windows(frames, frames.train, recipe.window, recipe.stride, generator if recipe.drawn else None)
    rows = rows[generator.permutation(len(rows))]
    num = len(rows) // recipe.batch if recipe.leading and len(rows) >= recipe.batch else -(-len(rows) // recipe.batch)
    return [torch.from_numpy(rows[place * recipe.batch : (place + 1) * recipe.batch]) for place in range(num)]


def windows(
    frames: Frames, part: np.ndarray, window: int, stride: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """[W, T] rows of `part`, padded with -1 at the end: of one video each, across no gap above `LONGEST_GAP` frames.

    Every `stride` steps, the last one where the stretch ends; as many at random starts with a `generator`.
    """
    rows = np.flatnonzero(part)
    cut = (frames.video[rows][1:] != frames.video[rows][:-1]) | (np.diff(frames.frame[rows]) > LONGEST_GAP)
    found = []
    for stretch in np.split(rows, np.flatnonzero(cut) + 1):
        room = max(len(stretch) - window, 0)
        starts = np.minimum(np.arange(-(-room // stride) + 1) * stride, room)
        if generator is not None:
            starts = generator.integers(0, room + 1, len(starts))
        for start in starts:
            piece = stretch[start : start + window]
            found.append(np.pad(piece, (0, window - len(piece)), constant_values=-1))
    return np.stack(found)


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor, frames: Frames, recipe: Recipe, part: np.ndarray) -> Predicted:
    """Of the rows of `part`; where windows overlap, the mean of what they predict. 0 elsewhere."""
    model.eval()
    length = int(np.unique(frames.video[part], return_counts=True)[1].max()) if recipe.leading else recipe.window
    total, count = np.zeros((len(frames.x) + 1, 22), np.float32), np.zeros(len(frames.x) + 1)
    for rows in torch.from_numpy(windows(frames, part, length, recipe.stride)).split(1 if recipe.leading else 256):
        rows = rows[:, : int((rows >= 0).sum(dim=1).max())]
        outputs = model(x[rows], rows >= 0)
        values = torch.cat([outputs["va"], outputs["expr"].softmax(dim=-1), outputs["au"].sigmoid()], dim=-1)
        np.add.at(total, rows.flatten().numpy(), values.flatten(0, 1).numpy())
        np.add.at(count, rows.flatten().numpy(), 1)
    va, expr, au = np.split((total / np.maximum(count, 1)[:, None])[:-1], [2, 10], axis=1)
    num = sum(parameter.numel() for parameter in model.parameters())
    return Predicted(va=va, expr=expr, au=au, num_parameters=num)


RECIPES: Mapping[str, Recipe] = {
    "mlp": Recipe(model=PerFrame, window=1, stride=1, batch=256),
    "gru": Recipe(model=Gru),
    "tcn": Recipe(model=Tcn),
    "abaw11": Recipe(model=LeadingGru, batch=32, epochs=25, patience=25, weight_decay=1e-4, drawn=False, leading=True),
}


def fit_rival(name: str, frames: Frames, seed: int) -> Predicted:
    """What the rival `name` predicts of the select and report rows, trained on the train rows."""
    return linear_models(frames, seed) if name == "linear" else train_network(RECIPES[name], frames, seed)


NAMES = ("linear", *RECIPES)
