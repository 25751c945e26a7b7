"""Augmentation of faces in training, drawn for a whole global batch and split among its processes.

All is drawn on the CPU from one generator, so it is the same on every device and for any number of processes.
B faces of a batch, S the side of a face in pixels.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from extract.augment import RandAugment
from extract.config import Preprocessing
from extract.loading import Alter
from pipelines.config import FinetuneConfig

ATTEMPTS = 10  # at a rectangle that fits, as timm and torchvision have it
# Zhong et al., arXiv 1708.04896, with timm's numbers: what part of a face is erased, and height to width.
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
NOISE_SEED = 0
Index = np.ndarray | slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """The augmentation of each of B faces: flipped or not, and factors of brightness and contrast around 1.

    `erase` [B, 6] are rectangles of noise, in parts of S: top and left of 1 - height and 1 - width, height, width, and
    where in the noise they are cut out; height 0 where nothing is erased. `seeds` [B] are what RandAugment does,
    `rand_augment` its words. These two stay on the CPU.
    """

    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    erase: np.ndarray
    seeds: np.ndarray
    rand_augment: str = ""

    @classmethod
    def draw(cls, config: FinetuneConfig, num_faces: int, rng: np.random.Generator) -> "Augmentation":
        """The augmentation of `num_faces`, drawn on the CPU: the same on every device.

        The same numbers are drawn whatever is switched off, so that one setting never changes what another draws.
        """
        flip, brightness, contrast = rng.random((3, num_faces), dtype=np.float32)
        erased = rng.random(num_faces) < config.erase
        boxes = draw_boxes(num_faces, rng, ERASED_AREA, ERASED_RATIO)
        boxes[~erased, 2:] = 0
        return cls(
            flip=torch.from_numpy(flip < config.flip),
            brightness=torch.from_numpy(1 + config.brightness * (2 * brightness - 1)),
            contrast=torch.from_numpy(1 + config.contrast * (2 * contrast - 1)),
            erase=np.concatenate([boxes, rng.random((num_faces, 2))], axis=1),
            seeds=rng.integers(2**63, size=num_faces),
            rand_augment=config.rand_augment,
        )

    def part(self, index: Index) -> "Augmentation":
        """Those of some faces, by their places in the batch."""
        return Augmentation(
            flip=self.flip[index],
            brightness=self.brightness[index],
            contrast=self.contrast[index],
            erase=self.erase[index],
            seeds=self.seeds[index],
            rand_augment=self.rand_augment,
        )

    def to(self, device: torch.device) -> "Augmentation":
        return Augmentation(
            flip=self.flip.to(device, non_blocking=True),
            brightness=self.brightness.to(device, non_blocking=True),
            contrast=self.contrast.to(device, non_blocking=True),
            erase=self.erase,
            seeds=self.seeds,
            rand_augment=self.rand_augment,
        )

    def alter(self, preprocessing: Preprocessing) -> Alter | None:
        """What is done to the face at a place in the batch before it is resized; None where RandAugment is off."""
        if not self.rand_augment:
            return None
        augment, seeds = _rand_augment(self.rand_augment, preprocessing.mean), self.seeds.tolist()
        return lambda place, face: augment(face, seeds[place])


@dataclass(frozen=True, slots=True, kw_only=True)
class CropDraws:
    """A part of each of B faces: `boxes` [B, 4], in parts of S: top and left of 1 - height and 1 - width, height,
    width; and whether it is mirrored, `flip` [B]."""

    boxes: Tensor
    flip: Tensor

    @classmethod
    def draw(
        cls,
        num_faces: int,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
    ) -> "CropDraws":
        """Crops of `scale` of the area and `ratio` of width to height, as RandomResizedCrop draws them."""
        boxes = draw_boxes(num_faces, rng, scale, (1 / ratio[1], 1 / ratio[0])).astype(np.float32)
        return cls(boxes=torch.from_numpy(boxes), flip=torch.from_numpy(rng.random(num_faces) < flip))

    def part(self, index: Index) -> "CropDraws":
        """Those of some faces, by their places in the batch."""
        return CropDraws(boxes=self.boxes[index], flip=self.flip[index])

    def to(self, device: torch.device) -> "CropDraws":
        return CropDraws(boxes=self.boxes.to(device, non_blocking=True), flip=self.flip.to(device, non_blocking=True))


def draw_boxes(num: int, rng: np.random.Generator, area: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    """Rectangles [B, 4] of parts of a square: top and left, in parts of the room there is, height and width.

    `area` is of the square's, `ratio` is height to width, even in its logarithm. The first attempt that fits into the
    square is taken; the whole square where none does.
    """
    areas = rng.uniform(*area, (ATTEMPTS, num))
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (ATTEMPTS, num)))
    sides = np.stack([np.sqrt(areas * ratios), np.sqrt(areas / ratios)], axis=-1)  # [ATTEMPTS, B, 2]
    fits = sides.max(axis=-1) <= 1
    chosen = np.where(fits.any(axis=0)[:, None], sides[fits.argmax(axis=0), np.arange(num)], 1.0)
    return np.concatenate([rng.random((num, 2)), chosen], axis=1)


def hflip(faces: Tensor, augmentation: Augmentation) -> Tensor:
    """The faces [B, S, S, 3], those with `flip` mirrored: no label here knows left from right."""
    return torch.where(augmentation.flip[:, None, None, None], faces.flip(2), faces)


def colour_jitter(pixels: Tensor, augmentation: Augmentation, preprocessing: Preprocessing) -> Tensor:
    """The normalised `pixels` [B, 3, S, S] as if brightness and then contrast had been changed before normalising.

    With p in 0..1 and m the mean of a face over pixels and channels: b p, then c (b p - b m) + b m; one multiply-add
    per face. Nothing is clipped to 0..1.
    """
    mean = pixels.new_tensor(preprocessing.mean)[None, :, None, None]
    std = pixels.new_tensor(preprocessing.std)[None, :, None, None]
    level = (pixels.mean(dim=(2, 3), keepdim=True) * std + mean).mean(dim=1, keepdim=True)
    bright, contrast = augmentation.brightness[:, None, None, None], augmentation.contrast[:, None, None, None]
    scale = bright * contrast
    shift = bright * (1 - contrast) * level
    return torch.addcmul((shift + (scale - 1) * mean) / std, pixels, scale)


def erase(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """The normalised `pixels` [B, 3, S, S] with a rectangle of normal noise in the faces that `erase` names, in place:
    timm's RandomErasing in its mode "pixel", once per face."""
    side = pixels.shape[-1]
    for face in np.flatnonzero(augmentation.erase[:, 2]):
        noise, box = _noise(side, pixels.device), augmentation.erase[face]
        height, width = (min(max(round(part * side), 1), side) for part in box[2:4])
        top, left = int(box[0] * (side - height + 1)), int(box[1] * (side - width + 1))
        down, across = int(box[4] * side), int(box[5] * side)
        pixels[face, :, top : top + height, left : left + width] = noise[
            :, down : down + height, across : across + width
        ]
    return pixels


