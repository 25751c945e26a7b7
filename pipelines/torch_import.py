"""torch, imported by commands before whatever else needs it."""

import gc
import sys


def import_torch() -> None:
    """Imports torch, unless it is there, without garbage collections: they find nothing and take 0.2 s of its 1.3.

    What is there then is left out of later collections: each would go through its 220,000 objects in 0.1 s.
    """
    if "torch" in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401

        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
