"""Programs in processes of their own, in which the repository and `helpers` can be imported.

`python` starts a fresh interpreter, which takes seconds where torch is imported; it is for what depends on that.
`start` forks one that has imported everything, `multiprocessing`'s fork server, of which each test process has one.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
LIMIT_S = 300.0


def environment(**changes: str) -> dict[str, str]:
    """That of this process; one thread, however many cores."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS))), "OMP_NUM_THREADS": "1", **changes}


def python(*words: object, check: bool = True, **options: Any) -> "subprocess.CompletedProcess[str]":
    """`python WORDS` to its end, which must be a success where it is to be checked."""
    defaults = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True, "timeout": LIMIT_S}
    done = subprocess.run([sys.executable, *map(str, words)], **{**defaults, **options}, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@dataclass(frozen=True)
class Running:
    """A process that `start` started; `out` and `err` are the files it writes to."""

    process: ForkServerProcess
    out: Path
    err: Path

    def end(self) -> tuple[int, str, str]:
        """Exit code (the negative signal of one that was killed), standard output and standard error.

        One that takes longer than `LIMIT_S` is killed.
        """
        self.process.join(LIMIT_S)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()
        return self.process.exitcode or 0, self.out.read_text(), self.err.read_text()


def start(main: Callable[[], object], *words: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Running:
    """`main()` in a process of its own, `sys.argv` being `mtl WORDS`."""
    folder = Path(tempfile.mkdtemp())
    out, err = folder / "out", folder / "err"
    for path in (out, err):
        path.touch()
    arguments = (main, [str(word) for word in words], str(cwd), env or environment(), str(out), str(err))
    process = server().Process(target=_run, args=arguments)
    process.start()
    return Running(process, out, err)


def program(main: Callable[[], object], *words: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """What `main()` prints, run to its end as `start` does; it must succeed."""
    code, out, err = start(main, *words, cwd=cwd, env=env).end()
    assert code == 0, err
    return out


def world(size: int) -> Iterator[dict[str, str]]:
    """The environments of the processes of one training, as `torchrun` sets them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    for rank in map(str, range(size)):
        yield environment(**common, RANK=rank, LOCAL_RANK=rank)


@cache
def server() -> ForkServerContext:
    """Starts the fork server, with this environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.preloaded"])
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _run(main: Callable[[], object], words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["mtl", *words]
    main()
