"""Intake's tables: what is known of each item in each region, how many are where, and how far the projection has read.

One transaction a batch: read what is known, merge, write back. Writers of a region take turns (an advisory lock), as
two replicas may hold an item's submission and its decision at the same time, and the counts of a region are one row a
status. The merge is idempotent, so no inbox is needed: a repeat finds nothing to change. A lookup is one read of the
primary key, and the totals are kept, not counted, so neither grows with what is stored.

Lists are read in the order of an index, from a place in it: by subject, by a client's reference, by time. What an item
is found by is written once, beside what is known of it, which changes several times and then touches no index. Where it
is changes too; so the items that are not approved, which are few, stand by their status in a table of their own.
Whatever else a list is asked for is looked at row by row: a few rows first, which do where most fit, then `SCAN` at
most: a page may then hold less than it could.
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
from shared.postgres.database import Connection, Database
from shared.runtime.clock import from_text

SCAN: Final = 2_000
_FEW: Final = 2  # rows are looked at first for each that is wanted
_WHOLE: Final = 2  # of the places where a look ends, the last may be one whose rows were not all looked at
_LOCK_CLASS: Final = 720_912
_LONGEST_SUBJECT: Final = 300  # characters; intake takes none longer, and an index row has a limit
_LONGEST_NAME: Final = 200  # of a client, of a reference

metadata = sa.MetaData()
item_status = sa.Table(
    "item_status",
    metadata,
    sa.Column("item_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("facts", sa.LargeBinary, nullable=False),  # JSON; not jsonb, which refuses texts with U+0000
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

# Plans are made while a table is small, and it does not stay so: none may read all of it.
_ALONE: Final = "SELECT pg_advisory_xact_lock($1, hashtext($2)), set_config('enable_seqscan', 'off', true)"

_LEARN: Final = """
INSERT INTO item_status (item_id, region, status, facts)
SELECT item_id, $1, status, facts FROM unnest($2::uuid[], $3::text[], $4::bytea[]) AS new (item_id, status, facts)
ON CONFLICT (item_id, region) DO UPDATE SET status = EXCLUDED.status, facts = EXCLUDED.facts"""

_FIND: Final = """
INSERT INTO item_found (region, item_id, received_at, subject, client, reference)
SELECT $1, item_id, received_at, subject, client, reference
FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
    AS new (item_id, received_at, subject, client, reference)
ON CONFLICT DO NOTHING"""

_LOSE: Final = """
DELETE FROM item_found AS f USING unnest($2::uuid[], $3::timestamptz[]) AS gone (item_id, received_at)
WHERE f.region = $1 AND f.received_at = gone.received_at AND f.item_id = gone.item_id"""

_LEAVE: Final = """
DELETE FROM item_by_status AS s
USING unnest($2::text[], $3::timestamptz[], $4::uuid[]) AS gone (status, received_at, item_id)
WHERE s.region = $1 AND s.status = gone.status AND s.received_at = gone.received_at AND s.item_id = gone.item_id"""

_ENTER: Final = """
INSERT INTO item_by_status (region, status, received_at, item_id, subject)
SELECT $1, status, received_at, item_id, subject
FROM unnest($2::text[], $3::timestamptz[], $4::uuid[], $5::text[]) AS come (status, received_at, item_id, subject)
ON CONFLICT DO NOTHING"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StatusFacts).decode


class ProjectionProgress(NamedTuple):
    """Everything of a partition that was written before `handled_until` is in the projection."""

    topic: str
    partition: int
    handled_until: datetime


class ItemCursor(NamedTuple):
    """Where an item stands in a list, newest first."""

    received_at: datetime
    item_id: str


class ItemFilter(NamedTuple):
    """What a list is to hold: items in `regions` of the platforms in `of`, None for all, and of these what fits all
    that is given. `client` goes with `reference`: it is theirs. `before` is where the page before ended."""

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
    of: Sequence[str] | None = None


class ItemPage(NamedTuple):
    """Items, newest first; `last` is where to go on, None at the end."""

    item_ids: list[str]
    last: ItemCursor | None


