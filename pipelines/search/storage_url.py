"""What the address of a database says by itself; nothing is connected."""

from urllib.parse import parse_qsl, urlsplit


def is_postgresql(url: str) -> bool:
    """Whether `url` is of the one database by which searches can share a study, as its rows can be locked."""
    return url.partition(":")[0].partition("+")[0] in ("postgres", "postgresql")


def has_password(url: str) -> bool:
    """Whether `url` holds a password, which would be copied with the grid."""
    parts = urlsplit(url)
    return parts.password is not None or any("password" in key for key, _ in parse_qsl(parts.query))


def with_driver(url: str) -> str:
    """`url` with the driver that the extra `postgres` brings: SQLAlchemy's own choice differs by its version."""
    scheme, colon, rest = url.partition(":")
    return f"postgresql+psycopg{colon}{rest}" if scheme in ("postgres", "postgresql") else url


def where(url: str) -> str:
    """How errors name `url`: what stands behind the scheme may be secret."""
    scheme, colon, _ = url.partition(":")
    return f"[study] storage {scheme}:..." if colon else "[study] storage"
