"""Tables of the item status: facts of each item by region, lists, totals, and the progress of the projection.

A batch is one transaction: read the facts, merge, write them back. Writers of a region take an advisory lock, because
two replicas can process the submission and the decision of an item at the same time, and the totals have one row per
status. The merge is idempotent, so that no inbox is needed: a repetition changes nothing. A lookup reads one primary
key, and the totals are stored, not counted, so that the cost of neither depends on the number of items.

A list is a range of an index: by subject, by a client's reference, or by time. The indexed columns of an item are in
their own table (`item_found`) and are written once; the facts change several times without touching an index. The
status changes as well, so the few items that are not approved have a table by status (`item_by_status`). All other
conditions of a list are filtered row by row: first a few rows, which suffices when most of them match, then at most
`SCAN` rows. A page can therefore contain fewer items than its limit although more follow.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from services.intake.items.domain import status
from services.intake.items.domain.status import Status, StatusFacts
from services.intake.items.waiting import WITHDRAWAL, WaitingChanges
from shared.postgres.database import Connection, Database
from shared.runtime.clock import from_text_or_none

SCAN: Final = 2_000
_FEW: Final = 2  # rows of the first scan for each requested item
_COMPLETE: Final = 2  # rank from the end of the last complete item; rows of the last item may be missing
_LOCK_CLASS: Final = 720_912
_MAX_SUBJECT: Final = 300  # characters; intake accepts no longer subject, and index rows have a size limit
_MAX_NAME: Final = 200  # characters of a client or a reference

metadata = sa.MetaData()
item_status = sa.Table(
    "item_status",
    metadata,
    sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("facts", sa.LargeBinary, nullable=False),  # JSON; not jsonb, which rejects texts with U+0000
)
item_found = sa.Table(
    "item_found",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("received_at", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
)
item_by_status = sa.Table(
    "item_by_status",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("received_at", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
)
item_totals = sa.Table(
    "item_totals",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("items", sa.BigInteger, nullable=False),
)
projection_progress = sa.Table(
    "projection_progress",
    metadata,
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("handled_until", sa.TIMESTAMP(timezone=True), nullable=False),
)

# A plan that was made while a table was small must not scan the whole table later.
_LOCK_REGION: Final = "SELECT pg_advisory_xact_lock($1, hashtext($2)), set_config('enable_seqscan', 'off', true)"

_MERGE: Final = """
INSERT INTO item_status (item_id, region, status, facts)
SELECT item_id, $1, status, facts FROM unnest($2::uuid[], $3::text[], $4::bytea[]) AS new (item_id, status, facts)
ON CONFLICT (item_id, region) DO UPDATE SET status = EXCLUDED.status, facts = EXCLUDED.facts"""

_ADD_LISTING: Final = """
INSERT INTO item_found (region, item_id, received_at, subject, client, reference)
SELECT $1, item_id, received_at, subject, client, reference
FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
    AS new (item_id, received_at, subject, client, reference)