class _Changes:
    """What a batch changes in a region, as rows."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, bytes]] = []
        self.moved: Counter[str] = Counter()
        self._found: list[tuple[str, datetime, str, str, str]] = []
        self._lost: list[tuple[str, datetime]] = []
        self._left: list[tuple[str, datetime, str]] = []
        self._entered: list[tuple[str, datetime, str, str]] = []

    def note(self, item_id: str, old: StatusFacts | None, before: str | None, new: StatusFacts, now: str) -> None:
        """An item's facts were `old`, its status `before`, and now they are others."""
        if now != before:
            self.moved[now] += 1
            if before is not None:
                self.moved[before] -= 1
        if old is not None and old.submission is new.submission:
            if now != before and new.submission is not None:
                there = here = _moment(new.submission.received_at)
            else:
                return
        else:
            there = self._lose(item_id, old)
            here = self._find(item_id, new)
        if there is not None and before is not None and before != Status.APPROVED:
            self._left.append((before, there, item_id))
        if here is not None and now != Status.APPROVED:
            self._entered.append((now, here, item_id, _text(new.subject, _LONGEST_SUBJECT)))

    def _lose(self, item_id: str, old: StatusFacts | None) -> datetime | None:
        there = None if old is None or old.submission is None else _moment(old.submission.received_at)
        if there is not None:
            self._lost.append((item_id, there))
        return there

    def _find(self, item_id: str, new: StatusFacts) -> datetime | None:
        submission = new.submission
        here = None if submission is None else _moment(submission.received_at)
        if submission is not None and here is not None:
            subject, client = _text(new.subject, _LONGEST_SUBJECT), _text(submission.client, _LONGEST_NAME)
            self._found.append((item_id, here, subject, client, _text(submission.reference, _LONGEST_NAME)))
        return here

    async def write(self, connection: Connection, region: str) -> None:
        """Make them."""
        await _with_rows(connection, _LEARN, region, self.rows)
        await _with_rows(connection, _LOSE, region, self._lost)
        await _with_rows(connection, _FIND, region, self._found)
        await _with_rows(connection, _LEAVE, region, self._left)
        await _with_rows(connection, _ENTER, region, self._entered)


