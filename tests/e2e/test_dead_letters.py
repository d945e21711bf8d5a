"""Records that a service cannot handle become dead letters, unchanged and visible, while all others are processed; a
replay handles them later in order (promises 1, 4, 5, 6)."""

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from deploy.local.accounting import ItemOutcome
from piepowder import positions, replay
from piepowder.dead_letters import DeadLetterCounts, ReplayFilter, ReplayUnit
from piepowder.status import dead_letter_counts
from piepowder.tally import RegionItem
from shared.contracts import ids, topics
from shared.contracts.events import DEADLETTER_DISCARDED, ITEM_SUBMITTED
from shared.runtime.user_errors import UserError
from tests.chaos import poison
from tests.e2e import steps
from tests.e2e.conftest import Cell
from tests.e2e.drive import settle

pytestmark = pytest.mark.timeout(300)

SUBJECT = "shop:product:cursed"
PARKING = ("an unknown event version",)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition depends on other processes
            await asyncio.sleep(0.2)


@asynccontextmanager
async def database(cell: Cell, service: str, region: str = "") -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A service's own database."""
    server = cell.system.servers.database_url.rpartition("/")[0]
    ends = f"_{service}" + (f"_{region.replace('-', '_')}" if region else "")
    [name] = [name for name in cell.system.databases() if name.replace("-", "_").endswith(ends)]
    connection = await asyncpg.connect(f"{server}/{name}")
    try:
        yield connection
    finally:
        await connection.close()


async def dead_lettered(cell: Cell, region: str) -> list[ReplayUnit]:
    [found] = await replay.find(cell.system.servers.kafka, [region], ReplayFilter())
    return found.units


async def groups_of_subject(cell: Cell) -> set[str]:
    """The groups that have dead-lettered records of the subject, without the region."""
    return {
        unit.group.removesuffix(f"-{cell.eu}")
        for unit in await dead_lettered(cell, cell.eu)
        if unit.lane.key == SUBJECT.encode()
    }


def post(cell: Cell, subject: str, version: int, **more: object) -> str:
    """Post an item that the policies approve; its id."""
    body = {"platform": "shop", "kind": "product", "id": subject, "version": version, "markets": ["DE"]}
    text = {"title": "Garden chair of oak, solid", "brand": "Oak & Sons", **more}
    return str(steps.post(cell, "items", body | text)["item_id"])


def status(cell: Cell, item: str) -> dict[str, Any]:
    response = cell.client.get(f"{cell.url('intake')}/v1/items/{item}")
    regions: dict[str, Any] = response.json()["regions"] if response.status_code == 200 else {}
    return dict(regions.get(cell.eu, {"status": "not known"}))


async def until_status(cell: Cell, item: str, wanted: str) -> dict[str, Any]:
    async def has_status() -> bool:
        return bool(status(cell, item)["status"] == wanted)

    try:
        await until(has_status)
    except TimeoutError:
        pytest.fail(f"item {item} did not reach the status {wanted}: {status(cell, item)}")
    return status(cell, item)


