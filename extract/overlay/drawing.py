"""What is known of faces, drawn into a picture: boxes with a title, and below the picture a row per face with traces of
its numbers and bars of its probabilities.

Sizes go by the picture's, so that text is readable in 360p and 1080p. Letters: H x W pixels, P points of a trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Colours of faces and of traces that are told apart by people who see few colours, too (Okabe and Ito).
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))
PAPER, INK, GREY, DIM = (20, 22, 26), (240, 240, 240), (130, 134, 142), (58, 62, 70)
BASE_PX = 12.0  # of text in a picture of 360 lines
ROW_LINES = 4.6  # height of a row, in lines of text
TITLE_SHARE, TRACE_SHARE = 0.2, 0.52  # of the width, and of what is left for traces and bars
TITLE_TEXT = 10.5  # the least width of titles, in sizes of the text


@dataclass(frozen=True, slots=True)
class Trace:
    """A number over time: `times` [P] from 0 (left) to 1 (now), `values` [P] with gaps as NaN, and its range."""

    name: str
    times: np.ndarray
    values: np.ndarray
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A probability of 0 to 1, and whether what it is of is decided to be there."""

    name: str
    value: float
    is_on: bool


@dataclass(frozen=True, slots=True)
class FaceMark:
    """A face to draw: its number, its box x0 y0 x1 y1 in pixels, its title, and what its row shows."""

    face: int
    box: tuple[float, float, float, float]
    title: str
    traces: tuple[Trace, ...] = ()
    bars: tuple[Bar, ...] = ()


