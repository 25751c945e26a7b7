"""A database for Optuna's record: opened, kept on one clock, and waited for where it is gone for a while."""

import random
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)

from pipelines.search.storage_url import where, with_driver

Answer = TypeVar("Answer")

WAIT_S = 300.0  # for a database that is gone
PAUSES_S = 0.5, 10.0  # between two tries: the first, and the longest
# A worker whose machine is gone is noticed by the server, and a server that is gone by the worker, within a minute.
LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
SETTINGS = (
    "SET TIME ZONE 'UTC'",  # Optuna stores heartbeats without their zone: a session in another would seem hours off
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
NUM_TRIES = 5  # of making the tables, which several processes may begin at once


def open_database(url: str, grace_s: int) -> RDBStorage:
    """Optuna's storage in PostgreSQL at `url`, its tables made if they are not there; trials are missed `grace_s`
    seconds after their last heartbeat.

    Raises:
        ValueError: the database cannot be had; says why.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for number in range(NUM_TRIES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SQLAlchemy's, of its own next version; Optuna's, of heartbeats
                storage = RDBStorage(
                    with_driver(url), _engine_options(url), heartbeat_interval=grace_s, grace_period=grace_s
                )
            break
        except (IntegrityError, ProgrammingError) as error:  # another process makes the same tables
            if number == NUM_TRIES - 1:
                raise _refused(url, error) from None
            time.sleep(random.uniform(0.1, 0.5))
        except Exception as error:  # the drivers, SQLAlchemy and Optuna each raise their own
            raise _refused(url, error) from None
    event.listen(storage.engine, "connect", _prepare)
    storage.engine.dispose()  # connections from here on are prepared
    return storage


def patiently(
    ask: Callable[[], Answer],
    url: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    on_gone: Callable[[], None] = lambda: None,
) -> Answer:
    """What `ask` returns, asked again while the database at `url` is gone; `ask` must bear being done twice.

    Args:
        sleep: waits for so many seconds between two tries.
        on_gone: is called whenever the database is found gone.

    Raises:
        ValueError: it was gone for `WAIT_S` seconds, or what was asked for is no longer in it.
    """
    began, pause = time.monotonic(), PAUSES_S[0]
    while True:
        try:
            return ask()
        except KeyError as error:
            raise ValueError(f"{where(url)}: the study is no longer in the database ({reason_of(error)})") from None
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            if not is_gone(error):
                raise ValueError(f"{where(url)}: {reason_of(error)}") from None
            on_gone()
            if time.monotonic() - began > WAIT_S:
                raise ValueError(
                    f"{where(url)}: gone for {WAIT_S:g} s: {reason_of(error)}; finished runs are kept: put the "
                    "database right and type the same command again"
                ) from None
        sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, PAUSES_S[1])


def is_gone(error: BaseException) -> bool:
    """Whether a database that comes back, or another try, may put `error` right: connections that are refused or cut,
    and locks that were not had."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        return is_gone(error.__cause__)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # Where a query failed Optuna may ask another way on the same connection, which a cut one answers with the last.
    return isinstance(error, OperationalError | InterfaceError | PendingRollbackError)


def reason_of(error: BaseException) -> str:
    """The first line of what `error`, or that which caused it, says."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        return reason_of(error.__cause__)
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _engine_options(url: str) -> dict[str, Any]:
    given = make_url(url).query
    options = {key: value for key, value in LIBPQ.items() if key not in given}
    return {"pool_pre_ping": True, "connect_args": options}


def _prepare(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        for setting in SETTINGS:
            cursor.execute(setting)
    connection.commit()


def _refused(url: str, error: Exception) -> ValueError:
    if isinstance(error, ImportError):
        do = "PostgreSQL needs `pip install 'mtl-affect[postgres]'` and a URL postgresql://USER@HOST/NAME"
    elif isinstance(error, DBAPIError):
        do = "check the server and the URL, and the password in PGPASSWORD or ~/.pgpass"
    else:
        do = "write postgresql://USER@HOST/NAME"
    return ValueError(
        f"{where(url)}: {reason_of(error)}; {do}; or leave storage out for a journal in the study's folder"
    )
