"""Draws what `python -m bench.scale --json FILE` measured: cost per frame and memory against the number of frames.

python -m bench.scale_picture FILE [OUT]
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

NAMES = {
    "prepare": "mtl prepare",
    "extract": "extraction",
    "verify": "verification",
    "epoch": "one epoch",
    "post": "post-processing",
    "report": "report",
    "predict": "prediction",
}
COLOURS = ("#4269d0", "#d1462f", "#3ca951", "#9467bd", "#efb118", "#38b2c4", "#7a7a7a")
MARKERS = "os^Dvp>"


def draw(rows: list[dict[str, float]]) -> Figure:
    """Two panels over one axis of frames, both with logarithmic axes; a horizontal line on the left is linear cost."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (step, name), colour, marker in zip(NAMES.items(), COLOURS, MARKERS, strict=True):
        own = sorted((row for row in rows if row["step"] == step), key=lambda row: row["frames"])
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5, "label": name}
        frames = [row["frames"] for row in own]
        left.plot(frames, [row["cpu_s"] / row["frames"] * 1e6 for row in own], **style)
        right.plot(frames, [row["peak_mb"] / 1e3 for row in own], **style)
    for axis, words in ((left, "CPU time per frame of the table, µs"), (right, "peak memory of the process, GB")):
        axis.set(xscale="log", yscale="log", xlabel="frames", title=words)
        axis.title.set_size(10)
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_major_formatter(FuncFormatter(_counted))
    right.set_ylim(bottom=0.1)
    right.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value in (0.2, 0.5, 2, 3) else ""))
    left.legend(fontsize=8, frameon=False)
    return figure


def _counted(value: float, _: int) -> str:
    return f"{value / 1e6:g} million" if value >= 1e6 else f"{value:,.0f}"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not Path(sys.argv[1]).is_file():
        print("python -m bench.scale_picture FILE [OUT]: FILE is what bench.scale --json FILE wrote", file=sys.stderr)
        sys.exit(2)
    file, *out = map(Path, sys.argv[1:])
    draw(json.loads(file.read_text())).savefig(*out or ["docs/scale.png"])
