"""Reads of the cases that appeals are about."""

from collections.abc import Sequence
from typing import Final

from services.decision.domain.appeals import AppealedCase
from shared.contracts.events import Appeal
from shared.postgres.database import Connection

_APPEALED_CASES: Final = """
SELECT appealed.case_id::text,
       coalesce((SELECT max(n) FROM decisions WHERE decisions.case_id = appealed.case_id), 0),
       EXISTS (SELECT FROM cases WHERE appealed_case = appealed.case_id AND state IN ('waiting', 'claimed'))
FROM unnest($1::uuid[]) AS appealed (case_id)"""


async def lock_appealed_cases(connection: Connection, cases: Sequence[str]) -> dict[str, AppealedCase]:
    """The cases that appeals are about, by id, locked in the order of their ids."""
    await connection.execute("SELECT FROM cases WHERE case_id = ANY ($1::uuid[]) ORDER BY case_id FOR UPDATE", cases)
    return {row[0]: AppealedCase(row[1], row[2]) for row in await connection.fetch(_APPEALED_CASES, cases)}


def appeal_columns(appeal: Appeal | None) -> tuple[str | None, str | None]:
    """The values of `appealed_case` and `not_by`."""
    return (None, None) if appeal is None else (appeal.decision.case_id, appeal.decision.reviewer or None)
