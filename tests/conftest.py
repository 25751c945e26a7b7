"""Fixtures of every room: where real faces and weights are, for tests marked `real`; calls that may hang; no fsync; an
object store."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is up to the machine, and to what else it does.
settings.register_profile("mtl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mtl")


def pytest_configure() -> None:
    """A suite started in a shell's background has Ctrl-C ignored, and every process of its tests would have too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def never_synced() -> Iterator[None]:
    """No test cuts the power: fsync would only wait for the disk. Programs in processes of their own have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real faces and weights: `MTL_REAL_DATA`, else `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MTL_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MTL_REAL_DATA to a folder that has talking/ and weights/")
    return folder


@pytest.fixture(scope="session")
def in_time() -> Callable[[Callable[[], Any]], Any]:
    """`in_time(call)` gives what `call()` gives or raises; one that hangs fails the test after 20 s in its place."""

    def run(call: Callable[[], Any], limit_s: float = 20.0) -> Any:
        outcome: list[Any] = []

        def attempt() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(limit_s)
        assert outcome, f"still not done after {limit_s:g} s"
        found, error = outcome[0]
        if error is not None:
            raise error
        return found

    return run


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server of this machine, which has the bucket "bucket"."""
    pytest.importorskip("obstore", reason="needs obstore: pip install 'mtl-affect[cloud]'")
    pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    from helpers import object_store

    with object_store.moto() as endpoint:
        object_store.make_bucket(endpoint, "bucket")
        yield endpoint


PREFIXES = itertools.count()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of the bucket that nobody has used; the environment leads to its server."""
    from helpers import object_store

    for name, value in object_store.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{next(PREFIXES)}/cache.zarr"
