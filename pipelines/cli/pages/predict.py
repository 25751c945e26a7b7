"""What `mtl predict` prints when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.postprocess.apply import components
from pipelines.words import counted, task_label


def predict_lines(done: Mapping[str, Any]) -> Iterator[str]:
    """The lines for a person, from what `predict_to_file` or `predict_source` returned."""
    yield from _source_lines(done) if "source" in done else _frames_lines(done)


def _source_lines(done: Mapping[str, Any]) -> Iterator[str]:
    folder = model_in(done)
    tasks = ", ".join(task_label(task) for task in done["tasks"])
    yield f"{done['source']}: {done['why']}"
    faces = f"{counted(done['num_faces'], 'face')} in {counted(done['num_frames'], 'frame')}"
    tracks = f", {counted(done['num_tracks'], 'track')}" if done["num_tracks"] else ""
    yield f"{folder}: {tasks} of {faces} of {counted(done['num_videos'], 'video')}{tracks}"
    asked = done.get("asked_post", True)
    if "bundle" in done and done["post"] is None and asked:
        yield "post-processing: none in this bundle"
    else:
        yield post_line(folder, done["post"], asked=asked)
    yield from compound_line(done["box"])
    if not done["num_faces"]:
        yield "no face found: every row is empty"
    if done["num_resumed"]:
        yield f"resumed: {counted(done['num_resumed'], 'frame')} were done before"
    if done["num_unreadable"]:
        what, then = (
            ("picture", "") if done["source_kind"] == "pictures" else ("face", "predicted as the nearest frame; ")
        )
        named = "; ".join(done["unreadable"])
        yield f"{counted(done['num_unreadable'], what)} cannot be read ({then}valid = false): {named}"
    yield from done["notes"]
    for why in done["incomplete"]:
        yield f"INCOMPLETE: {why}"
    for key in ("out", "overlay", "timeline"):
        if done[key] is not None:
            yield str(done[key])


def compound_line(box: int | None) -> Iterator[str]:
    """How compound expressions were made, averaged over `box` frames on each side; nothing for None."""
    if box is not None:
        over = f", averaged over {counted(box, 'frame')} on each side" if box else ""
        yield f"compound expressions: the probabilities of their two expressions together, no class offsets{over}"


def model_in(done: Mapping[str, Any]) -> str:
    """What predicted, among what a command has done."""
    return str(next(done[kind] for kind in ("run", "ensemble", "refit", "bundle") if kind in done))


def _frames_lines(done: Mapping[str, Any]) -> Iterator[str]:
    folder = model_in(done)
    tasks = ", ".join(task_label(task) for task in done["tasks"])
    if "cache" in done:
        of = f"all of cache {done['cache']}"
    else:
        of = f"list {done['list']}" if "list" in done else f"split {done['split']}"
    yield f"{folder}: {tasks} of {counted(done['num_frames'], 'frame')} of {counted(done['num_videos'], 'video')}, {of}"
    yield post_line(folder, done["post"], asked=done.get("asked_post", True))
    yield from compound_line(done["box"])
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
        found = components(parameters)
        return f"post-processing: {'applied as stored: ' + ', '.join(found) if found else 'none was kept when fitted'}"
    return (
        "post-processing: none, as asked"
        if not asked
        else (f"post-processing: none stored; `mtl postprocess {folder}` fits it")
    )
