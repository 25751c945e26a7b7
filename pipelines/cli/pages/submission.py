"""What `mtl submit` prints when it is done."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.cli.pages.predict import compound_line, model_in, post_line
from pipelines.submission.filling import FILLS, linear
from pipelines.submission.formats import CELLS, TRACKS
from pipelines.words import counted

SHOWN_VIDEOS = 3
INTERPOLATED, NEAREST = "interpolated over frame numbers", "as the nearest frame of the video"


def submit_lines(done: Mapping[str, Any], *, asked_post: bool) -> Iterator[str]:
    """The lines for a person, from what `submit` returned."""
    folder = model_in(done)
    rows, repeated = counted(done["num_rows"], "row"), done["num_rows"] - done["num_frames"]
    again = f", {repeated:,} of them repeated" if repeated else ""
    yield f"{folder} on {done['list']}, track {done['track']}: {rows} of {counted(done['num_videos'], 'video')}{again}"
    if done["track"] == "ce":
        yield from compound_line(done["box"])
    else:
        yield post_line(folder, done["post"], asked=asked_post)
    if done["num_filled"]:
        how = fill_words(done["fill"], TRACKS[done["track"]].tasks)
        yield f"{counted(done['num_filled'], 'frame')} filled ({_why(done)}): {how}"
    if videos := done["empty_videos"]:
        named = ", ".join(videos[:SHOWN_VIDEOS]) + (", .." if len(videos) > SHOWN_VIDEOS else "")
        yield f"{counted(len(videos), 'video')} without any crop answered neutrally, as asked: {named}"
    if done["num_clipped"]:
        yield f"{counted(done['num_clipped'], 'frame')} with valence or arousal clipped to [-1, 1]"
    if not done["crops_looked_for"]:
        yield "not looked for: crops that the frames table lacks"
    if done["num_seen"]:
        yield f"not held out: {done['num_seen']:,} of these frames trained the model or selected its epoch"
    yield f"{done['out']}: read back, every row in the list's order"


def fill_words(rule: str, tasks: Sequence[str]) -> str:
    """How the tasks of a track were filled: "valence and arousal interpolated over frame numbers"."""
    is_linear = {task: FILLS[rule][CELLS[task].kind] is linear for task in tasks}
    ways = {task: INTERPOLATED if is_linear[task] else NEAREST for task in tasks}
    if len(set(ways.values())) == 1:
        names = [CELLS[task].words for task in tasks]
        return f"{' and '.join(names) if len(names) < 3 else 'all'} {ways[tasks[0]]}"
    return ", ".join(f"{CELLS[task].words} {ways[task]}" for task in tasks)


def _why(done: Mapping[str, Any]) -> str:
    parts = {
        "not in the frames table": "num_filled_not_in_table",
        "without an embedding": "num_filled_without_embedding",
    }
    return ", ".join(f"{done[key]:,} {words}" for words, key in parts.items() if done[key])
