"""A PostgreSQL server for tests, where one is installed: started and stopped at will, gone with this process."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"  # initdb refuses root
LIMIT_S = 60.0


def programs() -> dict[str, str]:
    """The paths of initdb and postgres; skips the test where they, or a user to run them, are not there."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mtl-affect[postgres]'")
    folders = os.pathsep.join([os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    found = {name: shutil.which(name, path=folders) or "" for name in ("initdb", "postgres")}
    if missing := [name for name, path in found.items() if not path]:
        pytest.skip(f"no PostgreSQL server: {missing[0]} is not installed (apt-get install postgresql)")
    if os.geteuid() == 0:
        done = subprocess.run(["id", USER], capture_output=True, check=False)
        if done.returncode or not shutil.which("setpriv"):
            pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER} or no setpriv")
    return found


def _as_user(*words: str) -> list[str]:
    """`words`, run by a user that is not root, and ended with the process that started them."""
    user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig=INT", *words] if shutil.which("setpriv") else [*words]


class Server:
    """One cluster of databases in a folder of its own."""

    def __init__(self, folder: Path, names: dict[str, str]) -> None:
        self.folder, self._names = folder, names
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._num_databases = 0
        make = [names["initdb"], "-D", str(folder / "data"), "-A", "trust", "-U", "me", "--no-sync", "-E", "UTF8"]
        subprocess.run(_as_user(*make), check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Until it answers."""
        options = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off")
        words = [self._names["postgres"], "-D", str(self.folder / "data"), "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _as_user(*words, *(word for option in options for word in ("-c", option))),
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + LIMIT_S
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT disconnects all; SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(LIMIT_S)
            self._process = None

    def url(self, database: str = "") -> str:
        """That of a new database, or of the one that is named."""
        import psycopg

        if not database:
            self._num_databases += 1
            database = f"d{self._num_databases}"
            with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")  # type: ignore[call-overload]
        return f"postgresql://me@127.0.0.1:{self.port}/{database}"

    def ask(self, url: str, query: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self._address(url.rpartition("/")[2]), autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def _address(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=me dbname={database} connect_timeout=5"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._address("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running() -> Iterator[Server]:
    """A server that is started; stopped, and its folder removed, at the end."""
    names = programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        server = Server(folder, names)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
