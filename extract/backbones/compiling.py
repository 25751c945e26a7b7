"""torch.compile as mtl uses it: with nothing on the terminal, and with kernels that the next process finds again."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Around a first forward pass, which compiles: kernels go to `kernel_folder`, warnings and logs go nowhere."""
    _keep_kernels()
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


def kernel_folder() -> Path:
    """Where compiled kernels stay between processes."""
    return user_folder() / "kernels"


def user_folder() -> Path:
    """`mtl` in the user's cache folder. Raises RuntimeError where there is no home folder.

    The specification of XDG_CACHE_HOME says that a relative path in it is ignored.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mtl"


def _keep_kernels() -> None:
    """Points torch to the folder, unless the user chose one; a folder that cannot be written is left alone."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch sets the variable itself, to a folder that the next start of the machine may empty.
    if os.environ.get(CACHE_VARIABLE, default_cache_dir()) != default_cache_dir():
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        folder = kernel_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[CACHE_VARIABLE] = str(folder)


def why_not_compiled(device: torch.device) -> str | None:
    """What is missing for torch.compile on this device, and None where nothing is known to be."""
    if device.type == "cuda":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to import

    try:
        with compiling():
            get_cpp_compiler()
    except Exception:  # torch raises several kinds, and not the same ones in every version
        return "there is no C++ compiler; install g++"
    return None
