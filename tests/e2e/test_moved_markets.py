"""Markets move between regions under load, the router starts again from its first offset, and a region leaves the
operating model: every accepted item ends decided or in a queue (promises 1, 2, 4, 5, 6)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from deploy.local.accounting import Account, ItemOutcome
from deploy.services import processes
from piepowder.tally import RegionItem
from shared.contracts import events, ids, topics
from shared.contracts.envelope import Attributes, encode
from shared.kafka.producer import KafkaProducer, record
from shared.kafka.whole_topic import read_whole
from shared.runtime.clock import SystemClock, to_text
from tests.e2e.conftest import Cell
from tests.e2e.drive import review_until, settle
from tests.e2e.steps import item, until, until_status

pytestmark = pytest.mark.timeout(300)

MARKETS = (["DE"], ["US"], ["DE", "US"], ["FR", "DE"])
GERMAN_RULE = {
    "id": "german-rule",
    "when": ['title.startsWith("Forbidden in Germany")'],
    "verdict": "reject",
    "reasons": ["TEST"],
    "markets": ["DE"],
}
REVIEWED = {"id": "reviewed", "when": ['title.startsWith("Unclear")'], "verdict": "review", "queue": "content"}
TITLES = ("Forbidden in Germany: a lamp", "Unclear: a lamp", "Desk lamp, brass")


class Posted(NamedTuple):
    """An accepted item: its regions at that time, its markets and its title."""

    item_id: str
    regions: list[str]
    markets: list[str]
    title: str


def in_force(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = cell.client.get(f"{cell.url('router')}/v1/control").json()
    return found


def publish(cell: Cell, body: dict[str, Any]) -> httpx.Response:
    return cell.client.post(f"{cell.url('router')}/v1/control", json=body)


def move(cell: Cell, market: str, to: str) -> None:
    """Publish the operating model in force with a market in another region, and policies that fit it."""
    regions = in_force(cell)["operating_model"]["regions"]
    for region in regions:
        region["markets"] = [one for one in region["markets"] if one != market]
        if region["id"] == to:
            region["markets"].append(market)
    response = publish(cell, {"operating_model": {"regions": regions}})
    assert response.status_code == 200, response.text


def add_policies(cell: Cell) -> None:
    """Publish the policies of this module in addition to those of the sample."""
    policy_set = in_force(cell)["policy_set"]
    policies = [one for one in policy_set["policies"] if one["id"] not in ("german-rule", "reviewed")]
    body = {name: policy_set[name] for name in ("terms", "term_options", "default_verdict")}
    body["policies"] = [*policies, GERMAN_RULE, REVIEWED]
    response = publish(cell, {"policy_set": body})
    assert response.status_code == 200, response.text


async def post_until(cell: Cell, name: str, done: asyncio.Event) -> list[Posted]:
    """Post items one after the other, about 25 per second, until `done`; return those with status 202."""
    accepted: list[Posted] = []
    url, headers = f"{cell.url('intake')}/v1/items", {"Authorization": f"Bearer {cell.system.key()}"}
    async with httpx.AsyncClient(headers=headers, timeout=10, trust_env=False) as client:
        n = 0
        while not done.is_set():
            markets, title = MARKETS[n % len(MARKETS)], TITLES[n % len(TITLES)]
            response = await client.post(url, json=item(id=f"{name}-{n}", markets=markets, title=title))
            assert response.status_code == 202, response.text
            body = response.json()
            accepted.append(Posted(body["item_id"], list(body["regions"]), markets, title))
            n += 1
            await asyncio.sleep(0.04)
    return accepted


def pairs(posted: list[Posted]) -> set[RegionItem]:
    return {RegionItem(one.item_id, region) for one in posted for region in one.regions}


def assert_accounted(account: Account) -> None:
    assert (account.missing, account.doubles, account.gaps) == ({}, [], [])
    stopped = {ItemOutcome.PARKED, ItemOutcome.DEAD_LETTERED}
    assert stopped.isdisjoint(account.outcomes), account.outcomes


async def reset_router(cell: Cell) -> None:
    """Stop the router, set its groups to their first offsets, and start it again."""
    router = cell.system.services["router"]
    await asyncio.to_thread(router.stop)
    for region in (cell.eu, cell.us):
        consumer = AIOKafkaConsumer(
            bootstrap_servers=cell.system.servers.kafka, group_id=f"piepowder-router-{region}", enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = await partitions(cell, topics.submissions(region))
            consumer.assign(places)

            async def is_set(consumer: AIOKafkaConsumer = consumer, places: list[Any] = places) -> bool:
                try:
                    await consumer.commit(dict.fromkeys(places, 0))
                except KafkaError:  # a static member stays for 15 s after its stop
                    return False
                return True

            await wait_until(is_set)
        finally:
            await consumer.stop()
    await asyncio.to_thread(router.start)


async def partitions(cell: Cell, topic: str) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=cell.system.servers.kafka)
    await consumer.start()
    try:
        return list(consumer.assignment())
    finally:
        await consumer.stop()


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition depends on other processes
            await asyncio.sleep(0.2)


async def openings(cell: Cell, region: str) -> list[tuple[str, bytes | None]]:
    """The id and the value of each event that opens a case."""
    records = await read_whole(cell.system.servers.kafka, topics.cases(region), "test")
    found = [(dict(record.headers), record.value) for record in records]
    return [
        ((headers["ce_id"] or b"").decode(), value)
        for headers, value in found
        if headers["ce_type"] == b"piepowder.case.opened.v1"
    ]


async def stored(cell: Cell, region: str) -> tuple[list[Any], list[Any]]:
    """Decision's cases with their states, and its decisions."""
    [name] = [one.database for one in processes([cell.eu, cell.us]) if one.name == f"decision-{region}"]
    [database] = [one for one in cell.system.databases() if one.endswith(name)]
    connection = await asyncpg.connect(f"{cell.system.servers.database_url.rpartition('/')[0]}/{database}")
    try:
        cases = await connection.fetch("SELECT case_id, event_id, state, queue, opened FROM cases ORDER BY 1")
        return cases, await connection.fetch("SELECT * FROM decisions ORDER BY case_id, n")
    finally:
        await connection.close()


