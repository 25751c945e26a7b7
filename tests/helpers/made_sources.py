"""Faces in files, archives and videos, made for the tests of sources, and what is read from them."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from extract.faces.source import FaceSource

NUM_FACES = 12
NAMES = [f"{number:05d}.jpg" for number in range(1, NUM_FACES + 1)]
PATHS = [f"a/{name}" for name in NAMES]
Sourced = Callable[..., FaceSource]


def picture(number: int, size: int = 32) -> np.ndarray:
    """[size, size, 3] that differs from number to number, smooth enough for lossy codecs."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BILINEAR))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "JPEG")
    return buffer.getvalue()


FACES = {name: jpeg(number) for number, name in enumerate(NAMES, 1)}


def make_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path: Path, members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def make_files(folder: Path, faces: dict[str, bytes] = FACES) -> Path:
    folder.mkdir(parents=True)
    for name, data in faces.items():
        (folder / name).write_bytes(data)
    return folder


PACKED: dict[str, Callable[[Path], Path]] = {
    "files": lambda folder: make_files(folder / "a"),
    "tar": lambda folder: make_tar(folder / "a.tar", FACES.items()),
    "tar with a folder": lambda folder: make_tar(folder / "a.tar", [(f"a/{n}", data) for n, data in FACES.items()]),
    "tar with a dot": lambda folder: make_tar(folder / "a.tar", [(f"./{n}", data) for n, data in FACES.items()]),
    "tar with both": lambda folder: make_tar(folder / "a.tar", [(f"./a/{n}", data) for n, data in FACES.items()]),
    "old tar": lambda folder: make_tar(folder / "a.tar", FACES.items(), tarfile.USTAR_FORMAT),
    "gnu tar": lambda folder: make_tar(folder / "a.tar", FACES.items(), tarfile.GNU_FORMAT),
    "TAR": lambda folder: make_tar(folder / "a.TAR", FACES.items()),
    "zip": lambda folder: make_zip(folder / "a.zip", FACES.items()),
    "zip, deflated": lambda folder: make_zip(folder / "a.zip", FACES.items(), zipfile.ZIP_DEFLATED),
    "zip with a folder": lambda folder: make_zip(folder / "a.zip", [(f"a/{n}", data) for n, data in FACES.items()]),
    "zip of Windows": lambda folder: make_zip(folder / "a.zip", [(f"a\\{n}", data) for n, data in FACES.items()]),
}


def make_video(
    path: Path,
    num_frames: int = NUM_FACES,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    show: Callable[[int], np.ndarray] = picture,
    **more: str,
) -> Path:
    """Frame n shows `show(n)`; ffv1 keeps every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=more)
        stream.width = stream.height = 32
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1  # the same file each time
        for number in range(1, num_frames + 1):
            frame = av.VideoFrame.from_ndarray(show(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pixels(source: FaceSource, paths: list[str]) -> list[np.ndarray | str]:
    """What is read, decoded; reasons as texts, each of one short line."""
    found: list[np.ndarray | str] = []
    for face in source.read(paths):
        try:
            if isinstance(face, ValueError):
                raise face
            found.append(face.pixels())
        except ValueError as error:
            found.append(str(error))
    assert all("\n" not in why and len(why) < 120 for why in found if isinstance(why, str))
    return found


def reasons(source: FaceSource, paths: list[str]) -> list[str | None]:
    return [each if isinstance(each, str) else None for each in pixels(source, paths)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
