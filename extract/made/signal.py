"""What happens in a made video: movements of the face over real time, and the labels an annotator would give them.

Letters: L real frames of a video, N listed frames (those with a face file), A movements (the 12 labelled action units
and 6 unlabelled ones). Everything is drawn from one generator per video, so a seed determines it all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cache.names import ACTION_UNITS, EXPRESSIONS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Drawn but not labelled: upper lid raiser, nose wrinkler, lip stretcher, blink, head up, head down.
MOVEMENTS = (*ACTION_UNITS, "AU5", "AU9", "AU20", "AU45", "AU53", "AU54")
INDEX = {name: column for column, name in enumerate(MOVEMENTS)}

# Peak intensity of each action unit in an event of an expression: the prototypes of EMFACS (Friesen and Ekman,
# "EMFACS-7", 1983; FACS Investigator's Guide, 2002, table 10-1), cut to the units drawn here. The head goes along
# (AU53, AU54): down in anger and sadness, up in fear and surprise.
PROTOTYPES: dict[str, dict[str, float]] = {
    "Anger": {"AU4": 1.0, "AU5": 0.3, "AU7": 0.8, "AU23": 0.8, "AU24": 0.35, "AU54": 0.5},
    "Disgust": {"AU9": 0.9, "AU10": 1.0, "AU4": 0.3, "AU7": 0.3, "AU25": 0.45},
    "Fear": {"AU1": 0.9, "AU2": 0.7, "AU4": 0.7, "AU5": 0.9, "AU20": 0.9, "AU25": 0.7, "AU26": 0.3, "AU53": 0.6},
    "Happiness": {"AU6": 0.85, "AU12": 1.0, "AU25": 0.55},
    "Sadness": {"AU1": 0.9, "AU4": 0.6, "AU15": 0.9, "AU54": 1.0},
    "Surprise": {"AU1": 0.9, "AU2": 1.0, "AU5": 0.8, "AU25": 0.9, "AU26": 0.85, "AU53": 0.7},
}
# An expression is there when all of the first units are and none of the second.
REQUIRED = {
    "Anger": (("AU4", "AU7", "AU23"), ("AU1", "AU10")),
    "Disgust": (("AU9", "AU10"), ("AU1", "AU12")),
    "Fear": (("AU1", "AU2", "AU4", "AU20"), ("AU12",)),
    "Happiness": (("AU6", "AU12"), ("AU4", "AU15")),
    "Sadness": (("AU1", "AU4", "AU15"), ("AU2", "AU12")),
    "Surprise": (("AU1", "AU2", "AU26"), ("AU4", "AU12")),
}
# Events that are no prototype: concentration, pressed lips, brow flash, polite smile, shrug, squint, sneer, worry.
OTHER_EVENTS: tuple[dict[str, float], ...] = (
    {"AU4": 0.8, "AU7": 0.7},
    {"AU24": 1.0},
    {"AU1": 0.9, "AU2": 0.9},
    {"AU12": 0.8},
    {"AU15": 0.8, "AU24": 0.6},
    {"AU7": 0.9, "AU10": 0.6},
    {"AU10": 0.8, "AU12": 0.5},
    {"AU23": 0.9, "AU12": 0.4},
)
EVENT_WEIGHTS = {
    "Anger": 0.09,
    "Disgust": 0.08,
    "Fear": 0.07,
    "Happiness": 0.27,
    "Sadness": 0.12,
    "Surprise": 0.12,
    "Other": 0.25,
}
# Valence and arousal of a full expression: Russell's circumplex (J. Pers. Soc. Psychol. 39, 1980).
CIRCUMPLEX = {
    "Anger": (-0.65, 0.70),
    "Disgust": (-0.70, 0.35),
    "Fear": (-0.60, 0.85),
    "Happiness": (0.90, 0.45),
    "Sadness": (-0.75, -0.45),
    "Surprise": (0.20, 0.80),
}
UNIT_THRESHOLD = 0.32
EXPRESSION_THRESHOLD = 0.30
UNIT_LAG = 4  # real frames from a movement to its label
EXPRESSION_LAG = 8
AFFECT_LAG = 12  # annotators of valence and arousal follow by a good half second ...
AFFECT_SMOOTHING = 14.0  # ... and their joystick is slow: the time constant of an exponential average
GAPS = ((1, 0.20), (2, 0.20), (3, 0.22), (4, 0.13), (5, 0.09), (6, 0.06), (8, 0.04), (10, 0.035))


@dataclass(frozen=True, slots=True)
class Habits:
    """How one subject moves: `gain` [A] scales every movement, `liking` [7] the choice of events."""

    gain: Floats
    liking: Floats


@dataclass(frozen=True, slots=True)
class Traces:
    """One video in real time. `intensity` [L, A] in 0..1 is what the face does; `affect` [L, 2] what it says at once.

    `valence_arousal` [L, 2], `expression` [L] and `units` [L, 12] are the annotators' labels, which come later.
    """

    intensity: Floats
    affect: Floats
    valence_arousal: Floats
    expression: Ints
    units: Ints


def make_habits(rng: Generator) -> Habits:
    """A subject's own way of moving."""
    weights = np.array(list(EVENT_WEIGHTS.values()))
    return Habits(
        gain=rng.uniform(0.85, 1.15, len(MOVEMENTS)),
        liking=rng.dirichlet(weights * 40.0),
    )


