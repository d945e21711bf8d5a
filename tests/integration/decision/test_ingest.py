"""Ingest of cases and withdrawals on PostgreSQL (promises 2, 5 and 6)."""

import asyncio
from typing import Any

import asyncpg
import pytest

from shared.contracts import events, ids
from shared.runtime.errors import Poison, Transient
from shared.validation.faults import InputRejected
from tests.support.decision.cases import encoded, encoded_withdrawal, opened
from tests.support.decision.service import REGION, Service, running


async def test_a_replay_changes_nothing_and_publishes_nothing(service: Service) -> None:
    batch = [
        encoded(REGION, "a"),
        encoded(REGION, "b", verdict="reject"),
        encoded(REGION, "a", version=2),
        encoded(REGION, "c", verdict="approve"),
    ]
    await service.open(*batch)
    before = await service.states(), await service.published(), await service.store.totals()
    await service.open(*batch)
    for alone in batch:
        await service.open(alone)
    assert (await service.states(), await service.published(), await service.store.totals()) == before
    assert before[0] == ["superseded", "waiting", "decided", "decided"]
    assert await service.event_types() == ["decision.made", "case.superseded", "decision.made"]


async def test_an_event_that_a_batch_contains_twice_is_ingested_once(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"), encoded(REGION, verdict="approve"))
    assert (await service.states(), await service.event_types()) == (["decided"], ["decision.made"])


async def test_several_consumers_of_the_same_batch_apply_it_once(service: Service) -> None:
    batch = [encoded(REGION, f"s{n}", verdict="approve") for n in range(50)]
    outcomes = await asyncio.gather(*(service.open(*batch) for _ in range(4)), return_exceptions=True)
    assert outcomes == [None] * 4
    assert len(await service.published()) == 50


async def test_an_older_version_that_arrives_late_is_superseded_with_an_event(service: Service) -> None:
    await service.open(encoded(REGION, version=3))
    await service.open(encoded(REGION, version=2, verdict="approve"))
    assert await service.states() == ["superseded", "waiting"]
    assert await service.event_types() == ["case.superseded"]
    newest = opened(REGION, version=3)[1]
    [late] = await service.outside.fetch("SELECT superseded_by::text FROM cases WHERE state = 'superseded'")
    assert late[0] == newest.item_id


async def test_a_newer_version_takes_a_claimed_case_from_its_reviewer(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    lease = await service.claimed()
    await service.open(encoded(REGION, version=2))
    with pytest.raises(InputRejected, match=opened(REGION, version=2)[1].item_id) as rejected:
        await service.decide(lease)
    assert rejected.value.slug == "superseded"
    assert await service.event_types() == ["case.claimed", "case.superseded"]
    assert (await service.claimed()).case.opened.version == 2


async def test_a_decided_case_stays_decided_when_a_newer_version_arrives(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    assert await service.decide(await service.claimed())
    await service.open(encoded(REGION, version=2))
    assert await service.states() == ["decided", "waiting"]


async def test_a_withdrawal_takes_a_claimed_case_from_its_reviewer_and_a_newer_version_opens(service: Service) -> None:
    await service.open(encoded(REGION, version=1))
    lease = await service.claimed(key=ids.derive("claim", "k"), body="b")
    await service.open(encoded_withdrawal(REGION, version=1))
    with pytest.raises(InputRejected, match="withdrawn") as rejected:
        await service.decide(lease)
    assert rejected.value.slug == "withdrawn"
    assert await service.claim(key=ids.derive("claim", "k"), body="b") is None
    await service.open(encoded(REGION, version=2))
    assert await service.states() == ["withdrawn", "waiting"]
    assert await service.event_types() == ["case.claimed", "case.closed"]
    assert await service.store.totals() == {"withdrawn": 1}
    assert await service.leases.expire() is False


async def test_a_withdrawal_does_not_change_a_case_that_has_ended(service: Service) -> None:
    await service.open(encoded(REGION, "a", version=1), encoded(REGION, "b", verdict="reject"))
    assert await service.decide(await service.claimed())
    await service.open(encoded(REGION, "c", version=1), encoded(REGION, "c", version=2))
    before = await service.states(), await service.published(), await service.store.totals()
    await service.open(*(encoded_withdrawal(REGION, subject) for subject in "abc"))
    assert (await service.states(), await service.published(), await service.store.totals()) == before


async def test_a_withdrawal_that_arrives_before_its_case_ends_the_case_on_arrival(service: Service) -> None:
    events_of_a_case = [
        encoded_withdrawal(REGION, "a"),
        encoded(REGION, "a"),
        encoded(REGION, "b"),
        encoded_withdrawal(REGION, "b"),
    ]
    for one in (*events_of_a_case, *reversed(events_of_a_case)):
        await service.open(one)
    assert await service.states() == ["withdrawn", "withdrawn"]
    assert await service.event_types() == ["case.closed", "case.closed"]
    assert await service.store.totals() == {"withdrawn": 2}
    assert await service.outside.fetchval("SELECT count(*) FROM withdrawals") == 0


async def test_a_second_event_that_opens_a_case_is_poison_and_the_case_stays_as_it_is(service: Service) -> None:
    await service.open(encoded(REGION, verdict="approve"))
    attributes, case = opened(REGION)
    forged = encoded(REGION, case_id=case.case_id, version=9)
    with pytest.raises(Poison, match="another event has opened this case"):
        await service.open(forged)
    assert await service.states() == ["decided"]
    assert await service.outside.fetchval("SELECT count(*) FROM inbox") == 1
    assert attributes.type == events.CASE_OPENED


async def test_the_number_of_statements_does_not_depend_on_the_size_of_a_batch(database_url: str) -> None:
    statements: list[str] = []

    class Counting(asyncpg.Connection):
        async def copy_records_to_table(self, table_name: str, **how: Any) -> str:
            statements.append(f"COPY {table_name}")
            return await super().copy_records_to_table(table_name, **how)

    async def watch(connection: "asyncpg.Connection[Any]") -> None:
        connection.add_query_logger(lambda about: statements.append(about.query))

    async with running(database_url, init=watch, connection_class=Counting, min_size=1, max_size=1) as service:
        counts, withdrawing = [], []
        for size in (4, 2, 300):  # the first batch of a connection also reads the types
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


async def test_a_cut_connection_is_transient_and_the_repeated_batch_is_ingested(service: Service) -> None:
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
    assert await service.event_types() == ["decision.made"]
