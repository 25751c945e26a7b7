"""Faces: bytes of a file in the faces folder, pixels from bytes, and the digest by which a changed face is found.

A face is [H, W, 3] uint8 RGB, the same pixels as Pillow gives, upright as a person sees it. Every reason why a face
cannot be had is a short `ValueError`; a picture that is only partly there is never taken for a whole one.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from cache.identity import bytes_digest
from cache.regular import FACE_BYTES, FACE_PIXELS, KINDS, OPEN_FLAGS, size_words
from extract.faces.orientation import UPRIGHT, Orientations

READ_BYTES = 1 << 20  # at a time, of a file that is not of the size it said
FOLLOW = Orientations()
JPEG_START = b"\xff\xd8\xff"
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # not EPS and its like, whose decoders start other programs
# Not the face's fault: continuing would mark every face behind it as failed.
MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN}


class MissingFace(ValueError):
    """There is no such face; any other `ValueError` says why one that is there cannot be had."""


class Face(NamedTuple):
    """A face that was found, not yet decoded; `digest` is [16] bytes that change whenever its pixels may.

    A tuple, since one is made for every face, and a frozen dataclass takes three times as long.
    """

    digest: bytes
    load: Callable[[np.ndarray | None], np.ndarray]

    def pixels(self, out: np.ndarray | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB; a face of the shape of `out` is put there, as `decode` does it.

        Raises:
            ValueError: the face is damaged; says why in a few words.
        """
        return self.load(out)


def is_inside(path: str) -> bool:
    """Whether a path relative to the faces folder stays in it."""
    return not (path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path)


def is_machines(error: Exception) -> bool:
    """Whether an error is the machine's trouble and no face's fault."""
    return isinstance(error, OSError) and error.errno in MACHINE_ERRORS


def read_face_bytes(folder: Path | str, path: str) -> bytes:
    """The bytes of the face `path`, given relative to the faces folder.

    Raises:
        MissingFace: there is no such file.
        ValueError: `path` leaves the folder, or the file cannot be read.
        OSError: the faces folder itself is gone, or the machine is out of memory or open files.
    """
    if not is_inside(path):
        raise ValueError("the path leaves the faces folder")
    try:
        return _read(f"{folder}/{path}")
    except OSError as error:
        if is_machines(error):
            raise
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "the faces folder is gone", str(folder)) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise MissingFace("no such file") from None
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _read(path: str) -> bytes:
    """A file's bytes; Python's own file object costs half as much again, 4 of 80 µs a small face."""
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        check_face_file(status)
        # One byte more than there are: that no more came is known without a second read.
        data = part = os.read(descriptor, status.st_size + 1)
        while part and len(data) != status.st_size and len(data) <= FACE_BYTES:
            part = os.read(descriptor, READ_BYTES)
            data += part
    finally:
        os.close(descriptor)
    return data


def check_face_file(status: os.stat_result) -> None:
    """Raises ValueError where it is no regular file, or one too large for a face."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"cannot be read: {KINDS.get(kind, 'no file')}, no regular file")
    check_face_bytes(status.st_size)


def check_face_bytes(num_bytes: int) -> None:
    """Raises ValueError where so many bytes, of a file or a member, are too many for a face."""
    if num_bytes > FACE_BYTES:
        raise ValueError(f"{size_words(num_bytes)} is too large for a face; at most {size_words(FACE_BYTES)}")


def face_digest(data: bytes) -> bytes:
    """16 bytes that change with any byte of the file; the cache keeps them."""
    return bytes_digest(data)


def decode(data: bytes, out: np.ndarray | None = None, orientations: Orientations = FOLLOW) -> np.ndarray:
    """Pixels [H, W, 3] uint8 RGB of an image file's bytes, turned as its EXIF orientation says.

    A face of exactly the shape of `out` (C-contiguous uint8) is decoded into it and `out` is returned; this saves a
    third of the time of a small JPEG. On an error `out` may hold anything.

    Raises:
        ValueError: the bytes are not a whole image; says why in a few words.
    """
    orientation = orientations.of(data)
    if orientation == UPRIGHT:
        pixels = _decode_stored(data, out)
    else:
        pixels = orientations.turned(_decode_stored(data, None), orientation)
    if pixels is out or out is None or out.shape != pixels.shape:
        return pixels
    out[:] = pixels
    return out


def _decode_stored(data: bytes, out: np.ndarray | None) -> np.ndarray:
    """The pixels as they lie in the file."""
    if not data:
        raise ValueError("empty file")
    if not data.startswith(JPEG_START):
        return _decode_with_pillow(data)
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a form turbojpeg does not know (arithmetic coding, rare subsampling), or no JPEG at all
        return _decode_with_pillow(data)
    check_size(width, height)
    if space in ("CMYK", "YCCK"):
        # Only Pillow turns these into RGB as everyone else does, but only turbojpeg notices damage inside.
        _decode_jpeg(data, "CMYK", None)
        return _decode_with_pillow(data)
    return _decode_jpeg(data, "RGB", out if out is not None and out.shape == (height, width, 3) else None)


def _decode_jpeg(data: bytes, space: str, out: np.ndarray | None) -> np.ndarray:
    try:
        # The fast variants of DCT and upsampling would change pixels; `strict` turns warnings of damage into errors.
        pixels = simplejpeg.decode_jpeg(data, space, fastdct=False, fastupsample=False, buffer=out, strict=True)
        return pixels if out is None else out  # simplejpeg gives another array of the same memory
    except ValueError as error:
        raise ValueError(f"damaged JPEG: {error}") from None


def _decode_with_pillow(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"a picture of mode {image.mode} is not 8 bits a channel")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError("not an image") from None
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and others
        raise ValueError(f"damaged image: {error}") from None


def check_size(width: int, height: int) -> None:
    """Raises ValueError for a picture too large to be a face: decoding it would take the memory of many."""
    if width * height > FACE_PIXELS:
        raise ValueError(f"{width} x {height} px is no face crop")
