"""Table of what was accepted and has no effect yet: notices and appeals that are `submitted`, and withdrawals of items
whose case is still open.

The projection adds and removes a row in the transaction of the facts. Nearly all rows are removed within a second, so
the table is small, and its oldest row shows a record that its reader has skipped. Items with the status `submitted` are
in `item_by_status`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from shared.postgres.database import Connection, Database

WITHDRAWAL: Final = "withdrawal"
_MAX_SUBJECT: Final = 300  # characters

_REMOVE: Final = """
DELETE FROM waiting AS w USING unnest($2::text[], $3::uuid[]) AS gone (type, id)
WHERE w.region = $1 AND w.type = gone.type AND w.id = gone.id"""

_ADD: Final = """
INSERT INTO waiting (region, type, id, since, subject)
SELECT $1, type, id, since, subject
FROM unnest($2::text[], $3::uuid[], $4::timestamptz[], $5::text[]) AS come (type, id, since, subject)
ON CONFLICT DO NOTHING"""

_PAGE: Final = """
SELECT type, id::text, since, subject FROM waiting
WHERE region = $1 AND since < $2 AND (since, id) > ($3, $4::uuid) ORDER BY since, id LIMIT $5"""


class Waiting(NamedTuple):
    """A notice, an appeal or the withdrawal of an item (`type`, `id`) without effect since its time."""

    type: str
    id: str
    since: datetime
    subject: str


class WaitingChanges:
    """The row changes of a batch in a region."""

    def __init__(self) -> None:
        self._gone: list[tuple[str, str]] = []
        self._come: list[Waiting] = []

    def note(self, type_: str, id_: str, before: datetime | None, now: datetime | None, subject: str) -> None:
        """Add an entry that waits since `now` instead of `before`; None: it does not wait."""
        if before == now:
            return
        if before is not None:
            self._gone.append((type_, id_))
        if now is not None:
            self._come.append(Waiting(type_, id_, now, subject[:_MAX_SUBJECT].replace("\0", "\ufffd")))

    async def write(self, connection: Connection, region: str) -> None:
        """Execute the changes."""
        if self._gone:
            await connection.execute(_REMOVE, region, *(list(column) for column in zip(*self._gone, strict=True)))
        if self._come:
            await connection.execute(_ADD, region, *(list(column) for column in zip(*self._come, strict=True)))


class WaitingStore:
    """Reads the table; all methods raise Transient when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def oldest(self, region: str) -> datetime | None:
        """The time since which the oldest entry waits; None if there is none."""
        async with self._database.held() as connection:
            found: datetime | None = await connection.fetchval(
                "SELECT since FROM waiting WHERE region = $1 ORDER BY since LIMIT 1", region
            )
        return found

    async def page(self, region: str, before: datetime, after: tuple[datetime, str], limit: int) -> Sequence[Waiting]:
        """At most `limit` entries that wait since before a time, oldest first, behind the time and id of `after`."""
        async with self._database.held() as connection:
            rows = await connection.fetch(_PAGE, region, before, *after, limit)
        return [Waiting(*row) for row in rows]