def random_resized_crop(faces: Tensor, draws: CropDraws) -> Tensor:
    """The crops of `faces` [B, S, S, 3] uint8, made [B, S, S, 3] again by bicubic interpolation, on their device.

    A crop is no larger than its face, so there is nothing to smooth before; RandomResizedCrop of torchvision gives the
    same pixels but for the crop's sides, which here need not be whole pixels.
    """
    room, sides = 1 - draws.boxes[:, 2:], draws.boxes[:, 2:]
    centre = 2 * (draws.boxes[:, :2] * room + sides / 2) - 1  # [B, 2], y and x in [-1, 1]
    sign = torch.where(draws.flip, -1.0, 1.0)
    zero = torch.zeros_like(sign)
    rows = [sign * sides[:, 1], zero, centre[:, 1], zero, sides[:, 0], centre[:, 0]]
    x = faces.permute(0, 3, 1, 2).to(torch.float32)
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return x.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@functools.lru_cache(maxsize=4)
def _noise(side: int, device: torch.device) -> Tensor:
    """Normal noise [3, 2 S, 2 S] from which rectangles are cut: drawn once, for drawing it anew on each device would
    give each its own."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(3, 2 * side, 2 * side, generator=generator).to(device)


@functools.lru_cache(maxsize=4)
def _rand_augment(words: str, mean: tuple[float, ...]) -> RandAugment:
    return RandAugment(words, mean)
