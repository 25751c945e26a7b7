"""`mtl` in a process that ends where it sets about changing a cache."""

import os
import sys
from typing import Any

from pipelines.cli import main as mtl

OPENED, CHANGED = 77, 78


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and "cache.zarr" in str(arguments[0]) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        os._exit(OPENED)
    if event in ("os.mkdir", "os.rename", "os.remove") and "cache.zarr" in str(arguments[0]):
        os._exit(CHANGED)


def main() -> None:
    """What is typed runs; in the end the heavy libraries that it loaded are named."""
    sys.addaudithook(watch)
    try:
        mtl()
    finally:
        print([name for name in ("torch", "timm") if name in sys.modules])
