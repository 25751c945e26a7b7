"""onnxruntime's sessions, and ONNX files that are whole in themselves; no torch.

Loading runs no code: libraries of operators are never loaded. Place: above `extract.backbones.onnx_file`; below
`extract.backbones.onnx_model` and the face detectors.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.regular import check_regular
from extract.backbones.catalogue import origin_of_file
from extract.backbones.onnx_file import external_file

INSTALL = 'pip install "mtl-affect[onnx]"'
ON_CPU: tuple[Any, ...] = ("CPUExecutionProvider",)


def read_onnx(path: Path, where: str, how: str) -> bytes:
    """The bytes of the ONNX file, whole in themselves.

    Raises:
        ValueError: no such file, not ONNX, or with weights in another file; says `where`, and `how` a file is named.
    """
    try:
        check_regular(path)
        data = path.read_bytes()
    except OSError:
        origin = origin_of_file(path)
        raise ValueError(f"{where}: {path}: no such ONNX file" + (f"; get {origin}" if origin else "")) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}; name the ONNX file: {how}") from None
    try:
        outside = external_file(data)
    except ValueError as error:
        raise ValueError(f"{where}: {path}: not an ONNX file ({error}); copy or export it again") from None
    if outside is not None:
        raise ValueError(
            f"{where}: {path}: has weights in another file ({outside}), which is not read; export it as one file "
            "(onnx.save_model(onnx.load(FILE), FILE, save_as_external_data=False))"
        )
    return data


def open_session(
    data: bytes, name: str, where: str, num_threads: int, providers: Sequence[Any] = ON_CPU, install: str = INSTALL
) -> Any:
    """onnxruntime's session for the ONNX file `data`; its threads do not spin while they wait, since the threads that
    decode need the cores.

    Raises:
        ValueError: onnxruntime is not installed, or cannot load the file.
    """
    runtime = onnxruntime(where, install)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed as well
    try:
        return runtime.InferenceSession(data, options, providers=list(providers))
    except Exception as error:  # onnxruntime has a kind for each of its states, with no base of its own
        raise ValueError(f"{where}: onnxruntime cannot load {name} ({reason(error)})") from None


def onnxruntime(where: str, install: str = INSTALL) -> Any:
    """The library, imported only where something needs it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{where}: ONNX models need onnxruntime ({reason(error)}); type {install}") from None
    return onnxruntime


def digest_of(data: bytes) -> str:
    """32 hex digits over a file's bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def reason(error: BaseException) -> str:
    """The first line of what onnxruntime says, without its code."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(" : ")[-1].strip()[:200]
