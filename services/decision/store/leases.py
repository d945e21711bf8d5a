"""The transaction that claims, extends, releases and expires leases."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.decision.domain.cases import Case
from services.decision.domain.leases import OpenLeases
from services.decision.store.transactions import LOCKED_CASE, CaseTransaction, locked_case

# The heads are the most urgent cases of each queue, by the index: it is read up to the first `$2` cases that are not in
# `$4`, the skipped ones. The result is the first of the heads that no other claim has locked and that this reviewer may
# decide.
_HEADS: Final = """
    SELECT head.* FROM unnest($1::text[]) AS wanted (queue) CROSS JOIN LATERAL (
        SELECT case_id, priority, due_at FROM cases
        WHERE state = 'waiting' AND cases.queue = wanted.queue AND case_id <> ALL ($4::uuid[])
        ORDER BY priority, due_at, case_id LIMIT $2
    ) AS head ORDER BY priority, due_at, case_id LIMIT $2"""

# Of given cases, the heads are those that wait in the queues. Because of OFFSET 0, each is read by its key whatever
# the statistics are.
_GIVEN_HEADS: Final = """
    SELECT head.* FROM unnest($5::uuid[]) AS wanted (case_id) CROSS JOIN LATERAL (
        SELECT cases.case_id, priority, due_at, state, queue FROM cases WHERE cases.case_id = wanted.case_id OFFSET 0
    ) AS head WHERE head.state = 'waiting' AND head.queue = ANY ($1::text[]) AND head.case_id <> ALL ($4::uuid[])
    ORDER BY priority, due_at, case_id LIMIT $2"""

_NEXT: Final = f"""
WITH heads AS MATERIALIZED ({{heads}}
), locked AS MATERIALIZED (
    SELECT cases.* FROM heads JOIN cases USING (case_id)
    WHERE cases.state = 'waiting' AND cases.not_by IS DISTINCT FROM $3
    ORDER BY heads.priority, heads.due_at, heads.case_id LIMIT 1 FOR UPDATE OF cases SKIP LOCKED
)
SELECT {LOCKED_CASE}, (SELECT count(*) FROM heads) AS heads
FROM (SELECT 1) AS one LEFT JOIN locked ON true"""  # noqa: S608 - constants
_NEXT_OF_QUEUES: Final = _NEXT.format(heads=_HEADS)
_NEXT_OF_GIVEN: Final = _NEXT.format(heads=_GIVEN_HEADS)

_EXPIRED: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM cases WHERE state = 'claimed' AND lease_until <= clock_timestamp()
    ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
)
SELECT {LOCKED_CASE} FROM locked"""  # noqa: S608 - constants

_LOCK_CLASSES: Final = (720_912, 720_913)  # reviewers, clients

# A reviewer's claims wait for each other. A client's claims do so only near its limit: until then they share its lock.
_LOCK: Final = "SELECT pg_advisory_xact_lock($1, hashtext($2)), {}($3, hashtext($4))"
_LOCK_ALONE: Final = _LOCK.format("pg_advisory_xact_lock")
_LOCK_SHARED: Final = _LOCK.format("pg_advisory_xact_lock_shared")

# Each claim in progress has a connection, so their number is limited by the server.
_OPEN: Final = """
SELECT reviewer.n, client.n, coalesce(least(reviewer.seconds, client.seconds), 0)::float8,
       current_setting('max_connections')::int
FROM (SELECT count(*) AS n, extract(epoch FROM min(lease_until) - clock_timestamp()) AS seconds
      FROM cases WHERE state = 'claimed' AND reviewer = $1 AND lease_until > clock_timestamp()) AS reviewer,
     (SELECT count(*) AS n, extract(epoch FROM min(lease_until) - clock_timestamp()) AS seconds
      FROM cases WHERE state = 'claimed' AND claim_client = $2 AND lease_until > clock_timestamp()) AS client"""


class LeaseTransaction(CaseTransaction):
    """The statements of claims, heartbeats, releases and expiry."""

    async def next_case(
        self, queues: Sequence[str], reviewer: str, *, only: Sequence[str] = (), skipped: Sequence[str] = ()
    ) -> tuple[Case, datetime] | None:
        """The most urgent waiting case of these queues that no other claim has locked, that `reviewer` may decide, that
        is one of `only` (if any is given) and none of `skipped`, locked; and the time after the lock."""
        heads = 16
        while True:
            if only:
                [row] = await self._connection.fetch(_NEXT_OF_GIVEN, queues, heads, reviewer, skipped, only)
            else:
                [row] = await self._connection.fetch(_NEXT_OF_QUEUES, queues, heads, reviewer, skipped)
            if row["case_id"] is not None:
                return locked_case(row)
            if row["heads"] < heads:
                return None
            heads *= 16

    async def claimed_under(self, key: str) -> tuple[Case, datetime] | None:
        """The case that the claim with this key holds, locked, and the time after the lock."""
        case_id = await self._connection.fetchval("SELECT case_id::text FROM cases WHERE claim_key = $1", key)
        found = None if case_id is None else await self.case(case_id)
        return None if found is None or found[0].claim_key != key else found

    async def open_leases(self, reviewer: str, client: str, *, alone: bool) -> OpenLeases:
        """The open leases of a reviewer and a client.

        Other claims of the reviewer wait for the end of this transaction; with `alone`, also other claims of the
        client. Without it, `uncounted` claims may be in progress.
        """
        of_reviewer, of_client = _LOCK_CLASSES
        lock = _LOCK_ALONE if alone else _LOCK_SHARED
        await self._connection.execute(lock, of_reviewer, reviewer, of_client, client)
        [[reviewers, clients, seconds, connections]] = await self._connection.fetch(_OPEN, reviewer, client)
        return OpenLeases(reviewers, clients, seconds, 0 if alone else connections)

    async def expired(self, limit: int) -> list[tuple[Case, datetime]]:
        """Up to `limit` claimed cases whose lease has expired, locked, and the time."""
        return [locked_case(row) for row in await self._connection.fetch(_EXPIRED, limit)]
