"""Resizing as matrix products gives the levels of torch's and Pillow's own."""

import pytest
import torch

from extract.backbones.exact_resize import ExactResize
from extract.backbones.resize import MAX_PIXELS, batch_resizer
from extract.backbones.transforms import face_transform
from extract.config import Preprocessing

SIZES = [(90, 32), (112, 112), (112, 160), (112, 224), (224, 160), (200, 112)]
CUTS = [(0.875, "center"), (1.0, "center"), (1.15, "center"), (0.9, "squash")]


def faces(side: int) -> torch.Tensor:
    """[2, H, H, 3] uint8: noise, and noise in black and white alone, which overshoots the most."""
    found = torch.randint(0, 256, (2, side, side, 3), generator=torch.Generator().manual_seed(side), dtype=torch.uint8)
    found[1] = (found[1] > 127) * 255
    return found


def preprocessing(size_px: int, interpolation: str, crop_pct: float = 1.0, crop_mode: str = "center") -> Preprocessing:
    return Preprocessing(
        size_px=size_px,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "size_px"), SIZES)
def test_levels_are_those_of_extraction(side: int, size_px: int, interpolation: str) -> None:
    """To the level; bilinear to one level on processors for which torch has no kernel of whole numbers."""
    for crop_pct, crop_mode in CUTS:
        wanted = preprocessing(size_px, interpolation, crop_pct, crop_mode)
        resizer = batch_resizer(wanted)
        assert resizer is not None
        difference = (ExactResize(wanted, side)(faces(side)) - resizer(faces(side)).float()).abs().max()
        has_kernel = interpolation == "bicubic" or "AVX" in torch.backends.cpu.get_cpu_capability()
        assert difference <= (0 if has_kernel else 1), (crop_pct, crop_mode)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size_px", [112, 700])
def test_faces_that_extraction_resizes_by_pillow(size_px: int, interpolation: str) -> None:
    wanted, side = preprocessing(size_px, interpolation, 0.9), 600
    assert side**2 > MAX_PIXELS
    theirs = torch.from_numpy(face_transform(wanted)(faces(side)[1].numpy()).copy())
    assert torch.equal(ExactResize(wanted, side)(faces(side)[1:])[0], theirs.float())


@pytest.mark.parametrize(("interpolation", "crop_mode"), [("nearest", "center"), ("bicubic", "border")])
def test_what_no_weights_do_is_refused(interpolation: str, crop_mode: str) -> None:
    with pytest.raises(ValueError, match="cannot be exported"):
        ExactResize(preprocessing(64, interpolation, crop_mode=crop_mode), 112)
