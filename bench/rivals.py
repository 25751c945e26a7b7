"""The rivals, written as their users would write them: the usual loops of extraction and training, a search by Optuna,
and the paper's cache in HDF5."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import optuna
import polars as pl
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

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


class LabelledDataset(FaceDataset):
    """A face with the usual changes, and its expression."""

    def __init__(self, folder: Path, paths: list[str], labels: np.ndarray, transform: object) -> None:
        super().__init__(folder, paths, transform)
        self.labels = labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return super().__getitem__(index), int(self.labels[index])


def training_loader(
    folder: Path, paths: list[str], labels: np.ndarray, size_px: int, batch: int, num_workers: int
) -> DataLoader:
    """Pillow and torchvision's transforms with the changes of faces that `mtl finetune` makes."""
    steps = [
        transforms.Resize((size_px, size_px), transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(brightness=0.2, contrast=0.2),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        transforms.RandomErasing(0.25),
    ]
    dataset = LabelledDataset(folder, paths, labels, transforms.Compose(steps))
    pin = torch.cuda.is_available()
    return DataLoader(dataset, batch, shuffle=True, num_workers=num_workers, persistent_workers=True, pin_memory=pin)


def usual_training(
    model: nn.Module, optimiser: torch.optim.Optimizer, loader: DataLoader, device: torch.device
) -> None:
    """An epoch of the loop everyone writes; mixed precision on a GPU."""
    model.train()
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            outputs = model(images)
        loss = nn.functional.cross_entropy(outputs.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


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


class PlainHead(nn.Module):
    """Embeddings -> attention over streams -> GRU or TCN -> the three tasks, of torch's own layers."""

    def __init__(self, widths: list[int], temporal: str, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(each) for each in widths)
        self.projections = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.attention = nn.MultiheadAttention(width, 4, dropout=dropout, batch_first=True)
        self.temporal = PLAIN_TEMPORALS[temporal](width, dropout)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.outputs = nn.ModuleDict(
            {"va": nn.Linear(width, 2), "expr": nn.Linear(width, 8), "au": nn.Linear(width, 12)}
        )

    def forward(self, streams: list[Tensor], valid: Tensor) -> dict[str, Tensor]:
        parts = zip(self.norms, self.projections, streams, strict=True)
        tokens = torch.stack([project(norm(x)) for norm, project, x in parts], dim=2)  # [B, T, S, D]
        shape, tokens = tokens.shape[:2], tokens.flatten(0, 1)
        mean = tokens.mean(dim=1, keepdim=True)
        x = mean + self.dropout(self.attention(mean, tokens, tokens, need_weights=False)[0])
        x = x.squeeze(1).unflatten(0, shape) * valid.unsqueeze(-1)
        x = self.norm(self.temporal(x)) * valid.unsqueeze(-1)
        found = {task: output(x) for task, output in self.outputs.items()}
        return found | {"va": torch.tanh(found["va"])}


class PlainGru(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width // 2, 2, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gru(x)[0]


class PlainTcn(nn.Module):
    """Two dilated convolutions with kernel 5 and a mix of channels each, as in MS-TCN."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation),
                nn.GELU(),
                nn.Conv1d(width, width, 1),
                nn.Dropout(dropout),
            )
            for dilation in (1, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return x.transpose(1, 2)


PLAIN_TEMPORALS = {"gru": PlainGru, "tcn": PlainTcn}


class WindowDataset(Dataset):
    """Windows of embeddings in memory and their labels: rows [W, T], -1 is padding; label -1 and NaN are none."""

    def __init__(self, streams: list[np.ndarray], labels: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        self.streams, self.labels, self.rows = streams, labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        rows = self.rows[index]
        valid = rows >= 0
        streams = [torch.from_numpy(stream[rows].astype(np.float32)) for stream in self.streams]
        labels = {task: label[rows] for task, label in self.labels.items()}
        labels["va"][~valid], labels["expr"][~valid], labels["au"][~valid] = np.nan, -1, np.nan
        return streams, torch.from_numpy(valid), {task: torch.from_numpy(label) for task, label in labels.items()}


def plain_loader(dataset: WindowDataset, batch: int, num_workers: int, shuffle: bool = True) -> DataLoader:
    return DataLoader(dataset, batch, shuffle=shuffle, num_workers=num_workers, persistent_workers=num_workers > 0)


def plain_loss(outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """1 - CCC, cross-entropy and binary cross-entropy, over what is labelled."""
    total = outputs["va"].new_zeros(())
    for column in range(2):
        known = ~labels["va"][..., column].isnan()
        x, y = outputs["va"][..., column][known], labels["va"][..., column][known]
        if len(x) > 1:
            covariance = ((x - x.mean()) * (y - y.mean())).mean()
            variances = x.var(unbiased=False) + y.var(unbiased=False)
            total = total + 0.5 * (1 - 2 * covariance / (variances + (x.mean() - y.mean()) ** 2 + 1e-8))
    if (labels["expr"] >= 0).any():
        total = total + nn.functional.cross_entropy(
            outputs["expr"].flatten(0, 1), labels["expr"].flatten(), ignore_index=-1
        )
    known = ~labels["au"].isnan()
    if known.any():
        total = total + nn.functional.binary_cross_entropy_with_logits(outputs["au"][known], labels["au"][known])
    return total


def plain_epoch(model: nn.Module, optimiser: torch.optim.Optimizer, loader: DataLoader, device: torch.device) -> float:
    """The loop everyone writes; the mean loss."""
    model.train()
    losses = 0.0
    for streams, valid, labels in loader:
        streams, valid = [x.to(device) for x in streams], valid.to(device)
        outputs = model(streams, valid)
        loss = plain_loss(outputs, {task: label.to(device) for task, label in labels.items()})
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses += loss.item()
    return losses / len(loader)


@torch.no_grad()
def plain_validation(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    model.eval()
    losses = 0.0
    for streams, valid, labels in loader:
        outputs = model([x.to(device) for x in streams], valid.to(device))
        losses += plain_loss(outputs, {task: label.to(device) for task, label in labels.items()}).item()
    return losses / len(loader)


def live_backbone(model: nn.Module, transform: object, folder: Path, paths: list[str], device: torch.device) -> None:
    """The part of an epoch that a frozen backbone takes where nothing is cached: decode, transform, forward."""
    loader = DataLoader(FaceDataset(folder, paths, transform), batch_size=64, num_workers=2)
    with torch.no_grad():
        for images in loader:
            model(images.to(device)).cpu()


def optuna_search(
    train: WindowDataset,
    val: WindowDataset,
    *,
    num_trials: int,
    journal: Path,
    device: torch.device,
    epochs: int,
    batch: int,
    width: int,
) -> None:
    """A study in a journal file whose objective is the plain loop, validated after every epoch."""
    loaders = plain_loader(train, batch, 0), plain_loader(val, batch, 0, shuffle=False)
    widths = [stream.shape[1] for stream in train.streams]

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(trial.number)
        temporal = trial.suggest_categorical("temporal", list(PLAIN_TEMPORALS))
        model = PlainHead(widths, temporal, width, trial.suggest_float("dropout", 0.1, 0.3)).to(device)
        rate = trial.suggest_float("lr", 3e-4, 5e-3, log=True)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
        scores = []
        for _ in range(epochs):
            plain_epoch(model, optimiser, loaders[0], device)
            scores.append(plain_validation(model, loaders[1], device))
        return min(scores)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=num_trials)
