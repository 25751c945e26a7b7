"""A cache in an object store: the bytes of one in a folder, whatever is killed, cut or refused."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache import shards
from cache.damage import Lost, lost_by_size
from cache.locks import WHOLE
from cache.ranges import RowReader
from cache.storage import claims, objects
from cache.storage.base import StorageError
from cache.storage.failures import is_passing, line_of
from cache.storage.location import StoreLocation
from cache.storage.objects import ObjectStorage, Patience
from cache.store import Cache
from cache.stream import Stream
from cache.summary import describe, summarise
from cache.verify import repair, verify
from helpers import killed_store
from helpers import made_stream as made
from helpers.object_store import SECRET, Gateway, Plan, objects_of
from helpers.processes import program

NEEDS_FORK = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
NUM_REQUESTS = 63  # of an extraction of the made stream


@pytest.fixture
def stored(s3_url: str) -> Stream:
    """Complete, with two failed rows."""
    return made.extract_into(s3_url)


def reopened(url: str) -> Stream:
    return Cache.open(url).stream("expr")


def ignored(damage: object) -> None:
    pass


# The same bytes


def test_the_bytes_are_those_of_a_folder(stored: Stream, s3_url: str, complete: Path) -> None:
    assert objects_of(s3_url) == made.files_of(complete)


@pytest.mark.parametrize(
    ("num_rows", "shard_rows", "dtype"),
    [(1, 1, "float16"), (130, 128, "float32"), (5, 7, "float16"), (700, 512, "float16"), (520, 1024, "float32")],
)
def test_shapes_of_a_shard(s3_url: str, tmp_path: Path, num_rows: int, shard_rows: int, dtype: str) -> None:
    """Rows that fill the last inner chunk in part, and inner chunks that have none."""
    identity = made.make_identity(made.make_frames(num_rows), width=3, dtype=dtype)
    for place in (s3_url, tmp_path / "cache.zarr"):
        stream = Cache.open(place, create=True).create("expr", identity, shard_rows, {})
        for shard in range(stream.num_shards):
            start, stop = stream.rows(shard)
            values = made.embeddings_of(start, stop, 3).astype(dtype)
            stream.write_shard(shard, values, made.digests_of(start, stop), {})
        assert np.array_equal(stream.read(), made.embeddings_of(0, num_rows, 3).astype(dtype))
    assert objects_of(s3_url) == made.files_of(tmp_path / "cache.zarr")


def test_reading_gives_what_a_folder_gives(stored: Stream, s3_url: str, complete: Path) -> None:
    here, there = reopened(s3_url), Cache.open(complete).stream("expr")
    assert np.array_equal(here.read(), there.read())
    assert np.array_equal(here.read_shard(3), there.read_shard(3))
    assert np.array_equal(here.face_digests(), there.face_digests())
    assert np.array_equal(here.valid(), there.valid())
    assert here.failed() == there.failed() == made.FAILED
    assert here.is_complete
    assert describe(here) == describe(there)


def test_a_summary(stored: Stream, s3_url: str, frames: pl.DataFrame, complete: Path) -> None:
    assert summarise(Cache.open(s3_url), frames) == summarise(Cache.open(complete), frames)


# Killed writers


def check_killed(url: str, numbers: Iterable[int], whole: dict[str, bytes]) -> None:
    for number in numbers:
        place = f"{url}/{number}"
        assert int(program(killed_store.main, place, number, number // 2 + 1)) >= 1, number
        assert objects_of(place) == whole, f"killed before request {number}"


@NEEDS_FORK
def test_killed_before_some_requests(s3_url: str, complete: Path) -> None:
    check_killed(s3_url, (17, 50), made.files_of(complete))


@pytest.mark.long
@pytest.mark.slow
@NEEDS_FORK
@pytest.mark.parametrize("first", range(5))
def test_killed_before_every_request(s3_url: str, complete: Path, first: int) -> None:
    """63 moments; from each, killed a second time before it may end."""
    check_killed(s3_url, range(1 + first, NUM_REQUESTS + 1, 5), made.files_of(complete))


def test_the_number_of_requests(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the kills reach every one of them."""
    ask, doing = ObjectStorage._ask, []
    monkeypatch.setattr(
        ObjectStorage, "_ask", lambda *words, **options: doing.append(words[2]) or ask(*words, **options)
    )
    made.extract_into(s3_url)
    assert len(doing) == NUM_REQUESTS
    doing.clear()
    made.extract_into(s3_url)
    assert doing.count("written") == 2, "the probe and the claim"