def reopened(cell: Cell, region: str) -> float:
    text = cell.client.get(f"{cell.url('decision', region)}/metrics").text
    name = f'piepowder_decision_reopened_total{{region="{region}"}} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


async def test_items_that_are_accepted_while_markets_move_end_decided_or_in_a_queue_and_a_reset_changes_nothing(
    cell: Cell,
) -> None:
    add_policies(cell)
    done = asyncio.Event()
    posting = asyncio.create_task(post_until(cell, "moving", done))
    for market, to in (("DE", cell.us), ("US", cell.eu), ("DE", cell.eu), ("US", cell.us), ("DE", cell.us)):
        await asyncio.sleep(2)
        await asyncio.to_thread(move, cell, market, to)
    await asyncio.sleep(2)
    done.set()
    posted = await posting
    assert len(posted) > 100
    assert len({tuple(one.regions) for one in posted if one.markets == ["DE"]}) == 2

    withdrawn = [one for one in posted if one.title.startswith("Unclear")][::3]
    for one in withdrawn:
        response = await asyncio.to_thread(cell.client.delete, f"{cell.url('intake')}/v1/items/{one.item_id}")
        assert response.status_code == 202, response.text
    account = await settle(cell.system, pairs(posted))
    assert_accounted(account)
    for one in withdrawn:
        for region in one.regions:
            await asyncio.to_thread(until_status, cell, one.item_id, region, "withdrawn")
    for one in posted:
        if one.title.startswith("Forbidden") and one.markets == ["DE"]:
            await asyncio.to_thread(until_status, cell, one.item_id, one.regions[0], "rejected")

    before = {region: await stored(cell, region) for region in (cell.eu, cell.us)}
    first = {region: await openings(cell, region) for region in (cell.eu, cell.us)}
    for times in (1, 2):  # under other rules than the first time, and under the same rules again
        await reset_router(cell)

        async def are_routed(times: int = times) -> bool:
            return all(
                [len(await openings(cell, region)) == len(first[region]) * (times + 1) for region in (cell.eu, cell.us)]
            )

        await wait_until(are_routed)
        assert_accounted(await settle(cell.system, pairs(posted)))
        assert {region: await stored(cell, region) for region in (cell.eu, cell.us)} == before
    for region in (cell.eu, cell.us):
        values: dict[str, set[bytes | None]] = {}
        opened = await openings(cell, region)
        for event_id, value in opened:
            values.setdefault(event_id, set()).add(value)
        assert {len(different) for different in values.values()} == {1}
        known = {event_id for event_id, _ in first[region]}
        expected = sum(event_id not in known for event_id, _ in opened)
        assert expected > 0

        async def are_ignored(region: str = region, expected: int = expected) -> bool:
            return await asyncio.to_thread(reopened, cell, region) == expected

        await wait_until(are_ignored, 20)


async def withdraw_late(cell: Cell, item_id: str) -> None:
    """Publish the withdrawal of an item in the second region, without intake."""
    first, now = ids.event_id(item_id, events.ITEM_SUBMITTED, cell.us), to_text(SystemClock().now())
    withdrawn = events.ItemWithdrawn(
        item_id=item_id,
        platform="web",
        kind="product",
        subject_id="last",
        client="test",
        withdrawn_at=now,
        regions=[cell.us],
    )
    event_id = ids.event_id(item_id, events.ITEM_WITHDRAWN, cell.us)
    about = Attributes(event_id, events.ITEM_WITHDRAWN, "test", now, "web:product:last", cell.us, first, first)
    producer = KafkaProducer(cell.system.servers.kafka, client_id="test")
    try:
        await producer.send([record(topics.submissions(cell.us), encode(about, withdrawn))])
    finally:
        await producer.stop()


