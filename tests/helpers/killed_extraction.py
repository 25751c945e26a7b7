"""Extractions in child processes that are killed or get in each other's way; prints a JSON object.

`killed_extraction kill FOLDER MIN_KILLS SEED STREAMS`: each child gets SIGKILL after a random part of
the time that an undisturbed run takes. Where one gets to its end, the cache must be that of the undisturbed run, and
the next child begins with none, until MIN_KILLS have hit an extraction that was not done.

`killed_extraction twice FOLDER ROUNDS SEED STREAMS`: in each round two children extract into one
cache, the second starting a random moment after the first.

With a URL behind them, the caches lie below it in an object store.
"""

import json
import mmap
import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cache.frames import read_frames, write_frames
from cache.shards import EMBEDDING, shard_file
from cache.storage.objects import ObjectStorage
from cache.store import Cache
from helpers import made_extraction as made
from helpers.object_store import objects_of

T = TypeVar("T")
BATCH_SIZE = 5
# A forward pass as long as writing a part of a shard: kills fall into both.
FORWARD_S = 0.01
# The kills continue until they hit this many of the four of `phase`.
MIN_PHASES = 3
# One shard being filled and one being written.
IN_FLIGHT = 2


class Slow(made.Tiny):
    """Takes `FORWARD_S` a forward pass, and counts the passes of all processes in `counter`."""

    counter: mmap.mmap

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(FORWARD_S)
        self.counter[:8] = (int.from_bytes(self.counter[:8], "little") + 1).to_bytes(8, "little")
        return super().forward(x)