def test_a_shard_without_a_mark_does_not_count(stored: Stream, s3_url: str) -> None:
    stored.forget([2])
    assert reopened(s3_url).missing_shards() == [2]
    with pytest.raises(ValueError, match="40 of 150 rows are not extracted yet"):
        stored.read()


# Damage


@pytest.mark.parametrize(("key", "shard"), [("embedding/c/1/0", 1), ("face_digest/c/0/0", 0), ("state/c/0", None)])
def test_damage_is_found_and_repaired(stored: Stream, s3_url: str, complete: Path, key: str, shard: int | None) -> None:
    data = bytearray(stored.files.get(key))
    data[3] ^= 4
    stored.files.put(key, bytes(data))
    damages = verify(stored, None, None, ignored)
    assert [each.shard for each in damages] == [shard]
    assert f"{s3_url}/expr/base/{key} has changed since extraction" in damages[0].what
    assert repair(stored, damages) == ([] if shard is None else [shard])
    made.extract_into(s3_url)
    assert verify(stored, None, None, ignored) == []
    assert objects_of(s3_url) == made.files_of(complete)


def test_lost_and_short_objects(stored: Stream) -> None:
    stored.files.delete([shards.shard_file("embedding", 0)])
    stored.files.put(shards.shard_file("state", 0), b"short")
    stored.files.put(shards.shard_file("face_digest", 1), b"short")
    assert lost_by_size(stored, WHOLE) == Lost(shards=[0, 3], groups=[0])
    with pytest.raises(
        ValueError, match=r"embedding/c/0/0: the shard is missing; type `mtl cache verify expr --repair`"
    ):
        stored.read()


def test_a_changed_shard_is_not_read(stored: Stream) -> None:
    key = shards.shard_file("embedding", 1)
    data = bytearray(stored.files.get(key))
    data[3] ^= 4
    stored.files.put(key, bytes(data))
    with pytest.raises(
        ValueError, match=r"embedding/c/1/0: the shard has changed.*; type `mtl cache verify expr --rep"
    ):
        stored.read()


# Made, removed, found


def test_one_removed_view_leaves_the_others(stored: Stream, s3_url: str) -> None:
    cache = Cache.open(s3_url)
    cache.create("expr", made.make_identity(made.make_frames(), view="hflip"), 40, {})
    cache.remove("expr", "base")
    assert cache.streams() == [("expr", "hflip")]
    cache.remove("expr")
    assert list(objects_of(s3_url)) == ["zarr.json"]


def test_a_removal_killed_under_way_can_be_typed_again(stored: Stream, s3_url: str, monkeypatch) -> None:
    """After each number of deletions the stream is there and empty, or gone; never there and unreadable."""
    delete = ObjectStorage.delete
    for number in (1, 2, 3, 4, 5):
        made.extract_into(s3_url)
        left = number

        def cut(self: ObjectStorage, keys: list[str]) -> None:
            nonlocal left
            if keys and "claims" not in keys[0]:
                left -= 1
                if left < 0:
                    raise StorageError("cut off")
            delete(self, keys)

        with monkeypatch.context() as patch:
            patch.setattr(ObjectStorage, "delete", cut)
            with contextlib.suppress(StorageError):
                Cache.open(s3_url).remove("expr")
        cache = Cache.open(s3_url, create=True)
        if cache.streams():
            assert cache.stream("expr").done_shards() == []
            cache.remove("expr")
        assert cache.streams() == []


def test_no_cache_there(s3_url: str) -> None:
    with pytest.raises(ValueError, match=f"{s3_url}: there is no cache here; `mtl extract` makes one"):
        Cache.open(s3_url)


def test_something_else_is_there(s3_url: str) -> None:
    ObjectStorage(s3_url).put("zarr.json", json.dumps({"node_type": "group", "attributes": {}}).encode())
    with pytest.raises(ValueError, match=f"{s3_url}: this is not an embedding cache"):
        Cache.open(s3_url, create=True)


def test_a_lost_group(stored: Stream, s3_url: str) -> None:
    ObjectStorage(s3_url).delete(["expr/zarr.json"])
    with pytest.raises(ValueError, match="is missing or damaged"):
        Cache.open(s3_url)
    assert Cache.open(s3_url, create=True).streams() == [("expr", "base")]


