"""torch modules as ONNX files: written in one piece, for onnxruntime on any machine.

Letters: B windows or faces, T steps.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

INSTALL = 'pip install "mtl-affect[export]"'
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED_OPSET = 18
MOST_BYTES = 2**31 - 2**20  # of weights: a message of Protocol Buffers holds 2 GiB
LOGGERS = ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")
# torch's own decomposition of recurrences in `torch.export` calls what torch is about to take out; what tracing fixes
# for good, `traced_onnx` names.
OWN_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"_check_is_size will be removed"),
    (DeprecationWarning, r"You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, r"The feature will be removed"),
    (torch.jit.TracerWarning, r""),
)


def check_installed() -> None:
    """Raises ValueError where a package that writing ONNX needs is not installed."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            raise ValueError(f"writing ONNX needs {name}, which is not installed; type {INSTALL}") from None


def to_onnx(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[Any, ...],
    what: str,
) -> bytes:
    """The module as the bytes of an ONNX file; it stays in evaluation mode, and none of its weights learns any more.

    Args:
        module: gives a tensor or a tuple of them.
        example: its arguments, each size that is `dynamic` at least 2.
        inputs: names, one per tensor of `example`.
        outputs: names, one per tensor it gives.
        dynamic: for each argument {dimension: torch.export.Dim.DYNAMIC}, or a tuple of those.
        what: its name in errors.

    Raises:
        ValueError: a package is missing, the module cannot be exported, or its weights are too many for one file.
    """
    check_installed()
    _check_size(module, what)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval().requires_grad_(False),
                example,
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                verbose=False,
            )
            assert program is not None
            data: bytes = program.model_proto.SerializeToString()
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"{what}: torch {torch.__version__} cannot write it as ONNX ({_reason(error)})") from None
    return data


def traced_onnx(module: nn.Module, example: Tensor, input_name: str, output_name: str, what: str) -> bytes:
    """The module as the bytes of an ONNX file, by one forward pass on `example` [B, ...]; any B is taken.

    It takes a fifteenth of the time of `to_onnx` (0.4 s and 6.7 s for EfficientNet-B0), but what the module decides by
    values or by sizes it decides for good: the caller compares the two.

    Raises:
        ValueError: the module cannot be exported, or its weights are too many for one file.
    """
    _check_size(module, what)
    file, batch = io.BytesIO(), {0: "B"}
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (example,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_axes={input_name: batch, output_name: batch},
                opset_version=TRACED_OPSET,
            )
    except Exception as error:  # the exporter's own, and whatever the module raises while it is traced
        raise ValueError(f"{what}: torch {torch.__version__} cannot write it as ONNX ({_reason(error)})") from None
    return file.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of the exporter's own on the terminal: neither `OWN_WARNINGS` nor log lines below errors."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category, words in OWN_WARNINGS:
            warnings.filterwarnings("ignore", words, category)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check_size(module: nn.Module, what: str) -> None:
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > MOST_BYTES:
        raise ValueError(f"{what}: {size / 1e9:.1f} GB of weights, and an ONNX file in one piece holds 2 GB")


def free(*dimensions: int) -> Mapping[int, Any]:
    """Those dimensions of a tensor may have any size in the ONNX file."""
    return dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC)


def _reason(error: BaseException) -> str:
    """The cause in one line; torch's exporter puts its advice first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\x1b\[\d+m", "", (lines or [type(error).__name__])[0])[:200]
