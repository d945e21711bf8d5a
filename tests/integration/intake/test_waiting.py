"""The table of what has no effect yet: a row for each notice, appeal and withdrawal that waits, and for no other, in
any order of the events; an upgrade fills it from the stored facts."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from services.intake.items.domain import status
from services.intake.items.domain.status import CaseFact, DecisionFact, StatusFacts, SubmissionFact, WithdrawalFact
from services.intake.items.store import ItemStatusStore
from services.intake.items.waiting import Waiting, WaitingStore
from services.intake.notices.domain.complaint_status import Closed, ComplaintFacts
from services.intake.notices.store import ComplaintStore
from shared.contracts import ids
from shared.postgres import migrations
from shared.postgres.database import Database, sqlalchemy_url

FIRST, SECOND = "2026-05-01T09:30:00.000Z", "2026-05-01T09:31:00.000Z"
START = datetime(2026, 1, 1, tzinfo=UTC), ids.derive("0")
LATER = datetime(2027, 1, 1, tzinfo=UTC)
SUBJECT = "shop:product:B1"

SUBMITTED = StatusFacts(
    subject=SUBJECT,
    submission=SubmissionFact(position=1, content_hash="aa", received_at=FIRST, client="shop", regions=["eu"]),
    submission_last=1,
)
OPENED = StatusFacts(
    subject=SUBJECT,
    opened=CaseFact(position=1, case_id=ids.derive("case"), queue="q", due_at=SECOND, verdict="review", at=FIRST),
    opened_last=1,
)
WITHDRAWN = StatusFacts(subject=SUBJECT, withdrawal=WithdrawalFact(position=2, at=SECOND))
CLOSED = StatusFacts(subject=SUBJECT, closed_at=SECOND)
DECIDED = StatusFacts(
    subject=SUBJECT,
    decision=DecisionFact(
        n=1, decision_id=ids.derive("d"), action="reject", automated=False, policy_set="ps", decided_at=SECOND
    ),
)


async def waiting(database: Database, region: str = "eu") -> list[Waiting]:
    return list(await WaitingStore(database).page(region, LATER, START, 100))


@pytest.mark.parametrize(
    ("facts", "waits"),
    [
        ([SUBMITTED, OPENED, WITHDRAWN], True),
        ([SUBMITTED, OPENED], False),
        ([SUBMITTED, WITHDRAWN], False),  # its item has the status `submitted`, which shows both
        ([SUBMITTED, OPENED, WITHDRAWN, CLOSED], False),
        ([SUBMITTED, OPENED, WITHDRAWN, DECIDED], False),
    ],
)
async def test_a_withdrawal_waits_while_the_case_of_its_item_is_open(
    database_url: str, facts: Sequence[StatusFacts], *, waits: bool
) -> None:
    await migrations.upgrade(database_url, "intake")
    database = await Database.connect(database_url)
    try:
        items = ItemStatusStore(database)
        expected = []
        for n, order in enumerate(itertools.permutations(facts)):
            item_id = ids.derive(f"item {n}")
            for fact in order:
                await items.merge("eu", {item_id: fact})
            if waits:
                expected.append(Waiting("withdrawal", item_id, datetime(2026, 5, 1, 9, 31, tzinfo=UTC), SUBJECT))
        assert sorted(await waiting(database)) == sorted(expected)
        assert await waiting(database, "us") == []
        assert await WaitingStore(database).oldest("eu") == (expected[0].since if expected else None)
    finally:
        await database.close()


async def test_notices_and_appeals_wait_until_they_have_a_case_and_an_upgrade_finds_those_that_do(
    database_url: str,
) -> None:
    await _upgrade_to(database_url, "intake_0008")
    database = await Database.connect(database_url)
    try:
        async with database.held() as connection:  # the code of this version stores the facts
            await connection.execute(
                "CREATE TABLE waiting (region text, type text, id uuid, since timestamptz, subject text)"
            )
        complaints = ComplaintStore(database, ItemStatusStore(database))
        open_case = status.merge(SUBMITTED, OPENED)
        items = {
            ids.derive("in review"): open_case,
            ids.derive("withdrawn"): status.merge(open_case, WITHDRAWN),
            ids.derive("closed"): status.merge(status.merge(open_case, WITHDRAWN), CLOSED),
        }
        before = {
            ids.derive("notice"): ComplaintFacts(type="notice", case=SUBMITTED),
            ids.derive("appeal"): ComplaintFacts(type="appeal", case=SUBMITTED),
            ids.derive("open"): ComplaintFacts(type="notice", case=open_case),
            ids.derive("replaced"): ComplaintFacts(
                type="appeal", case=SUBMITTED, closed=Closed(reason="replaced", at=SECOND)
            ),
        }
        await complaints.merge("eu", before, items)
        async with database.held() as connection:
            await connection.execute("DROP TABLE waiting")
        await migrations.upgrade(database_url, "intake")
        expected = {("notice", ids.derive("notice")), ("appeal", ids.derive("appeal"))}
        found = await waiting(database)
        assert {(one.type, one.id) for one in found} == expected | {("withdrawal", ids.derive("withdrawn"))}
        assert {one.since for one in found} == {datetime(2026, 5, 1, 9, minute, tzinfo=UTC) for minute in (30, 31)}

        await complaints.merge("eu", {ids.derive("notice"): ComplaintFacts(type="notice", case=OPENED)}, {})
        await complaints.merge("eu", {ids.derive("later"): ComplaintFacts(type="appeal", case=OPENED)}, {})
        await complaints.merge("eu", {ids.derive("later"): ComplaintFacts(type="appeal", case=SUBMITTED)}, {})
        await complaints.merge("eu", {}, {ids.derive("withdrawn"): CLOSED})
        assert [(one.type, one.id) for one in await waiting(database)] == [("appeal", ids.derive("appeal"))]
    finally:
        await database.close()


async def _upgrade_to(url: str, revision: str) -> None:
    def upgrade(connection: Connection) -> None:
        settings = migrations.config("intake")
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)

    engine = create_async_engine(sqlalchemy_url(url))
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
