"""What `mtl export` prints when it is done."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.cli.pages.predict import model_in, post_line
from pipelines.words import counted, task_label


def export_lines(done: Mapping[str, Any]) -> Iterator[str]:
    """The lines for a person, from what `export` returned."""
    folder = model_in(done)
    tasks = ", ".join(task_label(task) for task in done["tasks"])
    takes = f"faces of {done['face_px']} px" if done["face_px"] else "embeddings (no backbone in it)"
    streams = ", ".join(f"{name} ({width} wide)" for name, width in done["streams"].items())
    yield f"{folder}: {tasks}; takes {takes}; {counted(done['num_models'], 'head')} on {streams}"
    yield post_line(folder, done["post"], asked=True)
    found = done["differences"]
    of_streams = "".join(f", embeddings of {name} {value:.1e}" for name, value in found["embeddings"].items())
    yield (
        f"largest difference from torch: predictions {found['predictions']:.1e}{of_streams} "
        f"(up to {found['let_pass']:g} is let pass)"
    )
    yield f"{done['out']}: {done['num_bytes'] / 1e6:.1f} MB, run by the mtl_runtime.py in it"
