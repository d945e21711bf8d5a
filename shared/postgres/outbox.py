"""The outbox and its relay: a transaction writes its events to the outbox, and the relay publishes them afterwards.

Transactions insert the rows of a key while they hold the key's lock, so the ids of the rows are in commit order. Each
shard has one relay (an advisory lock on its connection), which publishes in the order of ids. So the events of a key
are in Kafka in the order of its changes. After Kafka has acknowledged a row, the relay deletes it by its id; after a
crash between these steps, the event is published again under the same event id. A relay that remembered only the last
id, or deleted a range of ids, would lose rows, because a transaction gets its ids before it commits.

A query must not scan the rows that are deleted but not vacuumed yet (one long transaction elsewhere keeps millions of
them). So each shard has a floor, and queries read only ids above it. An id becomes the floor when every transaction
that could own an id up to it has ended, and their rows are published. `write` makes sure that PostgreSQL assigns a
transaction's number before its first id.

A service that can be restored from a backup of its database gives its relay a `RelayLog`. The relay then stores, in the
transaction that deletes published rows, the offset after them in Kafka. So the database knows which part of the topic
it contains, and after a restore the service reads the rest.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import asyncpg
import msgspec
import sqlalchemy as sa

from shared.contracts.envelope import Encoded, Headers
from shared.kafka.producer import MAX_RECORD_BYTES, Appended, LocatingProducer, Producer, Record
from shared.postgres.database import Connection, Database
from shared.postgres.rows import FEW
from shared.runtime import metrics
from shared.runtime.clock import Clock, SystemClock, from_text
from shared.runtime.errors import Poison, Transient
from shared.runtime.retry import Backoff, wait

log = logging.getLogger(__name__)

Row: TypeAlias = asyncpg.Record

SHARDS: Final = 4
LOCK_CLASS: Final = 720_911
_POLL_SECONDS: Final = 0.1
_MEASURE_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 1.0
_PARKED_SECONDS: Final = 60.0
_PRUNE_EACH: Final = 100  # batches
_IDLE_SECONDS: Final = 60  # then the server ends a hanging relay's session and locks; longer than any send

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """The outbox table of a service's schema; its migration adds `STORAGE`, which SQLAlchemy cannot express."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
    )


# The table is emptied continuously, so it is vacuumed by the number of dead rows, not by their share, and without
# pauses. Otherwise it grows and pushes the indexes of other tables out of memory.
STORAGE: Final = (
    "ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,"
    " autovacuum_vacuum_cost_delay = 0)"
)

_COLUMNS: Final = ("shard", "topic", "key", "value", "headers")

# A row of the join exists only after the transaction has its number. Without it, an INSERT takes the ids first.
_WRITE_FEW: Final = """
WITH started AS MATERIALIZED (SELECT pg_current_xact_id() AS number)
INSERT INTO outbox (shard, topic, key, value, headers)
SELECT shard, topic, key, value, headers
FROM started CROSS JOIN unnest($1::smallint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])
    WITH ORDINALITY AS event (shard, topic, key, value, headers, n)
WHERE started.number IS NOT NULL ORDER BY n"""

_FETCH: Final = """
SELECT o.shard, o.id, o.topic, o.key, o.value, o.headers
FROM unnest($1::smallint[], $2::bigint[]) AS s (shard, floor)
CROSS JOIN LATERAL (
    SELECT * FROM outbox WHERE shard = s.shard AND id > s.floor AND key <> ALL ($3::bytea[]) ORDER BY id LIMIT $4
) AS o"""

# Finds each row by its key. A join could compare all rows with all, if the table was empty when it was analysed.
_DELETE: Final = """
DELETE FROM outbox WHERE ctid = ANY (ARRAY(
    SELECT found.ctid FROM unnest($1::smallint[], $2::bigint[]) AS p (shard, id)
    CROSS JOIN LATERAL (SELECT ctid FROM outbox WHERE shard = p.shard AND id = p.id LIMIT 1) AS found))"""

# The position of a relay in a partition is the largest one of its rows, as for a consumer group. Each row is one batch
# of acknowledged records, so two relays that publish to the same partition never insert the same row.
_DELETE_AND_MARK: Final = f"""
WITH deleted AS ({_DELETE})
INSERT INTO positions (consumer_group, topic, partition, expected, position)
SELECT $3, * FROM unnest($4::text[], $5::int[], $6::bigint[], $7::bigint[]) ON CONFLICT DO NOTHING"""  # noqa: S608 - constants

_PRUNE: Final = """
DELETE FROM positions AS p USING unnest($2::text[], $3::int[], $4::bigint[]) AS new (topic, partition, first)
WHERE p.consumer_group = $1 AND p.topic = new.topic AND p.partition = new.partition AND p.position < new.first"""

_LAST: Final = (
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END, 'outbox'::regclass::oid::bigint FROM outbox_id_seq"
)

