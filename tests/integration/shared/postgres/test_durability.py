"""A commit that a service has seen is on disk, whatever the defaults of the server, the database and the role
(promise 1)."""

from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from shared.postgres import migrations
from shared.postgres.database import Database

SERVICES = sorted(path.parent.name for path in Path(__file__).parents[4].glob("services/*/migrations"))

# Notes the setting after each statement that changes the schema.
OBSERVER = """
CREATE TABLE observed (setting text);
CREATE FUNCTION observe() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.observed VALUES (current_setting('synchronous_commit')); END $$;
CREATE EVENT TRIGGER observer ON ddl_command_end EXECUTE FUNCTION observe()"""


@pytest.fixture
async def weak_url(database_url: str) -> str:
    """A database whose new sessions report a commit before it is on disk, unless they ask for more."""
    admin = await asyncpg.connect(database_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET synchronous_commit = off")
    await admin.close()
    check = await asyncpg.connect(database_url)
    assert await check.fetchval("SHOW synchronous_commit") == "off"
    await check.close()
    return database_url


@pytest.mark.parametrize("settings", [{}, {"synchronous_commit": "off"}, {"enable_seqscan": "off"}])
async def test_every_connection_of_a_service_commits_to_disk_even_if_the_database_or_the_service_asks_for_less(
    weak_url: str, settings: dict[str, str]
) -> None:
    database = await Database.connect(weak_url, connections=2, settings=settings)
    try:
        async with database.transaction() as one, database.transaction() as two:  # all connections of the pool
            for connection in (one, two):
                assert await connection.fetchval("SHOW synchronous_commit") == "on"
        async with database.held() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
        async with database.query() as first, database.query() as second:
            for session in (first, second):
                assert await session.scalar(text("SHOW synchronous_commit")) == "on"
    finally:
        await database.close()


async def test_a_session_that_changed_the_setting_is_not_used_again(weak_url: str) -> None:
    database = await Database.connect(weak_url, connections=1)
    try:
        async with database.session() as connection:
            await connection.execute("SET synchronous_commit = off")
        async with database.transaction() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await database.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_services_schema_is_committed_to_disk_and_has_no_table_that_a_crash_empties(
    weak_url: str, service: str
) -> None:
    admin = await asyncpg.connect(weak_url)
    await admin.execute(OBSERVER)
    await migrations.upgrade(weak_url, service)
    assert [row[0] for row in await admin.fetch("SELECT DISTINCT setting FROM observed")] == ["on"]
    unlogged = await admin.fetch("SELECT relname FROM pg_class WHERE relpersistence <> 'p'")
    assert unlogged == []
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'alembic_version'") == 1
    await admin.close()


async def test_the_server_of_the_tests_keeps_what_it_has_committed(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert await connection.fetchval(f"SHOW {setting}") == "on"
    await connection.close()
