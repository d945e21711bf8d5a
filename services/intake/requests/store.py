"""Tables of business requests and their history.

A request is one row: columns for the filters of lists, the whole request as JSON, and its change in a separate column,
so that lists do not read it. The history is append-only, which a trigger enforces. A writer holds the lock of the
request's row, so that the order of the outbox is the order of the changes.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from services.intake.requests.domain.lifecycle import Request, RequestStep
from services.intake.requests.domain.queries import Drafted, RequestCursor, RequestFilter
from shared.contracts.envelope import Encoded
from shared.postgres import outbox
from shared.postgres.database import Connection, Database
from shared.runtime.clock import from_text, to_text

METADATA: Final = sa.MetaData()

REQUESTS: Final = sa.Table(
    "requests",
    METADATA,
    sa.Column("request_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("drafted_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("sponsor", sa.Text, nullable=False),
    sa.Column("regions", ARRAY(sa.Text), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("drafted", sa.LargeBinary, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("change", sa.LargeBinary),
    sa.Index("requests_newest", "drafted_at", "request_id"),
)
STEPS: Final = sa.Table(
    "request_steps",
    METADATA,
    sa.Column("request_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("comment_id", sa.UUID(as_uuid=False), unique=True),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Request).decode

_ADD: Final = """
INSERT INTO requests (request_id, drafted_at, state, kind, sponsor, regions, body, drafted, request, change)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) ON CONFLICT DO NOTHING RETURNING request_id"""

_SAVE: Final = (
    "UPDATE requests SET state = $2, kind = $3, sponsor = $4, regions = $5, request = $6 WHERE request_id = $1"
)

_ADD_STEP: Final = """
INSERT INTO request_steps (request_id, version, kind, at, by, text, comment_id) VALUES ($1, $2, $3, $4, $5, $6, $7)"""


class RequestTransaction:
    """A transaction: reads lock the row, and writes become visible at its end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, request: Request, change: bytes | None, body: str) -> bool:
        """Store a new request; False when it exists."""
        content = request.content
        row = await self._connection.fetchrow(
            _ADD,
            request.request_id,
            from_text(request.drafted.at),
            request.state,
            content.kind,
            content.sponsor,
            content.regions,
            body,
            _encode(request),
            change,
        )
        return row is not None

    async def request(self, request_id: str) -> Request | None:
        """The request, with its row locked."""
        row = await self._connection.fetchrow(
            "SELECT request FROM requests WHERE request_id = $1 FOR UPDATE", request_id
        )
        return None if row is None else _decode(row[0])

    async def save(self, request: Request) -> None:
        """Update a locked request."""
        content = request.content
        await self._connection.execute(
            _SAVE, request.request_id, request.state, content.kind, content.sponsor, content.regions, _encode(request)
        )

    async def attach(self, request_id: str, change: bytes | None) -> None:
        """Set the change of a locked request."""
        await self._connection.execute("UPDATE requests SET change = $2 WHERE request_id = $1", request_id, change)

    async def add_step(self, request_id: str, step: RequestStep) -> None:
        """Append a step to the history."""
        await self._connection.execute(
            _ADD_STEP,
            request_id,
            step.version,
            step.kind,
            from_text(step.at),
            step.by,
            step.text,
            step.comment_id or None,
        )

    async def comment(self, comment_id: str) -> RequestStep | None:
        """A comment by its id."""
        row = await self._connection.fetchrow(
            "SELECT version, kind, at, by, text, comment_id::text FROM request_steps WHERE comment_id = $1", comment_id
        )
        return None if row is None else _step(row)

    async def publish(self, events: Sequence[tuple[str, Encoded]]) -> None:
        """Publish these (topic, event) pairs in order after the commit."""
        await outbox.write(self._connection, events)


class Store:
    """Business requests; all methods raise Transient when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def work(self) -> AsyncIterator[RequestTransaction]:
        """A transaction; raises Transient when its commit is not certain."""
        async with self._database.transaction() as connection:
            yield RequestTransaction(connection)

    async def request(self, request_id: str) -> tuple[Request, bytes | None, list[RequestStep]] | None:
        """A request, its change and its history in a consistent state; None for an unknown id."""
        row_of = sa.select(REQUESTS.c.request, REQUESTS.c.change).where(REQUESTS.c.request_id == request_id)
        column = STEPS.c
        async with self._database.query() as connection:
            row = (await connection.execute(row_of)).first()
            if row is None:
                return None
            request = _decode(row.request)
            steps = (
                sa.select(column.version, column.kind, column.at, column.by, column.text, column.comment_id)
                .where(column.request_id == request_id, column.version <= request.version)
                .order_by(column.version)
            )
            return request, row.change, [_step(found) for found in await connection.execute(steps)]

    async def drafted(self, request_id: str) -> Drafted | None:
        """A request as it was created; None for an unknown id."""
        query = sa.select(REQUESTS.c.drafted, REQUESTS.c.body).where(REQUESTS.c.request_id == request_id)
        async with self._database.query() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Drafted(_decode(row.drafted), row.body)

    async def page(self, wanted: RequestFilter, after: RequestCursor | None, limit: int) -> list[Request]:
        """At most `limit` requests after the cursor `after`, newest first."""
        column = REQUESTS.c
        position = (column.drafted_at, column.request_id)
        query = sa.select(column.request).order_by(*(part.desc() for part in position)).limit(limit)
        for name in ("state", "kind", "sponsor"):
            if (value := getattr(wanted, name)) is not None:
                query = query.where(column[name] == value)
        if wanted.region is not None:
            query = query.where(column.regions.contains([wanted.region]))
        if wanted.regions is not None:
            query = query.where(column.regions.overlap(wanted.regions))
        if after is not None:
            types = (part.type for part in position)
            query = query.where(sa.tuple_(*position) < sa.tuple_(*map(sa.literal, after, types)))
        async with self._database.query() as connection:
            return [_decode(row.request) for row in await connection.execute(query)]


def cursor_of(request: Request) -> RequestCursor:
    """The position of a request in a list."""
    return from_text(request.drafted.at), request.request_id


def _step(row: Sequence[Any]) -> RequestStep:
    version, kind, at, by, text, comment_id = row
    return RequestStep(version=version, kind=kind, at=to_text(at), by=by, text=text, comment_id=comment_id or "")
