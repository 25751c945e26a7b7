"""Which process a claim in an object store belongs to, and whether that process is known to have ended."""

import functools
import json
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.durable import HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process: `machine` names the running system and its process numbers, "" where that is not known; `started`
    tells the process from a later one of the same number; `token` tells its claims apart."""

    host: str
    pid: int
    machine: str
    started: str
    token: str

    @classmethod
    def new(cls) -> "Owner":
        """Of this process, with a fresh token."""
        pid = os.getpid()
        return cls(host=HOST, pid=pid, machine=_machine(), started=_started(pid), token=secrets.token_hex(8))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Owner | None":
        """None where `data` is no owner's."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def is_local(self) -> bool:
        """Whether its process number means something here."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        return self.is_local and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid}" if self.is_local else f"process {self.pid} on {self.host}"


@functools.cache
def _machine() -> str:
    """Two containers of one host have one boot id, but process numbers of their own."""
    if sys.platform != "linux":
        return ""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in ticks since the boot; "" where there is none, or it waits only to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