async def until_refused(cell: Cell, item_id: str) -> dict[str, Any]:
    """Withdraw an item until intake, which follows the control topic, refuses it; returns the problem."""
    found: list[httpx.Response] = []

    async def is_refused() -> bool:
        found.append(await asyncio.to_thread(cell.client.delete, f"{cell.url('intake')}/v1/items/{item_id}"))
        return found[-1].status_code == 422

    await wait_until(is_refused, 20)
    problem: dict[str, Any] = found[-1].json()
    return problem


async def test_a_region_leaves_the_operating_model_only_when_it_is_drained_and_its_later_records_wait(
    cell: Cell,
) -> None:
    add_policies(cell)
    move(cell, "DE", cell.eu)
    move(cell, "US", cell.us)
    waiting = await asyncio.to_thread(
        cell.client.post, f"{cell.url('intake')}/v1/items", json=item(id="last", markets=["US"], title=TITLES[1])
    )
    item_id = waiting.json()["item_id"]
    await asyncio.to_thread(until_status, cell, item_id, cell.us, "in_review")
    in_both = await asyncio.to_thread(
        cell.client.post, f"{cell.url('intake')}/v1/items", json=item(id="both", markets=["DE", "US"], title=TITLES[1])
    )
    both_id = in_both.json()["item_id"]
    await asyncio.to_thread(until_status, cell, both_id, cell.us, "in_review")
    await asyncio.to_thread(until_status, cell, both_id, cell.eu, "in_review")
    regions = in_force(cell)["operating_model"]["regions"]
    eu, us = ({one["id"]: one for one in regions}[name] for name in (cell.eu, cell.us))

    def details(model: list[dict[str, Any]]) -> str:
        response = publish(cell, {"operating_model": {"regions": model}})
        assert response.status_code == 422, response.text
        assert response.json()["type"].endswith("invalid-control")
        return " ".join(error["detail"] for error in response.json()["errors"])

    at_once = details([eu])
    assert f"region '{cell.us}' cannot leave the model yet: it owns " in at_once
    assert "open cases (content " in at_once
    moved = eu | {"markets": [*eu["markets"], *us["markets"]]}
    drained = publish(cell, {"operating_model": {"regions": [moved, us | {"markets": []}]}})
    assert drained.status_code == 200, drained.text
    router = cell.system.services["router"]
    assert "open cases (content " in details([moved])

    reviewed = asyncio.Event()
    reviewer = asyncio.create_task(review_until(cell.system, cell.us, reviewed))
    await asyncio.to_thread(
        until,
        lambda: cell.client.get(f"{cell.url('decision', cell.us)}/v1/queues"),
        lambda body: not any(queue["waiting"] + queue["claimed"] for queue in body["queues"]),
    )
    reviewed.set()
    await reviewer

    decision = cell.system.services[f"decision-{cell.us}"]
    await asyncio.to_thread(decision.stop)
    unknown = publish(cell, {"operating_model": {"regions": [moved]}})
    assert (unknown.status_code, "does not respond" in unknown.text) == (503, True), unknown.text
    assert unknown.headers["Retry-After"]
    await asyncio.to_thread(decision.start)
    await asyncio.to_thread(cell.system.wait_ready)

    left = await asyncio.to_thread(publish, cell, {"operating_model": {"regions": [moved]}})
    assert left.status_code == 200, left.text
    await withdraw_late(cell, item_id)  # as an intake with an older model does
    in_left = await until_refused(cell, item_id)
    assert in_left["type"].endswith("region-not-served")
    remaining = await asyncio.to_thread(cell.client.delete, f"{cell.url('intake')}/v1/items/{both_id}")
    assert (remaining.status_code, list(remaining.json()["regions"])) == (202, [cell.eu]), remaining.text
    await asyncio.to_thread(until_status, cell, both_id, cell.eu, "withdrawn")
    here = await asyncio.to_thread(
        cell.client.post, f"{cell.url('intake')}/v1/items", json=item(id="here", markets=["US"])
    )
    assert list(here.json()["regions"]) == [cell.eu]
    await asyncio.to_thread(until_status, cell, here.json()["item_id"], cell.eu, "approved")
    appeal = {
        "item_id": item_id,
        "appellant": {"kind": "seller"},
        "explanation": "The maker's invoice is enclosed: it is genuine.",
        "reference": "complaint-1",
    }

    refused = await asyncio.to_thread(cell.client.post, f"{cell.url('intake')}/v1/appeals", json=appeal)
    assert (refused.status_code, refused.json()["type"].endswith("region-not-served")) == (422, True), refused.text
    assert router.ready
    back = publish(cell, {"operating_model": {"regions": [moved, us | {"markets": []}]}})
    assert back.status_code == 422, back.text  # a new region needs a market
    back = publish(cell, {"operating_model": {"regions": [eu, us]}})
    assert back.status_code == 200, back.text

    async def withdrawal_is_routed() -> bool:
        records = await read_whole(cell.system.servers.kafka, topics.cases(cell.us), "test")
        return any(
            dict(record.headers)["ce_type"] == b"piepowder.case.withdrawn.v1" and item_id.encode() in record.value
            for record in records
        )

    await wait_until(withdrawal_is_routed)
