"""Fine-tuned backbones on the made data set: against untrained ones, and together against each alone.

    python bench/made_backbones.py DEMO

DEMO is the folder of a finished `mtl demo`, with its three backbones fine-tuned a task each. An untrained backbone of
the same architecture joins them; heads with the method "separate" train on each stream alone and on all three.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.real_faces import mtl

SCORES = ("va.ccc_mean", "expr.f1_macro", "au.f1_mean", "P")
GRID = """\
[study]
name = "backbones"

[set]
temporal = "tcn"
fusion = "sum"

[product]
streams = [["untrained"], ["va"], ["expr"], ["au"], ["va", "expr", "au"]]
seed = [0, 1, 2]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    for line in run(parser.parse_args().demo):
        print(line, flush=True)


def run(demo: Path) -> list[str]:
    """Adds the untrained backbone to the demo's mtl.toml, searches, and returns one line per stream."""
    path = demo / "mtl.toml"
    if "[backbones.untrained]" not in path.read_text():
        with path.open("a") as file:
            file.write('\n[backbones.untrained]\nmodel = "test_mambaout"\nweights = "random"\nsize_px = 64\n')
    (demo / "grids" / "backbones.toml").write_text(GRID)
    mtl(["extract", "--backbone", "untrained"], demo)
    mtl(["search", "--grid", "grids/backbones.toml"], demo)
    board = json.loads((demo / "studies" / "backbones" / "leaderboard.json").read_text())
    lines = [f"{'streams':16} {'va CCC':>15} {'expr F1':>15} {'AU F1':>15} {'P':>15}   held out, 3 seeds"]
    for row in board["rankings"][0]["rows"]:
        scores = [words(row["report"][key]) for key in SCORES]
        lines.append(f"{'+'.join(row['streams_used']):16} " + " ".join(f"{one:>15}" for one in scores))
    return lines


def words(score: dict[str, Any]) -> str:
    return f"{score['mean']:.3f} ± {score['sd'] or 0:.3f}"


if __name__ == "__main__":
    main()
