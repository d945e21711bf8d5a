"""Tables of the status of notices and appeals, and of the case of each decision.

The status projection writes them by the same rules as the status of items: facts that merge in any order, so that no
inbox is needed, and one writer of a region at a time. A decision that can be contested has one row, by which an appeal
finds its case. Most items are approved by their first decision and have no such row.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import sqlalchemy as sa

from services.intake.items.domain import status
from services.intake.items.store import ItemStatusStore, metadata
from services.intake.items.waiting import WaitingChanges
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.complaint_status import APPEAL, ITEM, CaseIdentity, ComplaintFacts
from shared.contracts import ids
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.postgres import positions
from shared.postgres.database import Connection, Database
from shared.runtime.clock import from_text_or_none

_LOCK_CLASS: Final = 720_913

notice_status = sa.Table(
    "notice_status",
    metadata,
    sa.Column("id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("decision_id", sa.UUID(as_uuid=False)),  # the contested decision of an appeal
    sa.Column("facts", sa.LargeBinary, nullable=False),  # JSON; not jsonb, which rejects texts with U+0000
)
decision_about = sa.Table(
    "decision_about",
    metadata,
    sa.Column("decision_id", sa.UUID(as_uuid=False), primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ComplaintFacts).decode


class ComplaintStore:
    """The facts about notices and appeals, and the cases of decisions; all methods raise Transient when the database
    does not respond."""

    def __init__(self, database: Database, items: ItemStatusStore) -> None:
        self._database = database
        self._items = items

    async def merge(
        self,
        region: str,
        complaints: Mapping[str, ComplaintFacts],
        items: Mapping[str, status.StatusFacts],
        moves: Moves = NO_MOVES,
    ) -> None:
        """Merge new facts by id into the stored facts of items, notices and appeals, store the cases of decisions, and
        move the positions, in one transaction; raises PositionChangedError."""
        contestable = [
            (ITEM, item_id, decision)
            for item_id, facts in items.items()
            if (decision := facts.decision) is not None and (decision.action == "reject" or decision.n > 1)
        ]
        contestable += [
            (facts.type, of, decision)
            for of, facts in complaints.items()
            if (decision := facts.case.decision) is not None and facts.type != APPEAL
        ]
        decided = sorted(
            (decision_id, type_, of)
            for type_, of, decision in contestable
            for decision_id in _all_of(decision, region, type_, of)
        )
        if not (complaints or items or moves.moves):
            return
        async with self._database.transaction() as connection:
            await positions.advance(connection, moves)
            if items:
                await self._items.merge_in(connection, region, items)
            if complaints:
                await self._merge(connection, region, complaints)
            if decided:
                await connection.execute(
                    "INSERT INTO decision_about (decision_id, region, type, id)"
                    " SELECT decision_id, $1, type, id"
                    " FROM unnest($2::uuid[], $3::text[], $4::uuid[]) AS new (decision_id, type, id)"
                    " ON CONFLICT DO NOTHING",
                    region,
                    *(list(column) for column in zip(*decided, strict=True)),
                )

    async def _merge(self, connection: Connection, region: str, complaints: Mapping[str, ComplaintFacts]) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK_CLASS, region)
        rows = await connection.fetch(
            "SELECT id::text, facts FROM notice_status WHERE region = $1 AND id = ANY($2::uuid[])",
            region,
            list(complaints),
        )
        known = {row[0]: row[1] for row in rows}
        changed, waiting = [], WaitingChanges()
        for of, facts in complaints.items():
            stored = known.get(of)
            old = None if stored is None else _decode(stored)
            merged = facts if old is None else complaint_status.merge(old, facts)
            encoded = _encode(merged)
            if encoded != stored:
                since = None if old is None else from_text_or_none(complaint_status.waits_since(old))
                now = from_text_or_none(complaint_status.waits_since(merged))
                waiting.note(merged.type, of, since, now, merged.case.subject)
                about = None if merged.contested is None else merged.contested.decision_id
                changed.append((of, merged.type, about, encoded))
        if changed:
            await connection.execute(
                "INSERT INTO notice_status (id, region, type, decision_id, facts)"
                " SELECT id, $1, type, decision_id, facts"
                " FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::bytea[]) AS new (id, type, decision_id, facts)"
                " ON CONFLICT (id, region) DO UPDATE SET decision_id = EXCLUDED.decision_id, facts = EXCLUDED.facts",
                region,
                *(list(column) for column in zip(*changed, strict=True)),
            )
        await waiting.write(connection, region)

    async def facts_of(self, type_: str, id_: str) -> dict[str, ComplaintFacts]:
        """The facts about a notice or an appeal, by region."""
        table = notice_status.c
        query = sa.select(table.region, table.facts).where(table.id == id_, table.type == type_)
        async with self._database.query() as connection:
            return {row.region: _decode(row.facts) for row in await connection.execute(query)}

    async def case_facts_of(self, type_: str, id_: str) -> dict[str, status.StatusFacts]:
        """The case facts of an item or a notice, by region."""
        if type_ == ITEM:
            return await self._items.of_item(id_)
        return {region: facts.case for region, facts in (await self.facts_of(type_, id_)).items()}

    async def case_of_decision(self, decision_id: str) -> CaseIdentity | None:
        """The case of a decision that can be contested; None when it is unknown."""
        table = decision_about.c
        query = sa.select(table.region, table.type, table.id).where(table.decision_id == decision_id)
        async with self._database.query() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else CaseIdentity(row.region, row.type, row.id)

    async def appeals_against(self, decision_id: str) -> dict[str, ComplaintFacts]:
        """The facts about the appeals against a decision, by appeal id."""
        table = notice_status.c
        query = sa.select(table.id, table.facts).where(table.decision_id == decision_id).order_by(table.id)
        async with self._database.query() as connection:
            return {row.id: _decode(row.facts) for row in await connection.execute(query)}


def _all_of(decision: status.DecisionFact, region: str, type_: str, of: str) -> list[str]:
    """The ids of all decisions of a case up to this one, because a batch keeps only the last decision."""
    if decision.n == 1:
        return [decision.decision_id]
    case_id = ids.case_id(of, region, type_)
    named = [replaced] if (replaced := ids.uuid_of(decision.replaces)) is not None else []
    derived = (ids.decision_id(case_id, n) for n in range(1, decision.n))
    return list(dict.fromkeys([*derived, *named, decision.decision_id]))