async def _with_rows(connection: Connection, statement: str, region: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        await connection.execute(statement, region, *(list(column) for column in zip(*rows, strict=True)))


class ItemStatusStore:
    """What is known of items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def merge(self, region: str, new_facts: Mapping[str, StatusFacts]) -> None:
        """Merge facts by item id into what is known, and keep the totals in step; raises Transient."""
        async with self._database.transaction() as connection:
            await connection.execute(_ALONE, _LOCK_CLASS, region)
            rows = await connection.fetch(
                "SELECT item_id::text, status, facts FROM item_status WHERE region = $1 AND item_id = ANY($2::uuid[])",
                region,
                list(new_facts),
            )
            known = {row[0]: (row[1], row[2]) for row in rows}
            changes = _Changes()
            for item_id, facts in new_facts.items():
                before, stored = known.get(item_id, (None, None))
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
                list(changes.moved),
                list(changes.moved.values()),
            )

    async def note_progress(self, region: str, progress: Sequence[ProjectionProgress]) -> None:
        """Say how far the projection has read; never goes back. Raises Transient."""
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
        """What is known of an item, by region; raises Transient."""
        async with self._database.held() as connection:
            rows = await connection.fetch("SELECT region, facts FROM item_status WHERE item_id = $1", item_id)
        return {row[0]: _decode(row[1]) for row in rows}

    async def of_items(self, item_ids: Sequence[str]) -> dict[str, dict[str, StatusFacts]]:
        """What is known of items, by item and region, in the order given; raises Transient."""
        column = item_status.c
        asked = sa.select(column.item_id, column.region, column.facts).where(
            column.item_id == sa.any_(sa.cast(list(item_ids), ARRAY(column.item_id.type)))
        )
        found: dict[str, dict[str, StatusFacts]] = {item_id: {} for item_id in item_ids}
        async with self._database.query() as connection:
            for row in await connection.execute(asked):
                found[row.item_id][row.region] = _decode(row.facts)
        return found

    async def page(self, wanted: ItemFilter, limit: int) -> ItemPage:
        """The next items of a list, at most `limit`, and where to go on; raises Transient."""
        page, is_done = ItemPage([], None), False
        looks = _looks(wanted, (limit + 1) * len(wanted.regions))  # a row for each region that an item went to
        async with self._database.query() as connection:
            while not is_done and (look := next(looks, None)) is not None:
                asked, most = look
                page, is_done = _page((await connection.execute(asked)).all(), most, limit)
        return page

    async def totals(self) -> dict[str, dict[str, int]]:
        """How many items are where: region, status, count; raises Transient."""
        totals: dict[str, dict[str, int]] = {}
        async with self._database.query() as connection:
            for row in await connection.execute(sa.select(item_totals).order_by(*item_totals.primary_key)):
                if row.items:
                    totals.setdefault(row.region, {})[row.status] = row.items
        return totals

    async def handled_until(self) -> dict[str, datetime]:
        """By region: everything of it that was written before this moment is in the projection; raises Transient.

        An answer promises no more than this when it is asked first, and what the answer stands on after it.
        """
        async with self._database.held() as connection:
            rows = await connection.fetch("SELECT region, min(handled_until) FROM projection_progress GROUP BY region")
        return {row[0]: row[1] for row in rows}


def _text(text: str, longest: int) -> str:
    return text[:longest].replace("\0", "\ufffd")  # intake takes neither; but what is in the topic must not stop it


@lru_cache(maxsize=10_000)
def _moment(text: str) -> datetime | None:
    try:
        return from_text(text)
    except ValueError:
        return None


def _page(rows: Sequence[Any], most: int, limit: int) -> tuple[ItemPage, bool]:
    """The page that a look at `most` rows at most makes, and whether looking further would change nothing."""
    cursors = list(dict.fromkeys(ItemCursor(row.received_at, row.item_id) for row in rows if row.fits))
    if len(cursors) > limit:
        return ItemPage([cursor.item_id for cursor in cursors[:limit]], cursors[limit - 1]), True
    if not rows or rows[-1].looked_at < most:
        return ItemPage([cursor.item_id for cursor in cursors], None), True
    *_, last = (ItemCursor(row.received_at, row.item_id) for row in rows if row.from_the_end == _WHOLE)
    return ItemPage([cursor.item_id for cursor in cursors if cursor >= last], last), False


def _looks(wanted: ItemFilter, rows: int) -> Iterator[tuple[sa.Select[Any], int]]:
    """What asks for the rows that fit, newest first, and those where the look ended; at most how many are looked at.

    A later one looks further, for when the page is not full yet.
    """
    by_status = wanted.subject is None and wanted.reference is None and wanted.status not in (None, Status.APPROVED)
    column = (item_by_status if by_status else item_found).c
    found_by, others = _conditions(wanted, column, by_status=by_status)
    fits: sa.ColumnElement[bool] = sa.and_(sa.true(), *others)
    for most in sorted({min(_FEW * rows, SCAN), SCAN}) if others else [rows]:
        yield _look(wanted, column, found_by, fits, rows=rows, most=most), most


def _look(
    wanted: ItemFilter, column: Any, found_by: Sequence[Any], fits: sa.ColumnElement[bool], *, rows: int, most: int
) -> sa.Select[Any]:
    regions = sa.func.unnest(sa.cast(list(wanted.regions), ARRAY(sa.Text)))
    asked = regions.table_valued("region", name="asked").render_derived()
    of_region = (
        sa.select(column.received_at, column.item_id, fits.label("fits"))
        .where(column.region == asked.c.region, *found_by)
        .order_by(column.received_at.desc(), column.item_id.desc())
        .limit(most)
        .lateral("of_region")
    )
    looked_at = (
        sa.select(of_region)
        .select_from(asked.join(of_region, sa.true()))
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
        .where(sa.or_(counted.c.fits, counted.c.from_the_end <= _WHOLE))
        .order_by(counted.c.received_at.desc(), counted.c.item_id.desc())
        .limit(rows + _WHOLE * len(wanted.regions))
    )


def _conditions(wanted: ItemFilter, column: Any, *, by_status: bool) -> tuple[list[Any], list[Any]]:
    """What an index answers, and what is looked at row by row."""
    found_by = []
    if by_status:
        found_by.append(column.status == wanted.status)
    if wanted.subject is not None:
        found_by.append(column.subject == wanted.subject)
    if wanted.reference is not None:  # `<> ''` so that the index of those who have one is seen to do
        found_by += [column.client == wanted.client, column.reference == wanted.reference, column.reference != ""]
    if wanted.received_after is not None:
        found_by.append(column.received_at >= wanted.received_after)
    if wanted.received_before is not None:
        found_by.append(column.received_at < wanted.received_before)
    if wanted.before is not None:
        position = zip(wanted.before, (column.received_at.type, column.item_id.type), strict=True)
        literals = [sa.literal(value, kind) for value, kind in position]
        found_by.append(sa.tuple_(column.received_at, column.item_id) < sa.tuple_(*literals))
    others: list[Any] = []
    if wanted.of is not None:
        others.append(sa.func.split_part(column.subject, ":", 1).in_(wanted.of))
    if wanted.platform is not None:
        others.append(sa.func.split_part(column.subject, ":", 1) == wanted.platform)
    if wanted.kind is not None:
        others.append(sa.func.split_part(column.subject, ":", 2) == wanted.kind)
    if wanted.status is not None and not by_status:
        known = item_status.c
        its = known.item_id == column.item_id, known.region == column.region
        others.append(sa.exists().where(*its, known.status == wanted.status))
    return found_by, others
