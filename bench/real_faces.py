"""The main job on real faces with real pretrained backbones, through the command line.

    python bench/real_faces.py DATA [--work FOLDER]

DATA holds `talking/` (face crops in the s-Aff-Wild2 layout, with train_set.txt, val_set.txt, test_set.txt and
subjects.csv) and `weights/` (mobilenetv2_100 and tf_efficientnet_lite0 as safetensors). The labels of `talking/`
are a teacher's, not people's: they prove that the path works on real pixels and real motion; a score on them says
nothing about affect.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BACKBONES = {"mobilenet": "mobilenetv2_100", "efficientnet": "tf_efficientnet_lite0"}
GRID = """\
[study]
name = "real"

[product]
streams = [["mobilenet"], ["efficientnet"], ["mobilenet", "efficientnet"]]
temporal = ["none", "gru", "tcn", "transformer"]
seed = [0, 1]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("bench/work/real_faces"))
    arguments = parser.parse_args()
    for line in run(arguments.data.resolve(), arguments.work):
        print(line, flush=True)


def run(data: Path, work: Path, size_px: int = 112, grid: str = GRID, every: int = 1) -> list[str]:
    """Runs the commands in `work` and returns what each took and the leaderboard; `every` thins the frames."""
    work.mkdir(parents=True, exist_ok=True)
    talking, lines = data / "talking", []
    for split in ("train", "val", "test"):
        header, *rows = (talking / f"{split}_set.txt").read_text().splitlines()
        (work / f"{split}_set.txt").write_text("\n".join([header, *rows[::every]]) + "\n")
    sections = "".join(
        section(name, data / "weights" / f"{model}.imagenet.safetensors", size_px) for name, model in BACKBONES.items()
    )
    commands = {
        "init": ["init", "--faces", str(talking / "cropped_aligned"), "--force"],
        "prepare": [
            "prepare",
            *(f"--{split}={split}_set.txt" for split in ("train", "val", "test")),
            f"--subjects={talking / 'subjects.csv'}",
        ],
        "extract": ["extract", "--backbone", ",".join(BACKBONES)],
        "search": ["search", "--grid", "grids/real.toml"],
    }
    for name, command in commands.items():
        start = time.perf_counter()
        mtl(command, work)
        lines.append(f"{name:8} {time.perf_counter() - start:6.1f} s")
        if name == "init":
            with (work / "mtl.toml").open("a") as file:
                file.write(sections)
            (work / "grids" / "real.toml").write_text(grid)
    rows = json.loads((work / "studies" / "real" / "leaderboard.json").read_text())
    return [*lines, *leaderboard(rows)]


def leaderboard(board: dict[str, Any]) -> list[str]:
    """One line per strategy, best selection score first: streams, temporal encoder, selection and held-out P."""
    lines = [f"{'streams':24} {'temporal':12} {'selection P':>15} {'held-out P':>15}"]
    for row in board["rankings"][0]["rows"]:
        scores = [f"{row[part]['P']['mean']:.3f} ± {row[part]['P']['sd'] or 0:.3f}" for part in ("select", "report")]
        streams, temporal = ", ".join(row["streams_used"]), row["strategy"]["temporal"]
        lines.append(f"{streams:24} {temporal:12} {scores[0]:>15} {scores[1]:>15}")
    return lines


def section(name: str, weights: Path, size_px: int) -> str:
    """The section of mtl.toml of one backbone."""
    return (
        f'\n[backbones.{name}]\nmodel = "{BACKBONES[name]}"\nweights = {json.dumps(str(weights))}\n'
        f"size_px = {size_px}\ncrop_pct = 1.0\n"
    )


def mtl(command: list[str], folder: Path) -> str:
    """Runs `mtl COMMAND` in `folder`; its output, or an error with its message."""
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"mtl {' '.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
