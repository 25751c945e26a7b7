"""Which folder a face of a video goes into: one person, two by their position, or a folder for each track.

A cut ends tracks, so one person may have many; what counts is how many faces there are at once. Letters: n faces.
"""

import itertools
from typing import Literal

import numpy as np

People = Literal["auto", "one", "two", "each"]
FEW = 0.05  # of the frames with faces may have more faces than there are people
LEFT, RIGHT = "_left", "_right"
NOBODY = None


def num_people(frames: np.ndarray) -> int:
    """The smallest number of people of which at most `FEW` of the frames have more; `frames` [n] by face."""
    _, counts = np.unique(frames, return_counts=True)
    return next(number for number in range(1, counts.max() + 1) if (counts > number).mean() <= FEW)


def endings(people: People, frames: np.ndarray, faces: np.ndarray, boxes: np.ndarray) -> list[str | None]:
    """By face: what the name of its folder ends in behind the video's; None for a face that goes nowhere.

    `frames`, `faces` (the ids of tracks) [n] and `boxes` [n, 4], in the order of frames. Where there are more faces at
    once than people, those of the tracks that take the most room in the video count.
    """
    if not len(frames):
        return []
    number = {"one": 1, "two": 2}.get(people) or (3 if people == "each" else num_people(frames))
    if number > 2:
        return [f"_{face}" for face in faces]
    chosen = _most_important(number, frames, faces, boxes)
    if number == 1:
        return ["" if row in chosen else NOBODY for row in range(len(frames))]
    return _by_side(chosen, frames, faces, (boxes[:, 0] + boxes[:, 2]) / 2)


def _most_important(number: int, frames: np.ndarray, faces: np.ndarray, boxes: np.ndarray) -> set[int]:
    """Rows of at most `number` faces in each frame."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    room = np.bincount(faces, weights=areas)[faces]
    order = np.lexsort((-room, frames))
    first = np.flatnonzero(np.r_[True, np.diff(frames[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    return set(order[rank < number].tolist())


def _by_side(chosen: set[int], frames: np.ndarray, faces: np.ndarray, x: np.ndarray) -> list[str | None]:
    """Left and right: of two faces by their positions; one alone goes to the side where its track mostly is, else to
    that on whose side of the middle between the two it is."""
    rows = sorted(chosen)
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if frames[a] == frames[b]]
    ordered = [(a, b) if x[a] <= x[b] else (b, a) for a, b in pairs]
    votes = np.zeros(faces.max() + 1)
    for left, right in ordered:
        votes[faces[left]] -= 1
        votes[faces[right]] += 1
    middle = np.mean([(x[a] + x[b]) / 2 for a, b in ordered]) if ordered else x[rows].mean()
    found: list[str | None] = [NOBODY] * len(frames)
    for row in rows:
        vote = votes[faces[row]]
        found[row] = LEFT if vote < 0 or (vote == 0 and x[row] < middle) else RIGHT
    for left, right in ordered:
        if found[left] == found[right]:
            found[left], found[right] = LEFT, RIGHT
    return found
