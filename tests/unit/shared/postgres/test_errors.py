"""The classes of database errors: the fault of a record, or a condition under which the call may succeed later.

Every exception class of asyncpg is pinned here: a new version of asyncpg with another class fails the first test.
"""

import asyncio
import ssl
from collections import defaultdict
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneIsFree

from shared.postgres.errors import Cause, cause_of, ends_session, transient
from shared.runtime.errors import Transient

CLASSES = sorted(
    {
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    },
    key=lambda kind: kind.__name__,
)

# Only a record can cause these.
VALUES = {
    "NumericValueOutOfRangeError",
    "DatetimeFieldOverflowError",
    "IntervalFieldOverflowError",
    "CharacterNotInRepertoireError",
}
SCHEMA_IN_CLASS_22 = {
    "StringDataRightTruncationError",
    "NullValueNotAllowedError",
    "InvalidTextRepresentationError",
    "InvalidBinaryRepresentationError",
    "BadCopyFileFormatError",
    "UntranslatableCharacterError",
}
SCHEMA = {"21", "23", "27", "3F", "42", "44"}
STATE_IN_A_CLASS_OF_SCHEMA = {"InsufficientPrivilegeError"}
STATE = {
    "", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "22", "24", "25", "26", "28",
    "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "40", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
}  # fmt: skip
CLIENT_VALUES = {"ClientConfigurationError"}  # a URL that asyncpg cannot use: raised as it is


def of_another_type() -> Exception:
    """asyncpg's error when a column has another type than this version expects."""
    error = exceptions._base.DataError("invalid input for query argument $1: 'a' (an integer is required)")
    error.__cause__ = TypeError("an integer is required")
    return error


def raised(kind: type[Exception]) -> Exception:
    return kind("as raised")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_exception_class_of_asyncpg_has_its_cause(kind: type[Exception]) -> None:
    sqlstate = str(getattr(kind, "sqlstate", None) or "")
    if kind.__name__ in STATE_IN_A_CLASS_OF_SCHEMA:
        expected = Cause.STATE
    elif kind.__name__ in SCHEMA_IN_CLASS_22:
        expected = Cause.SCHEMA
    elif kind.__name__ in CLIENT_VALUES | VALUES:
        expected = Cause.VALUES
    elif sqlstate[:2] in SCHEMA:
        expected = Cause.SCHEMA
    else:
        assert sqlstate[:2] in STATE, "decide whether a record can cause this error"
        expected = Cause.STATE
    assert cause_of(raised(kind)) is expected
    assert isinstance(transient(raised(kind)), Transient) == (expected in (Cause.STATE, Cause.SCHEMA))


@pytest.mark.parametrize(
    "name",
    [
        "ReadOnlySQLTransactionError",
        "InvalidCatalogNameError",
        "ObjectNotInPrerequisiteStateError",
        "DiskFullError",
        "CannotConnectNowError",
        "AdminShutdownError",
        "DatabaseDroppedError",
        "IdleInTransactionSessionTimeoutError",
        "TooManyConnectionsError",
        "InvalidCachedStatementError",
        "InvalidSQLStatementNameError",
        "DuplicatePreparedStatementError",
        "InvalidPasswordError",
        "InsufficientPrivilegeError",
        "UndefinedTableError",
        "InternalServerError",
        "DataCorruptedError",
        "ProgramLimitExceededError",  # also: no new transaction ids
        "StatementTooComplexError",  # the stack depth limit is a setting
        "RaiseError",  # a trigger that freezes a table
        "NotNullViolationError",  # a column of a newer version
        "CheckViolationError",
        "ForeignKeyViolationError",
        "UniqueViolationError",
        "ExclusionViolationError",
        "CardinalityViolationError",
        "WithCheckOptionViolationError",
        "StringDataRightTruncationError",
        "UntranslatableCharacterError",
        "DivisionByZeroError",  # of a trigger: no statement of a service divides
        "InvalidParameterValueError",
        "SequenceGeneratorLimitExceededError",
    ],
)
def test_a_failing_database_is_never_the_fault_of_a_record(name: str) -> None:
    assert isinstance(transient(raised(getattr(exceptions, name))), Transient)


