"""The decision service's use cases on real PostgreSQL (promises 2, 3, 5 and 6)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from services.decision.domain import Refused
from services.decision.handlers import Lease, ReviewCases, TakeInCases, read
from services.decision.store import METADATA, SESSION, Store
from shared.contracts import events, ids
from shared.kafka.consumer import Received
from shared.postgres import migrations
from shared.postgres.database import Database, sqlalchemy_url
from shared.runtime.clock import from_text
from shared.runtime.errors import Poison, Transient
from tests.support.decision_cases import encoded, encoded_withdrawal, opened, taken

REGION = "eu"


class Service(NamedTuple):
    """The use cases on a database of the test's own, and that database seen from outside."""

    database: Database
    store: Store
    take_in: TakeInCases
    reviews: ReviewCases
    outside: "asyncpg.Connection[Any]"

    async def open(self, *cases: Any) -> None:
        """Take in these cases, as one batch."""
        await self.take_in.handle([Received(record, read(record, region=REGION)) for record in map(taken, cases)])

    async def claim(self, reviewer: str = "r-1", **how: Any) -> Lease | None:
        wanted = {"team": "in_house", "queues": ["general"], "seconds": 300, **how}
        return await self.reviews.claim(reviewer=reviewer, **wanted)

    async def claimed(self, **how: Any) -> Lease:
        lease = await self.claim(**how)
        assert lease is not None
        return lease

    async def approve(self, lease: Lease, **changed: Any) -> bool:
        """Whether the decision was made just now."""
        what = {"token": lease.case.lease_token, "action": "approve", "reasons": [], "note": "", **changed}
        made = await self.reviews.decide(lease.case.case_id, **what)
        assert made is not None
        return made[1]

    async def run_out(self, lease: Lease) -> None:
        """Let the lease end now."""
        await self.outside.execute(
            "UPDATE cases SET lease_until = clock_timestamp() WHERE case_id = $1", lease.case.case_id
        )

    async def states(self) -> list[str]:
        rows = await self.outside.fetch(
            "SELECT state FROM cases ORDER BY subject, (convert_from(opened, 'UTF8')::json ->> 'version')::int"
        )
        return [row[0] for row in rows]

    async def said(self) -> list[tuple[str, str]]:
        """(type, event id) of everything in the outbox, in order."""
        rows = await self.outside.fetch("SELECT headers FROM outbox ORDER BY id")
        headers = [dict(msgspec.msgpack.decode(row[0], type=list[tuple[str, bytes]])) for row in rows]
        return [(of["ce_type"].decode(), of["ce_id"].decode()) for of in headers]

    async def types(self) -> list[str]:
        return [kind.removeprefix("piepowder.").removesuffix(".v1") for kind, _ in await self.said()]


def use_cases(store: Store) -> tuple[TakeInCases, ReviewCases]:
    return (
        TakeInCases(store, region=REGION, wake=lambda: None),
        ReviewCases(store, region=REGION, wake=lambda: None),
    )


@asynccontextmanager
async def running(url: str, **database: Any) -> AsyncIterator[Service]:
    await migrations.upgrade(url, "decision")
    pool = await asyncpg.create_pool(url, server_settings=SESSION, **database)
    connections = Database(url, pool, create_async_engine(sqlalchemy_url(url)))
    outside = await asyncpg.connect(url)
    store = Store(connections)
    try:
        yield Service(connections, store, *use_cases(store), outside)
    finally:
        await outside.close()
        await connections.close()


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with running(database_url) as parts:
        yield parts


async def test_the_schema_is_what_the_tables_say(service: Service, database_url: str) -> None:
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.connect() as connection:
        difference = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), METADATA)
        )
    await engine.dispose()
    assert [d for d in difference if "alembic_version" not in str(d)] == []


async def test_a_replay_changes_nothing_and_says_nothing(service: Service) -> None:
    batch = [
        encoded(REGION, "a"),
        encoded(REGION, "b", verdict="reject"),
        encoded(REGION, "a", version=2),
        encoded(REGION, "c", verdict="approve"),
    ]
    await service.open(*batch)
    before = await service.states(), await service.said(), await service.store.totals()
    await service.open(*batch)
    for alone in batch:
        await service.open(alone)
    assert (await service.states(), await service.said(), await service.store.totals()) == before
    assert before[0] == ["superseded", "waiting", "decided", "decided"]
    assert await service.types() == ["decision.made", "case.superseded", "decision.made"]


