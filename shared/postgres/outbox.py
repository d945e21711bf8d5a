"""The outbox and its relay: an event is written in the transaction that changes the state, and published after it.

Rows of a key are inserted by transactions that hold the key's lock, so their ids follow their commits; the relay of a
shard is alone (an advisory lock on its connection) and publishes in the order of ids, so a key's events are in Kafka
in the order of its changes. A row leaves the table in the transaction that saw it acknowledged: after a crash in
between, it is published again under the same event id. A relay that remembered `id > last` instead would lose rows,
because ids are handed out before they commit.
"""

import asyncio
import logging
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from shared import metrics
from shared.envelope import Encoded, Headers
from shared.errors import Transient
from shared.kafka.producer import Producer, Record
from shared.postgres.database import Connection, Database
from shared.retry import Backoff, wait

log = logging.getLogger(__name__)

SHARDS: Final = 4
_LOCK_CLASS: Final = 720_911
_POLL_SECONDS: Final = 0.25

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """The outbox of a service's schema."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Index("outbox_by_shard", "shard", "id"),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "20000"},
    )


async def write(connection: Connection, events: Sequence[tuple[str, Encoded]]) -> None:
    """Put (topic, event) pairs into the outbox, in their order, within the caller's transaction."""
    if not events:
        return
    await connection.execute(
        "INSERT INTO outbox (shard, topic, key, value, headers)"
        " SELECT * FROM unnest($1::smallint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])",
        [zlib.crc32(event.key) % SHARDS for _, event in events],
        [topic for topic, _ in events],
        [event.key for _, event in events],
        [event.value for _, event in events],
        [_encode_headers(event.headers) for _, event in events],
    )


class Relay:
    """Publishes a service's outbox. Replicas share the shards: whoever holds a shard's lock publishes it."""

    def __init__(self, database: Database, producer: Producer, *, service: str, batch: int = 2000) -> None:
        self._database = database
        self._producer = producer
        self._batch = batch
        self._wake = asyncio.Event()
        self._published = metrics.OUTBOX_PUBLISHED.labels(service)
        self._depth = metrics.OUTBOX_DEPTH.labels(service)

    def wake(self) -> None:
        """Say that a transaction with events has committed; without it the relay looks every quarter of a second."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; what is committed by then and not published waits in the table."""
        attempt, backoff = 0, Backoff()
        while not stop.is_set():
            try:
                async with self._database.held() as connection:
                    shards: list[int] = []
                    while not stop.is_set():
                        shards = await self._own(connection, shards)
                        published = await self.publish(connection, shards)
                        attempt = 0
                        if published < self._batch:
                            self._depth.set(await connection.fetchval("SELECT count(*) FROM outbox"))
                            await self._sleep(stop)
            except Transient as error:
                attempt += 1
                log.warning("the relay waits", extra={"error": str(error), "attempt": attempt})
                await wait(stop, backoff.delay(attempt))

    async def _own(self, connection: Connection, held: list[int]) -> list[int]:
        wanted = [shard for shard in range(SHARDS) if shard not in held]
        if not wanted:
            return held
        rows = await connection.fetch(
            "SELECT shard FROM unnest($2::int[]) AS shard WHERE pg_try_advisory_lock($1, shard)", _LOCK_CLASS, wanted
        )
        return sorted(held + [row[0] for row in rows])

    async def publish(self, connection: Connection, shards: Sequence[int]) -> int:
        """Publish and remove up to a batch of the oldest rows of `shards`; returns how many. All or nothing."""
        async with connection.transaction():
            rows = await connection.fetch(
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE shard = ANY($1::smallint[])"
                " ORDER BY id LIMIT $2) RETURNING id, topic, key, value, headers",
                shards,
                self._batch,
            )
            if rows:
                rows.sort(key=lambda row: int(row[0]))
                await self._producer.send([Record(row[1], row[2], row[3], _headers(row[4])) for row in rows])
        self._published.inc(len(rows))
        return len(rows)

    async def _sleep(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        if stop.is_set():
            return


def _headers(packed: bytes) -> Headers:
    return _decode_headers(packed)
