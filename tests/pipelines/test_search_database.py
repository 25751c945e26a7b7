"""Errors of a database: those that another try may put right, and those that it cannot."""

import optuna
import pytest
from sqlalchemy.exc import InvalidRequestError, OperationalError, PendingRollbackError

from pipelines.search import database
from pipelines.search.database import is_gone, patiently

URL = "postgresql://me@host/studies"


def from_optuna(cause: Exception) -> optuna.exceptions.StorageInternalError:
    error = optuna.exceptions.StorageInternalError("an exception is raised during the commit")
    error.__cause__ = cause
    return error


CUT = OperationalError("SELECT 1", None, Exception("server closed the connection"))
ASKED_AGAIN = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")


@pytest.mark.parametrize("error", [CUT, ASKED_AGAIN, from_optuna(CUT), from_optuna(ASKED_AGAIN)])
def test_a_cut_connection_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_gone(error)
    answers = iter([error, error, 3])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(database, "PAUSES_S", (0.0, 0.0))
    assert patiently(ask, URL) == 3


def test_what_is_wrong_in_itself_is_not() -> None:
    error = InvalidRequestError("no such column")
    assert not is_gone(error)

    def ask() -> int:
        raise error

    with pytest.raises(ValueError, match="no such column"):
        patiently(ask, URL)
