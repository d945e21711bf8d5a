"""The ingest of batches, on a store in memory (promises 2, 5 and 6)."""

import pytest

from services.decision.handlers.ingest import IngestCases
from shared.runtime.errors import Transient
from tests.support.decision.domain import received_appeal, received_case, received_notice, received_withdrawal, records
from tests.support.decision.memory import MemoryService, MemoryTransaction


async def test_a_batch_stores_its_cases_decisions_events_queues_and_tallies() -> None:
    service = MemoryService()
    old, new = received_case("a", version=1), received_case("a", version=2)
    decided = received_case("b", verdict="reject", queue="brands")
    await service.open(old, new, decided, received_case("c"), received_withdrawal("c"))
    states = {case.opened.subject_id: case.state for case in service.store.cases.values()}
    assert states == {"a": "waiting", "b": "decided", "c": "withdrawn"}
    assert service.store.cases[old.opened.case_id].state == "superseded"
    assert [d.action for d in service.store.decided[decided.opened.case_id]] == ["reject"]
    assert service.event_types == ["case.superseded", "decision.made", "case.closed"]
    assert service.store.queues == {"general", "brands"}
    assert service.store.tallies == {"decided": 1, "policy/reject": 1, "superseded": 1, "withdrawn": 1}
    assert service.woken == 1


async def test_a_replay_changes_nothing_publishes_nothing_and_does_not_wake_the_relay() -> None:
    service = MemoryService()
    batch = [received_case("a"), received_case("b", verdict="approve"), received_notice()]
    await service.open(*batch)
    before = dict(service.store.cases), list(service.store.published), service.store.tallies.copy()
    await service.open(*batch, batch[0])
    assert (service.store.cases, service.store.published, service.store.tallies) == before
    assert service.woken == 1


async def test_an_event_that_a_batch_contains_twice_is_ingested_once() -> None:
    service = MemoryService()
    await service.open(received_case(verdict="approve"), received_case(verdict="approve"))
    assert service.event_types == ["decision.made"]


async def test_a_newer_version_or_a_withdrawal_ends_the_open_case_of_an_earlier_batch() -> None:
    service = MemoryService()
    old, new = received_case(version=1), received_case(version=2)
    await service.open(old)
    await service.claimed()
    await service.open(new)
    assert service.store.cases[old.opened.case_id].superseded_by == new.opened.item_id
    await service.open(received_withdrawal(version=2))
    assert service.store.cases[new.opened.case_id].state == "withdrawn"
    assert service.event_types == ["case.claimed", "case.superseded", "case.closed"]
    assert service.store.tallies == {"superseded": 1, "withdrawn": 1}


async def test_a_withdrawal_waits_in_the_store_for_its_case() -> None:
    service = MemoryService()
    await service.open(received_withdrawal())
    assert service.store.withdrawals == {received_case().opened.case_id}
    await service.open(received_case())
    assert service.store.withdrawals == set()
    assert service.store.tallies == {"withdrawn": 1}


async def test_a_second_appeal_is_closed_while_the_first_is_open() -> None:
    service = MemoryService()
    item = received_case(verdict="reject")
    await service.open(item)
    await service.open(received_appeal(item.opened, reference="1"))
    await service.open(received_appeal(item.opened, reference="2"))
    assert service.event_types == ["decision.made", "case.closed"]
    assert service.store.tallies == {"decided": 1, "policy/reject": 1, "closed": 1}


async def test_a_batch_that_fails_stores_nothing_and_does_not_wake_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    service = MemoryService()
    await service.open(received_case())

    async def fail(*_: object) -> None:
        raise Transient("another writer")

    monkeypatch.setattr(MemoryTransaction, "tally", fail)
    with pytest.raises(Transient):
        await service.open(received_case("b"))
    assert (len(service.store.cases), service.store.queues, service.woken) == (1, {"general"}, 0)


async def test_a_queue_that_this_process_has_stored_is_not_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service = MemoryService()
    await service.open(received_case("a"))
    service.store.queues.clear()
    await service.open(received_case("b"))
    assert service.store.queues == set()
    another_process = IngestCases(service.store.ingest, region="eu", wake=lambda: None)
    await another_process.handle(records([received_case("c")]))
    assert service.store.queues == {"general"}
