"""Tables of clients and their keys.

A writer holds the lock of the client's row, so that the order of the outbox is the order of the changes. The last use
of a key comes from the projection of key usage; changes of a client do not write it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from services.intake.clients.domain import ClientRecord
from shared.auth.clients import ANY
from shared.contracts.envelope import Encoded
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.postgres import outbox, positions
from shared.postgres.database import Connection, Database

AnyRow: TypeAlias = "asyncpg.Record | sa.RowMapping"

METADATA: Final = sa.MetaData()

CLIENTS: Final = sa.Table(
    "clients",
    METADATA,
    sa.Column("name", sa.Text(collation="C"), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("regions", ARRAY(sa.Text), nullable=False),
    sa.Column("platforms", ARRAY(sa.Text), nullable=False, server_default="{*}"),
    sa.Column("requests_per_second", sa.Double),
    sa.Column("burst", sa.Integer),
    sa.Column("items_per_second", sa.Double),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
KEYS: Final = sa.Table(
    "client_keys",
    METADATA,
    sa.Column("client", sa.Text(collation="C"), sa.ForeignKey("clients.name"), primary_key=True),
    sa.Column("key_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("made_with", sa.UUID(as_uuid=False)),
    sa.Column("made_body", sa.Text),
)

_INSERT: Final = """
INSERT INTO clients (name, description, scopes, regions, platforms, requests_per_second, burst, items_per_second, state,
                     revision, created_at, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING RETURNING name"""

_UPDATE: Final = """
UPDATE clients SET description = $2, scopes = $3, regions = $4, platforms = $5, requests_per_second = $6, burst = $7,
       items_per_second = $8, state = $9, revision = $10, created_at = $11, changed_at = $12 WHERE name = $1"""

_SAVE_KEYS: Final = """
INSERT INTO client_keys (client, key_id, sha256, created_at, expires_at, revoked_at, made_with, made_body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (client, key_id) DO UPDATE SET expires_at = EXCLUDED.expires_at, revoked_at = EXCLUDED.revoked_at"""

_USED: Final = """
UPDATE client_keys AS k SET last_used_at = u.at
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS u (client, key_id, at)
WHERE k.client = u.client AND k.key_id = u.key_id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)"""


class ClientTransaction:
    """The statements of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self, name: str) -> ClientRecord | None:
        """A client, locked until the end of the transaction; None for an unknown name."""
        row = await self._connection.fetchrow("SELECT * FROM clients WHERE name = $1 FOR UPDATE", name)
        if row is None:
            return None
        keys = await self._connection.fetch("SELECT * FROM client_keys WHERE client = $1 ORDER BY created_at", name)
        return _client(row, keys)

    async def add(self, client: ClientRecord) -> bool:
        """Store a new client; False when the name exists."""
        return await self._connection.fetchrow(_INSERT, *_values(client)) is not None

    async def save(self, client: ClientRecord) -> None:
        """Store a changed client and its keys."""
        await self._connection.execute(_UPDATE, *_values(client))
        await self._connection.executemany(
            _SAVE_KEYS,
            [
                (
                    client.name,
                    key.key_id,
                    key.sha256,
                    key.created_at,
                    key.expires_at,
                    key.revoked_at,
                    key.made_with,
                    key.made_body,
                )
                for key in client.keys
            ],
        )

    async def publish(self, topic: str, event: Encoded) -> None:
        """Publish an event after the commit."""
        await outbox.write(self._connection, [(topic, event)])

    async def discard(self, topic: str, subject: str) -> None:
        """Do not publish the waiting events of a subject."""
        await self._connection.execute("DELETE FROM outbox WHERE topic = $1 AND key = $2", topic, subject.encode())


class Store:
    """Clients and their keys; all methods raise Transient when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def work(self) -> AsyncIterator[ClientTransaction]:
        """A transaction on clients."""
        async with self._database.transaction() as connection:
            yield ClientTransaction(connection)

    async def client(self, name: str) -> ClientRecord | None:
        """A client with its keys."""
        found = await self._read(sa.select(CLIENTS).where(CLIENTS.c.name == name))
        return found[0] if found else None

    async def page(self, after: str, limit: int, *, regions: frozenset[str], state: str | None) -> list[ClientRecord]:
        """At most `limit` clients after a name whose regions are all in `regions`."""
        query = sa.select(CLIENTS).where(CLIENTS.c.name > after).order_by(CLIENTS.c.name).limit(limit)
        if ANY not in regions:
            query = query.where(CLIENTS.c.regions.contained_by(sorted(regions)))
        if state is not None:
            query = query.where(CLIENTS.c.state == state)
        return await self._read(query)

    async def revisions(self) -> dict[str, int]:
        """The revision of each client, by name."""
        async with self._database.query() as connection:
            rows = await connection.execute(sa.select(CLIENTS.c.name, CLIENTS.c.revision))
            return {str(name): revision for name, revision in rows}

    async def note_use(self, uses: Sequence[tuple[str, str, datetime]], moves: Moves = NO_MOVES) -> None:
        """Store the last use of keys (client, key id, time), which never decreases, and move the positions.

        Raises PositionChangedError.
        """
        async with self._database.transaction() as connection:
            await positions.advance(connection, moves)
            if uses:
                await connection.execute(_USED, *(list(column) for column in zip(*sorted(uses), strict=True)))

    async def _read(self, query: sa.Select[Any]) -> list[ClientRecord]:
        async with self._database.query() as connection:
            rows = (await connection.execute(query)).mappings().all()
            names = [row["name"] for row in rows]
            keyed = sa.select(KEYS).where(KEYS.c.client.in_(names)).order_by(KEYS.c.created_at)
            keys = (await connection.execute(keyed)).mappings().all() if names else []
        return [_client(row, [key for key in keys if key["client"] == row["name"]]) for row in rows]


def _client(row: AnyRow, keys: Sequence[AnyRow]) -> ClientRecord:
    fields = _fields(row)
    limit = None if row["requests_per_second"] is None else fields
    keyed = [_fields(key) | {"made_with": key["made_with"] and str(key["made_with"])} for key in keys]
    return msgspec.convert(fields | {"limit": limit, "keys": keyed}, ClientRecord)


def _fields(row: AnyRow) -> dict[str, Any]:
    """The columns by name; msgspec rejects subclasses of str, such as SQLAlchemy's column names."""
    return {str(name): value for name, value in row.items()}


def _values(client: ClientRecord) -> tuple[object, ...]:
    limit = client.limit
    return (
        client.name,
        client.description,
        sorted(client.scopes),
        sorted(client.regions),
        sorted(client.platforms),
        None if limit is None else limit.requests_per_second,
        None if limit is None else limit.burst,
        None if limit is None else limit.items_per_second,
        client.state,
        client.revision,
        client.created_at,
        client.changed_at,
    )