_COUNT: Final = """
SELECT coalesce(sum(n), 0)::bigint FROM unnest($1::smallint[], $2::bigint[]) AS s (shard, floor)
CROSS JOIN LATERAL (SELECT count(*) AS n FROM outbox WHERE shard = s.shard AND id > s.floor) AS o"""


_OLDEST: Final = """
SELECT o.headers FROM unnest($1::smallint[], $2::bigint[]) AS s (shard, floor)
CROSS JOIN LATERAL (SELECT headers FROM outbox WHERE shard = s.shard AND id > s.floor ORDER BY id LIMIT 1) AS o"""


async def write(connection: Connection, events: Sequence[tuple[str, Encoded]]) -> None:
    """Insert (topic, event) pairs in order, in the caller's transaction.

    Raises Poison for an event that is larger than Kafka accepts; then the transaction must not commit.
    """
    if not events:
        return
    rows = [
        (zlib.crc32(event.key) % SHARDS, topic, event.key, event.value, _encode_headers(event.headers))
        for topic, event in events
    ]
    for _, topic, key, value, headers in rows:
        size = len(key) + len(value) + len(headers)
        if size > MAX_RECORD_BYTES:
            raise Poison(f"an event for {topic} has {size} bytes, more than the {MAX_RECORD_BYTES} that Kafka accepts")
    if len(rows) <= FEW:
        await connection.execute(_WRITE_FEW, *map(list, zip(*rows, strict=True)))
        return
    await connection.execute("SELECT pg_current_xact_id()")
    await connection.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)


class RelayLog(NamedTuple):
    """The place where a relay stores its positions: in the table `positions`, as the positions of `group`.

    `producer` sends the records. `may_publish` tells whether the database is complete; it is asked before each batch,
    on the connection that will delete the batch.
    """

    group: str
    producer: LocatingProducer
    may_publish: Callable[[Connection], Awaitable[bool]]


