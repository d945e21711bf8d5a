"""Errors of the database: which of them mean that the same call may succeed later.

The statements of the services are fixed text, and tests run each of them. Between two calls of the same statement, only
its values and the state of the database differ. A record may be at fault only if its values are the only possible
cause. Of the server's errors, these are `VALUE_CODES`: no statement of a service has an expression that could fail for
a value, so another code of class 22 comes from a trigger, a view or a default. Every other error, also one with an
unknown SQLSTATE, is about the state of the database or its schema, and is raised as Transient. So a database that is
read-only, restored, full or of another version never dead-letters a record. A constraint that depends on values is
handled where its statement runs. docs/architecture/delivery-semantics.md has the table.
"""

import asyncio
from enum import StrEnum
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneIsFree

from shared.runtime.errors import Transient


class Cause(StrEnum):
    """The cause of an error of the database; `CODE` is a defect of this program."""

    VALUES = "values"
    STATE = "state"
    SCHEMA = "schema"
    CODE = "code"


VALUE_CODES: Final = frozenset(
    {
        "22003",  # a number out of range
        "22008",  # a time out of range
        "22015",  # an interval out of range
        "22021",  # U+0000 in a text
    }
)
"""The SQLSTATEs of values that PostgreSQL cannot store."""

_SCHEMA_CODES: Final = frozenset(
    {
        "22001",  # too long for a column: no column of this version has a limit
        "22004",  # null in a place of the schema
        "22P02",  # text that a type does not accept: no statement sends a text to a column of another type
        "22P03",  # the binary form of another type
        "22P04",  # COPY to other columns
        "22P05",  # a character that the database's encoding does not have
    }
)
_SCHEMA_CLASSES: Final = frozenset({"21", "23", "27", "3F", "42", "44"})
"""SQLSTATE classes about the schema: cardinality, constraints, triggers, names, check options."""

_PRIVILEGE: Final = "42501"
# The same session can continue: class 40 (deadlock, serialization failure), a constraint or trigger, a lock, a
# cancelled statement
_HARMLESS_CLASSES: Final = frozenset({"21", "23", "27", "40", "44", "P0"})
_HARMLESS_CODES: Final = frozenset({"55P03", "57014"})


def cause_of(error: BaseException) -> Cause:
    """The cause of an error that was raised in a call of asyncpg or SQLAlchemy."""
    if isinstance(error, DBAPIError):
        cause = Cause.CODE if (driver_error := _driver_error(error)) is error else cause_of(driver_error)
        lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return Cause.STATE if cause is Cause.CODE and lost else cause
    if isinstance(error, asyncpg.PostgresError):
        return _cause_of_sqlstate(error.sqlstate or "")
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg cannot encode a value, or cannot use the URL. A value of another type: the column has another type.
        if isinstance(error.__cause__, TypeError):
            return Cause.SCHEMA
        return Cause.VALUES if isinstance(error, ValueError) else Cause.STATE
    if isinstance(error, asyncpg.InternalClientError | OSError | asyncio.IncompleteReadError | NoneIsFree):
        return Cause.STATE  # OSError includes TimeoutError and the errors of TLS
    if isinstance(error, RuntimeError) and "handler is closed" in str(error):
        return Cause.STATE  # uvloop, for a connection that the server has closed
    return Cause.CODE


def transient(error: BaseException) -> Transient | None:
    """The error to raise instead of an error about the database's state; None for any other error."""
    match cause_of(error):
        case Cause.STATE:
            return Transient(describe(error))
        case Cause.SCHEMA:
            return Transient(
                f"the database's schema does not fit this version of the service ({_message(error)}): restore the"
                " database, or start the service again, which upgrades the schema; stop the service if a newer version"
                " has replaced it."
            )
        case _:
            return None


def ends_session(error: BaseException) -> bool:
    """True if a new session may succeed where the session that raised the error would fail again.

    A session that began while the database was read-only, or with the statements of a dropped schema, stays so.
    """
    driver_error = _driver_error(error) if isinstance(error, DBAPIError) else error
    if not isinstance(driver_error, asyncpg.PostgresError) or cause_of(driver_error) not in (Cause.STATE, Cause.SCHEMA):
        return False
    sqlstate = driver_error.sqlstate or ""
    return sqlstate[:2] not in _HARMLESS_CLASSES and sqlstate not in _HARMLESS_CODES


def describe(error: BaseException) -> str:
    """The error as a sentence for clients, without SQL statements, addresses and help links."""
    if isinstance(error, NoneIsFree):
        return "No connection to PostgreSQL was free in time."
    if isinstance(error, TimeoutError):
        return "PostgreSQL did not answer in time."
    return f"PostgreSQL: {_message(error)}."


def _cause_of_sqlstate(sqlstate: str) -> Cause:
    group = sqlstate[:2]
    if sqlstate in VALUE_CODES:
        return Cause.VALUES
    is_schema = sqlstate in _SCHEMA_CODES or (group in _SCHEMA_CLASSES and sqlstate != _PRIVILEGE)
    return Cause.SCHEMA if is_schema else Cause.STATE


def _driver_error(error: DBAPIError) -> BaseException:
    """asyncpg's error inside an error of SQLAlchemy."""
    wrapped = error.orig
    return (wrapped and wrapped.__cause__) or wrapped or error


def _message(error: BaseException) -> str:
    cause = _driver_error(error) if isinstance(error, DBAPIError) else error
    return str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__