def command(cell: Cell, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`piepowder replay` as a person runs it."""
    script = [sys.executable, "-m", "piepowder", "replay", "--folder", str(cell.system.folder), *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)


async def test_every_kind_of_poison_on_every_topic_becomes_a_dead_letter_and_stops_nothing(cell: Cell) -> None:
    plants = [one for one in poison.make(random.Random(4), cell.eu, cell.us) if one.topic != topics.CONTROL]
    expected: dict[tuple[str, str, int, int], poison.BadRecord] = {}
    async with AIOKafkaProducer(
        bootstrap_servers=cell.system.servers.kafka, max_request_size=8 * 2**20, acks="all"
    ) as producer:
        for one in plants:
            place = await producer.send_and_wait(one.topic, one.value, one.key, headers=one.headers)
            for reader in one.readers:
                expected[f"piepowder-{reader}-{cell.eu}", *place[:2], place.offset] = one
    sound = post(cell, "sound", 1)
    await until_status(cell, sound, "approved")

    async def all_are_dead_lettered() -> bool:
        return len(await dead_lettered(cell, cell.eu)) >= len(expected)

    await until(all_are_dead_lettered)
    units = {tuple(unit.letters[0].id): unit for unit in await dead_lettered(cell, cell.eu)}
    assert units.keys() == expected.keys()
    for (group, *_), one in expected.items():
        in_order = "intake" not in group
        [unit] = [unit for unit in units.values() if unit.group == group and unit.lane.key == one.key
                  and unit.lane.topic == one.topic]  # fmt: skip
        assert (unit.parked is not None) == (one.kind in PARKING and in_order), (one.kind, unit)
        assert unit.letters[0].size == len(one.value)

    services = list(cell.system.services.values())
    await asyncio.gather(*(asyncio.to_thread(service.kill) for service in services))
    await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
    await asyncio.to_thread(cell.system.wait_ready)
    again = await asyncio.to_thread(command, cell, "--region", cell.eu, "--all")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "Dead-lettered again" in again.stdout
    assert "Handled: 0" in again.stdout
    listed = await asyncio.to_thread(command, cell, "--region", cell.eu)
    assert listed.returncode == 0
    assert "unknown event type" in listed.stdout
    assert sum(len(unit.letters) for unit in await dead_lettered(cell, cell.eu)) == len(expected)
    metrics = cell.client.get(f"{cell.url('router')}/metrics").text
    assert re.search(rf'parked_keys{{group="piepowder-router-{cell.eu}"}} 1\.0', metrics)
    await until_status(cell, post(cell, "sound", 2), "approved")


async def test_a_subject_that_the_database_rejects_waits_through_kills_and_is_replayed_in_order(cell: Cell) -> None:
    """The expression cannot calculate with one version in decision and with the whole subject in audit; intake parks
    nothing. A constraint that is violated would be about the schema, and no record's fault."""
    first = post(cell, "cursed", 1)
    await until_status(cell, first, "approved")
    url = f"{cell.url('audit', cell.eu)}/v1/subjects/shop/product/cursed/timeline"
    await asyncio.to_thread(steps.until, lambda: cell.client.get(url), lambda body: len(body["events"]) == 3)
    second = ids.item_id("shop", "product", "cursed", "2")
    case = ids.case_id(second, cell.eu, "item")
    async with database(cell, "decision", cell.eu) as one, database(cell, "audit", cell.eu) as other:
        await one.execute(
            f"ALTER TABLE cases ADD CONSTRAINT planted CHECK (2147483647 + (case_id = '{case}')::int > 0)"
        )
        await other.execute(
            f"ALTER TABLE log ADD CONSTRAINT planted CHECK (2147483647 + (subject = '{SUBJECT}')::int > 0) NOT VALID"
        )
    async with database(cell, "intake") as third:
        await third.execute(
            f"ALTER TABLE item_status ADD CONSTRAINT planted CHECK (2147483647 + (item_id = '{second}')::int > 0)"
        )

    items = [first, *(post(cell, "cursed", version) for version in (2, 3))]
    assert items[1] == second
    others = [post(cell, f"other-{n}", 1) for n in range(20)]
    for other_item in others:
        await until_status(cell, other_item, "approved")
    waits = await until_status(cell, items[2], "parked")
    assert re.search(r"follows .*, which is parked: handling failed: NumericValueOutOfRangeError", waits["reason"])

    for name in (f"decision-{cell.eu}", f"audit-{cell.eu}"):
        service = cell.system.services[name]
        await asyncio.to_thread(service.kill)
        items.append(post(cell, "cursed", len(items) + 1))
        await asyncio.to_thread(service.start)
    await asyncio.to_thread(cell.system.wait_ready)
    for item in items[2:]:
        assert (await until_status(cell, item, "parked"))["status"] == "parked"
    groups = {"piepowder-decision", "piepowder-audit", "piepowder-intake"}
    async with asyncio.timeout(30):  # audit gathers records for up to a second and a half
        while await groups_of_subject(cell) != groups:  # noqa: ASYNC110 - a condition of other processes
            await asyncio.sleep(0.3)
    account = await settle(cell.system, {RegionItem(item, cell.eu) for item in items}, seconds=3)
    assert account.outcomes == {ItemOutcome.BY_POLICY: 1, ItemOutcome.PARKED: 4}
    assert account.gaps

    async with database(cell, "decision", cell.eu) as one, database(cell, "audit", cell.eu) as other:
        await one.execute("ALTER TABLE cases DROP CONSTRAINT planted")
        await other.execute("ALTER TABLE log DROP CONSTRAINT planted")
    async with database(cell, "intake") as third:
        await third.execute("ALTER TABLE item_status DROP CONSTRAINT planted")
    dry = await asyncio.to_thread(command, cell, "--region", cell.eu, "--key", SUBJECT, "--dry-run")
    assert "would be replayed; nothing was changed" in dry.stdout, dry.stdout + dry.stderr
    done = await asyncio.to_thread(command, cell, "--region", cell.eu, "--key", SUBJECT)
    assert done.returncode == 0, done.stdout + done.stderr
    items.append(post(cell, "cursed", 6))
    for item in items:
        await until_status(cell, item, "approved")
    account = await settle(cell.system, {RegionItem(item, cell.eu) for item in items})
    assert account.outcomes == {ItemOutcome.BY_POLICY: 6}
    assert (account.holds, account.doubles) == (True, []), account
    assert await decided(cell) == [1, 2, 3, 4, 5, 6]
    assert [unit for unit in await dead_lettered(cell, cell.eu) if unit.lane.key == SUBJECT.encode()] == []
    log = timeline(cell)
    assert log.count("piepowder.decision.made.v1") == 6
    assert log.count(ITEM_SUBMITTED) == 6


async def decided(cell: Cell) -> list[int]:
    """The versions of the subject that have a decision, in the order of the decisions topic."""
    consumer = AIOKafkaConsumer(
        topics.decisions(cell.eu), bootstrap_servers=cell.system.servers.kafka, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[int] = []
        while not all([await consumer.position(place) >= end for place, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                text = b" ".join([r.value for r in records if r.key == SUBJECT.encode()]).decode()
                found += map(int, re.findall(r'"version":(\d+)', text))
    finally:
        await consumer.stop()
    return found


def timeline(cell: Cell) -> list[str]:
    """The types of the subject's events in the audit log."""
    response = cell.client.get(f"{cell.url('audit', cell.eu)}/v1/subjects/shop/product/cursed/timeline?limit=1000")
    return [event["type"] for event in response.json()["events"]]


async def test_a_record_that_can_never_be_routed_is_left_and_its_subject_continues(cell: Cell) -> None:
    """No due time follows the time of receipt, so the router can never open a case."""
    stray = post(cell, "stray", 1)
    await until_status(cell, stray, "approved")
    async with AIOKafkaProducer(bootstrap_servers=cell.system.servers.kafka) as producer:
        original = await first_record(cell, b"shop:product:stray")
        headers = [
            (name, ids.derive("stray").encode() if name in ("ce_id", "ce_correlationid") else value)
            for name, value in original.headers
        ]
        value = re.sub(rb'"received_at":"[^"]*"', b'"received_at":"9999-12-31T23:59:59.000Z"', original.value)
        await producer.send_and_wait(original.topic, value, original.key, headers=headers, partition=original.partition)
    follower = post(cell, "stray", 2)
    await until_status(cell, follower, "parked")
    failed = await asyncio.to_thread(command, cell, "--region", cell.eu, "--key", "shop:product:stray")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    await until_status(cell, follower, "parked")
    left = await asyncio.to_thread(
        command, cell, "--region", cell.eu, "--group", "router", "--key", "shop:product:stray", "--leave-failing"
    )
    assert left.returncode == 0, left.stdout + left.stderr
    assert "Kept among the dead letters: 1" in left.stdout
    await until_status(cell, follower, "approved")
    await until_status(cell, post(cell, "stray", 3), "approved")


async def plant_unroutable(cell: Cell, subject: str) -> str:
    """Send the first item of a subject again as another item that the router can never route; returns its id."""
    original = await first_record(cell, f"shop:product:{subject}".encode())
    item = ids.item_id("shop", "product", subject, "9")
    first = ids.event_id(item, ITEM_SUBMITTED, cell.eu)
    headers = [
        (name, first.encode() if name in ("ce_id", "ce_correlationid") else value) for name, value in original.headers
    ]
    value = re.sub(rb'"received_at":"[^"]*"', b'"received_at":"9999-12-31T23:59:59.000Z"', original.value)
    value = re.sub(rb'"item_id":"[^"]*"', f'"item_id":"{item}"'.encode(), value)
    async with AIOKafkaProducer(bootstrap_servers=cell.system.servers.kafka) as producer:
        await producer.send_and_wait(original.topic, value, original.key, headers=headers, partition=original.partition)
    return item


async def test_junk_is_discarded_by_one_command_and_stays_discarded_after_a_reset(cell: Cell) -> None:
    """A thousand junk records alone, and one that parks its key; the records behind it are handled in order."""
    await until_status(cell, post(cell, "junk", 1), "approved")
    junk_item = await plant_unroutable(cell, "junk")
    follower = post(cell, "junk", 2)
    await until_status(cell, follower, "parked")
    await until_status(cell, junk_item, "parked")
    topic = topics.submissions(cell.eu)
    before = await count(cell)
    original = await first_record(cell, b"shop:product:junk")
    invalid = {"ce_time": b"junk of a load", "ce_subject": b"shop:product:load"}
    headers = [(name, invalid.get(name, value)) for name, value in original.headers]
    async with AIOKafkaProducer(bootstrap_servers=cell.system.servers.kafka) as producer:
        for n in range(1_000):
            await producer.send(topic, original.value, b"load:%d" % (n % 50), headers=headers)
        await producer.flush()

    async def all_are_dead_lettered() -> bool:
        letters = [unit.letters[0] for unit in await dead_lettered(cell, cell.eu)]
        return sum((letter.key or b"").startswith(b"load:") for letter in letters) == 3_000

    await until(all_are_dead_lettered)  # by router, audit and intake
    router = ("--region", cell.eu, "--group", "router")
    refused = await asyncio.to_thread(command, cell, *router, "--discard", "--all")
    assert (refused.returncode, "--why" in refused.stderr) == (2, True), refused.stderr
    why = ("--discard", "--why", "a load test wrote to the wrong topic")
    waits = await asyncio.to_thread(
        command, cell, *router, *why, "--id", ids.event_id(follower, ITEM_SUBMITTED, cell.eu)
    )
    assert (waits.returncode, "it waits behind" in waits.stdout) == (1, True), waits.stdout + waits.stderr
    dry = await asyncio.to_thread(command, cell, *router, *why, "--key", "shop:product:junk", "--dry-run")
    assert "1 dead letters would be discarded, and 1 records behind them replayed; nothing was changed" in dry.stdout
    one = await asyncio.to_thread(command, cell, *router, *why, "--key", "shop:product:junk")
    assert one.returncode == 0, one.stdout + one.stderr
    assert "Discarded: 1." in one.stdout
    assert "Handled: 1." in one.stdout
    await until_status(cell, follower, "approved")
    shown = await until_status(cell, junk_item, "discarded")
    assert shown["reason"] == "discarded: a load test wrote to the wrong topic"
    junk = ("--topic", topic, "--reason", "junk of a load")
    rest = await asyncio.to_thread(command, cell, "--region", cell.eu, *why, *junk)
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "Discarded: 3,000." in rest.stdout
    again = await asyncio.to_thread(command, cell, "--region", cell.eu, *why, *junk)
    assert (again.returncode, "nothing was changed" in again.stdout) == (0, True), again.stdout

    def audited() -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            cursor = f"&cursor={page['next']}" if page["next"] else ""
            page = cell.client.get(f"{cell.url('audit', cell.eu)}/v1/deadletters?limit=1000{cursor}").json()
            letters += page["deadletters"]
        return letters

    async def all_are_shown() -> bool:
        return sum(each["discarded"] is not None for each in audited()) == 3_001

    await until(all_are_shown)
    head, behind = sorted((each for each in audited() if each["key"] == "shop:product:junk"), key=lambda e: e["offset"])
    assert behind["discarded"] is None
    assert (head["discarded"]["why"], bool(head["discarded"]["by"])) == (why[2], True)
    after = await count(cell)
    assert (after.discarded, after.open) == (3_001, before.open - 2), after  # the head and the follower were open
    account = await settle(cell.system, {RegionItem(item, cell.eu) for item in (junk_item, follower)})
    assert account.outcomes == {ItemOutcome.BY_POLICY: 1, ItemOutcome.DISCARDED: 1}
    assert account.holds, account
    url = f"{cell.url('audit', cell.eu)}/v1/subjects/shop/product/junk/timeline?limit=1000"
    [event] = [each for each in cell.client.get(url).json()["events"] if each["type"] == DEADLETTER_DISCARDED]
    assert event["data"]["why"] == why[2]

    await asyncio.to_thread(cell.system.services["router"].kill)
    await reset_to_start(cell, f"piepowder-router-{cell.eu}", topic)
    await asyncio.to_thread(cell.system.services["router"].start)
    await asyncio.to_thread(cell.system.wait_ready)
    await until_status(cell, post(cell, "junk", 3), "approved")
    assert await count(cell) == after
    assert status(cell, junk_item)["status"] == "discarded"
    parked = [unit.lane.key for unit in await dead_lettered(cell, cell.eu) if unit.parked is not None]
    assert b"shop:product:junk" not in parked


async def count(cell: Cell) -> DeadLetterCounts:
    counts = await dead_letter_counts(cell.system.servers.kafka, [cell.eu], seconds=30)
    assert counts
    return counts[cell.eu]


async def reset_to_start(cell: Cell, group: str, topic: str) -> None:
    """Set a stopped group back to the start of a topic, as soon as its last member has left it."""

    async def is_reset() -> bool:
        try:
            return await positions.reset(cell.system.servers.kafka, database=None, group=group, topic=topic) > 0
        except UserError:
            return False

    await until(is_reset)


async def first_record(cell: Cell, key: bytes) -> Any:
    consumer = AIOKafkaConsumer(
        topics.submissions(cell.eu), bootstrap_servers=cell.system.servers.kafka, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if record.key == key:
                            return record
    finally:
        await consumer.stop()


async def test_options_that_exclude_each_other_are_rejected_before_anything_is_read(cell: Cell) -> None:
    twice = await asyncio.to_thread(command, cell, "--key", "a", "--all")
    assert (twice.returncode, "name one of --id, --key, --reason and --all" in twice.stderr) == (2, True)
    nowhere = await asyncio.to_thread(command, cell, "--kafka", "127.0.0.1:1", "--region", cell.eu)
    assert nowhere.returncode == 2
    assert "cannot be read" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
    unknown = await asyncio.to_thread(command, cell, "--region", "atlantis")
    assert (unknown.returncode, "no region 'atlantis'" in unknown.stderr) == (2, True)
