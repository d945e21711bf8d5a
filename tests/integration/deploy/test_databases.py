"""The role of the services in PostgreSQL: it owns what it needs, also what an earlier version created."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.databases import prepare_databases, sibling_url
from deploy.local.postgres import program_folder
from deploy.services import SERVICES
from shared.postgres import migrations
from shared.runtime.user_errors import UserError
from tests.conftest import project_root
from tests.support.servers import Servers

NAME = f"owned_{os.getpid()}"
ROLE = f"{NAME}_services"


@pytest.fixture
async def admin(servers: Servers) -> "AsyncIterator[asyncpg.Connection[Any]]":
    connection = await asyncpg.connect(servers.database_url)
    yield connection
    await connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
    await connection.execute(f"DROP ROLE IF EXISTS {ROLE}")
    await connection.close()


async def owners(url: str) -> set[str]:
    """The owners of the tables, sequences and functions of a database."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    return {row[0] for row in rows}


@pytest.mark.parametrize("service", [service.name for service in SERVICES if service.database])
async def test_a_database_of_an_earlier_version_is_handed_over_to_the_services(
    service: str,
    servers: Servers,
    tmp_path: Path,
    admin: "asyncpg.Connection[Any]",
) -> None:
    await admin.execute(f"CREATE DATABASE {NAME}")
    await migrations.upgrade(sibling_url(servers.database_url, NAME), service)

    file = tmp_path / "database.password"
    first = await prepare_databases(servers.database_url, [NAME], role=ROLE, password_file=file)
    url = await prepare_databases(servers.database_url, [NAME], role=ROLE, password_file=file)  # as every start

    assert first == url
    of_services = sibling_url(url, NAME)
    assert urlsplit(of_services).username == ROLE
    assert await owners(of_services) == {ROLE}
    connection = await asyncpg.connect(of_services)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    await migrations.upgrade(of_services, service)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_user_that_is_no_superuser_owns_the_databases_itself_or_gets_a_clear_error(
    servers: Servers,
    tmp_path: Path,
    admin: "asyncpg.Connection[Any]",
) -> None:
    await admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    parts = urlsplit(servers.database_url)
    url = parts._replace(netloc=f"{ROLE}:secret@{parts.hostname}:{parts.port}").geturl()
    file = tmp_path / "database.password"
    with pytest.raises(UserError, match="permission denied to create database"):
        await prepare_databases(url, [NAME], role="unused", password_file=file)
    await admin.execute(f"ALTER ROLE {ROLE} CREATEDB")
    assert await prepare_databases(url, [NAME], role="unused", password_file=file) == url
    await migrations.upgrade(sibling_url(url, NAME), "intake")
    await admin.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


async def test_the_script_of_the_containers_creates_the_databases_for_a_role_without_rights(
    servers: Servers,
    admin: "asyncpg.Connection[Any]",
) -> None:
    script = (project_root() / "deploy/docker/databases.sql").read_text().replace("piepowder_", f"{NAME}_")
    command = [str(program_folder() / "psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", servers.database_url]
    variables = os.environ | {"SERVICES_PASSWORD": "chosen"}
    await asyncio.to_thread(subprocess.run, command, input=script, text=True, check=True, env=variables, timeout=60)
    names = [row[0] for row in await admin.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", f"{NAME}%")]
    try:
        parts = urlsplit(sibling_url(servers.database_url, f"{NAME}_intake"))
        url = parts._replace(netloc=f"{ROLE}:chosen@{parts.hostname}:{parts.port}").geturl()
        await migrations.upgrade(url, "intake")
        rights = await admin.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = $1", ROLE
        )
        assert set(rights or [True]) == {False}
        assert len(names) == 5
    finally:
        for name in names:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
