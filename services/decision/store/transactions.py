"""The parts that the transactions of several use cases have in common."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import asyncpg
import msgspec
from msgspec.structs import asdict

from services.decision.domain.cases import Case, Decision
from shared.contracts.envelope import Encoded
from shared.contracts.events import CaseOpened
from shared.postgres import outbox
from shared.postgres.database import Connection
from shared.postgres.rows import insert
from shared.validation.faults import IN_FLIGHT

# The columns of a locked case, and the time after the lock.
LOCKED_CASE: Final = (
    "case_id::text, subject, event_id::text, correlation_id::text, opened, state, lease_token, lease_until, reviewer,"
    " team, claim_key::text, claim_body, superseded_by::text, claim_client, clock_timestamp()"
)
_PLAIN_FIELDS: Final = [name for name in Case.__struct_fields__ if name != "opened"]

_LOCK_CASE: Final = f"""
WITH locked AS MATERIALIZED (SELECT * FROM cases WHERE case_id = $1 FOR UPDATE)
SELECT {LOCKED_CASE} FROM locked"""  # noqa: S608 - constants

_SAVED: Final = attrgetter(
    "case_id", "state", "lease_token", "lease_until", "reviewer", "team", "claim_key", "claim_body", "claim_client"
)
_SAVE: Final = """
UPDATE cases SET state = $2, lease_token = $3, lease_until = $4, reviewer = $5, team = $6, claim_key = $7,
                 claim_body = $8, claim_client = $9
WHERE case_id = $1"""

_encode_json = msgspec.json.Encoder().encode
_decode_opened = msgspec.json.Decoder(CaseOpened).decode


class Transaction:
    """One transaction: rows that are read are locked; changes are visible to others after the commit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def publish(self, published: Sequence[tuple[str, Encoded]]) -> None:
        """Write (topic, event) pairs to the outbox, which publishes them in this order after the commit."""
        await outbox.write(self._connection, published)

    async def tally(self, counts: Mapping[str, int]) -> None:
        """Add counts to the tallies."""
        if counts:
            await self._connection.execute(
                "INSERT INTO tallies (name, n) SELECT * FROM unnest($1::text[], $2::bigint[])",
                list(counts),
                list(counts.values()),
            )

    async def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Insert decisions."""
        rows = [(*{**asdict(d), "reasons": _encode_json(d.reasons).decode()}.values(),) for d in decisions]
        await insert(self._connection, "decisions", Decision.__struct_fields__, rows)


class CaseTransaction(Transaction):
    """A transaction that changes stored cases. New claims get tokens from `first_token` on."""

    first_token = 0

    async def case(self, case_id: str) -> tuple[Case, datetime] | None:
        """A case, locked, and the time after the lock; None when there is no such case."""
        row = await self._connection.fetchrow(_LOCK_CASE, case_id)
        return None if row is None else locked_case(row)

    async def save(self, cases: Sequence[Case]) -> None:
        """Write the state and lease of locked cases. Raises InputRejected when another claim has the same key."""
        try:
            await self._connection.executemany(_SAVE, [*map(_SAVED, cases)])
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "cases_claim_keys":
                raise
            detail = "Another claim with the same Idempotency-Key is in progress."
            raise IN_FLIGHT.with_message(detail) from error


def case_from(row: Any) -> Case:
    """The case in a row that has a column for each field."""
    return Case(opened=_decode_opened(row["opened"]), **{name: row[name] for name in _PLAIN_FIELDS})


def locked_case(row: asyncpg.Record) -> tuple[Case, datetime]:
    """The case and the time in a row of `LOCKED_CASE`."""
    return case_from(row), row["clock_timestamp"]
