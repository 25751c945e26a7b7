"""The rivals of extraction, tuned: a DataLoader of decoded uint8 faces, and torch, ONNX Runtime or torch.compile on
whole batches, into one .npy file.

Letters: B faces, S side of the input in pixels.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg, read_file

from extract.backbones.onnx_export import traced_onnx
from extract.backbones.passes import DTYPES, Precision

BATCH = 64
Model = Callable[[Tensor], Tensor]


class DecodedFaces(Dataset):
    """libjpeg's pixels [3, S, S] uint8, with nothing between them and the batch."""

    def __init__(self, folder: Path, paths: list[str]) -> None:
        self.folder, self.paths = folder, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return decode_jpeg(read_file(str(self.folder / self.paths[index])))


def tuned_loop(model: Model, folder: Path, paths: list[str], out: Path, num_workers: int, batch: int = BATCH) -> None:
    """Faces are scaled a batch at a time; the last batch may be smaller."""
    embeddings = []
    with torch.inference_mode():
        for faces in DataLoader(DecodedFaces(folder, paths), batch_size=batch, num_workers=num_workers):
            x = faces.float().div_(255).sub_(0.5).div_(0.5)
            embeddings.append(model(x.contiguous(memory_format=torch.channels_last)).float().numpy())
    np.save(out, np.concatenate(embeddings))


def of_torch(module: nn.Module, precision: Precision) -> Model:
    """Channels last, autocast."""
    placed = module.to(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "float32"):
            return placed(x)

    return run


def of_onnxruntime(module: nn.Module, size_px: int, num_threads: int) -> Model:
    """Exported and loaded with all of onnxruntime's optimisations; its threads do not spin."""
    data = traced_onnx(module, torch.zeros(2, 3, size_px, size_px), "x", "y", "rival")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["y"], {"x": x.contiguous().numpy()})[0])


def of_compiler(module: nn.Module, precision: Precision) -> Model:
    """torch.compile with frozen weights, for each size of batch that comes."""
    return torch.compile(of_torch(module, precision), dynamic=False, options={"freezing": True})
