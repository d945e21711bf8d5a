"""Ingest of cases and withdrawals on PostgreSQL (promises 2, 5 and 6)."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from shared.contracts import events, ids
from shared.contracts.envelope import Encoded
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
    await asyncio.gather(*(until_stored(service, *batch) for _ in range(4)))
    assert len(await service.published()) == 50


async def test_an_older_version_that_arrives_late_is_superseded_with_an_event(service: Service) -> None:
    await service.open(encoded(REGION, version=3))
    await service.open(encoded(REGION, version=2, verdict="approve"))
    assert await service.states() == ["superseded", "waiting"]
    assert await service.event_types() == ["case.superseded"]
    newest = opened(REGION, version=3)[1]
    [late] = await service.outside.fetch("SELECT superseded_by::text FROM cases WHERE state = 'superseded'")
    assert late[0] == newest.item_id


async def test_a_late_post_without_a_version_is_superseded_if_its_client_stated_an_earlier_time(
    service: Service,
) -> None:
    def post(content: str, second: int, client: str = "shop") -> Any:
        stated = {"client": client, "requested_at": f"2026-05-01T11:59:0{second}.000Z"}
        return encoded(REGION, version=None, content=content, **stated)

    async def states_by_content() -> dict[str, str]:
        cases = await service.outside.fetch("SELECT opened, state FROM cases")
        return {json.loads(row[0])["item"]["text"]: row[1] for row in cases}

    await service.open(post("new", 2))
    await service.open(post("late", 1))
    assert await states_by_content() == {"new": "waiting", "late": "superseded"}
    await service.open(post("newer", 3))
    await service.open(post("late too", 2))
    await service.open(encoded(REGION, version=None, content="without a time"))
    await service.open(post("of another client", 1, "other"))
    found = await states_by_content()
    assert [text for text, state in found.items() if state == "waiting"] == ["of another client"]
    assert len(found) == 6
    assert await service.event_types() == ["case.superseded"] * 5
    [newest] = await service.outside.fetch("SELECT client, requested_at FROM subjects")
    assert (newest[0], newest[1].isoformat()) == ("other", "2026-05-01T11:59:01+00:00")


async def test_an_older_version_stays_older_whatever_was_posted_in_between(service: Service) -> None:
    def of(subject: str, *posts: Any) -> list[Any]:
        return [encoded(REGION, subject, **dict(zip(("version", "content", "client", "requested_at"), p, strict=True)))
                for p in posts]  # fmt: skip

    early, late = "2026-05-01T11:05:00.000Z", "2026-05-01T11:10:00.000Z"
    numbered = of("numbered", (5, "5", "a", ""), (None, "none", "a", ""), (3, "3", "a", ""))
    timed = of("timed", (None, "late", "a", late), (None, "other", "b", ""), (None, "early", "a", early))
    for one, another in zip(numbered, timed, strict=True):  # a batch each, so that the rule depends on stored state
        await service.open(one, another)
    cases = await service.outside.fetch("SELECT opened, state FROM cases")
    waiting = {json.loads(row[0])["item"]["text"] for row in cases if row[1] == "waiting"}
    assert waiting == {"none", "other"}
    await service.open(
        *of("numbered", (6, "6", "a", "")), *of("timed", (None, "later", "a", "2026-05-01T11:11:00.000Z"))
    )
    cases = await service.outside.fetch("SELECT opened, state FROM cases")
    waiting = {json.loads(row[0])["item"]["text"] for row in cases if row[1] == "waiting"}
    assert waiting == {"6", "later"}


@pytest.mark.parametrize(
    "stated", [{"requested_at": "now"}, {"requested_at": "2026-05-01T12:00:00"}, {"client": "x" * 201}]
)
async def test_an_invalid_request_time_or_client_is_poison(service: Service, stated: dict[str, str]) -> None:
    with pytest.raises(Poison):
        await service.open(encoded(REGION, **stated))


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


async def test_a_second_opening_of_a_case_under_other_rules_is_ignored_and_counted(service: Service) -> None:
    """Promise 5: after a repetition of the router under other rules, the first opening stays valid."""
    first = [encoded(REGION, "a", verdict="approve"), encoded(REGION, "b"), encoded(REGION, "c")]
    await service.open(*first)
    lease = await service.claimed()
    await service.open(encoded_withdrawal(REGION, "c"))
    before = await service.states(), await service.published(), await service.store.totals()
    counted = reopened()
    other = {"trace": events.Trace(policy_set="2-x", operating_model="2-y"), "queue": "other", "verdict": "reject"}
    again = [encoded(REGION, subject, **other) for subject in "abc"]
    assert all(event.headers != opening.headers for event, opening in zip(again, first, strict=True))
    await service.open(*again)
    await service.open(*first)  # a repeat of the first opening is not counted
    assert (await service.states(), await service.published(), await service.store.totals()) == before
    assert reopened() - counted == 3
    assert await service.decide(lease)
    queues = [queue.queue for queue in await service.store.queues()]
    assert queues == ["general"]


async def test_two_consumers_that_open_a_case_under_different_rules_store_it_once(service: Service) -> None:
    """A member that was paused during a rebalance, and its successor."""
    for n in range(10):
        openings = [encoded(REGION, f"s{n}", trace=events.Trace(policy_set=f"{k}-x", operating_model="1-y"))
                    for k in range(4)]  # fmt: skip
        await asyncio.gather(*(until_stored(service, one) for one in openings))
    assert await service.states() == ["waiting"] * 10


async def until_stored(service: Service, *batch: Encoded) -> None:
    """Ingest a batch as the consumer loop does, which repeats a batch after Transient."""
    while True:
        try:
            return await service.open(*batch)
        except Transient:
            continue


def reopened() -> float:
    return REGISTRY.get_sample_value("piepowder_decision_reopened_total", {"region": REGION}) or 0.0


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
        few = 2  # INSERT in place of COPY, for each row but in one message
        for size in (4, 20, 300, few):  # the first batch of a connection also reads the types
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
        assert not any("COPY" in statement for statement in counts[3])
        assert len(counts[3]) <= len(counts[2])
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
