"""A prefix of an object store (S3, Google Cloud Storage, Azure) as a `Storage`, through obstore.

A PUT of a whole object is atomic and durable when it is answered, so it stands in place of fsync and rename. No request
is a multipart one: a killed writer leaves nothing behind but whole objects. Requests are tried again here, not inside
obstore, so that there is one limit and one clear line.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cache.storage.base import StorageError, digest_of
from cache.storage.failures import has_no_bucket, is_passing, is_unknown, line_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NUM_READERS = 16  # requests under way at once where many small objects are read: they wait for the network
LARGE_BYTES = 64 << 20
CONNECT_S = 10.0
MAX_PUT_BYTES = 5 << 30  # of S3, without multipart
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a request is tried, how long the first pause is (each next one twice as long), and how long an answer
    may take to begin; all of a body that is read, or one of more than LARGE_BYTES that is written, may take 15 times as
    long."""

    num_tries: int = 6
    first_pause_s: float = 0.25
    timeout_s: float = 60.0

    @property
    def long_s(self) -> float:
        return 15 * self.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An object as a listing has it; `modified_s` is by the clock of the store, in whole seconds on S3."""

    key: str
    num_bytes: int
    modified_s: float


@dataclass(slots=True)
class _Stores:
    """obstore's handles of one prefix: for short requests, and for long ones."""

    url: str
    patience: Patience
    is_conditional: bool = True
    made: "dict[bool, ObjectStore]" = field(default_factory=dict)

    def get(self, is_long: bool) -> "ObjectStore":
        if is_long not in self.made:
            patience = self.patience
            limits = {"timeout": f"{patience.long_s if is_long else patience.timeout_s:g}s"}
            self.made[is_long] = _open(
                self.url, limits | ({"read_timeout": f"{patience.timeout_s:g}s"} if is_long else {})
            )
        return self.made[is_long]


