"""The explorer as a part of a page or as a page of its own: what stands in the HTML, and data files beside it.

The texts of users (names, labels, addresses) stand in JSON alone and become text nodes: none is ever markup or script.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cache.labels import Group, Schema
from pipelines.html import Markup, page, tag
from pipelines.json_files import write_text
from pipelines.timeline.packing import packed
from pipelines.timeline.palette import class_colours
from pipelines.timeline.videos import TimelineVideo, gap_limit
from pipelines.words import task_label

MAX_FRAMES = 100_000  # in one file; beyond that each video has a file of its own beside the page
LIBRARY = "uPlot.iife.min.js"
SCRIPTS = (
    "axis.js",
    "unpack.js",
    "lanes.js",
    "cells.js",
    "readout.js",
    "face.js",
    "chooser.js",
    "pointer.js",
    "explorer.js",
)
SIDECAR = re.compile(r"\d{4,}-[0-9a-f]{12}\.js")
STYLES = ("uPlot.min.css", "explorer.css")


def timeline_section(videos: Sequence[TimelineVideo], schema: Schema, *, data_urls: Sequence[str] = ()) -> Markup:
    """The explorer of `videos`. The page around it needs `explorer_style` and `explorer_script`, once.

    Args:
        videos: in the order in which they are listed.
        schema: what their columns are.
        data_urls: the addresses that `write_sidecars` gave; without them the data stand in the page.
    """
    if not videos:
        return tag("p", "There is no frame to show.")
    index = {
        "groups": [_group(group) for group in schema],
        "videos": [_entry(video) for video in videos],
        "urls": list(data_urls),
    }
    inside = "" if data_urls else "".join(_data(packed(video, schema)) for video in videos)
    return Markup(
        '<div class="timeline" role="group" aria-label="Timeline explorer">'
        "<noscript><p>The timeline explorer needs JavaScript.</p></noscript>"
        f'<script type="application/json" class="timeline-index">{_json(index)}</script>{inside}</div>'
    )


def write_sidecars(videos: Sequence[TimelineVideo], schema: Schema, path: Path) -> tuple[str, ...]:
    """The data files of a page at `path`, where `videos` have more than `MAX_FRAMES` frames; their addresses.

    They lie in the folder `NAME-timeline` beside the page; those of an earlier page there are removed.
    """
    if sum(len(video.frames) for video in videos) <= MAX_FRAMES:
        return ()
    folder = path.parent / f"{path.stem}-timeline"
    names = []
    for number, video in enumerate(videos, start=1):
        data = packed(video, schema)
        names.append(f"{number:04}-{blake2b(data.encode(), digest_size=6).hexdigest()}.js")
        write_text(folder / names[-1], f'mtlTimelineData("{names[-1]}", "{data}");\n')
    for old in folder.iterdir():
        if SIDECAR.fullmatch(old.name) and old.name not in names:
            old.unlink()
    return tuple(f"./{quote(folder.name)}/{name}" for name in names)


def timeline_page(
    title: str, videos: Sequence[TimelineVideo], schema: Schema, *, note: str = "", data_urls: Sequence[str] = ()
) -> str:
    """A page with the explorer alone; `note` stands below the title."""
    section = timeline_section(videos, schema, data_urls=data_urls)
    content = Markup(tag("h1", title) + (tag("p", note, css="muted") if note else "") + section)
    return page(title, content, style=explorer_style(), script=explorer_script())


def write_timeline_page(
    path: Path, title: str, videos: Sequence[TimelineVideo], schema: Schema, *, note: str = ""
) -> None:
    """`timeline_page` at `path`, with data files beside it where there are many frames."""
    urls = write_sidecars(videos, schema, path)
    write_text(path, timeline_page(title, videos, schema, note=note, data_urls=urls))


@cache
def explorer_style() -> str:
    """The CSS that a page with explorers needs once."""
    return "\n".join(map(_asset, STYLES))


@cache
def explorer_script() -> str:
    """The JavaScript that a page with explorers needs once."""
    own = "".join(map(_asset, SCRIPTS))
    return f'{_asset(LIBRARY)}\n(() => {{\n"use strict";\n{own}}})();\n'


def _asset(name: str) -> str:
    return (files("pipelines.timeline") / "assets" / name).read_text(encoding="utf-8")


def _entry(video: TimelineVideo) -> dict[str, Any]:
    return {
        "name": video.name,
        "part": video.part,
        "frames": len(video.frames),
        "gap": gap_limit(video.frames),
        "smoothed": video.smoothed is not None,
    }


def _group(group: Group) -> dict[str, Any]:
    found = {"title": task_label(group.name), "kind": group.kind, "columns": list(group.columns)}
    if group.kind == "classes":
        return {**found, "classes": list(group.classes), "colours": list(class_colours(group))}
    return {**found, "low": group.low, "high": group.high} if group.kind == "continuous" else found


def _data(text: str) -> str:
    return f'<script type="text/plain" class="timeline-data">{text}</script>'


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in: no <, > or &, ASCII alone."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