@dataclass
class Harness:
    """Caches in `folder`, or below `url` in an object store; `counter` is shared with the children."""

    folder: Path
    num_streams: int
    url: str = ""
    counter: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 8))

    def extract(self, cache: str) -> None:
        """What a child does."""
        backbones = [made.tiny(f"b{index}", seed=index, width=3 + index) for index in range(self.num_streams)]
        for each in backbones:
            each.module.__class__, each.module.counter = Slow, self.counter
        (self.folder / cache).mkdir(exist_ok=True)
        if not (self.folder / cache / "faces").exists():
            (self.folder / cache / "faces").symlink_to(self.folder / "faces")
        place = f"{self.url}/{cache}" if self.url else ""
        frames = read_frames(self.folder / "frames.parquet")
        made.run(frames, self.folder / cache, *backbones, batch_size=BATCH_SIZE, place=place)

    def extract_or_say(self, cache: str, errors: Path) -> None:
        """Adds the line to `errors` where the extraction is refused."""
        try:
            self.extract(cache)
        except ValueError as error:
            with open(errors, "a") as file:
                file.write(f"{error}\n")

    def start(self, action: Callable[[], object]) -> int:
        """A child's process id. A fresh interpreter would take seconds to import; no thread runs in this one."""
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                action()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        return child

    def run(self, action: Callable[[], object]) -> float:
        """To the end; seconds."""
        start = time.monotonic()
        assert os.waitpid(self.start(action), 0)[1] == 0
        return time.monotonic() - start

    @property
    def forwards(self) -> int:
        return int.from_bytes(self.counter[:8], "little")

    def ask(self, what: Callable[[], T]) -> T:
        """What a child finds: in this process obstore's threads would start, which do not outlive a fork."""
        here, there = os.pipe()

        def answer() -> None:
            with open(there, "wb") as pipe:
                pickle.dump(what(), pipe)

        child = self.start(answer)
        os.close(there)
        with open(here, "rb") as pipe:
            data = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        return pickle.loads(data)

    def clear(self, cache: str) -> None:
        shutil.rmtree(self.folder / cache, ignore_errors=True)
        if self.url:
            self.ask(lambda: self._delete(ObjectStorage(f"{self.url}/{cache}")))

    @staticmethod
    def _delete(storage: ObjectStorage) -> None:
        storage.delete(list(storage.keys("")))

    def phase(self, cache: str) -> str:
        """Where a killed extraction was, by what it left."""
        keys = self.keys(cache)
        if "zarr.json" not in keys:
            return "before the cache"
        if sum(key.endswith("/base/zarr.json") for key in keys) < self.num_streams:
            return "before the streams"
        return "between shards" if any("/marks/" in key for key in keys) else "before a shard"

    def keys(self, cache: str) -> list[str]:
        """Of every file or object of a cache."""
        if self.url:
            return self.ask(lambda: list(ObjectStorage(f"{self.url}/{cache}").keys("")))
        root = self.folder / cache / "cache.zarr"
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def done(self, cache: str) -> dict[object, object]:
        """Which file each finished shard has, and since when: another one where it was written again."""
        return self.ask(lambda: self._done(cache)) if self.url else self._done(cache)

    def _done(self, cache: str) -> dict[object, object]:
        root = f"{self.url}/{cache}" if self.url else self.folder / cache / "cache.zarr"
        try:
            streams = [opened.stream(*key) for opened in [Cache.open(root, read_only=True)] for key in opened.streams()]
        except ValueError:  # killed while it was made
            return {}
        keys = [(each, shard_file(EMBEDDING, shard)) for each in streams for shard in each.done_shards()]
        if self.url:
            since = {(each.name, entry.key): entry.modified_s for each in streams for entry in each.files.entries("")}
            return {(each.name, key): since[each.name, key] for each, key in keys}
        stats = {(each.name, key): (each.folder / key).stat() for each, key in keys}
        return {key: (found.st_ino, found.st_mtime_ns) for key, found in stats.items()}

    def files(self, cache: str) -> dict[str, bytes]:
        """Every file of a cache but the locks: path -> bytes."""
        if self.url:
            return self.ask(lambda: objects_of(f"{self.url}/{cache}"))
        root = self.folder / cache / "cache.zarr"
        paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def killed_after(delay_s: float, child: int, since: Path | None = None) -> int:
    """The status of a child that gets SIGKILL `delay_s` after its start, or after `since` is there, if it has not
    ended by then."""
    while since is not None and not since.exists():
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.0005)
    end = time.monotonic() + delay_s
    while (left := end - time.monotonic()) > 0:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(min(left, 0.001))
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def kill_until(harness: Harness, min_kills: int, generator: random.Random) -> dict[str, object]:
    """Kills and resumes; raises AssertionError where a cache differs or a whole shard was done again."""
    duration = harness.run(lambda: harness.extract("whole"))
    wanted, a_run = harness.files("whole"), harness.forwards
    num_shards = len(harness.done("whole"))
    batches_a_shard = harness.num_streams * -(-made.SHARD_ROWS // BATCH_SIZE)
    root = harness.folder / "killed" / "cache.zarr"
    phases: dict[str, int] = {}
    num_kills = num_caches = 0

    def is_enough() -> bool:
        """Also of the phases, however the machine's load shifts the moments; then the test says so."""
        are_spread = len(phases) >= MIN_PHASES and phases.get("between shards", 0) >= min_kills // 5
        return num_kills >= min_kills and (are_spread or num_kills >= 10 * min_kills)

    while not is_enough() or num_caches == 0:
        harness.clear("killed")
        harness.counter[:8] = bytes(8)
        kept: dict[object, object] = {}
        kills = 0
        while True:
            # Short delays are the likelier ones: the making of cache and streams takes a tenth of the time. The first
            # child of every second cache is hit while it makes them: on a busy machine chance alone may miss that.
            since = root / "zarr.json" if num_caches % 2 == 0 and not kills and not kept and not harness.url else None
            delay_s = duration * generator.random() ** 2 * (1.0 if since is None else 0.05)
            if is_enough():
                since, delay_s = None, 60.0
            status = killed_after(delay_s, harness.start(lambda: harness.extract("killed")), since)
            done = harness.done("killed")
            assert kept.items() <= done.items(), f"done again: {sorted(kept.items() - done.items())}"
            kept = done
            if not os.WIFSIGNALED(status):
                assert status == 0, status
                break
            if len(done) < num_shards:
                kills, num_kills = kills + 1, num_kills + 1
                where = harness.phase("killed")
                phases[where] = phases.get(where, 0) + 1
        found = harness.files("killed")
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        assert not odd, f"differ from an undisturbed run: {odd}"
        assert harness.forwards <= a_run + kills * IN_FLIGHT * batches_a_shard, (harness.forwards, a_run, kills)
        num_caches += 1
    return {"kills": num_kills, "caches": num_caches, "phases": phases, "seconds": duration}


def start_twice(harness: Harness, rounds: int, generator: random.Random) -> dict[str, object]:
    """Two extractions into one cache; raises AssertionError where the bytes are not those of one alone."""
    duration = harness.run(lambda: harness.extract("whole"))
    wanted = harness.files("whole")
    said: list[str] = []
    both = 0
    for number in range(rounds):
        cache, errors = f"twice{number}", harness.folder / f"errors{number}"
        children = []
        for delay_s in (0.0, duration * generator.random() ** 2):
            time.sleep(delay_s)
            children.append(harness.start(lambda cache=cache, errors=errors: harness.extract_or_say(cache, errors)))
        statuses = [os.waitpid(child, 0)[1] for child in children]
        assert statuses == [0, 0], statuses
        lines = errors.read_text().splitlines() if errors.exists() else []
        assert len(lines) < 2, lines
        said += lines
        both += not lines
        assert harness.files(cache) == wanted
    return {"refused": len(said), "both": both, "said": said}


ACTIONS = {"kill": kill_until, "twice": start_twice}


def main() -> None:
    action, folder, count, seed, num_streams = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    harness = Harness(folder, num_streams, url="".join(sys.argv[6:]))
    # Polars starts threads: in a child.
    harness.run(lambda: write_frames(made.make_faces(folder / "faces"), folder / "frames.parquet"))
    print(json.dumps(ACTIONS[action](harness, count, random.Random(seed))))
