"""The report of a pretraining: its losses, and faces as the model draws what it does not see."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.durable import write_durably
from extract.backbones.mae import draw_orders, patches_of, pixels_of, spread_of
from extract.backbones.transforms import normalise
from extract.config import Preprocessing
from extract.faces.pictures import png
from pipelines.backbones.pretraining.loop import HELD_OUT
from pipelines.backbones.pretraining.pretrain_state import EpochLog, PretrainContext
from pipelines.charts import Chart, draw, learning_panel
from pipelines.html import Cell, Markup, figure_html, join, page, table, tag, tiles
from pipelines.json_files import write_text
from pipelines.words import duration_words

NUM_HELD_OUT, NUM_TRAINED = 8, 4  # faces that are shown
FACES_A_LINE = 2
GREY = 0.5  # of masked patches, in 0 .. 1
GAP_PX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """`columns` of pictures [n, S, S, 3] uint8 by heading, face for face; `are_held_out` or trained on."""

    columns: Mapping[str, np.ndarray]
    are_held_out: bool

    def sheet(self) -> np.ndarray:
        """All of them in one picture [H, W, 3], one row per face, `FACES_A_LINE` beside each other."""
        faces = [_beside([column[face] for column in self.columns.values()], GAP_PX) for face in range(len(self))]
        lines = [
            _beside(faces[start : start + FACES_A_LINE], 6 * GAP_PX) for start in range(0, len(faces), FACES_A_LINE)
        ]
        width = max(line.shape[1] for line in lines)
        padded = [
            np.pad(line, ((0, GAP_PX), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines
        ]
        return np.concatenate(padded)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def draw_pictures(context: PretrainContext) -> list[Pictures]:
    """A fixed few of the held-out faces and of those trained on, as far as there are any that can be read."""
    found = [
        _pictures(context, context.held_out, NUM_HELD_OUT, are_held_out=True),
        _pictures(context, context.train, NUM_TRAINED, are_held_out=False),
    ]
    return [pictures for pictures in found if pictures is not None]


@torch.no_grad()
def _pictures(context: PretrainContext, rows: np.ndarray, number: int, *, are_held_out: bool) -> Pictures | None:
    """`number` of `rows`, evenly spaced, under fixed masks."""
    model = context.model
    rows = rows[~np.isin(rows, list(context.faces.unreadable))]
    asked = rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(np.int64)]
    batch = next(iter(context.faces.batches([asked]))) if len(asked) else None
    if batch is None or not len(batch.rows):
        return None
    rng = np.random.default_rng([context.config.seed, HELD_OUT, 1])
    order = torch.from_numpy(draw_orders(len(batch.rows), model.num_patches, rng)).to(context.device)
    pixels = normalise(batch.faces, context.faces.preprocessing, torch.float32)
    drawn = model.reconstruct(pixels, order)
    patches, seen = patches_of(pixels, model.patch_px), model.seen(order)[..., None]
    means = spread_of(patches)[0].expand_as(patches)
    preprocessing = context.faces.preprocessing
    original = _shown(pixels, preprocessing)
    grey = np.uint8(round(255 * GREY))
    mask = pixels_of(seen.expand_as(patches), model.grid).permute(0, 2, 3, 1).cpu().numpy()
    columns = {
        "original": original,
        "what it sees": np.where(mask, original, grey),
        "what it draws": _shown(drawn, preprocessing),
    }
    if model.normalise:
        columns["means alone"] = _shown(pixels_of(torch.where(seen, patches, means), model.grid), preprocessing)
    return Pictures(columns=columns, are_held_out=are_held_out)


def write_report(
    folder: Path, name: str, about: Mapping[str, Any], history: Sequence[EpochLog], pictures: Sequence[Pictures]
) -> Path:
    """report.html and reconstructions.png in `folder`; the page's path. `about` is the result as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in pictures[:1]:
        write_durably(folder / "reconstructions.png", png(each.sheet()))
    title = f"Pretraining: {name}"
    parts = [tag("h1", title), _opening(about, history), *_losses(about, history), *_faces(pictures)]
    write_text(folder / "report.html", page(title, join(parts)))
    return folder / "report.html"


