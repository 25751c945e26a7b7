"""How many processor cores this process may use."""

import os


def num_cores() -> int:
    """Those of the process where the system says, else those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
