"""The schema, and the reads of queues and totals, on PostgreSQL."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from services.decision.store import METADATA, leases
from shared.contracts import ids
from shared.postgres.database import sqlalchemy_url
from shared.runtime.clock import from_text
from tests.support.decision.cases import encoded
from tests.support.decision.service import REGION, Service


async def test_the_migrated_schema_matches_the_tables(service: Service, database_url: str) -> None:
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.connect() as connection:
        difference = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), METADATA)
        )
    await engine.dispose()
    assert [d for d in difference if "alembic_version" not in str(d)] == []


async def test_totals_stay_the_same_when_the_tallies_are_summed_up(service: Service) -> None:
    for n in range(210):
        await service.open(encoded(REGION, f"s{n}", verdict="approve"))
    before = await service.store.totals()
    await service.store.fold_tallies()
    assert await service.store.totals() == before == {"decided": 210, "policy/approve": 210}
    assert await service.outside.fetchval("SELECT count(*) FROM tallies") == 2


async def test_paging_through_a_queue_shows_each_case_once_while_others_are_added(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n:02}", priority=1 + n % 3, due_in=n) for n in range(20)))
    await service.claimed()
    seen: list[str] = []
    after = None
    while page := await service.store.page("general", ["waiting", "claimed"], after, 6):
        seen += [case.opened.subject_id for case in page]
        last = page[-1]
        after = (last.opened.priority, from_text(last.opened.due_at), last.case_id)
        await service.open(encoded(REGION, f"new-{len(seen)}", priority=1, due_in=0))
    assert [s for s in seen if not s.startswith("new")] == sorted(
        (f"s{n:02}" for n in range(20)), key=lambda s: (1 + int(s[1:]) % 3, int(s[1:]))
    )


async def test_the_decided_cases_of_a_subject_are_listed_in_pages_with_all_their_decisions(service: Service) -> None:
    for version in range(1, 8):
        await service.open(encoded(REGION, "a", version=version, verdict="approve", due_in=version))
    await service.open(encoded(REGION, "b", verdict="reject"), encoded(REGION, "a", version=8, due_in=99))
    await service.decide(await service.claimed("r-7"), "reject", "FAKE")
    await service.open(encoded(REGION, "a", version=9))
    seen, before = [], None
    while page := await service.store.decided("shop:product:a", before, 3):
        seen += [(one.case.opened.version, [made.reviewer for made in one.decisions]) for one in page]
        before = from_text(page[-1].case.opened.due_at), page[-1].case.case_id
    assert seen == [(8, ["r-7"]), *((version, [""]) for version in range(7, 0, -1))]
    assert await service.store.decided("shop:product:none", None, 3) == []


async def test_claims_and_decided_cases_are_found_through_their_indexes(service: Service) -> None:
    """The heads of a claim: their plan is the same for an empty table and for a full one."""
    for analyzed in (False, True):
        if analyzed:
            await service.open(*(encoded(REGION, f"s{n}", verdict="approve") for n in range(1_000)))
            await service.open(*(encoded(REGION, f"w{n}") for n in range(1_000)))
            await service.outside.execute("ANALYZE")
        async with service.database.held() as connection:
            none, some = ["00000000-0000-0000-0000-000000000000"], [ids.derive(f"{n}") for n in range(1_000)]
            plans = [
                await connection.fetch(f"EXPLAIN {leases._NEXT_OF_QUEUES}", ["general"], 16, "r-1", some),
                await connection.fetch(f"EXPLAIN {leases._NEXT_OF_GIVEN}", ["general"], 16, "r-1", none, some),
                await connection.fetch(
                    "EXPLAIN SELECT * FROM cases WHERE subject = 'x' AND state = 'decided'"
                    " ORDER BY due_at DESC, case_id DESC LIMIT 3"
                ),
            ]
        texts = ["\n".join(row[0][:200] for row in plan).partition("CTE locked")[0] for plan in plans]
        assert "cases_waiting" in texts[0]
        assert "cases_pkey" in texts[1]
        assert "cases_waiting" not in texts[1]
        assert "cases_of_subjects" in texts[2]
        assert [text for text in texts if "Seq Scan on cases" in text or "Sort Key: cases.due_at" in text] == []
