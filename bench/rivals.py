"""The rivals, written as their users would write them: the usual extraction loop, and the paper's cache in HDF5."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

VIDEOS = 64  # in the file of `write_dictionary`


class FaceDataset(Dataset):
    """Pillow and timm's own evaluation transform, a face at a time."""

    def __init__(self, folder: Path, paths: list[str], transform: object) -> None:
        self.folder, self.paths, self.transform = folder, paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.folder / self.paths[index]).convert("RGB"))


def usual_model(name: str, size_px: int, device: torch.device) -> tuple[nn.Module, object]:
    """A timm model without classifier, and its transform for faces of `size_px`."""
    model = timm.create_model(name, pretrained=False, num_classes=0).eval().to(device)
    settings = resolve_model_data_config(model) | {"input_size": (3, size_px, size_px), "crop_pct": 1.0}
    return model, create_transform(**settings, is_training=False)


def usual_loop(
    model: nn.Module, transform: object, folder: Path, frames: pl.DataFrame, out: Path, device: torch.device
) -> None:
    """Dataset, DataLoader with a worker a core, model, one .npy at the end."""
    dataset = FaceDataset(folder, frames["path"].to_list(), transform)
    loader = DataLoader(dataset, batch_size=64, num_workers=2, pin_memory=device.type == "cuda")
    embeddings = []
    with torch.no_grad():
        for images in loader:
            embeddings.append(model(images.to(device)).cpu().numpy())
    np.save(out, np.concatenate(embeddings))


def write_dictionary(path: Path, rows: np.ndarray) -> None:
    """The paper's layout: one dataset a frame, `/<frame>/<video>`."""
    with h5py.File(path, "w") as file:
        for index, row in enumerate(rows):
            file[f"{index // VIDEOS:05d}/video{index % VIDEOS:03d}"] = row


def read_dictionary(path: Path) -> Mapping[str, np.ndarray]:
    """All of it into a dictionary, as the paper's released code does before training."""
    features = {}
    with h5py.File(path, "r") as file:
        for frame in file:
            for video in file[frame]:
                features[f"{video}/{frame}"] = file[frame][video][:]
    return features