ON CONFLICT DO NOTHING"""

_REMOVE_LISTING: Final = """
DELETE FROM item_found AS f USING unnest($2::uuid[], $3::timestamptz[]) AS gone (item_id, received_at)
WHERE f.region = $1 AND f.received_at = gone.received_at AND f.item_id = gone.item_id"""

_LEAVE_STATUS: Final = """
DELETE FROM item_by_status AS s
USING unnest($2::text[], $3::timestamptz[], $4::uuid[]) AS gone (status, received_at, item_id)
WHERE s.region = $1 AND s.status = gone.status AND s.received_at = gone.received_at AND s.item_id = gone.item_id"""

_ENTER_STATUS: Final = """
INSERT INTO item_by_status (region, status, received_at, item_id, subject)
SELECT $1, status, received_at, item_id, subject
FROM unnest($2::text[], $3::timestamptz[], $4::uuid[], $5::text[]) AS come (status, received_at, item_id, subject)
ON CONFLICT DO NOTHING"""

_time_of = lru_cache(maxsize=10_000)(from_text_or_none)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StatusFacts).decode


class _Submission(msgspec.Struct):
    content_hash: str


class _Submitted(msgspec.Struct):
    submission: _Submission | None = None


_HASHES: Final = "SELECT item_id::text, region, facts FROM item_status WHERE item_id = ANY ($1::uuid[])"
_decode_hash = msgspec.json.Decoder(_Submitted).decode


class ProjectionProgress(NamedTuple):
    """The projection contains all records of a partition that were written before `handled_until`."""

    topic: str
    partition: int
    handled_until: datetime


class ItemCursor(NamedTuple):
    """The position of an item in a list, newest first."""

    received_at: datetime
    item_id: str


class ItemFilter(NamedTuple):
    """The conditions of a list: items in `regions` and of the `platforms` (None: all) that meet every other condition.

    `client` is required with `reference`, which belongs to a client. `before` is the end of the previous page.
    """

    regions: Sequence[str]
    subject: str | None = None
    client: str | None = None
    reference: str | None = None
    status: Status | None = None
    platform: str | None = None
    kind: str | None = None
    received_after: datetime | None = None
    received_before: datetime | None = None
    before: ItemCursor | None = None
    platforms: Sequence[str] | None = None


class ItemPage(NamedTuple):
    """Items, newest first; `last` is the cursor of the next page, None at the end."""

    item_ids: list[str]
    last: ItemCursor | None


class _Changes:
    """The row changes of a batch in a region."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, bytes]] = []
        self.status_changes: Counter[str] = Counter()
        self._added_listings: list[tuple[str, datetime, str, str, str]] = []
        self._removed_listings: list[tuple[str, datetime]] = []
        self._left_status: list[tuple[str, datetime, str]] = []
        self._entered_status: list[tuple[str, datetime, str, str]] = []
        self._waiting = WaitingChanges()

    def note(self, item_id: str, old: StatusFacts | None, before: str | None, new: StatusFacts, now: str) -> None:
        """Add an item whose facts change from `old` to `new`, and its status from `before` to `now`."""
        if new.withdrawal is not None:
            since = None if old is None else _time_of(status.withdrawal_waits_since(old))
            self._waiting.note(WITHDRAWAL, item_id, since, _time_of(status.withdrawal_waits_since(new)), new.subject)
        if now != before:
            self.status_changes[now] += 1
            if before is not None:
                self.status_changes[before] -= 1
        if old is not None and old.submission is new.submission:
            if now != before and new.submission is not None:
                old_time = new_time = _time_of(new.submission.received_at)
            else:
                return
        else:
            old_time = self._remove_listing(item_id, old)
            new_time = self._add_listing(item_id, new)
        if old_time is not None and before is not None and before != Status.APPROVED:
            self._left_status.append((before, old_time, item_id))
        if new_time is not None and now != Status.APPROVED:
            self._entered_status.append((now, new_time, item_id, _text(new.subject, _MAX_SUBJECT)))

    def _remove_listing(self, item_id: str, old: StatusFacts | None) -> datetime | None:
        old_time = None if old is None or old.submission is None else _time_of(old.submission.received_at)
        if old_time is not None:
            self._removed_listings.append((item_id, old_time))
        return old_time

    def _add_listing(self, item_id: str, new: StatusFacts) -> datetime | None:
        submission = new.submission
        new_time = None if submission is None else _time_of(submission.received_at)
        if submission is not None and new_time is not None:
            subject, client = _text(new.subject, _MAX_SUBJECT), _text(submission.client, _MAX_NAME)
            self._added_listings.append((item_id, new_time, subject, client, _text(submission.reference, _MAX_NAME)))
        return new_time

    async def write(self, connection: Connection, region: str) -> None:
        """Execute the changes."""
        await _with_rows(connection, _MERGE, region, self.rows)
        await _with_rows(connection, _REMOVE_LISTING, region, self._removed_listings)
        await _with_rows(connection, _ADD_LISTING, region, self._added_listings)
        await _with_rows(connection, _LEAVE_STATUS, region, self._left_status)
        await _with_rows(connection, _ENTER_STATUS, region, self._entered_status)
        await self._waiting.write(connection, region)


