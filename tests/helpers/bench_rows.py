"""What processes of the bench do in tests: none of it measures, and none imports torch."""

import os
import subprocess
import threading
import time
from multiprocessing.connection import Connection

from bench.entries import Entry
from bench.measure import Row
from bench.processes import READY


def one_and_then_too_long(entry: Entry, device: str, limit_s: float, sender: Connection) -> None:
    """Sends a row, and one with the number of a process of its own; then sleeps beside that."""
    sender.send(READY)
    child = subprocess.Popen(["sleep", "60"])
    sender.send(Row(id=entry.ids[0], what="sent in time", values=[0.5, 1.0, 2.0], device=device))
    sender.send(Row(id="child", what="its process", values=[child.pid]))
    time.sleep(60)


def dies(entry: Entry, device: str, limit_s: float, sender: Connection) -> None:
    os._exit(3)


def sends_all_and_lingers(entry: Entry, device: str, limit_s: float, sender: Connection) -> None:
    sender.send(READY)
    sender.send(Row(id=entry.ids[0], what="its only row", values=[1.0]))
    threading.Thread(target=time.sleep, args=(2.0,)).start()
