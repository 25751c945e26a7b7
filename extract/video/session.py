"""onnxruntime's session of a detector: on the CPU, beside a thread that decodes and one that uses the faces."""

from typing import Any

from cache.cores import num_cores
from extract.backbones.onnx_session import INSTALL, open_session

MAX_THREADS = 4  # more gain little on pictures of 640 px; the values are the same with any number


def detector_session(data: bytes, name: str, where: str, install: str = INSTALL) -> Any:
    """Raises ValueError as `open_session`."""
    return open_session(data, name, where, max(1, min(MAX_THREADS, num_cores() - 1)), install=install)
