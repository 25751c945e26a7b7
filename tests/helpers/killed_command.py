"""`killed_command CHANGE FOLDER WORDS...` is `mtl WORDS...`, killed before its CHANGE-th change of a file in FOLDER."""

import sys

from helpers.kills import kill_before
from pipelines.cli import main as mtl


def main() -> None:
    change, folder, *words = sys.argv[1:]
    kill_before(int(change), folder)
    sys.argv = ["mtl", *words]
    mtl()