@pytest.mark.parametrize(
    "name",
    [
        "CharacterNotInRepertoireError",
        "NumericValueOutOfRangeError",
        "DatetimeFieldOverflowError",
    ],
)
def test_an_error_about_values_can_be_the_fault_of_a_record(name: str) -> None:
    assert transient(raised(getattr(exceptions, name))) is None


def test_an_unknown_sqlstate_is_about_the_state() -> None:
    error: Any = exceptions.UnknownPostgresError("of an extension")
    error.sqlstate = "CR001"
    assert cause_of(error) is Cause.STATE


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (asyncpg.InterfaceError("pool is closing"), Cause.STATE),
        (exceptions._base.DataError("invalid input for query argument $1"), Cause.VALUES),
        (of_another_type(), Cause.SCHEMA),
        (ConnectionResetError(), Cause.STATE),
        (OSError("No route to host"), Cause.STATE),
        (TimeoutError(), Cause.STATE),
        (ssl.SSLError("handshake"), Cause.STATE),
        (ssl.SSLCertVerificationError("expired"), Cause.STATE),
        (asyncio.IncompleteReadError(b"", 5), Cause.STATE),
        (RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"), Cause.STATE),
        (RuntimeError("generator ignored GeneratorExit"), Cause.CODE),
        (NoneIsFree(), Cause.STATE),
        (KeyError("x"), Cause.CODE),
    ],
)
def test_errors_without_a_sqlstate_have_a_cause(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


def wrapped(inner: Exception, kind: type[DBAPIError] = DBAPIError, *, invalidated: bool = False) -> DBAPIError:
    """An error of SQLAlchemy, as its dialect for asyncpg raises it."""
    of_dialect = Exception(f"{type(inner)}: {inner}")
    of_dialect.__cause__ = inner
    return kind("SELECT 1", None, of_dialect, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (wrapped(exceptions.ReadOnlySQLTransactionError("cannot execute UPDATE")), Cause.STATE),
        (wrapped(exceptions.UndefinedTableError("no such relation")), Cause.SCHEMA),
        (wrapped(exceptions.UniqueViolationError("duplicate key")), Cause.SCHEMA),
        (wrapped(exceptions.CharacterNotInRepertoireError("invalid byte sequence")), Cause.VALUES),
        (wrapped(exceptions._base.DataError("out of range"), InterfaceError), Cause.VALUES),
        (wrapped(exceptions.ConnectionDoesNotExistError("closed"), InterfaceError), Cause.STATE),
        (OperationalError("SELECT 1", None, Exception("the connection is closed")), Cause.STATE),
        (wrapped(Exception("closed"), invalidated=True), Cause.STATE),
        (DBAPIError("SELECT 1", None, Exception("something else")), Cause.CODE),
    ],
)
def test_an_error_of_sqlalchemy_has_the_cause_of_the_error_inside(error: DBAPIError, cause: Cause) -> None:
    assert cause_of(error) is cause


def test_the_message_has_no_sql_and_names_what_to_do() -> None:
    error = transient(wrapped(exceptions.UndefinedTableError('relation "cases" does not exist')))
    assert str(error) == (
        'the database\'s schema does not fit this version of the service (relation "cases" does not exist): restore the'
        " database, or start the service again, which upgrades the schema; stop the service if a newer version has"
        " replaced it."
    )
    read_only = transient(exceptions.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"))
    assert str(read_only) == "PostgreSQL: cannot execute INSERT in a read-only transaction."


def test_a_session_ends_after_an_error_of_its_state_and_continues_after_a_deadlock() -> None:
    ends: defaultdict[bool, set[str]] = defaultdict(set)
    for kind in (
        exceptions.ReadOnlySQLTransactionError,
        exceptions.UndefinedTableError,
        exceptions.InvalidCachedStatementError,
        exceptions.DeadlockDetectedError,
        exceptions.QueryCanceledError,
        exceptions.LockNotAvailableError,
        exceptions.UniqueViolationError,
    ):
        ends[ends_session(raised(kind))].add(kind.__name__)
        assert ends_session(wrapped(raised(kind))) == ends_session(raised(kind))
    assert ends[True] == {"ReadOnlySQLTransactionError", "UndefinedTableError", "InvalidCachedStatementError"}
    assert not ends_session(TimeoutError())