def test_lost_metadata_of_a_stream(stored: Stream, s3_url: str) -> None:
    stored.files.delete(["zarr.json"])
    cache = Cache.open(s3_url)
    assert cache.streams() == [("expr", "base")]
    with pytest.raises(ValueError, match=r"damaged metadata: zarr\.json; type `mtl cache rm expr`"):
        cache.stream("expr")


def test_reading_only_writes_nothing(stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, doing = ObjectStorage._ask, set()
    monkeypatch.setattr(ObjectStorage, "_ask", lambda *words, **options: doing.add(words[2]) or ask(*words, **options))
    cache = Cache.open(s3_url, read_only=True)
    cache.stream("expr").read()
    assert doing == {"read", "listed"}
    with pytest.raises(ValueError, match="opened for reading only"):
        cache.remove("expr")


# The local copy


@pytest.fixture
def copied(stored: Stream, s3_url: str, tmp_path: Path) -> StoreLocation:
    return StoreLocation(url=s3_url, local=tmp_path / "local", local_gb=1)


def test_what_was_fetched_is_not_fetched_again(copied: StoreLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    read, got = ObjectStorage.get, []
    monkeypatch.setattr(ObjectStorage, "get", lambda self, key: got.append(key) or read(self, key))
    for num_fetched in (4, 0):
        got.clear()
        assert np.array_equal(Cache.open(copied, read_only=True).stream("expr").read(), made.expected_rows())
        assert sum("embedding/c/" in key for key in got) == num_fetched
    path = Cache.open(copied).stream("expr").embedding_file(2)
    assert path.is_relative_to(copied.local)
    assert path.read_bytes() == Cache.open(copied).files.get("expr/base/embedding/c/2/0")


def test_a_damaged_copy_is_fetched_again(copied: StoreLocation) -> None:
    stream = Cache.open(copied).stream("expr")
    stream.read()
    path = stream.embedding_file(1)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert np.array_equal(Cache.open(copied).stream("expr").read(), made.expected_rows())
    assert path.read_bytes() != data
    path.write_bytes(b"cut short")
    assert np.array_equal(stream.read(), made.expected_rows())


def test_a_shard_that_changed_in_the_store_is_another_file(copied: StoreLocation) -> None:
    stream = Cache.open(copied).stream("expr")
    stream.read()
    start, stop = stream.rows(1)
    other = made.embeddings_of(start, stop) + np.float16(1)
    stream.write_shard(1, other, made.digests_of(start, stop), {})
    assert np.array_equal(stream.read_shard(1), other)


def test_what_is_fetched_is_compared_with_its_digest(copied: StoreLocation) -> None:
    stream = Cache.open(copied).stream("expr")
    key = shards.shard_file("embedding", 1)
    stream.files.put(key, bytes(len(stream.files.get(key))))
    with pytest.raises(
        ValueError, match=r"embedding/c/1/0: the shard has changed since extraction; type `mtl cache ver"
    ):
        stream.embedding_file(1)


def test_the_shard_not_used_for_longest_goes_first(copied: StoreLocation) -> None:
    sizes = Cache.open(copied).stream("expr").mark(0).file.num_bytes
    small = StoreLocation(url=copied.url, local=copied.local, local_gb=2.5 * sizes / 1e9)
    stream = Cache.open(small).stream("expr")
    paths = [stream.embedding_file(shard) for shard in (0, 1)]
    os.utime(paths[0], ns=(1, 1))
    os.utime(paths[1], ns=(2, 2))
    stream.embedding_file(0)  # used again
    paths.append(stream.embedding_file(2))
    assert [path.exists() for path in paths] == [True, False, True]
    assert np.array_equal(stream.read(), made.expected_rows())


def test_a_limit_below_one_shard(copied: StoreLocation) -> None:
    tiny = StoreLocation(url=copied.url, local=copied.local, local_gb=1e-7)
    with pytest.raises(ValueError, match="holds 100 bytes, one shard has 980; raise local_gb"):
        Cache.open(tiny).stream("expr").read()


# Refused, cut, slow


@pytest.fixture
def gateway(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """Before the server; requests are tried again quickly."""
    with Gateway(os.environ["AWS_ENDPOINT_URL"]).serve() as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        quick = Patience(num_tries=4, first_pause_s=0.01, timeout_s=1.0)
        monkeypatch.setattr(ObjectStorage.__init__, "__defaults__", (quick,))
        yield made


def some_of(plan: Plan, share: int) -> Plan:
    """`plan` for every `share`-th request."""
    count = iter(range(10**9))
    return lambda request: plan(request) if next(count) % share == 0 else None


@pytest.mark.parametrize("action", [503, "cut"])
def test_a_request_that_fails_is_tried_again(gateway: Gateway, s3_url: str, complete: Path, action: int | str) -> None:
    gateway.plan = some_of(lambda request: action, 3)
    made.extract_into(s3_url).read()
    gateway.plan = lambda request: None
    assert objects_of(s3_url) == made.files_of(complete)


def test_a_slow_answer_is_tried_again(gateway: Gateway, s3_url: str) -> None:
    made.extract_into(s3_url)
    slow = iter(["hang", "hang"])
    gateway.plan = lambda request: next(slow, None)
    assert reopened(s3_url).is_complete


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (lambda request: 503, r"could not be \w+ in 4 tries: status 503; check AWS_ENDPOINT_URL and AWS_REGION"),
        (lambda request: 403, r"may not be \w+ \(status 403.*\); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (lambda request: "cut", r"could not be \w+ in 4 tries: the connection was cut"),
        (lambda request: "hang", r"could not be \w+ in 4 tries: it took too long to answer"),
    ],
)
def test_a_store_that_does_not_answer(gateway: Gateway, s3_url: str, plan: Plan, line: str) -> None:
    """One line: what, where, what to do; nothing secret in it."""
    gateway.plan = plan
    with pytest.raises(StorageError, match=line) as caught:
        Cache.open(s3_url)
    assert s3_url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_store_that_is_read_only(gateway: Gateway, s3_url: str, complete: Path) -> None:
    """Reading and training work; what writes says so."""
    made.extract_into(s3_url)
    gateway.plan = lambda request: 403 if request.method in ("PUT", "POST", "DELETE") else None
    assert np.array_equal(Cache.open(s3_url, read_only=True).stream("expr").read(), made.expected_rows())
    with pytest.raises(StorageError, match=r"may not be written \(status 403 Made\)"):
        made.extract_into(s3_url)


def test_nobody_listens(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(ObjectStorage.__init__, "__defaults__", (Patience(num_tries=2, first_pause_s=0.01),))
    with pytest.raises(StorageError, match="in 2 tries: the connection was refused or there is no way to the host"):
        Cache.open(s3_url)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "http://", "http://h:x", "http://a b", "ftp://h", "http://ü"])
def test_an_endpoint_that_is_no_url(s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """obstore would panic."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL is no URL of a server; write http://HOST:PORT or https"):
        Cache.open(s3_url)


def test_an_endpoint_in_capitals(stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("http", "HTTP"))
    assert reopened(s3_url).is_complete


def test_no_such_bucket(s3_url: str) -> None:
    for create in (False, True):
        with pytest.raises(
            StorageError, match="s3://no-such-bucket: there is no such bucket; make it, or correct path"
        ):
            Cache.open("s3://no-such-bucket/cache.zarr", create=create)


def test_a_lost_answer_to_a_claim(gateway: Gateway, s3_url: str) -> None:
    """The claim is there, so the second try finds it: it is this process's own all the same."""
    made.extract_into(s3_url)
    losses = iter(["lose"])
    gateway.plan = lambda request: next(losses, None) if "claims" in request.path and request.method == "PUT" else None
    with reopened(s3_url).writer_lock():
        assert next(losses, None) is None
        assert list(reopened(s3_url).files.keys(claims.CLAIMS)) == ["embedding/claims/1-of-1.000001.json"]


@pytest.mark.parametrize("action", ["unconditional", 501])
def test_a_gateway_that_ignores_conditions(gateway: Gateway, s3_url: str, complete: Path, action: str | int) -> None:
    """It takes the condition for nothing, or says that it knows none."""
    gateway.plan = lambda request: action if "if-none-match" in request.headers else None
    cache = Cache.open(s3_url, create=True)
    assert "ignores conditional writes" in cache.notes[0]
    assert s3_url in cache.notes[0]
    made.extract_into(s3_url)
    assert Cache.open(s3_url, read_only=True).notes == ()
    gateway.plan = lambda request: None
    assert Cache.open(s3_url).notes == ()
    assert objects_of(s3_url) == made.files_of(complete)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 15ms - HTTP error",
            "s3://b/p/k: cannot be read: no credentials in the environment; set AWS_ACCESS_KEY_ID and AWS_SECRET",
        ),
        (
            "Generic MicrosoftAzure error: Account must be specified",
            "az://b/p/k: cannot be read: no credentials in the environment; set AZURE_STORAGE_ACCOUNT_NAME and AZURE_",
        ),
        (
            "GET https://b.s3/p/k?X-Amz-Signature=abc in 1ms - Server returned non-2xx status code: 301 M: ",
            "s3://b/p/k: may not be read (status 301); check AWS_ACCESS_KEY_ID",
        ),
        (
            "Server returned non-2xx status code: 404 Not Found: <Error><Code>NoSuchBucket</Code>",
            "gs://b: there is no such bucket; make it, or correct path under [cache] in mtl.toml",
        ),
    ],
)
def test_lines_of_refusals(text: str, line: str) -> None:
    found = line_of(f"{line[:2]}://b/p/k", "read", text, 6)
    assert found.startswith(line)
    assert "abc" not in found
    assert not is_passing(text)