class ObjectStorage:
    """Keys below `url`."""

    def __init__(self, url: str, patience: Patience = Patience()) -> None:
        """Asks the store for nothing yet. Raises ValueError where the package obstore is missing."""
        self.url, self._prefix, self._patience, self._stores = url, "", patience, _Stores(url, patience)
        self._stores.get(is_long=False)

    def name(self, key: str = "") -> str:
        return "/".join(filter(None, (self.url, self._prefix.rstrip("/"), key)))

    def below(self, key: str) -> "ObjectStorage":
        made = object.__new__(type(self))
        made.url, made._patience, made._stores = self.url, self._patience, self._stores
        made._prefix = f"{self._prefix}{key}/"
        return made

    def get(self, key: str) -> bytes:
        import obstore

        return self._ask(key, "read", lambda store: bytes(obstore.get(store, self._prefix + key).bytes()), is_long=True)

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="readers") as pool:
            yield from pool.map(self._get_or_none, keys)

    def _get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        import obstore

        try:
            return int(self._ask(key, "read", lambda store: obstore.head(store, self._prefix + key)["size"]))
        except FileNotFoundError:
            return None

    def sizes(self, prefixes: Iterable[str]) -> Callable[[str], int | None]:
        found = {entry.key: entry.num_bytes for prefix in prefixes for entry in self.entries(prefix)}
        return found.get

    def digest(self, key: str) -> tuple[int, str]:
        data = self.get(key)
        return len(data), digest_of(data)

    def put(self, key: str, data: bytes) -> None:
        import obstore

        if len(data) > MAX_PUT_BYTES:
            raise StorageError(
                f"{self.name(key)}: {len(data):,} bytes, an object store takes {MAX_PUT_BYTES:,} at once; remove the "
                "stream and extract it with fewer shard_rows under [cache]"
            )
        self._ask(
            key,
            "written",
            lambda store: obstore.put(store, self._prefix + key, data, use_multipart=False),
            is_long=len(data) > LARGE_BYTES,
        )

    def create(self, key: str, data: bytes) -> bool:
        """Writes `data`, unlike that of any other caller, where the key is not there yet; whether this call did. Of a
        store without conditions the last of several wins, and all are told they did."""
        if not self._stores.is_conditional:
            self.put(key, data)
            return True
        return self._create(key, data) or self._get_or_none(key) == data  # the first answer may have been lost

    def has_conditions(self, key: str, data: bytes) -> bool:
        """Whether the store refuses to create `key`, which is there with that very `data`, a second time. Where it does
        not, nothing has changed."""
        try:
            self._stores.is_conditional = not self._create(key, data)
        except NotImplementedError:
            self._stores.is_conditional = False
        return self._stores.is_conditional

    def _create(self, key: str, data: bytes) -> bool:
        """Raises NotImplementedError where the store says that it knows no conditions."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, NotSupportedError, PreconditionError

        def create(store: "ObjectStore") -> bool:
            try:
                obstore.put(store, self._prefix + key, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except NotSupportedError:
                raise NotImplementedError from None
            except GenericError as error:
                if is_unknown(str(error)):
                    raise NotImplementedError from None
                raise
            return True

        return self._ask(key, "written", create)

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        if keys:
            self._ask(keys[0], "deleted", lambda store: obstore.delete(store, [self._prefix + key for key in keys]))

    def keys(self, prefix: str) -> Iterator[str]:
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> list[Entry]:
        """Every object below `prefix`, at any depth."""
        import obstore

        whole = f"{self._prefix}{prefix}".rstrip("/") or None
        found = self._ask(
            prefix, "listed", lambda store: [meta for page in obstore.list(store, whole) for meta in page]
        )
        return [
            Entry(
                key=meta["path"][len(self._prefix) :],
                num_bytes=meta["size"],
                modified_s=meta["last_modified"].timestamp(),
            )
            for meta in found
        ]

    def folders(self, prefix: str = "") -> list[str]:
        import obstore

        whole = f"{self._prefix}{prefix}".rstrip("/") or None
        found = self._ask(prefix, "listed", lambda store: obstore.list_with_delimiter(store, whole)["common_prefixes"])
        names = (path.rpartition("/")[2] for path in found)
        return sorted(name for name in names if not name.startswith("."))

    def total_bytes(self, prefix: str = "") -> int:
        return sum(entry.num_bytes for entry in self.entries(prefix))

    def _ask(self, key: str, doing: str, request: "Callable[[ObjectStore], Answer]", is_long: bool = False) -> Answer:
        """What `request` returns; tried again where that may help.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the store refuses, or does not answer.
        """
        from obstore.exceptions import BaseError

        patience, store = self._patience, self._stores.get(is_long)
        for attempt in range(1, patience.num_tries + 1):
            try:
                return request(store)
            except FileNotFoundError as error:
                if has_no_bucket(str(error)):
                    raise StorageError(line_of(self.name(key), doing, str(error), attempt)) from None
                raise FileNotFoundError(2, "no such object", self.name(key)) from None
            except BaseError as error:
                text = str(error)
                if attempt == patience.num_tries or not is_passing(text):
                    raise StorageError(line_of(self.name(key), doing, text, attempt)) from None
            time.sleep(patience.first_pause_s * 2 ** (attempt - 1))
        raise AssertionError


def _check_endpoints(url: str) -> None:
    """obstore panics at the first request where an endpoint is no URL. Its value, which may hold a password, is not
    repeated."""
    for name in ENDPOINTS if url.startswith("s3:") else ():
        value = os.environ.get(name, "")
        if value and not _is_endpoint(value):
            raise StorageError(f"{url}: {name} is no URL of a server; write http://HOST:PORT or https://HOST")


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return is_server and value.isascii() and value.isprintable() and " " not in value


def _open(url: str, limits: dict[str, str]) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise ValueError(f"{url}: object stores need one more package: pip install 'mtl-affect[cloud]'") from None
    _check_endpoints(url)
    endpoints = (os.environ.get(name, "") for name in ENDPOINTS)
    # An endpoint that the environment gives as http:// is meant so: a gateway on the same machine or network.
    options = {
        **limits,
        "connect_timeout": f"{CONNECT_S:g}s",
        "allow_http": any(each.lower().startswith("http://") for each in endpoints),
    }
    try:
        return from_url(url, client_options=options, retry_config={"max_retries": 0})  # type: ignore[call-overload]
    except BaseError as error:
        raise StorageError(line_of(url, "opened", str(error), 1)) from None
