"""The tools of a chaos run: a seed repeats its faults and load, the journal is complete, proxies cause their faults."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from tests.chaos import faults, poison
from tests.chaos.checker.cloudevents import derived, read_event
from tests.chaos.checker.history import GENERATION, Record
from tests.chaos.checker.reading import read_journal, topic_names
from tests.chaos.defects import logged_defects
from tests.chaos.environment import REGIONS
from tests.chaos.gate import Gate
from tests.chaos.journal import Journal
from tests.chaos.load import Arrival, Complaint, Items, Withdrawal
from tests.chaos.operations import RESTORED
from tests.chaos.proxy import NetworkFault, Proxies, kafka_client, postgres_client
from tests.chaos.requests import Lives
from tests.conftest import project_root


def test_the_same_seed_gives_the_same_faults_and_another_seed_gives_others() -> None:
    first, again, other = (list(islice(faults.draw(seed), 60)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert len({planned.fault for planned in first}) > 15


def test_a_printed_fault_can_be_parsed() -> None:
    for planned in islice(faults.draw(7), 200):
        if planned.fault != "two at once":
            read = faults.parse(str(planned))
            assert (read.fault, read.victim) == (planned.fault, planned.victim)


def test_every_kind_of_fault_is_drawn_and_its_victims_exist() -> None:
    drawn = list(islice(faults.draw(7), 400))
    assert {planned.fault for planned in drawn} == set(faults.kinds())
    databases = {planned.victim.partition(" ")[0] for planned in drawn if planned.fault == "restore of"}
    assert {name.partition("-")[0] for name in databases} == set(RESTORED)
    assert databases | {"router"} <= {*faults.SERVICES}
    assert any("twice" in planned.victim for planned in drawn if planned.fault == "restore of")
    assert any("restore of decision" in planned.victim for planned in drawn if planned.fault == "two at once")
    topics = {planned.victim for planned in drawn if planned.fault in ("storm on", "recreation of")}
    assert topics <= {*topic_names(REGIONS)}


def test_the_short_form_has_faults_of_the_long_one() -> None:
    assert {planned.fault for planned in faults.short()} < set(faults.kinds())


_LOGGING = """
import logging
from shared.runtime import logs
logs.configure("intake")
own, library = logging.getLogger("shared.http.app"), logging.getLogger("asyncpg.pool")
print("a line of another program", file=__import__("sys").stderr)
for error, log in (KeyError(3), own.error), (OSError("expected"), own.warning), (OSError("a library's"), library.error):
    log("defect: %s", "GET /", exc_info=error)
