"""Pictures as a person sees them: the orientation that a camera notes beside the pixels (EXIF), and turning by it.

Only the first segments of a JPEG are looked at, none of its pixels: some 0.5 µs for a face without a note. Orientations
are those of EXIF, 1 to 8, where 1 is upright; 5 to 8 swap height and width.

Place: below `extract.faces.decoding`.
"""

import struct
import threading

import numpy as np

UPRIGHT = 1
TAG, SHORT, ENTRY_BYTES = 0x0112, 3, 12
EXIF = b"Exif\0\0"
JPEG, PNG, RIFF, WEBP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
APP0, APP1, APP15, COMMENT = 0xE0, 0xE1, 0xEF, 0xFE
# The four whole elements of a video's display matrix (right, down per column and row) as an EXIF orientation.
OF_MATRIX = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


class Orientations:
    """Whether orientations are followed, and how many pictures were turned because of one. Any thread may use it."""

    def __init__(self, follow: bool = True) -> None:
        self.follow, self.num_turned = follow, 0
        self._lock = threading.Lock()

    def of(self, data: bytes) -> int:
        """That of an image file's bytes; `UPRIGHT` where orientations are not followed."""
        return orientation_of(data) if self.follow else UPRIGHT

    def turned(self, pixels: np.ndarray, orientation: int) -> np.ndarray:
        """`turned`, counted."""
        if orientation == UPRIGHT or not self.follow:
            return pixels
        with self._lock:
            self.num_turned += 1
        return turned(pixels, orientation)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, 3] or [W, H, 3], C-contiguous: the stored `pixels` [H, W, 3] as a person sees them."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def orientation_of(data: bytes) -> int:
    """1 to 8 of the bytes of a JPEG, PNG or WebP file; 1 where nothing is noted or the note is damaged."""
    try:
        if data[:2] == JPEG:
            return _in_jpeg(data)
        if data[:8] == PNG:
            return _in_chunks(data, 8, ">I4s", b"eXIf", 0, 4)
        if data[:4] == RIFF and data[8:12] == WEBP:
            return _in_chunks(data, 12, "<4sI", b"EXIF", 1, 0)
    except (struct.error, IndexError):
        pass
    return UPRIGHT


def orientation_of_matrix(matrix: np.ndarray) -> int:
    """That of a video's display matrix [3, 3] (any positive scale); 1 where it turns by no multiple of 90 degrees."""
    corner = np.asarray(matrix, np.float64)[:2, :2]
    scale = np.abs(corner).max()
    if not scale:
        return UPRIGHT
    near = np.round(corner / scale)
    if not np.allclose(near, corner / scale, atol=1e-3):
        return UPRIGHT
    a, b, c, d = (int(value) for value in near.reshape(-1))
    return OF_MATRIX.get((a, b, c, d), UPRIGHT)


def _in_jpeg(data: bytes) -> int:
    """From the APP segments at the front, among which EXIF's is the first or second."""
    place, length = 2, len(data)
    while place + 4 <= length and data[place] == 0xFF:
        marker = data[place + 1]
        if not (APP0 <= marker <= APP15 or marker == COMMENT):
            break
        if marker == APP1 and data[place + 4 : place + 10] == EXIF:
            return _in_tiff(data, place + 10)
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return UPRIGHT


def _in_chunks(data: bytes, place: int, form: str, name: bytes, size_field: int, more: int) -> int:
    """From the chunk `name` of a PNG (`more` bytes of checksum behind each) or of a RIFF file."""
    while place + 8 <= len(data):
        header = struct.unpack_from(form, data, place)
        size, kind = header[size_field], header[1 - size_field]
        if kind == name:
            start = place + 8
            return _in_tiff(data, start + 6 if data[start : start + 6] == EXIF else start)
        place += 8 + size + more + (size & 1 if not more else 0)
    return UPRIGHT


def _in_tiff(data: bytes, start: int) -> int:
    """From the first directory of the TIFF that begins at `start`."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    if order is None:
        return UPRIGHT
    place = start + struct.unpack_from(f"{order}I", data, start + 4)[0]
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for entry in range(place + 2, place + 2 + count * ENTRY_BYTES, ENTRY_BYTES):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
        if tag == TAG:
            return value if kind == SHORT and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
