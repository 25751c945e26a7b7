"""Videos for the timeline with made predictions and labels of any schema."""

from collections.abc import Sequence

import numpy as np

from cache.labels import ABAW, Group, Schema
from pipelines.timeline.videos import TimelineVideo

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "'-alert(1)-'\u2028\u2029 <!--<script>",
    "javascript:window.hacked=1",
    "__proto__",
)


def frames_with_gap(count: int = 60, after: int = 20, gap: int = 40) -> np.ndarray:
    """[count] frame numbers from 1: consecutive, but for `gap` numbers that are missing behind the first `after`."""
    return np.arange(1, count + 1) + gap * (np.arange(count) >= after)


def made_video(
    name: str = "video1",
    frames: np.ndarray | None = None,
    schema: Schema = ABAW,
    *,
    seed: int = 0,
    smoothed: bool = True,
    labelled: bool = True,
    faces: Sequence[str] | None = None,
    part: str = "report",
) -> TimelineVideo:
    """Slow waves as predictions, noise on them where nothing is smoothed, and labels for nine frames in ten."""
    frames = frames_with_gap() if frames is None else frames
    rng = np.random.default_rng(seed)
    clean: dict[str, np.ndarray] = {}
    noisy: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for group in schema:
        phase = rng.uniform(0, 6, group.num_outputs)
        waves = np.sin(frames[:, None] / rng.uniform(10, 90, group.num_outputs) + phase)
        clean |= _columns(group, waves)
        noisy |= _columns(group, waves + rng.normal(0, 0.15, waves.shape))
        labels |= {column: _columns(group, np.roll(waves, 5, axis=0))[column] for column in group.columns}
    unknown = rng.random(len(frames)) < 0.1
    return TimelineVideo(
        name=name,
        frames=frames,
        predicted=noisy,
        smoothed=clean if smoothed else None,
        labels={column: np.where(unknown, np.nan, values) for column, values in labels.items()} if labelled else {},
        valid=np.arange(len(frames)) % 17 != 16,
        time_s=frames / 30,
        faces=faces,
        part=part,
    )


def _columns(group: Group, waves: np.ndarray) -> dict[str, np.ndarray]:
    """Prediction columns from `waves` [n, K] around -1 to 1."""
    if group.kind == "continuous":
        values = group.low + (waves + 1) / 2 * (group.high - group.low)
        return dict(zip(group.columns, values.T, strict=True))
    if group.kind == "classes":
        odds = np.exp(3 * waves)
        outputs, decided = odds / odds.sum(axis=1, keepdims=True), waves.argmax(axis=1)[:, None].astype(float)
    else:
        outputs = 1 / (1 + np.exp(-4 * waves))
        decided = (outputs >= 0.5).astype(float)
    names = (*group.columns, *group.output_columns)
    return dict(zip(names, np.concatenate([decided, outputs], axis=1).T, strict=True))
