"""Compound expressions from the probabilities of basic ones; no label of them is needed. R rows.

A compound's score is the sum of the probabilities of its two expressions, averaged over a box of frames where one is
asked for (Savchenko, "HSEmotion Team at the 7th ABAW Challenge", arXiv 2407.13184). The seven compounds and their order
are those of C-EXPR-DB and its challenge (Kollias et al., "7th ABAW Competition", arXiv 2407.03835).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache.labels import Group, Schema, schema_of
from pipelines.metrics.predictions import TINY, Probabilities
from pipelines.postprocess.apply import Parameters, video_numbers
from pipelines.postprocess.smoothing import Smoothing, smooth
from pipelines.predict.predictor import FramePredictions

PAIRS: dict[str, tuple[str, str]] = {
    "Fearfully_Surprised": ("Fear", "Surprise"),
    "Happily_Surprised": ("Happiness", "Surprise"),
    "Sadly_Surprised": ("Sadness", "Surprise"),
    "Disgustedly_Surprised": ("Disgust", "Surprise"),
    "Angrily_Surprised": ("Anger", "Surprise"),
    "Sadly_Fearful": ("Sadness", "Fear"),
    "Sadly_Angry": ("Sadness", "Anger"),
}
BASIC = tuple(dict.fromkeys(name for pair in PAIRS.values() for name in pair))
COMPOUND = schema_of(
    {
        "name": "compound",
        "groups": [{"name": "ce", "kind": "classes", "columns": ["compound"], "classes": list(PAIRS)}],
    },
    "compound",
)


def basic_group(schema: Schema, tasks: Sequence[str], whose: str) -> Group:
    """The label group of `schema` whose classes compounds are made of.

    Raises:
        ValueError: none has all the basic expressions, or it is not among the predicted `tasks`; opened by `whose`.
    """
    group = next((each for each in schema if set(BASIC) <= set(each.classes)), None)
    if group is None or group.name not in tasks:
        has = f"predicts {', '.join(tasks)}" if group else f"has labels of {schema.name}"
        raise ValueError(
            f"{whose}: compound expressions need the probabilities of the classes {', '.join(sorted(BASIC))}, but it "
            f"{has}; take a model with expressions"
        )
    return group


def compounds_of(
    group: Group, probabilities: np.ndarray, videos: np.ndarray, frames: np.ndarray, box: float
) -> Probabilities:
    """The probabilities [R, 7] of compounds from those [R, K] of the classes of `group`, those of a row summing to 1.

    `videos` [R] has a number per video; frames at most `box` frames away count alike in the mean. Class offsets, which
    are fitted to the basic expressions, are not in it.
    """
    pairs = [[group.classes.index(name) for name in pair] for pair in PAIRS.values()]
    sums = probabilities[:, np.array(pairs)].sum(axis=2)
    sums = smooth(sums, videos, frames, Smoothing("box", box))
    return Probabilities(
        parts={"ce": sums / np.maximum(sums.sum(axis=1, keepdims=True), TINY)},
        schema=COMPOUND,
    )


def compound_frames(found: FramePredictions, group: Group, box: float) -> FramePredictions:
    """The compounds of the frames `found`, from what is predicted of `group`."""
    videos, frames = video_numbers(found.frames), found.frames["frame"].to_numpy()
    smoothed, raw = (
        compounds_of(group, given.parts[group.name], videos, frames, box) for given in (found.probabilities, found.raw)
    )
    return replace(found, probabilities=smoothed, raw=raw, parameters=Parameters(schema=COMPOUND))