class Overlay:
    """Draws into pictures of `size` (H, W), with `num_rows` rows below them."""

    def __init__(self, size: tuple[int, int], num_rows: int) -> None:
        self._height, self._width = size
        self._text_px = max(9.0, BASE_PX * min(self._height, self._width * 9 / 16) / 360)
        self._font = ImageFont.load_default(self._text_px)
        self._small = ImageFont.load_default(max(8.0, self._text_px * 0.85))
        self._line = self._text_px * 1.3
        self._row_px = round(self._line * ROW_LINES)
        self._stroke = max(1, round(self._text_px / 7))
        self.num_rows = num_rows

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of what is drawn; even."""
        height = self._height + self._row_px * self.num_rows
        return height + height % 2, self._width + self._width % 2

    def draw(self, pixels: np.ndarray, marks: Sequence[FaceMark], rows: Sequence[FaceMark | None]) -> np.ndarray:
        """[H, W, 3] uint8 with boxes of all `marks`, and below it `rows`, one per face or None."""
        height, width = self.size
        image = Image.new("RGB", (width, height), PAPER)
        image.paste(Image.fromarray(pixels), (0, 0))
        canvas = ImageDraw.Draw(image)
        for mark in marks:
            self._box(canvas, mark)
        for number, row in enumerate(rows[: self.num_rows]):
            if row is not None:
                self._row(canvas, row, self._height + number * self._row_px)
        return np.asarray(image)

    def _box(self, canvas: ImageDraw.ImageDraw, mark: FaceMark) -> None:
        colour = colour_of(mark.face)
        canvas.rectangle(_ordered(mark.box), outline=colour, width=self._stroke)
        x0, y0, _, y1 = mark.box
        width = canvas.textlength(mark.title, self._font) + self._text_px * 0.8
        left = min(max(0.0, x0), max(0.0, self._width - width))
        above = y0 - self._line
        top = above if above >= 0 else min(y1, self._height - self._line)
        canvas.rectangle((left, top, left + width, top + self._line), fill=colour)
        middle = (left + self._text_px * 0.4, top + self._line / 2)
        canvas.text(middle, mark.title, fill=PAPER, font=self._font, anchor="lm")

    def _row(self, canvas: ImageDraw.ImageDraw, mark: FaceMark, top: int) -> None:
        pad, width = self._text_px * 0.6, self._width
        canvas.line((0, top, width, top), fill=DIM)
        canvas.rectangle((0, top + 1, self._stroke * 2, top + self._row_px), fill=colour_of(mark.face))
        titles = min(max(width * TITLE_SHARE, self._text_px * TITLE_TEXT), width * 0.45)
        left = titles if mark.traces or mark.bars else width
        self._words(canvas, mark, (pad + self._stroke * 2, top + pad * 0.6, left - pad))
        right = left + ((width - left) * TRACE_SHARE if mark.bars else width - left - pad)
        bottom = top + self._row_px - pad
        if mark.traces:
            self._traces(canvas, mark.traces, (left, top + pad * 0.6, right - pad, bottom))
        if mark.bars:
            self._bars(canvas, mark, (right if mark.traces else left, top + pad * 0.6, width - pad, bottom))

    def _words(self, canvas: ImageDraw.ImageDraw, mark: FaceMark, place: tuple[float, float, float]) -> None:
        """The title and the numbers now, a line each."""
        x, y, right = place
        lines = [(mark.title, INK)]
        lines += [(f"{each.name} {_last(each):+.2f}", colour_of(i)) for i, each in enumerate(mark.traces, 1)]
        for text, colour in lines:
            canvas.text((x, y), self._fitting(canvas, text, right - x), fill=colour, font=self._font)
            y += self._line

    def _fitting(self, canvas: ImageDraw.ImageDraw, text: str, room: float) -> str:
        while len(text) > 2 and canvas.textlength(text, self._font) > room:
            text = text[:-2] + "."
        return text

    def _traces(
        self, canvas: ImageDraw.ImageDraw, traces: Sequence[Trace], place: tuple[float, float, float, float]
    ) -> None:
        left, top, right, bottom = place
        canvas.rectangle(place, outline=DIM)
        canvas.line((left, (top + bottom) / 2, right, (top + bottom) / 2), fill=DIM)
        for number, trace in enumerate(traces, 1):
            share = (np.clip(trace.values, trace.low, trace.high) - trace.low) / (trace.high - trace.low)
            x, y = left + trace.times * (right - left), bottom - share * (bottom - top)
            for piece in _pieces(x, y):
                if len(piece) > 1:
                    canvas.line(piece, fill=colour_of(number), width=self._stroke)
                else:
                    canvas.point(piece, fill=colour_of(number))

    def _bars(self, canvas: ImageDraw.ImageDraw, mark: FaceMark, place: tuple[float, float, float, float]) -> None:
        left, top, right, bottom = place
        foot = bottom - self._line * 0.9
        # Of AU1, AU2, .. the letters stand once in front where there is no room for all.
        prefix = _common_letters([bar.name for bar in mark.bars])
        widest = max(canvas.textlength(bar.name, self._small) for bar in mark.bars)
        if len(mark.bars) < 2 or widest * 1.2 < (right - left) / len(mark.bars):
            prefix = ""
        canvas.text((left, foot + self._line * 0.5), prefix, fill=GREY, font=self._small, anchor="lm")
        left += canvas.textlength(prefix, self._small)
        step = (right - left) / len(mark.bars)
        for number, bar in enumerate(mark.bars):
            x = left + number * step
            box = (x + step * 0.2, top, x + step * 0.8, foot)
            canvas.rectangle(box, outline=DIM)
            high = foot - min(max(bar.value, 0.0), 1.0) * (foot - top)
            canvas.rectangle((box[0], high, box[2], foot), fill=colour_of(mark.face) if bar.is_on else GREY)
            name, colour = bar.name.removeprefix(prefix), INK if bar.is_on else GREY
            canvas.text((x + step / 2, foot + self._line * 0.5), name, fill=colour, font=self._small, anchor="mm")


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a face, or of a trace."""
    return COLOURS[(number - 1) % len(COLOURS)]


def _ordered(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return x0, y0, max(x0, x1), max(y0, y1)


def _common_letters(names: Sequence[str]) -> str:
    """The letters that all names begin with, before any digit."""
    letters = names[0].rstrip("0123456789")
    return letters if all(name.startswith(letters) for name in names) else ""


def _last(trace: Trace) -> float:
    known = trace.values[np.isfinite(trace.values)]
    return float(known[-1]) if len(known) else 0.0


def _pieces(x: np.ndarray, y: np.ndarray) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if np.isfinite(py):
            pieces[-1].append((px, py))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]
