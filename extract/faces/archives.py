"""Archives of one video's faces, `VIDEO.tar` and `VIDEO.zip`: any face is read where it lies, nothing is unpacked.

A member is a face of the video when it lies at the archive's top (`00001.jpg`, `./00001.jpg`) or in a folder of the
video's own name (`VIDEO/00001.jpg`), which many archives have. What is damaged has a short reason as `ValueError`.

Place: beside `extract.faces.video`, below `extract.faces.containers`.
"""

import os
import stat
import tarfile
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import IO, Generic, TypeVar, cast

from cache.regular import MAX_MEMBERS, MIB, OPEN_FLAGS, check_regular
from extract.faces.decoding import FOLLOW, Face, MissingFace, check_face_bytes, decode, face_digest, is_machines
from extract.faces.orientation import Orientations

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
DAMAGED = "the archive is cut off or damaged"
LINK = "a link in the archive; pack the files that links lead to"
TOO_MANY = f"the archive has more than {MAX_MEMBERS:,} files; these are not one video's faces"
HEADER_BYTES = MIB  # that tarfile may read at once: a header of extra fields may claim any size
BLOCK = 512  # bytes of a tar header; the archive ends with blocks of zeros
Member = TypeVar("Member")


class Archive(ABC, Generic[Member]):
    """The faces of one video. Opened by the first question, whose answer is kept; any thread may ask.

    Members are found by the name below the video, such as `00001.jpg`.
    """

    def __init__(self, path: str, orientations: Orientations = FOLLOW) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self._orientations = orientations
        self._lock = threading.Lock()
        self._members: Mapping[str, Member] | None = None
        self._fault: str | None = None

    @abstractmethod
    def _open(self) -> dict[str, Member]:
        """Opens the file and gives its members by their full names; notes damage in `_fault`."""

    @abstractmethod
    def _read(self, member: Member) -> bytes:
        """The bytes of a member; raises ValueError where they cannot be had whole."""

    @abstractmethod
    def close(self) -> None: ...

    def face(self, name: str) -> Face:
        """Raises ValueError where the archive or the member is damaged or not there, OSError as faces do."""
        data = self._data(name)
        return Face(face_digest(data), partial(decode, data, orientations=self._orientations))

    def digest(self, name: str) -> bytes:
        """That of the member's bytes: the same as of the file that was packed. Raises as `face` does."""
        return face_digest(self._data(name))

    def has(self, name: str) -> bool:
        return name in self._index()

    def names(self) -> tuple[list[str], str | None]:
        """Names of all members below the video, and why these may not be all of them."""
        return list(self._index()), self._fault

    def _data(self, name: str) -> bytes:
        members = self._index()
        if name not in members:
            raise ValueError(self._fault) if self._fault else MissingFace(f"no {name} in {self.name}")
        return self._read(members[name])

    def _index(self) -> Mapping[str, Member]:
        with self._lock:
            if self._members is None:
                self._members = self._opened()
            return self._members

    def _opened(self) -> dict[str, Member]:
        try:
            check_regular(self.path)
        except ValueError as error:
            self._fault = str(error).removeprefix(f"{self.path}: ")
            return {}
        except OSError:
            pass  # said below, with the reason of the opening
        try:
            return self._below(self._open())
        except Exception as error:  # zipfile and tarfile: struct.error, UnicodeDecodeError and others for bad headers
            if is_machines(error) or isinstance(error, MemoryError):
                raise
            why = error.strerror if isinstance(error, OSError) else None
            self._fault = f"the archive cannot be read: {why}" if why else DAMAGED
        return {}

    def _below(self, members: Mapping[str, Member]) -> dict[str, Member]:
        """`members` by their names below the video; one at the top goes before one in a folder."""
        video = os.path.splitext(self.name)[0]
        top: dict[str, Member] = {}
        inside: dict[str, Member] = {}
        for full, member in members.items():
            *folders, name = full.removeprefix("./").split("/")
            if folders in ([], [video]):
                (inside if folders else top)[name] = member
        if members and not top and not inside and not self._fault:
            self._fault = f"the archive has its faces neither at its top nor in a folder {video}"
        return inside | top


class TarArchive(Archive[tuple[int, int] | None]):
    """A plain tar; a member is (offset, bytes), or None where it has no bytes of its own (a link, a sparse file)."""

    _file: int | None = None

    def _open(self) -> dict[str, tuple[int, int] | None]:
        self._file = os.open(self.path, OPEN_FLAGS)
        if os.pread(self._file, 8, 0).startswith(COMPRESSED):
            self._fault = "the tar is compressed: unpack it or make a plain .tar (JPEGs do not shrink)"
            return {}
        with open(self._file, "rb", closefd=False) as file:
            return self._scan(file)

    def _scan(self, file: IO[bytes]) -> dict[str, tuple[int, int] | None]:
        members: dict[str, tuple[int, int] | None] = {}
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", _Headers(file)), mode="r:") as archive:
                while (member := archive.next()) is not None:
                    if member.size < 0:  # leads back, and round for ever
                        raise tarfile.ReadError
                    archive.members.clear()  # type: ignore[attr-defined]  # else every header is kept
                    if len(members) >= MAX_MEMBERS:
                        self._fault = TOO_MANY
                        return members
                    if not member.isdir():
                        whole = member.isreg() and not member.issparse()
                        members[member.name] = (member.offset_data, member.size) if whole else None
                end = archive.offset
        except tarfile.TarError:
            self._fault = DAMAGED if members else "no tar archive"
            return members
        # tarfile takes a damaged header for the archive's end.
        if self._file is None or os.pread(self._file, BLOCK, end) != bytes(BLOCK):
            self._fault = DAMAGED
        return members

    def _read(self, member: tuple[int, int] | None) -> bytes:
        if member is None:
            raise ValueError(LINK)
        offset, size = member
        check_face_bytes(size)
        assert self._file is not None
        try:
            data = os.pread(self._file, size, offset)
        except OSError as error:
            if is_machines(error):
                raise
            raise ValueError(f"the archive cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise ValueError(DAMAGED)
        return data

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Headers:
    """A tar file for `tarfile`, which reads headers and no members: a reading of more is damage, or an attack."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > HEADER_BYTES:
            raise tarfile.ReadError
        return self._file.read(size)


class ZipArchive(Archive[zipfile.ZipInfo]):
    """A zip; every member's checksum is compared."""

    _zip: zipfile.ZipFile | None = None

    def _open(self) -> dict[str, zipfile.ZipInfo]:
        self._zip = zipfile.ZipFile(self.path)
        if len(self._zip.filelist) > MAX_MEMBERS:
            self._fault = TOO_MANY
            return {}
        # Some programs of Windows write backslashes.
        return {info.filename.replace("\\", "/"): info for info in self._zip.infolist() if not info.is_dir()}

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        if member.flag_bits & 1:
            raise ValueError("the archive is encrypted")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(LINK)
        check_face_bytes(member.file_size)
        assert self._zip is not None
        try:
            return self._zip.read(member)
        except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError and others
            if is_machines(error) or isinstance(error, MemoryError):
                raise
            raise ValueError("damaged in the archive") from None

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None
