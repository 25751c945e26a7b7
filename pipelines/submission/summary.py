"""What `mtl submit` says when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.predict.summary import post_line
from pipelines.words import counted

SHOWN_VIDEOS = 3
FILL_WORDS = {
    "interpolate": "valence and arousal interpolated over frame numbers, expression and action units of the nearest",
    "nearest": "each as the nearest frame of its video",
    "linear": "valence, arousal and probabilities interpolated over frame numbers",
}


def submit_lines(done: Mapping[str, Any], *, asked_post: bool) -> Iterator[str]:
    """The lines for a person, from what `submit` returned."""
    folder = done.get("run") or done["ensemble"]
    rows, repeated = counted(done["num_rows"], "row"), done["num_rows"] - done["num_frames"]
    again = f", {repeated:,} of them repeated" if repeated else ""
    yield f"{folder} on {done['list']}, track {done['track']}: {rows} of {counted(done['num_videos'], 'video')}{again}"
    yield post_line(folder, done["post"], asked=asked_post)
    if done["num_filled"]:
        yield f"{counted(done['num_filled'], 'frame')} filled ({_why(done)}): {FILL_WORDS[done['fill']]}"
    if videos := done["empty_videos"]:
        named = ", ".join(videos[:SHOWN_VIDEOS]) + (", .." if len(videos) > SHOWN_VIDEOS else "")
        yield f"{counted(len(videos), 'video')} without any crop answered neutrally, as asked: {named}"
    if done["num_clipped"]:
        yield f"{counted(done['num_clipped'], 'frame')} with valence or arousal clipped to [-1, 1]"
    if not done["crops_looked_for"]:
        yield "not looked for: crops that the frames table lacks"
    if done["num_seen"]:
        yield f"not held out: {done['num_seen']:,} of these frames trained the model or chose its epoch"
    yield f"{done['out']}: read back, every row in the list's order"


def _why(done: Mapping[str, Any]) -> str:
    parts = {
        "not in the frames table": "num_filled_not_in_table",
        "without an embedding": "num_filled_without_embedding",
    }
    return ", ".join(f"{done[key]:,} {words}" for words, key in parts.items() if done[key])
