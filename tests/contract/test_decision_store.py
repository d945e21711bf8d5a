"""The store of the decision service: the same results in memory and in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import pytest
from msgspec.structs import replace

from services.decision.domain import leases
from services.decision.domain.appeals import AppealedCase
from services.decision.domain.cases import Case
from services.decision.domain.decisions import DecideCommand
from services.decision.domain.ingest import BatchChanges, CaseMessage, NewCase, Snapshot
from services.decision.domain.leases import ClaimCommand
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.ingest import IngestCases
from services.decision.handlers.leases import LeaseCases
from services.decision.store import SESSION, Store
from shared.contracts import ids
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected
from tests.support.decision.cases import NOON
from tests.support.decision.domain import (
    CODES,
    received_appeal,
    received_case,
    received_withdrawal,
    records,
    under_other_rules,
)
from tests.support.decision.memory import MemoryStore

AnyStore: TypeAlias = MemoryStore | Store
EXPIRED = -1  # seconds: a lease that has expired when it is given


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AnyStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    await migrations.upgrade(database_url, "decision")
    database = await Database.connect(database_url, settings=SESSION)
    yield Store(database)
    await database.close()


async def ingest(store: AnyStore, *messages: CaseMessage) -> None:
    await IngestCases(store.ingest, region="eu", wake=lambda: None).handle(records(messages))


async def claim(store: AnyStore, reviewer: str = "r-1", *, seconds: int = 300, key: str | None = None) -> Case | None:
    use_cases = LeaseCases(store.leases, region="eu", wake=lambda: None)
    lease = await use_cases.claim(["general"], ClaimCommand(reviewer, "in_house", seconds, key, "body"))
    return None if lease is None else lease.case


async def decide(store: AnyStore, case: Case | None, action: str, *reasons: str) -> None:
    assert case is not None
    decisions = DecideCases(store.decisions, region="eu", wake=lambda: None, codes=lambda: CODES)
    await decisions.decide(case.case_id, DecideCommand(case.lease_token, action, list(reasons)))


async def state(store: AnyStore, message: CaseMessage) -> str:
    case_id = message.case_id if not hasattr(message, "opened") else message.opened.case_id
    found = await store.case(case_id)
    assert found is not None
    return found.case.state


async def test_a_transaction_that_fails_stores_nothing(store: AnyStore) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        await fail_in_the_middle(store)
    assert (await store.queue_names(), await store.totals()) == ([], {})


async def fail_in_the_middle(store: AnyStore) -> None:
    async with store.ingest() as transaction:
        await transaction.add_queues({"general"})
        await transaction.tally({"decided": 1})
        raise RuntimeError("in the middle")


async def test_a_snapshot_has_the_stored_state_that_a_batch_depends_on(store: AnyStore) -> None:
    open_case, decided = received_case("a", version=2), received_case("b", verdict="reject")
    await ingest(store, open_case, decided, received_withdrawal("early"))
    early, unknown = received_case("early"), received_case("unknown")
    batch: list[CaseMessage] = [
        received_case("a", version=3),
        received_case("b", version=2),
        received_withdrawal("a", version=2),
        received_withdrawal("c"),
        early,
        unknown,
        received_appeal(decided.opened),
        received_appeal(unknown.opened),
    ]
    async with store.ingest() as transaction:
        snapshot = await transaction.snapshot(batch)
    assert {subject: newest.version for subject, newest in snapshot.newest.items()} == {
        open_case.subject: 2,
        decided.subject: 1,
    }
    assert snapshot.newest[open_case.subject].open_correlation_id == open_case.correlation_id
    assert snapshot.newest[decided.subject].open_correlation_id is None
    assert snapshot.stored == {open_case.opened.case_id: open_case.event_id}
    async with store.ingest() as transaction:
        snapshot = await transaction.snapshot([under_other_rules(decided), unknown])
    assert snapshot.stored == {decided.opened.case_id: decided.event_id}
    async with store.ingest() as transaction:
        snapshot = await transaction.snapshot(batch)
    assert snapshot.withdrawn_early == {early.opened.case_id}
    assert snapshot.appealed_cases == {decided.opened.case_id: AppealedCase(1), unknown.opened.case_id: AppealedCase(0)}
    await ingest(store, received_appeal(decided.opened))
    async with store.ingest() as transaction:
        snapshot = await transaction.snapshot([received_appeal(decided.opened, reference="2")])
    assert snapshot.appealed_cases == {decided.opened.case_id: AppealedCase(1, has_open_appeal=True)}


async def test_the_newest_version_is_open_while_its_case_is_waiting_or_claimed(store: AnyStore) -> None:
    case = received_case()
    await ingest(store, case)

    async def is_open() -> bool:
        async with store.ingest() as transaction:
            snapshot = await transaction.snapshot([received_case(version=2)])
        return snapshot.newest[case.subject].open_correlation_id is not None

    assert await is_open()
    held = await claim(store)
    assert await is_open()
    await decide(store, held, "approve")
    assert not await is_open()


async def test_changes_of_a_batch_are_stored(store: AnyStore) -> None:
    old, new, gone = received_case("a", version=1), received_case("a", version=2), received_case("b")
    await ingest(store, old, gone)
    await ingest(store, new, received_withdrawal("b"), received_withdrawal("c"), received_case("d", verdict="approve"))
    found = await store.case(old.opened.case_id)
    assert found is not None
    assert (found.case.state, found.case.superseded_by) == ("superseded", new.opened.item_id)
    assert [await state(store, message) for message in (new, gone)] == ["waiting", "withdrawn"]
    await ingest(store, received_case("c"))
    assert await state(store, received_case("c")) == "withdrawn"
    assert await store.totals() == {"superseded": 1, "withdrawn": 2, "decided": 1, "policy/approve": 1}
    assert await store.queue_names() == ["general"]


async def test_a_second_event_that_opens_a_case_changes_nothing(store: AnyStore) -> None:
    await ingest(store, received_case())
    await ingest(store, under_other_rules(received_case(), verdict="reject"))
    await ingest(store, received_case("another", case_id=received_case().opened.case_id))
    assert await state(store, received_case()) == "waiting"
    assert await store.queue_names() == ["general"]
    assert await store.totals() == {}


async def test_a_case_that_another_writer_has_added_meanwhile_is_transient(store: AnyStore) -> None:
    changes = BatchChanges(cases=[NewCase(received_case(), "waiting")])
    await ingest(store, received_case())
    with pytest.raises(Transient, match="another writer has added this case"):
        async with store.ingest() as transaction:
            await transaction.apply(changes, Snapshot(now=NOON))


async def test_the_next_case_is_the_most_urgent_one_that_the_reviewer_may_claim(store: AnyStore) -> None:
    await ingest(
        store,
        received_case("later", priority=2, due_in=60),
        received_case("sooner", priority=2, due_in=10),
        received_case("first", priority=1, due_in=90),
        received_case("elsewhere", queue="toys", priority=1),
        received_appeal(received_case("x").opened, reviewer="r-1", priority=1, due_in=1),
    )
    found = [await claim(store) for _ in range(4)]
    assert [case and case.opened.subject_id for case in found] == ["first", "sooner", "later", None]
    appeal = await claim(store, "r-2")
    assert appeal is not None
    assert appeal.opened.case_type == "appeal"


async def test_a_saved_case_is_read_as_it_was_saved(store: AnyStore) -> None:
    await ingest(store, received_case())
    held = await claim(store, key=ids.derive("claim", "k"))
    assert held is not None
    async with store.leases() as transaction:
        found = await transaction.case(held.case_id)
        assert found is not None
        assert found[0] == held
        assert await transaction.case(ids.derive("nothing")) is None


async def test_a_claim_key_finds_its_case_while_the_case_has_it(store: AnyStore) -> None:
    await ingest(store, received_case("a"), received_case("b"))
    key = ids.derive("claim", "k")
    held = await claim(store, key=key)
    async with store.leases() as transaction:
        found = await transaction.claimed_under(key)
        assert found is not None
        assert found[0] == held
        assert await transaction.claimed_under(ids.derive("claim", "other")) is None
    await decide(store, held, "approve")
    async with store.leases() as transaction:
        assert await transaction.claimed_under(key) is None


async def test_two_cases_cannot_have_the_same_claim_key(store: AnyStore) -> None:
    await ingest(store, received_case("a"), received_case("b"))
    key = ids.derive("claim", "k")
    await claim(store, key=key)
    other = await claim(store)
    assert other is not None
    with pytest.raises(InputRejected) as rejected:
        await save(store, replace(other, claim_key=key))
    assert rejected.value.slug == "in-flight"


async def save(store: AnyStore, case: Case) -> None:
    async with store.leases() as transaction:
        await transaction.save([case])


async def test_expired_leases_are_found_oldest_first_up_to_the_limit(store: AnyStore) -> None:
    await ingest(store, *(received_case(f"s{n}", due_in=n) for n in range(4)))
    async with store.leases() as transaction:
        for seconds in (EXPIRED, EXPIRED * 60, 300):
            found = await transaction.next_case(["general"], "r-1")
            assert found is not None
            case, now = found
            held, _ = leases.claim("eu", case, now, ClaimCommand("r-1", "in_house", seconds))
            await transaction.save([held])
    async with store.leases() as transaction:
        assert [case.opened.subject_id for case, _ in await transaction.expired(10)] == ["s1", "s0"]
        assert [case.opened.subject_id for case, _ in await transaction.expired(1)] == ["s1"]


async def test_the_first_and_the_current_decision_of_a_case(store: AnyStore) -> None:
    item = received_case(verdict="reject")
    await ingest(store, item)
    await ingest(store, received_appeal(item.opened, reviewer=""))
    await decide(store, await claim(store, "r-2"), "overturn", "OTHER")
    async with store.decisions() as transaction:
        first, current = (
            await transaction.first_decision(item.opened.case_id),
            await transaction.current_decision(item.opened.case_id),
        )
        assert await transaction.first_decision(ids.derive("nothing")) is None
        assert await transaction.current_decision(ids.derive("nothing")) is None
    assert first is not None
    assert current is not None
    assert [(d.n, d.action, d.automated, d.reasons) for d in (first, current)] == [
        (1, "reject", True, ["COUNTERFEIT"]),
        (2, "approve", False, ["OTHER"]),
    ]
    found = await store.case(item.opened.case_id)
    assert found is not None
    assert found.decisions == [first, current]


async def test_concurrent_claims_get_different_cases(store: AnyStore) -> None:
    await ingest(store, *(received_case(f"s{n}") for n in range(5)))
    found = await asyncio.gather(*(claim(store, f"r-{n}") for n in range(8)))
    held = [case.case_id for case in found if case is not None]
    assert len(held) == len(set(held)) == 5


async def next_subject(store: AnyStore, **how: list[str]) -> str | None:
    async with store.leases() as transaction:
        found = await transaction.next_case(["general"], "r-1", **how)
    return None if found is None else found[0].opened.subject_id


async def test_a_skipped_case_stays_in_its_queue_and_the_next_one_is_found(store: AnyStore) -> None:
    """Also when more cases are skipped than the query reads at first."""
    received = [received_case(f"s{n:02}", due_in=n) for n in range(40)]
    await ingest(store, *received)
    case_ids = [case.opened.case_id for case in received]
    assert await next_subject(store) == "s00"
    assert await next_subject(store, skipped=case_ids[:1]) == "s01"
    assert await next_subject(store, skipped=[*case_ids[:20], *case_ids[21:30]]) == "s20"
    assert await next_subject(store, skipped=case_ids) is None
    assert await next_subject(store) == "s00"


async def test_a_claim_of_given_cases_finds_the_most_urgent_of_them_that_waits_in_the_queues(store: AnyStore) -> None:
    received = [received_case(f"s{n}", due_in=n) for n in range(6)]
    elsewhere = received_case("other", queue="elsewhere", due_in=-1)
    await ingest(store, *received, elsewhere)
    case_ids = [case.opened.case_id for case in received]
    given = [ids.derive("no such case"), elsewhere.opened.case_id, *reversed(case_ids[2:5])]
    assert await next_subject(store, only=given) == "s2"
    assert await next_subject(store, only=given, skipped=case_ids[:3]) == "s3"
    assert await next_subject(store, only=given[:2]) is None
    await claim(store)
    assert await next_subject(store, only=case_ids[:1]) is None
