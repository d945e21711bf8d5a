"""The schema, and the reads of queues and totals, on PostgreSQL."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from services.decision.store import METADATA
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