async def _with_rows(connection: Connection, statement: str, region: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        await connection.execute(statement, region, *(list(column) for column in zip(*rows, strict=True)))


class ItemStatusStore:
    """The facts about items; all methods raise Transient when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def merge(self, region: str, new_facts: Mapping[str, StatusFacts]) -> None:
        """Merge new facts by item id into the stored facts, and update the lists and totals."""
        async with self._database.transaction() as connection:
            await self.merge_in(connection, region, new_facts)

    @staticmethod
    async def merge_in(connection: Connection, region: str, new_facts: Mapping[str, StatusFacts]) -> None:
        """`merge` in a transaction of the caller."""
        await connection.execute(_LOCK_REGION, _LOCK_CLASS, region)
        rows = await connection.fetch(
            "SELECT item_id::text, status, facts FROM item_status WHERE region = $1 AND item_id = ANY($2::uuid[])",
            region,
            list(new_facts),
        )
        stored_rows = {row[0]: (row[1], row[2]) for row in rows}
        changes = _Changes()
        for item_id, facts in new_facts.items():
            before, stored = stored_rows.get(item_id, (None, None))
            old = None if stored is None else _decode(stored)
            merged = facts if old is None else status.merge(old, facts)
            encoded = _encode(merged)
            if encoded != stored:
                now = status.status(merged).value
                changes.rows.append((item_id, now, encoded))
                changes.note(item_id, old, before, merged, now)
        if not changes.rows:
            return
        await changes.write(connection, region)
        await connection.execute(
            "INSERT INTO item_totals (region, status, items)"
            " SELECT $1, status, items FROM unnest($2::text[], $3::bigint[]) AS moved (status, items)"
            " ON CONFLICT (region, status) DO UPDATE SET items = item_totals.items + EXCLUDED.items",
            region,
            list(changes.status_changes),
            list(changes.status_changes.values()),
        )

    async def note_progress(self, region: str, progress: Sequence[ProjectionProgress]) -> None:
        """Store the progress of the projection, which never decreases."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO projection_progress (region, topic, partition, handled_until)"
                " SELECT $1, topic, partition, handled_until"
                " FROM unnest($2::text[], $3::int[], $4::timestamptz[]) AS new (topic, partition, handled_until)"
                " ORDER BY topic, partition ON CONFLICT (region, topic, partition)"
                " DO UPDATE SET handled_until = greatest(projection_progress.handled_until, EXCLUDED.handled_until)",
                region,
                *(list(column) for column in zip(*progress, strict=True)),
            )

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]:
        """The facts about an item, by region."""
        async with self._database.held() as connection:
            rows = await connection.fetch("SELECT region, facts FROM item_status WHERE item_id = $1", item_id)
        return {row[0]: _decode(row[1]) for row in rows}

    async def of_items(self, item_ids: Sequence[str]) -> dict[str, dict[str, StatusFacts]]:
        """The facts about items, by item and region, in the given order."""
        column = item_status.c
        query = sa.select(column.item_id, column.region, column.facts).where(
            column.item_id == sa.any_(sa.cast(list(item_ids), ARRAY(column.item_id.type)))
        )
        found: dict[str, dict[str, StatusFacts]] = {item_id: {} for item_id in item_ids}
        async with self._database.query() as connection:
            for row in await connection.execute(query):
                found[row.item_id][row.region] = _decode(row.facts)
        return found

    async def content_hashes(self, item_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The hash of the first content of those items that are known, by item and region."""
        async with self._database.held() as connection:
            rows = await connection.fetch(_HASHES, item_ids)
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            submission = _decode_hash(row[2]).submission
            if submission is not None:
                found.setdefault(row[0], {})[row[1]] = submission.content_hash
        return found

    async def page(self, wanted: ItemFilter, limit: int) -> ItemPage:
        """The next page of a list, at most `limit` items."""
        page, is_done = ItemPage([], None), False
        scans = _scans(wanted, (limit + 1) * len(wanted.regions))  # an item has a row in each of its regions
        async with self._database.query() as connection:
            while not is_done and (scan := next(scans, None)) is not None:
                query, most = scan
                page, is_done = _page((await connection.execute(query)).all(), most, limit)
        return page

    async def totals(self) -> dict[str, dict[str, int]]:
        """The number of items by region and status."""
        totals: dict[str, dict[str, int]] = {}
        async with self._database.query() as connection:
            for row in await connection.execute(sa.select(item_totals).order_by(*item_totals.primary_key)):
                if row.items:
                    totals.setdefault(row.region, {})[row.status] = row.items
        return totals

    async def oldest(self, region: str, wanted: Status) -> datetime | None:
        """The time at which the oldest item with a status (not `approved`) was received; None if there is none."""
        column = item_by_status.c
        query = (
            sa.select(column.received_at)
            .where(column.region == region, column.status == wanted.value)
            .order_by(column.received_at)
            .limit(1)
        )
        async with self._database.query() as connection:
            found: datetime | None = await connection.scalar(query)
        return found

    async def handled_until(self) -> dict[str, datetime]:
        """By region, the time until which all written records are in the projection.

        Read this before the facts: then the facts are at least as recent as this time.
        """
        async with self._database.held() as connection:
            rows = await connection.fetch("SELECT region, min(handled_until) FROM projection_progress GROUP BY region")
        return {row[0]: row[1] for row in rows}


def _text(text: str, longest: int) -> str:
    """A text that PostgreSQL accepts. Intake accepts no other text, but such a record must not stop the projection."""
    return text[:longest].replace("\0", "\ufffd")


def _page(rows: Sequence[Any], most: int, limit: int) -> tuple[ItemPage, bool]:
    """The page from a scan of at most `most` rows, and True if a larger scan would give the same page."""
    cursors = list(dict.fromkeys(ItemCursor(row.received_at, row.item_id) for row in rows if row.fits))
    if len(cursors) > limit:
        return ItemPage([cursor.item_id for cursor in cursors[:limit]], cursors[limit - 1]), True
    if not rows or rows[-1].looked_at < most:
        return ItemPage([cursor.item_id for cursor in cursors], None), True
    *_, last = (ItemCursor(row.received_at, row.item_id) for row in rows if row.from_the_end == _COMPLETE)
    return ItemPage([cursor.item_id for cursor in cursors if cursor >= last], last), False


def _scans(wanted: ItemFilter, rows: int) -> Iterator[tuple[sa.Select[Any], int]]:
    """The queries of a page, each with the maximum number of scanned rows.

    A query returns the matching rows, newest first, and the last scanned rows. The next query scans more rows; it is
    used when the page is not full.
    """
    by_status = wanted.subject is None and wanted.reference is None and wanted.status not in (None, Status.APPROVED)
    column = (item_by_status if by_status else item_found).c
    indexed, filters = _conditions(wanted, column, by_status=by_status)
    fits: sa.ColumnElement[bool] = sa.and_(sa.true(), *filters)
    for most in sorted({min(_FEW * rows, SCAN), SCAN}) if filters else [rows]:
        yield _scan(wanted, column, indexed, fits, rows=rows, most=most), most


def _scan(
    wanted: ItemFilter, column: Any, indexed: Sequence[Any], fits: sa.ColumnElement[bool], *, rows: int, most: int
) -> sa.Select[Any]:
    regions = sa.func.unnest(sa.cast(list(wanted.regions), ARRAY(sa.Text)))
    requested = regions.table_valued("region", name="requested").render_derived()
    of_region = (
        sa.select(column.received_at, column.item_id, fits.label("fits"))
        .where(column.region == requested.c.region, *indexed)
        .order_by(column.received_at.desc(), column.item_id.desc())
        .limit(most)
        .lateral("of_region")
    )
    looked_at = (
        sa.select(of_region)
        .select_from(requested.join(of_region, sa.true()))
        .order_by(of_region.c.received_at.desc(), of_region.c.item_id.desc())
        .limit(most)
        .subquery("looked_at")
    )
    counted = sa.select(
        looked_at,
        sa.func.count().over().label("looked_at"),
        sa.func.dense_rank().over(order_by=(looked_at.c.received_at, looked_at.c.item_id)).label("from_the_end"),
    ).subquery("counted")
    return (
        sa.select(counted)
        .where(sa.or_(counted.c.fits, counted.c.from_the_end <= _COMPLETE))
        .order_by(counted.c.received_at.desc(), counted.c.item_id.desc())
        .limit(rows + _COMPLETE * len(wanted.regions))
    )


def _conditions(wanted: ItemFilter, column: Any, *, by_status: bool) -> tuple[list[Any], list[Any]]:
    """The conditions that an index can use, and the conditions that are filtered row by row."""
    indexed = []
    if by_status:
        indexed.append(column.status == wanted.status)
    if wanted.subject is not None:
        indexed.append(column.subject == wanted.subject)
    if wanted.reference is not None:  # `<> ''` lets PostgreSQL use the partial index
        indexed += [column.client == wanted.client, column.reference == wanted.reference, column.reference != ""]
    if wanted.received_after is not None:
        indexed.append(column.received_at >= wanted.received_after)
    if wanted.received_before is not None:
        indexed.append(column.received_at < wanted.received_before)
    if wanted.before is not None:
        position = zip(wanted.before, (column.received_at.type, column.item_id.type), strict=True)
        literals = [sa.literal(value, kind) for value, kind in position]
        indexed.append(sa.tuple_(column.received_at, column.item_id) < sa.tuple_(*literals))
    filters: list[Any] = []
    if wanted.platforms is not None:
        filters.append(sa.func.split_part(column.subject, ":", 1).in_(wanted.platforms))
    if wanted.platform is not None:
        filters.append(sa.func.split_part(column.subject, ":", 1) == wanted.platform)
    if wanted.kind is not None:
        filters.append(sa.func.split_part(column.subject, ":", 2) == wanted.kind)
    if wanted.status is not None and not by_status:
        known = item_status.c
        its = known.item_id == column.item_id, known.region == column.region
        filters.append(sa.exists().where(*its, known.status == wanted.status))
    return indexed, filters