def _opening(about: Mapping[str, Any], history: Sequence[EpochLog]) -> Markup:
    last = history[-1]
    left_out = f" {about['num_left_out']:,} faces of videos that are scored at the end were left out."
    begun = {"random": "random weights", "pretrained": "timm's weights"}.get(about["init"], about["init"])
    sentence = (
        f"{about['model']}, begun from {begun}, as a masked autoencoder (He et al., arXiv 2111.06377) on "
        f"{about['num_faces']:,} faces of {about['num_videos']:,} videos under {about['faces_folder']}: each time "
        f"{about['visible_patches']} of {about['patches']} patches are seen and the others drawn."
        f"{left_out if about['num_left_out'] else ''}"
    )
    numbers = [
        (f"{last.loss:.4f}", "loss on faces trained on, last epoch"),
        ("–" if last.held_out is None else f"{last.held_out:.4f}", f"loss on {about['num_held_out']:,} held-out faces"),
        (f"{len(history):,}", f"epochs, {about['steps']:,} steps"),
        (duration_words(sum(log.duration_s for log in history)), f"on {about['device']}, {about['precision']}"),
    ]
    return join([tag("p", sentence), tiles(numbers)])


def _losses(about: Mapping[str, Any], history: Sequence[EpochLog]) -> list[Markup]:
    normalised = about["pretrain"]["normalise_targets"]
    losses: dict[str, list[float | None]] = {"faces trained on": [log.loss for log in history]}
    if any(log.held_out is not None for log in history):
        losses["held-out faces"] = [log.held_out for log in history]
    caption = (
        "Faces trained on are cropped and mirrored at random and measured while the weights move; held-out faces are "
        "of other videos, unchanged, under the same masks each epoch. A held-out loss that rises while the other falls "
        "is over-fitting."
    )
    if normalised:
        caption += " The dashed line is what drawing each patch as its mean costs: 1, the variance of the targets."
    epochs, level = [log.epoch for log in history], 1.0 if normalised else None
    panel = learning_panel(epochs, losses, "mean squared error of masked patches", level)
    (drawn,) = draw([Chart(name="loss", panels=(panel,))])
    return [tag("h2", "Loss"), figure_html(Markup(drawn.inline()), "loss", caption)]


def _faces(pictures: Sequence[Pictures]) -> list[Markup]:
    if not pictures:
        return []
    caption = "Visible patches are pasted into what it draws."
    if "means alone" in pictures[0].columns:
        caption += (
            " Its targets are patches with their mean and contrast taken out, so what it draws gets those of the "
            "original; the last column has the means alone, and what is better than it was learnt."
        )
    parts = [tag("h2", "What it draws"), tag("p", caption)]
    for each in pictures:
        whose = "Held-out faces, of videos it was never trained on" if each.are_held_out else "Faces it was trained on"
        parts += [tag("h3", whose), _face_table(each)]
    return parts


def _face_table(pictures: Pictures) -> Markup:
    heads = [[Cell(name) for _ in range(min(FACES_A_LINE, len(pictures))) for name in pictures.columns]]
    cells = [[Cell(_image(column[face])) for column in pictures.columns.values()] for face in range(len(pictures))]
    rows = [list(chain(*cells[start : start + FACES_A_LINE])) for start in range(0, len(cells), FACES_A_LINE)]
    return table(heads, rows)


def _image(pixels: np.ndarray) -> Markup:
    data = base64.b64encode(png(pixels)).decode()
    return Markup(f'<img src="data:image/png;base64,{data}" width="140" height="140" alt="">')


def _shown(pixels: Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """Normalised pixels [n, 3, S, S] as they look, [n, S, S, 3] uint8."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    values = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return values.permute(0, 2, 3, 1).cpu().numpy()


def _beside(pictures: Sequence[np.ndarray], gap_px: int) -> np.ndarray:
    """Pictures of one height in a line, white between them."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