# Several writers


def test_another_writer_is_refused(stored: Stream, s3_url: str) -> None:
    with stored.writer_lock():
        start = time.monotonic()
        other = reopened(s3_url)
        with pytest.raises(
            claims.BeingWritten, match=rf"stream 'expr' is being written by process {os.getpid()}; wait"
        ):
            other.forget([1])
        assert time.monotonic() - start < 5
        with pytest.raises(claims.BeingWritten):
            Cache.open(s3_url).remove("expr")
    other.forget([1])


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        ((1, 2), (2, 2), False),
        ((1, 2), (1, 2), True),
        ((1, 2), (1, 4), True),
        ((1, 4), (4, 4), False),
        ((1, 2), (1, 1), True),
    ],
)
def test_parts(stored: Stream, s3_url: str, first: tuple, second: tuple, is_refused: bool) -> None:
    with stored.writer_lock(first):
        if is_refused:
            with pytest.raises(claims.BeingWritten), reopened(s3_url).writer_lock(second):
                pass
        else:
            with reopened(s3_url).writer_lock(second):
                pass


def claim_of_a_stranger(stream: Stream, part: str = "1-of-1", number: int = 1) -> str:
    """The claim of a process of another machine."""
    key = f"{claims.CLAIMS}/{part}.{number:06d}.json"
    owner = {"host": "elsewhere", "pid": 7, "machine": "another", "started": "1", "token": "x"}
    stream.files.put(key, json.dumps(owner).encode())
    return key


