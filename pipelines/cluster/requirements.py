"""What a worker must have as the driver has it: versions, files by their digests, and the folders they share.

Numbers of another version, another weights file or another copy of a folder would not be those of one machine.
"""

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cache.durable import remove_leftovers, temporary_beside
from extract.backbones.origin import file_digest

PACKAGES = ("cache", "extract", "heads", "pipelines")
LIBRARIES = ("torch", "timm", "numpy", "polars", "zarr", "simplejpeg", "pillow", "safetensors", "onnxruntime")
INSTALL = "install the same on all nodes"
SHARE = "every node needs it under the same path, on a file system that they share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """`versions` by name; `files`: path -> digest; `folders` that must be there; `token`: a file that the driver wrote
    into the folder that the workers write to, "" where that is no folder. `folder` is where relative paths start."""

    folder: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    token: str

    def renew(self) -> None:
        """Writes the token again: a leftover of its age would be removed."""
        if self.token:
            Path(self.token).write_text("workers of a cluster look for this file\n")

    def remove(self) -> None:
        if self.token:
            with suppress(OSError):
                Path(self.token).unlink()

    def problem(self) -> str:
        """What this process has otherwise, in one line; "" where all is the same. Enters `folder`."""
        for name, (wanted, found) in _differences(self.versions, versions()).items():
            return f"has {name} {found}, the driver has {wanted}; {INSTALL}"
        try:
            os.chdir(self.folder)
        except OSError:
            return f"has no folder {self.folder}; {SHARE}"
        for folder in self.folders:
            if not Path(folder).is_dir():
                return f"has no folder {folder}; {SHARE}"
        if self.token and not Path(self.token).is_file():
            return f"sees another {Path(self.token).parent} than the driver; {SHARE}"
        for path, digest in self.files.items():
            try:
                found = file_digest(Path(path))
            except (OSError, ValueError):
                return f"has no file {path}; {SHARE}"
            if found != digest:
                return f"has another {path} than the driver, by its digest; {SHARE}"
        return ""


def requirements(files: Iterable[Path], folders: Iterable[Path], shared: Path | None) -> Requirements:
    """What the driver has; `shared` is the folder that the workers write to, None where it is no folder. The token that
    a killed driver left there goes."""
    if shared is not None:
        remove_leftovers(shared)
    return Requirements(
        folder=os.getcwd(),
        versions=versions(),
        files={str(path): file_digest(path) for path in files},
        folders=tuple(map(str, folders)),
        token="" if shared is None else str(temporary_beside(shared / "workers")),
    )


def versions() -> dict[str, str]:
    """Of this process: the code of mtl by its digest, and Python without its last number. A build of a library for
    another device (2.15.0+cpu) is no other version."""
    found = {"mtl": f"{_version('mtl-affect')} ({code_digest()})"}
    found["Python"] = ".".join(platform.python_version_tuple()[:2])
    return found | {name: _version(name) for name in LIBRARIES}


def code_digest() -> str:
    """8 hex digits over the program's own files."""
    digest = hashlib.blake2b(digest_size=4)
    for name in PACKAGES:
        folder = Path(str(import_module(name).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "not installed"


def _differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (value, found[name]) for name, value in wanted.items() if found.get(name) != value}
