"""Upgrades a service's schema to its newest version at start.

Each service has its versions in `services/<name>/migrations`; the Alembic environment is shared. An advisory lock
makes sure that one replica upgrades at a time.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.postgres.database import DURABLE, sqlalchemy_url
from shared.postgres.errors import transient
from shared.runtime.errors import Transient
from shared.runtime.user_errors import sentence

_ROOT: Final = Path(__file__).parents[2]
_LOCK: Final = 7_209_110_452_131  # any number, the same for all services


def config(service: str) -> Config:
    """Alembic's configuration for a service."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    settings.set_main_option("version_locations", str(_ROOT / "services" / service / "migrations"))
    settings.set_main_option("path_separator", "os")
    return settings


async def upgrade(url: str, service: str) -> None:
    """Upgrade the database at `url` to the newest version of `service`'s schema; raises Transient."""
    engine = create_async_engine(sqlalchemy_url(url), connect_args={"server_settings": DURABLE})
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(_upgrade, service)
    except Exception as error:
        if (unavailable := transient(error)) is None:
            raise
        raise Transient(sentence(f"The {service} database cannot be upgraded: {unavailable}")) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service: str) -> None:
    settings = config(service)
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")
