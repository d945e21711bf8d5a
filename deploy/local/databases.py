"""The databases of a local system, and the role of its services.

The role owns the databases and has no right on the server beyond that: it is no superuser, and creates no databases and
no roles."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from deploy.local.files import write_whole
from shared.runtime.user_errors import UserError, file_errors

PASSWORD_FILE: Final = "database.password"  # noqa: S105 - the name of a file

_RIGHTS: Final = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"

# Objects that an earlier version or a restore without owners created. Sequences of a column follow their table.
_OTHERS: Final = """
SELECT format('ALTER %s %I.%I OWNER TO %I',
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
    n.nspname, c.relname, $1::text)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_roles AS owner ON owner.oid = c.relowner
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'S', 'v', 'm') AND owner.rolname <> $1::text
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
UNION ALL
SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, $1::text)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_roles AS owner ON owner.oid = p.proowner
WHERE n.nspname = 'public' AND owner.rolname <> $1::text
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')"""


def role_of(prefix: str = "piepowder") -> str:
    """The name of the services' role, for databases with this prefix."""
    return f"{prefix}_services"


def sibling_url(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.partition("+")[0], path=f"/{database}").geturl()


def plain_url(url: str) -> str:
    """The URL without the name of a driver."""
    return sibling_url(url, urlsplit(url).path.lstrip("/"))


async def prepare_databases(url: str, names: Sequence[str], *, role: str, password_file: Path) -> str:
    """Create the missing databases; returns the URL of the server for the services.

    If the user of `url` is a superuser, the services get `role`, which owns the databases, with the password in
    `password_file`; databases of an earlier version are handed over. Otherwise they use the same user.
    Raises `UserError` if the server does not respond or the user has too few rights.
    """
    connection = await _connect(plain_url(url))
    try:
        existing = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            for name in names:
                if name not in existing:
                    await connection.execute(f'CREATE DATABASE "{name}"')
            return plain_url(url)
        password = _password(password_file)
        known = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
        await connection.execute(f"{'ALTER' if known else 'CREATE'} ROLE \"{role}\" {_RIGHTS} PASSWORD '{password}'")
        for name in names:
            if name not in existing:
                await connection.execute(f'CREATE DATABASE "{name}" OWNER "{role}"')
            else:
                await connection.execute(f'ALTER DATABASE "{name}" OWNER TO "{role}"')
                await _hand_over(sibling_url(url, name), role)
    except asyncpg.PostgresError as error:
        what_to_do = "Give the user of PIEPOWDER_DATABASE_URL the right to create databases."
        raise UserError(f"The databases cannot be created: {error}.", what_to_do) from error
    finally:
        await connection.close(timeout=5)
    parts = urlsplit(plain_url(url))
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


async def _hand_over(url: str, role: str) -> None:
    connection = await _connect(url)
    try:
        async with connection.transaction():
            for row in await connection.fetch(_OTHERS, role):
                await connection.execute(row[0])
    finally:
        await connection.close(timeout=5)


async def _connect(url: str) -> "asyncpg.Connection[Any]":
    try:
        return await asyncpg.connect(url, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UserError(f"PostgreSQL does not respond: {error}.", "Look at its log, and start again.") from error


def _password(file: Path) -> str:
    with file_errors(file.parent):
        if not file.exists():
            write_whole(file, secrets.token_urlsafe(24) + "\n")
        return file.read_text(encoding="ascii").strip()
