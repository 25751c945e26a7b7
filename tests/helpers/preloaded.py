"""What the fork server imports: every module of the program."""

import importlib
import pkgutil

for room in ("cache", "extract", "heads", "pipelines"):
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