class Relay:
    """Publishes a service's outbox. Replicas share the shards: the holder of a shard's lock publishes it.

    An event that Kafka rejects as too large (after its limit was lowered) stays in the table, with the later rows of
    its key, and is tried again every minute. All other rows continue.
    """

    def __init__(
        self,
        database: Database,
        producer: Producer,
        *,
        service: str,
        batch: int = 2000,
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        log: RelayLog | None = None,
    ) -> None:
        self._database = database
        self._producer = producer
        self._log = log
        self._appended: list[Appended] = []
        self._batches = 0
        self._publishing = asyncio.Lock()
        self._limit = max(1, batch // SHARDS)
        self._clock = clock
        self._wake = asyncio.Event()
        self._published = metrics.OUTBOX_PUBLISHED.labels(service)
        self._depth = metrics.OUTBOX_DEPTH.labels(service)
        self._oldest: datetime | None = None
        metrics.OUTBOX_OLDEST.labels(service).set_function(self._oldest_seconds)
        self._parked: set[bytes] = set()
        self._parked_until = 0.0

    def wake(self) -> None:
        """Publish now, without waiting for the next poll. Call it after the commit of a transaction with events."""
        self._wake.set()

    async def settled(self) -> None:
        """Wait until no records are on their way to Kafka. A later batch asks the log's `may_publish` first."""
        async with self._publishing:
            pass

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; unpublished events stay in the table."""
        attempt, backoff = 0, Backoff()
        while not stop.is_set():
            started = self._clock.monotonic()
            try:
                async with self._database.session() as connection:
                    if await connection.fetchval("SHOW transaction_read_only") == "on":
                        # published rows could not be deleted, and would be published again and again
                        raise asyncpg.ReadOnlySQLTransactionError("the database is read-only")
                    await connection.execute(f"SET idle_session_timeout = '{_IDLE_SECONDS}s'")
                    await self._serve(connection, stop)
            except Transient as error:
                attempt = 1 if self._clock.monotonic() - started > backoff.longest else attempt + 1
                log.warning(
                    "the relay lost its connection; connecting again", extra={"error": str(error), "attempt": attempt}
                )
                await wait(stop, backoff.delay(attempt))
        self._depth.set(0)
        self._oldest = None

    async def _serve(self, connection: Connection, stop: asyncio.Event) -> None:
        held = _HeldShards(connection, self._clock)
        attempt, backoff, measured = 0, Backoff(), -_MEASURE_SECONDS
        while not stop.is_set():
            self._wake.clear()
            await held.take_over()
            await held.settle()
            try:
                more = await self.publish(connection, held) >= self._limit
                attempt = 0
            except Transient as error:
                attempt, more = attempt + 1, False
                log.warning("the relay cannot publish; trying again", extra={"error": str(error), "attempt": attempt})
            if self._clock.monotonic() - measured >= _MEASURE_SECONDS:
                self._depth.set(await connection.fetchval(_COUNT, *held.shards))
                self._oldest = _oldest_time(await connection.fetch(_OLDEST, *held.shards))
                measured = self._clock.monotonic()
            if attempt:
                await wait(stop, backoff.delay(attempt))
            elif not more:
                await wait(self._wake, _POLL_SECONDS)

    async def publish(self, connection: Connection, held: "_HeldShards") -> int:
        """Publish and delete up to a batch of the oldest rows of the held shards; returns their number."""
        async with self._publishing:
            return await self._publish(connection, held)

    async def _publish(self, connection: Connection, held: "_HeldShards") -> int:
        if self._parked and self._clock.monotonic() >= self._parked_until:
            self._parked.clear()
        rows: list[Row] = await connection.fetch(_FETCH, *held.shards, list(self._parked), self._limit)
        if rows and self._oldest is None:  # before the batch is sent: Kafka may not answer for a long time
            self._oldest = _oldest_time({row[0]: row for row in reversed(rows)}.values())  # the first of each shard
        if rows and self._log is not None and not await self._log.may_publish(connection):
            return 0
        self._appended = []
        published = await self._send(rows)
        if published:
            await self._delete(connection, [row[0] for row in published], [row[1] for row in published])
            self._published.inc(len(published))
        if not self._parked:
            held.published(rows, self._limit)
            if len(rows) < self._limit:
                self._oldest = None
        return len(published)

    async def _delete(self, connection: Connection, shards: list[int], row_ids: list[int]) -> None:
        if self._log is None or not self._appended:
            await connection.execute(_DELETE, shards, row_ids)
            return
        group, (topics, partitions, firsts, ends) = self._log.group, map(list, zip(*self._appended, strict=True))
        await connection.execute(_DELETE_AND_MARK, shards, row_ids, group, topics, partitions, firsts, ends)
        self._batches += 1
        if self._batches % _PRUNE_EACH == 0:
            await connection.execute(_PRUNE, group, topics, partitions, firsts)

    def _oldest_seconds(self) -> float:
        """The age of the oldest event that is not published. It grows by the clock, also while the relay is stuck."""
        return 0.0 if self._oldest is None else max(0.0, (self._clock.now() - self._oldest).total_seconds())

    async def _send(self, rows: list[Row]) -> list[Row]:
        if not rows:
            return rows
        try:
            records = [Record(row[2], row[3], row[4], _decode_headers(row[5])) for row in rows]
            if self._log is None:
                await self._producer.send(records)
            else:
                self._appended += await self._log.producer.append(records)
        except Poison as error:
            if len(rows) == 1:
                self._parked.add(rows[0][3])
                self._parked_until = self._clock.monotonic() + _PARKED_SECONDS
                details = {"topic": rows[0][2], "outbox_id": rows[0][1], "reason": error.reason}
                log.error("an event cannot be published; it waits, with the later events of its key", extra=details)
                return []
            half = len(rows) // 2
            first = await self._send(rows[:half])
            return first + await self._send([row for row in rows[half:] if row[3] not in self._parked])
        return rows


def _oldest_time(rows: Iterable[Row]) -> datetime | None:
    """The earliest `ce_time` of these rows, which have the headers of events."""
    times = [dict(_decode_headers(row["headers"])).get("ce_time") for row in rows]
    return min((from_text(time.decode()) for time in times if time is not None), default=None)


class _HeldShards:
    """The shards that a connection has locked, and the floor of each: no row has or will have an id up to it."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._floors: dict[int, int] = {}
        self._settled = 0
        self._last = 0
        self._table: int | None = None
        self._mark: tuple[int, int] | None = None
        self._next = clock.monotonic()

    @property
    def shards(self) -> tuple[list[int], list[int]]:
        """The shards and their floors."""
        return list(self._floors), list(self._floors.values())

    def _forget_floors(self) -> None:
        self._floors = dict.fromkeys(self._floors, 0)
        self._settled, self._mark = 0, None

    async def take_over(self) -> None:
        """Lock the shards that no other relay has locked."""
        wanted = [shard for shard in range(SHARDS) if shard not in self._floors]
        if wanted:
            rows = await self._connection.fetch(
                "SELECT shard FROM unnest($2::int[]) AS shard WHERE pg_try_advisory_lock($1, shard)",
                LOCK_CLASS,
                wanted,
            )
            self._floors |= {row[0]: 0 for row in rows}

    async def settle(self) -> None:
        """Once a second, find an id such that every transaction that could own an id up to it has ended.

        After a dump is loaded into the same database, which creates the table again, the floors are found again.
        """
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + _SETTLE_SECONDS
        [[last, table]] = await self._connection.fetch(_LAST)
        if last < self._last or self._table not in (None, table):
            self._forget_floors()
        self._last, self._table = last, table
        if self._mark is None:
            self._mark = last, await self._connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        elif self._mark[1] <= await self._connection.fetchval(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        ):
            self._settled, self._mark = self._mark[0], None

    def published(self, rows: Sequence[Row], limit: int) -> None:
        """Raise the floors: `rows` (of each shard the oldest, at most `limit`) are published and deleted."""
        for shard, floor in self._floors.items():
            found = [row[1] for row in rows if row[0] == shard]
            reached = self._settled if len(found) < limit else min(self._settled, found[-1])
            self._floors[shard] = max(floor, reached)