def listed_frames(rng: Generator, count: int) -> Ints:
    """[N] rising frame numbers with gaps of 1 to hundreds, median about 3."""
    steps, shares = zip(*GAPS, strict=True)
    long = rng.geometric(1 / 70, size=count) + 20
    kinds = np.append(np.array(shares), 1 - sum(shares))
    chosen = rng.choice(len(kinds), size=count, p=kinds)
    gaps = np.where(chosen < len(steps), np.array([*steps, 0])[chosen], long)
    return np.asarray(np.cumsum(gaps), dtype=np.int64)


def make_traces(rng: Generator, length: int, habits: Habits) -> Traces:
    """Events, speech and blinks over `length` real frames, and their labels."""
    intensity = np.zeros((length, len(MOVEMENTS)))
    _add_events(rng, intensity, habits)
    _add_speech(rng, intensity)
    intensity = np.clip(intensity * habits.gain, 0, 1)
    strengths = expression_strengths(intensity)
    affect = strengths @ np.array([CIRCUMPLEX[name] for name in PROTOTYPES]) + _chatter(intensity)
    expression = label_expression(smooth(late(intensity, EXPRESSION_LAG), 4.0))
    units = late(intensity, UNIT_LAG)[:, : len(ACTION_UNITS)] > UNIT_THRESHOLD
    valence_arousal = _annotate(rng, affect)
    _add_blinks(rng, intensity)
    return Traces(intensity, affect, valence_arousal, expression, units.astype(np.int64))


def expression_strengths(intensity: Floats) -> Floats:
    """[L, A] intensities as [L, 6] strengths of the prototypes, each 0..1, in the order of PROTOTYPES."""
    strengths = []
    for name, (required, excluded) in REQUIRED.items():
        present = [np.clip(intensity[:, INDEX[au]] / PROTOTYPES[name][au], 0, 1) for au in required]
        absent = 1 - 0.8 * np.max([intensity[:, INDEX[au]] for au in excluded], axis=0)
        strengths.append(np.prod(present, axis=0) ** (1 / len(present)) * absent)
    return np.stack(strengths, axis=1)


def label_expression(intensity: Floats) -> Ints:
    """[L, A] intensities as [L] classes: the strongest prototype, Other for a movement of none, else Neutral."""
    strengths = expression_strengths(intensity)
    silent = [INDEX[au] for au in ACTION_UNITS if au not in ("AU25", "AU26")]  # talking alone is neutral
    moving = intensity[:, silent].max(axis=1) > UNIT_THRESHOLD + 0.08
    classes = np.array([EXPRESSIONS.index(name) for name in PROTOTYPES])[strengths.argmax(axis=1)]
    rest = np.where(moving, EXPRESSIONS.index("Other"), EXPRESSIONS.index("Neutral"))
    return np.asarray(np.where(strengths.max(axis=1) > EXPRESSION_THRESHOLD, classes, rest), dtype=np.int64)


def drawn_movements(rng: Generator, intensity: Floats, jitter: float) -> Floats:
    """[N, A] as seen in single frames: tracking wobble that is new in every frame, and averages out over time."""
    wobble = rng.normal(0, jitter, intensity.shape)
    wobble[:, INDEX["AU45"]] = 0
    return intensity + wobble


