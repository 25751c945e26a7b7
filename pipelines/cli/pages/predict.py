"""What `mtl predict` prints when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.words import counted, task_label


def predict_lines(done: Mapping[str, Any]) -> Iterator[str]:
    """The lines for a person, from what `predict_to_file` returned."""
    folder = done.get("run") or done["ensemble"]
    tasks = ", ".join(task_label(task) for task in done["tasks"])
    of = f"list {done['list']}" if "list" in done else f"split {done['split']}"
    yield f"{folder}: {tasks} of {counted(done['num_frames'], 'frame')} of {counted(done['num_videos'], 'video')}, {of}"
    yield post_line(folder, done["post"], asked=done.get("asked_post", True))
    if done["num_nearest"]:
        yield (
            f"{counted(done['num_nearest'], 'frame')} without an embedding: predicted as the nearest frame of the "
            "video (valid = false)"
        )
    if done["num_unknown"]:
        yield f"{counted(done['num_unknown'], 'frame')} of videos without any embedding: no prediction (empty cells)"
    if done.get("num_absent") or done.get("num_absent_videos"):
        yield (
            f"not in the frames table and so not predicted: {counted(done['num_absent'], 'listed frame')}, "
            f"{counted(done['num_absent_videos'], 'whole video')}; `mtl prepare --test-list` and `mtl extract` add them"
        )
    if done["num_seen"]:
        yield f"no held-out predictions: {done['num_seen']:,} of these frames trained the model or selected its epoch"
    yield str(done["out"])


def post_line(folder: str, parameters: Mapping[str, Any] | None, *, asked: bool) -> str:
    """Whether post-processing was applied, and where it would come from."""
    if parameters is not None:
        return "post-processing: applied as stored"
    return (
        "post-processing: none, as asked"
        if not asked
        else (f"post-processing: none stored; `mtl postprocess {folder}` fits it")
    )
