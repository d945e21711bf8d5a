"""The transaction that decides a case."""

from typing import Final

import asyncpg
import msgspec

from services.decision.domain.cases import Decision
from services.decision.store.transactions import CaseTransaction

_DECISION: Final = (
    "decision_id::text, case_id::text, n, action, reasons, policy_set, automated, reviewer, team, lease_token, note,"
    " decided_at"
)
_FIRST: Final = f"SELECT {_DECISION} FROM decisions WHERE case_id = $1 AND n = 1"  # noqa: S608 - constants
_CURRENT: Final = f"SELECT {_DECISION} FROM decisions WHERE case_id = $1 ORDER BY n DESC LIMIT 1"  # noqa: S608 - constants

_decode_reasons = msgspec.json.Decoder(list[str]).decode


class DecisionTransaction(CaseTransaction):
    """The statements of a decision."""

    async def first_decision(self, case_id: str) -> Decision | None:
        """The decision that ended a case."""
        return _decision_from(await self._connection.fetchrow(_FIRST, case_id))

    async def current_decision(self, case_id: str) -> Decision | None:
        """The decision in force of a case."""
        return _decision_from(await self._connection.fetchrow(_CURRENT, case_id))


def _decision_from(row: asyncpg.Record | None) -> Decision | None:
    if row is None:
        return None
    return Decision(**{**row, "reasons": _decode_reasons(row["reasons"])})