own.error("without a traceback")
"""


def test_an_unexpected_error_in_a_log_is_found_with_its_traceback(tmp_path: Path) -> None:
    with (tmp_path / "intake.log").open("w") as out:
        subprocess.run([sys.executable, "-c", _LOGGING], stderr=out, check=True, timeout=30, cwd=project_root())
    [found] = logged_defects(tmp_path)
    assert (found.promise, found.title) == (9, "an unexpected error in intake: defect: GET /")
    assert found.records[0].startswith("at 20")
    assert found.records[-1] == "KeyError: 3"


async def test_a_closed_gate_waits_for_passing_calls_and_holds_back_new_ones() -> None:
    gate, order = Gate(), list[str]()
    ends = asyncio.Event()

    async def call(name: str, end: asyncio.Event) -> None:
        async with gate.passing():
            await end.wait()
            order.append(name)

    always = asyncio.Event()
    always.set()
    early = asyncio.create_task(call("early", ends))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, ends.set)
    async with gate.closed():
        late = asyncio.create_task(call("late", always))
        await asyncio.sleep(0.05)
        order.append("closed")
    await asyncio.gather(early, late)
    assert order == ["early", "closed", "late"]


def test_the_same_seed_gives_the_same_load() -> None:
    first, again, other = (list(Items(seed).arrivals(50, 20)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_load_has_notices_and_appeals_and_repeats_some() -> None:
    complaints = [one for one in Items(7).arrivals(50, 60) if isinstance(one, Complaint)]
    assert {one.kind for one in complaints} == {"notice", "appeal"}
    bodies = [one.body for one in complaints]
    assert len(set(bodies)) < len(bodies)
    references = {msgspec.json.decode(body)["reference"] for body in bodies}
    assert len(references) == len(set(bodies))
    assert all(a.at <= b.at for a, b in pairwise(complaints))


def test_the_load_has_newer_older_repeated_batched_and_invalid_items() -> None:
    sent = list(Items(7).arrivals(50, 60))
    arrivals = [one for one in sent if isinstance(one, Arrival)]
    lines = [line for arrival in arrivals for n, line in enumerate(arrival.lines, 1) if n not in arrival.bad]
    versions: dict[str, list[int]] = {}
    for line in lines:
        body = msgspec.json.decode(line)
        if "version" in body:
            versions.setdefault(body["id"], []).append(body["version"])
    orders = [pair for seen in versions.values() for pair in pairwise(seen)]
    assert any(a < b for a, b in orders)
    assert any(a > b for a, b in orders)
    assert len(set(lines)) < len(lines)
    assert any(arrival.batch for arrival in arrivals)
    assert any(arrival.bad for arrival in arrivals)
    assert 0.8 < sum(not arrival.batch for arrival in arrivals) / 3000 < 1.2


def test_the_load_has_early_late_and_repeated_withdrawals_and_withdrawals_of_unknown_items() -> None:
    posted: dict[str, float] = {}
    delays: list[float] = []
    times: dict[str, int] = {}
    for one in Items(7).arrivals(50, 60):
        if isinstance(one, Withdrawal):
            times[one.item_id] = times.get(one.item_id, 0) + 1
            if one.item_id in posted:
                delays.append(one.at - posted[one.item_id])
        if not isinstance(one, Arrival):
            continue
        for number, line in enumerate(one.lines, 1):
            if number not in one.bad:
                body = msgspec.json.decode(line)
                named = [str(body.get(name)) for name in ("platform", "kind", "id", "version")]
                posted[derived("item", *named)] = one.at
    assert any(delay == 0 for delay in delays)
    assert any(0 < delay < 1 for delay in delays)
    assert any(delay > 5 for delay in delays)
    assert any(n > 1 for n in times.values())
    assert times.keys() - posted.keys()


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again, other = (list(Lives(seed).all(1.0, 60)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_requests_have_every_step_with_repeated_concurrent_and_wrong_ones() -> None:
    lives = list(Lives(7).all(1.0, 300))
    assert len({life.request_id for life in lives}) == len(lives)
    stages = [stage for life in lives for stage in life.stages]
    steps = [step for stage in stages for step in stage.steps]
    commands = {"submit", "approve", "reject", "withdraw", "deploy", "review", "rollback"}
    assert {step.what for step in steps} == {"draft", "change", "comment", *commands}
    assert any(len({step.by for step in stage.steps}) > 1 for stage in stages), "steps at the same time"
    assert any(stage.steps.count(stage.steps[0]) > 1 for stage in stages), "the same step twice"
    assert {wrong for step in steps for wrong in step.wrong} == {403, 409, 422}
    assert any(step.hasty for step in steps)
    assert any("change" in step.body for step in steps)
    assert {len(step.body["regions"]) for step in steps if step.what == "draft"} == {1, 2}
    assert all(step.key for step in steps if step.what in ("draft", "comment"))
    assert {step.match for step in steps if step.what == "change"} >= {"*", '"1"'}


def test_audit_dead_letters_exactly_the_bad_records_that_are_no_events_of_its_region() -> None:
    for bad_record in poison.make(random.Random(1), "eu", "us"):
        record = Record(bad_record.topic, 0, 0, 0, bad_record.key, tuple(bad_record.headers), bad_record.value)
        event = read_event(record)
        logged_by_audit = "audit" not in bad_record.readers and "deadletters" not in bad_record.topic
        assert logged_by_audit == (not isinstance(event, str) and event.region == "eu"), bad_record.kind


def test_the_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    answered, lost = journal.sent("post", {"body": "{}"}), journal.sent("post", {"body": "[]"})
    pending = journal.sent("claim", {"reviewer": "r"})
    journal.answered(answered, 202, None, {"item_id": "x"})
    journal.lost(lost, "ConnectionResetError")
    journal.planted("truncated JSON", "t", 1, 7, ["g"])
    journal.noted("recreated", {"topic": "t"})
    journal.planted("truncated JSON", "t", 1, 7, ["g"])
    journal.close()
    calls, planted, notes = read_journal(journal.path)
    assert [(call.n, call.status, call.error) for call in calls] == [
        (answered, 202, ""),
        (lost, None, "ConnectionResetError"),
        (pending, None, ""),
    ]
    assert [(plant.topic, plant.partition, plant.offset, plant.groups) for plant in planted] == [
        ("t", 1, 7, ("g",)),
        ("t", 1, 7 + GENERATION, ("g",)),
    ]
    assert [(note.kind, note.facts) for note in notes] == [("recreated", {"topic": "t"})]


def test_a_client_is_recognized_by_its_first_message() -> None:
    name = b"piepowder-router-eu"
    assert kafka_client(b"\0\0\0\x20\0\x12\0\x03\0\0\0\x01" + len(name).to_bytes(2, "big") + name) == "router-eu"
    assert postgres_client(b"\0\0\0\x60\0\x03\0\0user\0p\0database\0chaos_audit_eu\0\0") == "audit-eu"
    assert postgres_client(b"\0\0\0\x08\x04\xd2\x16\x2f") == ""


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    made = Proxies()
    made.start()
    yield made
    made.stop()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("kind", ["slow", "cut", "half-open"])
async def test_a_network_fault_affects_only_its_client(proxies: Proxies, kind: str) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    port = proxies.open("kafka-1", lambda: target, lambda first: first.decode())
    victim = await asyncio.open_connection("127.0.0.1", port)
    other = await asyncio.open_connection("127.0.0.1", port)
    for (reader, writer), name in ((victim, b"victim"), (other, b"other")):
        writer.write(name)
        assert await reader.read(100) == name
    network_fault = NetworkFault(kind, "victim", "kafka")  # type: ignore[arg-type]  # one of the three
    proxies.begin(network_fault)
    await asyncio.sleep(0.1)
    other[1].write(b"still here")
    assert await other[0].read(100) == b"still here"
    started = asyncio.get_running_loop().time()
    victim[1].write(b"hello?")
    if kind == "slow":
        assert await victim[0].read(100) == b"hello?"
        assert asyncio.get_running_loop().time() - started > 0.25
    elif kind == "cut":
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(_nothing(victim[0]), 5)
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(victim[0].read(100), 0.5)
    proxies.end(network_fault)
    if kind == "half-open":
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(_nothing(victim[0]), 5)
    for _, writer in (victim, other):
        writer.close()
    server.close()
    await server.wait_closed()


async def _nothing(reader: asyncio.StreamReader) -> None:
    if not await reader.read(100):
        raise ConnectionResetError