async def test_a_batch_that_holds_an_event_twice_takes_it_once(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), encoded(REGION, verdict="approve"))
    assert (await service.states(), await service.types()) == (["decided"], ["decision.made"])


async def test_two_consumers_of_the_same_batch_make_its_effects_once(service: Service) -> None:
    batch = [encoded(REGION, f"s{n}", verdict="approve") for n in range(50)]
    outcomes = await asyncio.gather(*(service.open(*batch) for _ in range(4)), return_exceptions=True)
    assert outcomes == [None] * 4
    assert len(await service.said()) == 50


async def test_an_older_version_that_comes_late_is_superseded_and_says_so(service: Service) -> None:
    await service.open(encoded(REGION, version=3))
    await service.open(encoded(REGION, version=2, verdict="approve"))
    assert await service.states() == ["superseded", "waiting"]
    assert await service.types() == ["case.superseded"]
    newest = opened(REGION, version=3)[1]
    [late] = await service.outside.fetch("SELECT superseded_by::text FROM cases WHERE state = 'superseded'")
    assert late[0] == newest.item_id


async def test_a_newer_version_takes_a_claimed_case_from_its_reviewer(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    lease = await service.claimed()
    await service.open(encoded(REGION, version=2))
    with pytest.raises(Refused, match=opened(REGION, version=2)[1].item_id) as refused:
        await service.approve(lease)
    assert refused.value.slug == "superseded"
    assert await service.types() == ["case.claimed", "case.superseded"]
    assert (await service.claimed()).case.opened.version == 2


async def test_a_decided_case_stays_decided_when_a_newer_version_comes(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    assert await service.approve(await service.claimed())
    await service.open(encoded(REGION, version=2))
    assert await service.states() == ["decided", "waiting"]


async def test_a_withdrawal_takes_a_claimed_case_from_its_reviewer_and_a_newer_version_opens(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    lease = await service.claimed(key=ids.derive("claim", "k"), body="b")
    await service.open(encoded_withdrawal(REGION, version=1))
    with pytest.raises(Refused, match="withdrawn") as refused:
        await service.approve(lease)
    assert refused.value.slug == "withdrawn"
    assert await service.claim(key=ids.derive("claim", "k"), body="b") is None
    await service.open(encoded(REGION, version=2))
    assert await service.states() == ["withdrawn", "waiting"]
    assert await service.types() == ["case.claimed", "case.closed"]
    assert await service.store.totals() == {"withdrawn": 1}
    assert await service.reviews.expire() is False


async def test_a_withdrawal_changes_nothing_that_has_ended(service: Service) -> None:
    await service.open(encoded(REGION, "a", version=1), encoded(REGION, "b", verdict="reject"))
    assert await service.approve(await service.claimed())
    await service.open(encoded(REGION, "c", version=1), encoded(REGION, "c", version=2))
    before = await service.states(), await service.said(), await service.store.totals()
    await service.open(*(encoded_withdrawal(REGION, subject) for subject in "abc"))
    assert (await service.states(), await service.said(), await service.store.totals()) == before


async def test_a_withdrawal_that_comes_before_its_case_ends_it_when_it_comes(service: Service) -> None:
    life = [
        encoded_withdrawal(REGION, "a"),
        encoded(REGION, "a"),
        encoded(REGION, "b"),
        encoded_withdrawal(REGION, "b"),
    ]
    for one in (*life, *reversed(life)):
        await service.open(one)
    assert await service.states() == ["withdrawn", "withdrawn"]
    assert await service.types() == ["case.closed", "case.closed"]
    assert await service.store.totals() == {"withdrawn": 2}
    assert await service.outside.fetchval("SELECT count(*) FROM withdrawals") == 0


async def test_a_decision_and_a_withdrawal_that_race_end_a_case_in_one_way(service: Service) -> None:
    subjects = [f"s{n}" for n in range(20)]
    await service.open(*(encoded(REGION, subject) for subject in subjects))
    leases = [await service.claimed() for _ in subjects]

    async def decide(lease: Lease) -> bool:
        try:
            return await service.approve(lease)
        except Refused as refused:
            assert refused.slug == "withdrawn"  # noqa: PT017 - of many, each is looked at
            return False

    async def withdraw_all() -> None:
        for subject in reversed(subjects):
            await service.open(encoded_withdrawal(REGION, subject))

    withdrawing = asyncio.create_task(withdraw_all())
    decided = sum(await asyncio.gather(*map(decide, leases)))
    await withdrawing
    assert sorted(await service.states()) == ["decided"] * decided + ["withdrawn"] * (20 - decided)
    ends = [kind for kind in await service.types() if kind != "case.claimed"]
    assert sorted(ends) == ["case.closed"] * (20 - decided) + ["decision.made"] * decided


async def test_one_case_and_many_reviewers_exactly_one_gets_it(service: Service) -> None:
    await service.open(encoded(REGION))
    leases = await asyncio.gather(*(service.claim(f"r-{n}") for n in range(8)))
    assert sum(lease is not None for lease in leases) == 1


async def test_many_reviewers_at_once_all_get_a_case_and_none_the_same(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}", queue=f"q{n % 3}") for n in range(40)))
    leases = await asyncio.gather(*(service.claimed(queues=["q0", "q1", "q2"]) for _ in range(40)))
    assert len({lease.case.case_id for lease in leases}) == 40
    assert await service.claim() is None


async def test_the_most_urgent_comes_first_of_all_the_queues_asked_for(service: Service) -> None:
    await service.open(
        encoded(REGION, "late", priority=2, due_in=60),
        encoded(REGION, "soon", priority=2, due_in=10, queue="brands"),
        encoded(REGION, "first", priority=1, due_in=90),
        encoded(REGION, "elsewhere", priority=1, due_in=1, queue="toys"),
    )
    got = [(await service.claimed(queues=["general", "brands"])).case.opened.subject_id for _ in range(3)]
    assert got == ["first", "soon", "late"]


async def test_an_expired_lease_cannot_decide_though_nobody_has_claimed_since(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    await service.run_out(lease)
    for act in (service.approve(lease), service.reviews.heartbeat(lease.case.case_id, token=1, seconds=60)):
        with pytest.raises(Refused) as refused:
            await act
        assert refused.value.slug == "lease-expired"
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == 0


async def test_the_next_claim_takes_an_expired_case_at_once_and_tells_both(service: Service) -> None:
    await service.open(encoded(REGION))
    first = await service.claimed()
    await service.run_out(first)
    second = await service.claimed(reviewer="r-2")
    assert (second.case.case_id, second.case.lease_token) == (first.case.case_id, 2)
    assert await service.types() == ["case.claimed", "case.expired", "case.claimed"]
    with pytest.raises(Refused, match=r"Token 1 holds case .* no longer"):
        await service.approve(first)
    assert await service.approve(second)


async def test_the_sweeper_ends_every_lease_that_ran_out_once(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(5)))
    for lease in [await service.claimed() for _ in range(5)]:
        await service.run_out(lease)
    await asyncio.gather(*(service.reviews.expire() for _ in range(3)))
    assert await service.types() == ["case.claimed"] * 5 + ["case.expired"] * 5


async def test_decisions_that_race_under_one_lease_make_one_decision(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    news = await asyncio.gather(*(service.approve(lease) for _ in range(6)))
    assert sorted(news) == [False] * 5 + [True]
    assert await service.approve(lease) is False
    with pytest.raises(Refused) as refused:
        await service.approve(lease, action="reject", reasons=["FAKE"])
    assert refused.value.slug == "already-decided"
    assert await service.types() == ["case.claimed", "decision.made"]
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_released_case_is_claimed_again_under_a_new_token(service: Service) -> None:
    await service.open(encoded(REGION))
    lease = await service.claimed()
    for _ in range(2):
        assert await service.reviews.release(lease.case.case_id, token=1, reason="") is not None
    assert (await service.claimed()).case.lease_token == 2
    assert await service.types() == ["case.claimed", "case.released", "case.claimed"]


async def test_the_same_idempotency_key_gives_the_same_lease_while_it_runs(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(5)))
    how = {"key": ids.derive("claim", "k"), "body": "b"}
    first, again = await service.claimed(**how), await service.claimed(**how)
    assert (again.case.case_id, again.case.lease_token) == (first.case.case_id, first.case.lease_token)
    with pytest.raises(Refused) as refused:
        await service.claim(key=how["key"], body="other")
    assert refused.value.slug == "idempotency-key-reused"
    assert await service.approve(first)
    assert (await service.claimed(**how)).case.case_id != first.case.case_id


async def test_claims_that_race_under_one_key_hold_one_case(service: Service) -> None:
    await service.open(*(encoded(REGION, f"s{n}") for n in range(8)))
    how = {"key": ids.derive("claim", "k"), "body": "b"}
    outcomes = await asyncio.gather(*(service.claim(**how) for _ in range(6)), return_exceptions=True)
    assert {outcome.slug for outcome in outcomes if isinstance(outcome, Refused)} <= {"in-flight"}
    assert len({outcome.case.case_id for outcome in outcomes if isinstance(outcome, Lease)}) == 1
    assert (await service.states()).count("claimed") == 1


async def test_reviewers_and_newer_versions_that_race_leave_one_open_case_and_no_deadlock(service: Service) -> None:
    subjects = [f"s{n}" for n in range(10)]
    await service.open(*(encoded(REGION, subject) for subject in subjects))

    async def review() -> None:
        for _ in range(10):
            lease = await service.claim()
            if lease is None:
                return
            with suppress(Refused):  # superseded meanwhile
                await service.approve(lease)

    async def post(order: Sequence[str]) -> None:
        for version in range(2, 6):
            await service.open(*(encoded(REGION, subject, version=version) for subject in order))

    await asyncio.gather(post(subjects), review(), review(), review())
    rows = await service.outside.fetch(
        "SELECT subject FROM cases WHERE state IN ('waiting', 'claimed') GROUP BY subject HAVING count(*) > 1"
    )
    assert rows == []
    decided = await service.outside.fetchval("SELECT count(*) FROM cases WHERE state = 'decided'")
    assert await service.outside.fetchval("SELECT count(*) FROM decisions") == decided


async def test_the_history_of_decisions_is_only_appended_to(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"))
    for change in ("UPDATE decisions SET action = 'reject'", "DELETE FROM decisions", "TRUNCATE decisions"):
        with pytest.raises(asyncpg.RaiseError, match="only appended to"):
            await service.outside.execute(change)


async def test_a_case_that_another_event_opened_before_is_poison_and_stays_as_it_was(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"))
    attributes, case = opened(REGION)
    forged = encoded(REGION, case_id=case.case_id, version=9)
    with pytest.raises(Poison, match="opened once"):
        await service.open(forged)
    assert await service.states() == ["decided"]
    assert await service.outside.fetchval("SELECT count(*) FROM inbox") == 1
    assert attributes.type == events.CASE_OPENED


async def test_a_batch_costs_the_same_statements_whatever_its_size(database_url: str) -> None:
    statements: list[str] = []

    class Counting(asyncpg.Connection):
        async def copy_records_to_table(self, table_name: str, **how: Any) -> str:
            statements.append(f"COPY {table_name}")
            return await super().copy_records_to_table(table_name, **how)

    async def watch(connection: "asyncpg.Connection[Any]") -> None:
        connection.add_query_logger(lambda about: statements.append(about.query))

    async with running(database_url, init=watch, connection_class=Counting, min_size=1, max_size=1) as service:
        counts, withdrawing = [], []
        for size in (4, 2, 300):  # the first also learns the types, once a connection
            await service.open(*(encoded(REGION, f"{size}-{n}") for n in range(size)))
            statements.clear()
            verdicts = ["review", "reject"] * (size // 2)
            again = [encoded(REGION, f"{size}-{n}", version=2, verdict=verdict) for n, verdict in enumerate(verdicts)]
            await service.open(*again, *(encoded(REGION, f"{size}-new-{n}") for n in range(size)))
            counts.append(list(statements))
            statements.clear()
            await service.open(*(encoded_withdrawal(REGION, f"{size}-new-{n}") for n in range(size)))
            withdrawing.append(list(statements))
        assert counts[1] == counts[2]
        assert len(counts[2]) <= 16
        assert withdrawing[1] == withdrawing[2]
        assert len(withdrawing[2]) <= 16


async def test_totals_survive_being_folded(service: Service) -> None:
    for n in range(210):
        await service.open(encoded(REGION, f"s{n}", verdict="approve"))
    before = await service.store.totals()
    async with service.store.work() as work:
        await work.fold_tallies()
    assert await service.store.totals() == before == {"decided": 210, "policy/approve": 210}
    assert await service.outside.fetchval("SELECT count(*) FROM tallies") == 2


async def test_a_list_walked_by_its_cursor_shows_each_case_once_though_others_come_and_go(service: Service) -> None:
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


async def test_a_connection_that_is_cut_is_transient_and_the_same_batch_again_is_right(service: Service) -> None:
    await service.open(encoded(REGION, "a"))
    await service.outside.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    for _ in range(12):  # as many as the pool may hold
        try:
            await service.open(encoded(REGION, "b", verdict="approve"))
        except Transient:
            continue
        break
    assert await service.states() == ["waiting", "decided"]
    assert await service.types() == ["decision.made"]
