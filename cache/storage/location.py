"""Where a cache is, as a person writes it: a folder, or the URL of a prefix in an object store."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

BUCKETS = {"s3": "bucket", "gs": "bucket", "az": "container"}
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
COLLAPSED = re.compile(rf"({'|'.join(BUCKETS)}):/[^/]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLocation:
    """A prefix of an object store: `url` such as "s3://bucket/prefix", without any secret.

    Shards read from it are kept in the folder `local`, where there is one, up to `local_gb` (10^9 bytes).
    """

    url: str
    local: Path | None = None
    local_gb: float = 100.0

    def __str__(self) -> str:
        return self.url


Location = Path | StoreLocation


def parse_location(text: str, folder: Path = Path(), local: Path | None = None, local_gb: float = 100.0) -> Location:
    """The folder or object store that `text` names; a relative path starts at `folder`, `~` is the home folder.

    Raises:
        ValueError: the URL is of an unknown kind, names no bucket, or has a password or a query in it, which are not
            repeated in the message.
    """
    found = SCHEME.match(text)
    if found is None:
        if COLLAPSED.match(text):
            raise ValueError(f"{text}: a URL has two slashes: {text.replace(':/', '://', 1)}")
        return folder / Path(text).expanduser()
    parts = urlsplit(text)
    scheme = parts.scheme
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"{scheme}://: a cache's URL is {scheme}://BUCKET/PREFIX and nothing more; keys and passwords are read "
            "from the environment"
        )
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise ValueError(f"{text}: write file:///FOLDER, with the whole path")
        return Path(unquote(parts.path))
    if scheme not in BUCKETS:
        known = ", ".join(f"{each}://" for each in ("file", *BUCKETS))
        raise ValueError(f"{scheme}://: unknown kind of place for a cache; known: a folder, {known}")
    prefix = parts.path.strip("/")
    if not parts.netloc or not prefix or any(piece in ("", ".", "..") for piece in prefix.split("/")):
        raise ValueError(f"{text}: write {scheme}://{BUCKETS[scheme].upper()}/PREFIX; the cache lies below the prefix")
    return StoreLocation(url=f"{scheme}://{parts.netloc}/{prefix}", local=local, local_gb=local_gb)
