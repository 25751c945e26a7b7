"""Whether a video file is cut off, by the sizes that its own outermost elements state; nothing is decoded.

Matroska and WebM (EBML), MP4 and MOV (boxes) and AVI (RIFF) are rows of elements that say how long they are. One that
leads beyond the file's end, or a header that the end tears, means that the rest is missing. What cannot be told: a file
cut exactly between two elements whose parent states no size (a live recording in Matroska, a fragmented MP4), and
damage that keeps the length.

Place: below `extract.faces.decoder`.
"""

import os
from collections.abc import Iterator
from typing import IO

EBML, RIFF = b"\x1aE\xdf\xa3", b"RIFF"
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof")
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
PARENTS = (SEGMENT, CLUSTER)  # of unknown size where a recording was live: then their children are looked at
MAX_ELEMENTS = 10_000_000


def missing_bytes(path: str) -> int:
    """How many bytes the file lacks at least, by its own account; 0 where it does not say, or is of another kind.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(12)
        if start[:4] == EBML:
            ends = _ebml_ends(file, size)
        elif start[:4] == RIFF:
            ends = _riff_ends(file, size)
        elif start[4:8] in BOXES:
            ends = _box_ends(file, size)
        else:
            return 0
        last = 0
        for _, last in zip(range(MAX_ELEMENTS), ends, strict=False):
            if last > size:
                break
    return max(0, last - size)


def _box_ends(file: IO[bytes], size: int) -> Iterator[int]:
    """Where each box at the top of an MP4 ends."""
    place = 0
    while place < size:
        header = _at(file, place, 16)
        if len(header) < 8:
            yield place + 8
            return
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big") if len(header) == 16 else 16
        if not length or not header[4:8].isascii():  # to the end of the file; or what a program hung behind it
            return
        yield place + length
        place += max(length, 8)


def _riff_ends(file: IO[bytes], size: int) -> Iterator[int]:
    """Where each RIFF of an AVI ends; one above 1 GiB has several."""
    place = 0
    while place < size:
        header = _at(file, place, 8)
        if header[:4] != RIFF:
            return
        length = int.from_bytes(header[4:8], "little")
        if not length:  # a recording that nobody finished
            return
        yield place + 8 + length
        place += 8 + length + length % 2


def _ebml_ends(file: IO[bytes], size: int) -> Iterator[int]:
    """Where each element at the top of a Matroska file ends, and those inside a parent of unknown size."""
    place = 0
    while place < size:
        header = _at(file, place, 12)
        number, width = _ebml_number(header, keep_marker=True)
        length, more = _ebml_number(header[width:], keep_marker=False)
        if not width or not more:
            yield place + 2 if len(header) < 12 else 0  # torn in the header, or no element
            return
        start = place + width + more
        if length == (1 << 7 * more) - 1:
            if number not in PARENTS:
                return
            place = start
            continue
        yield start + length
        place = start + length


def _ebml_number(data: bytes, keep_marker: bool) -> tuple[int, int]:
    """A number of EBML and how many bytes it has; (0, 0) where it is none, or torn."""
    if not data or not data[0]:
        return 0, 0
    width = 9 - data[0].bit_length()
    if len(data) < width:
        return 0, 0
    first = data[0] if keep_marker else data[0] & (1 << 8 - width) - 1
    return int.from_bytes(bytes([first]) + data[1:width], "big"), width


def _at(file: IO[bytes], place: int, num_bytes: int) -> bytes:
    file.seek(place)
    return file.read(num_bytes)