def slow_noise(rng: Generator, length: int, scale_frames: float, count: int) -> Floats:
    """[L, count] noise of unit size that changes over about `scale_frames` real frames."""
    knots = max(4, int(length / scale_frames) + 4)
    values = rng.normal(0, 1, (knots, count))
    at = np.linspace(0, knots - 1.001, length)
    low, part = at.astype(int), (at % 1)[:, None]
    blend = part * part * (3 - 2 * part)
    return np.asarray(values[low] * (1 - blend) + values[low + 1] * blend)


def _add_events(rng: Generator, intensity: Floats, habits: Habits) -> None:
    time = int(rng.integers(0, 60))
    names = list(EVENT_WEIGHTS)
    while time < len(intensity):
        name = names[rng.choice(len(names), p=habits.liking)]
        shape = PROTOTYPES.get(name) or OTHER_EVENTS[rng.integers(len(OTHER_EVENTS))]
        strength, apex = rng.uniform(0.7, 1.05), int(rng.lognormal(3.4, 0.5))
        for au, peak in shape.items():
            start = time + int(rng.integers(-3, 6))
            _add_pulse(rng, intensity[:, INDEX[au]], start, apex, peak * strength * rng.uniform(0.8, 1.2))
        time += apex + int(rng.lognormal(3.3, 0.6)) + 12


def _add_pulse(rng: Generator, trace: Floats, start: int, apex: int, peak: float) -> None:
    """Onset, apex, offset: fast up, a held and slightly waning apex, slow down."""
    onset, offset = int(rng.integers(4, 14)), int(rng.integers(10, 36))
    up = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, onset))
    hold = np.linspace(1, rng.uniform(0.75, 1), apex + 1)
    down = hold[-1] * (0.5 + 0.5 * np.cos(np.linspace(0, np.pi, offset)))
    pulse = peak * np.concatenate([up, hold, down])
    first, last = max(start, 0), min(start + len(pulse), len(trace))
    if first < last:
        trace[first:last] = np.maximum(trace[first:last], pulse[first - start : last - start])


def _add_speech(rng: Generator, intensity: Floats) -> None:
    """Bouts of talking: the lips stay parted for the annotator, while the mouth flutters in every frame."""
    time = int(rng.integers(0, 150))
    while time < len(intensity):
        bout = int(rng.integers(50, 260))
        stop = min(time + bout, len(intensity))
        lips = rng.uniform(0.4, 0.75) + 0.25 * slow_noise(rng, stop - time, 3.0, 2)
        for column, au in enumerate(("AU25", "AU26")):
            seen = lips[:, column] - (0.28 if au == "AU26" else 0.0)
            trace = intensity[time:stop, INDEX[au]]
            np.maximum(trace, seen * (1 - intensity[time:stop, INDEX["AU24"]]), out=trace)
        time = stop + int(rng.integers(60, 320))


def _add_blinks(rng: Generator, intensity: Floats) -> None:
    for start in np.flatnonzero(rng.random(len(intensity)) < 1 / 110):
        shape = np.array([0.5, 1.0, 1.0, 0.6, 0.2])[: len(intensity) - start]
        intensity[start : start + len(shape), INDEX["AU45"]] = shape


def _chatter(intensity: Floats) -> Floats:
    """A little arousal [L, 2] from talking and any movement, so that the rest is not exactly 0."""
    arousal = 0.12 * intensity[:, INDEX["AU25"]] + 0.10 * intensity.mean(axis=1)
    return np.stack([0.03 + 0.12 * intensity[:, INDEX["AU12"]], arousal], axis=1)


def _annotate(rng: Generator, affect: Floats) -> Floats:
    """The annotators' trace of `affect` [L, 2]: later, smoother, with a hand of its own, inside [-1, 1]."""
    trace = smooth(late(affect, AFFECT_LAG), AFFECT_SMOOTHING)
    return np.clip(trace + 0.03 * slow_noise(rng, len(affect), 120.0, 2), -1, 1)


def late(trace: Floats, lag: int) -> Floats:
    """`trace` [L, ...] delayed by `lag` frames; the first value stands in for what came before."""
    return trace[np.maximum(np.arange(len(trace)) - lag, 0)]


def smooth(trace: Floats, frames: float) -> Floats:
    """Exponential average of `trace` [L, C] with a time constant in frames; looks only back."""
    taps = np.exp(-np.arange(int(6 * frames)) / frames)
    padded = np.concatenate([np.repeat(trace[:1], len(taps) - 1, axis=0), trace])
    columns = [np.convolve(column, taps / taps.sum(), mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)