@pytest.mark.parametrize("has_clock", [True, False])
def test_a_claim_that_is_not_renewed_expires(
    stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch, has_clock: bool
) -> None:
    """By the store's clock, or where that is not known by how long it stands still."""
    if not has_clock:
        monkeypatch.setattr(claims.Watch, "set_clock", lambda self, store_s: None)
    monkeypatch.setattr(claims, "EXPIRY_S", 2.0)
    monkeypatch.setattr(claims, "POLL_S", 0.1)
    key = claim_of_a_stranger(stored)
    start = time.monotonic()
    with stored.writer_lock():
        assert time.monotonic() - start > 1.0
        found = [entry.key for entry in stored.files.entries(claims.CLAIMS)]
        assert found == ["embedding/claims/1-of-1.000002.json"], "the next number"
    assert key not in list(stored.files.keys("embedding"))


def test_a_claim_that_expired_is_taken_at_once(stored: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the store's clock nobody has to wait for what nobody has written for long."""
    monkeypatch.setattr(claims, "EXPIRY_S", 2.0)
    claim_of_a_stranger(stored)
    time.sleep(3.1)
    waited: list[float] = []
    monkeypatch.setattr(claims.time, "sleep", waited.append)
    with stored.writer_lock():
        assert waited == []


def test_a_claim_that_is_renewed_lives(stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits sees the store's time of the claim change; its own clock does not come into it."""
    monkeypatch.setattr(claims, "POLL_S", 0.2)
    claim_of_a_stranger(stored)
    renewed = time.monotonic() + 1.0
    rivals = claims._rivals

    def renewing(files: ObjectStorage) -> list[claims.Rival]:
        if time.monotonic() > renewed:
            claim_of_a_stranger(stored)
        return rivals(files)

    monkeypatch.setattr(claims, "_rivals", renewing)
    with pytest.raises(claims.BeingWritten, match="process 7 on elsewhere"), stored.writer_lock():
        pass


def test_a_clock_that_is_an_hour_off(stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 3600.0)
    claim_of_a_stranger(stored, "1-of-2")
    monkeypatch.setattr(claims, "EXPIRY_S", 2.0)
    monkeypatch.setattr(claims, "POLL_S", 0.1)
    with stored.writer_lock((2, 2)), stored.writer_lock():
        pass


def test_a_writer_that_stood_still_writes_no_more(stored: Stream, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim was taken over meanwhile: the next mark is not written."""
    start, stop = stored.rows(0)
    rows = made.embeddings_of(start, stop), made.digests_of(start, stop)
    with stored.writer_lock():
        claim = stored._writer._place._claim
        stored.files.delete([claim.key])
        claim_of_a_stranger(stored, number=2)
        claim._written_s -= claims.EXPIRY_S
        with pytest.raises(claims.BeingWritten, match="took over while this one stood still"):
            stored.write_shard(0, *rows, {})
    assert "embedding/claims/1-of-1.000002.json" in set(stored.files.keys("embedding")), "the other's claim stays"


def test_a_claim_of_the_same_number_is_not_taken_for_the_own(stored: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken over, released and claimed by a third, while this process stood still."""
    with stored.writer_lock():
        claim = stored._writer._place._claim
        claim_of_a_stranger(stored)
        claim._written_s -= claims.EXPIRY_S
        with pytest.raises(claims.BeingWritten, match="took over while this one stood still"):
            stored.forget([0])
    assert "embedding/claims/1-of-1.000001.json" in set(stored.files.keys("embedding"))
    assert 0 in stored.done_shards()


def test_a_claim_that_could_not_be_judged_is_withdrawn(stored: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store failed between the claim and the look at others: the same process may try again at once."""
    found = claims._overlapping
    answers = iter([found, None, found, found])

    def overlapping(files: ObjectStorage, part: tuple[int, int]) -> list[claims.Rival]:
        answer = next(answers)
        if answer is None:
            raise StorageError("no answer")
        return answer(files, part)

    monkeypatch.setattr(claims, "_overlapping", overlapping)
    with pytest.raises(StorageError), stored.writer_lock():
        pass
    start = time.monotonic()
    with stored.writer_lock():
        assert time.monotonic() - start < 5


def test_a_claim_is_one_process_s(stored: Stream, s3_url: str) -> None:
    """Sixteen that race for the same key, ten times."""
    with ThreadPoolExecutor(16) as pool:
        storage = ObjectStorage(s3_url)
        for number in range(10):
            made = list(pool.map(lambda token, at=f"race/{number}": storage.create(at, str(token).encode()), range(16)))
            assert sum(made) == 1
            assert storage.get(f"race/{number}") == str(made.index(True)).encode()


def test_names_in_any_script(s3_url: str) -> None:
    name = "größe+a=b_Ж-1"
    cache = Cache.open(s3_url, create=True)
    made.fill(cache.create(name, made.make_identity(made.make_frames()), made.SHARD_ROWS, {}))
    assert Cache.open(s3_url).streams() == [(name, "base")]
    assert np.array_equal(Cache.open(s3_url).stream(name).read(), made.expected_rows())
    cache.remove(name)
    assert cache.streams() == []


def test_rows_by_ranges(copied: StoreLocation, s3_url: str) -> None:
    """What training reads where a stream does not fit into memory; it needs the local copy."""
    rows = np.array([149, 3, 4, 5, 80, 40, 39])
    out = np.empty((len(rows), made.WIDTH), np.float16)
    RowReader(Cache.open(copied).stream("expr")).read(rows, out)
    assert np.array_equal(out, made.expected_rows()[rows])
    with pytest.raises(ValueError, match="for which a store needs a local copy; set local under"):
        RowReader(reopened(s3_url)).read(rows, out)


def test_the_claim_is_renewed(stored: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    put, keys = ObjectStorage.put, []
    monkeypatch.setattr(ObjectStorage, "put", lambda self, key, data: keys.append(key) or put(self, key, data))
    with stored.writer_lock():
        end = time.monotonic() + 5
        while len(keys) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(keys) >= 3
    assert list(stored.files.keys(claims.CLAIMS)) == []


def test_names_of_requests_have_no_secret(s3_url: str) -> None:
    assert objects.ObjectStorage(s3_url).below("expr").name("zarr.json") == f"{s3_url}/expr/zarr.json"
