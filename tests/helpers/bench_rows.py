"""What processes of the bench do in tests: none of it measures, and none imports torch."""

import os
import subprocess
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from bench.measure import Row


def one_and_then_too_long(module: str, ids: Sequence[str], device: str, limit_s: float, sender: Connection) -> None:
    """Sends a row, and one with the number of a process of its own; then sleeps beside that."""
    child = subprocess.Popen(["sleep", "60"])
    sender.send(Row(id=ids[0], what="sent in time", values=[0.5, 1.0, 2.0], device=device))
    sender.send(Row(id="child", what="its process", values=[child.pid]))
    time.sleep(60)


def dies(module: str, ids: Sequence[str], device: str, limit_s: float, sender: Connection) -> None:
    os._exit(3)
