"""The consumer loop on real Kafka: at least once, in order, and one bad record never stops the others."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from shared.contracts import topics
from shared.kafka import batch_reader
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.runtime.errors import Fatal, Poison, Transient
from tests.support.consumer_group import ConsumerGroup, decode, read_all, send_unreadable, until


async def test_records_of_a_key_are_handled_in_order(group: ConsumerGroup) -> None:
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.extend(received.message for received in batch)

    await group.post(*(f"{n}-k" for n in range(500)))
    group.start(handle)
    await until(lambda: len(handled) == 500)
    assert handled == [f"{n}-k" for n in range(500)]


async def test_uncommitted_records_are_handled_again_and_committed_ones_are_not(group: ConsumerGroup) -> None:
    first: list[str] = []
    again: list[str] = []

    async def handle_then_crash(batch: Sequence[Received[str]]) -> None:
        first.extend(received.message for received in batch)
        raise Fatal("crashed before the commit")

    async def handle(batch: Sequence[Received[str]]) -> None:
        again.extend(received.message for received in batch)

    await group.post("a", "b")
    group.start(handle_then_crash)
    with pytest.raises(Fatal, match="crashed"):
        await group.ended()
    await group.stop()
    group.start(handle)
    await until(lambda: sorted(again) == ["a", "b"])
    await group.stop()
    await group.post("c")
    group.start(handle)
    await until(lambda: "c" in again)
    assert sorted(again) == ["a", "b", "c"]
    assert set(first) <= {"a", "b"}


async def test_a_poison_record_is_dead_lettered_whole_and_the_others_continue(group: ConsumerGroup) -> None:
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        if any(received.message == "cursed" for received in batch):
            raise Poison("this one can never be handled")
        handled.extend(received.message for received in batch)

    await group.producer.send([Record(group.topic, b"k", b"bad \xff\x00", [("x", b"1")])])
    await group.post("before", "cursed", "after", key="k")
    group.start(handle)
    await until(lambda: handled == ["before", "after"])
    letters = await read_all(group.kafka, topics.deadletters(group.region), 2)
    assert {letter.value for letter in letters} == {b"bad \xff\x00", b"cursed"}
    undecodable = next(letter for letter in letters if letter.value != b"cursed")
    headers = dict(undecodable.headers)
    assert undecodable.key == b"k"
    assert headers["x"] == b"1"
    assert headers["dl_reason"] == b"not a message"
    assert headers["dl_topic"] == group.topic.encode()
    assert headers["dl_group"] == f"g-{group.region}".encode()
    assert headers["dl_offset"].isdigit()


async def test_a_record_that_the_kafka_client_cannot_read_is_reported_and_skipped(group: ConsumerGroup) -> None:
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.extend(received.message for received in batch)

    await group.post("before", "other")
    offset = await send_unreadable(group.kafka, group.topic)
    await group.post("after", *(str(n) for n in range(20)))
    group.start(handle)
    await until(lambda: len(set(handled)) == 23)
    (letter,) = await read_all(group.kafka, topics.deadletters(group.region), 1)
    headers = dict(letter.headers)
    assert b"cannot read" in headers["dl_reason"]
    assert (headers["dl_topic"], headers["dl_offset"]) == (group.topic.encode(), b"%d" % offset)
    await group.post("later")
    await until(lambda: "later" in handled)
    assert sorted(handled) == sorted(set(handled))


async def test_a_series_of_records_that_the_kafka_client_cannot_read_is_skipped_and_not_met_again(
    group: ConsumerGroup,
) -> None:
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.extend(received.message for received in batch)

    await send_unreadable(group.kafka, group.topic, 300)
    await group.post("after")
    group.start(handle)
    await until(lambda: handled == ["after"])
    letters = await read_all(group.kafka, topics.deadletters(group.region), 300)
    assert sorted(int(dict(letter.headers)["dl_offset"]) for letter in letters) == list(range(300))
    await group.stop()
    group.start(handle)
    await group.post("later")
    await until(lambda: handled == ["after", "later"])


async def test_a_record_whose_handling_always_fails_is_found_among_many(group: ConsumerGroup) -> None:
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        if any(received.message == "37" for received in batch):
            raise ValueError("a defect of this record only")
        handled.extend(received.message for received in batch)

    await group.post(*(str(n) for n in range(64)))
    group.start(handle)
    await until(lambda: len(handled) == 63)
    (letter,) = await read_all(group.kafka, topics.deadletters(group.region), 1)
    assert letter.value == b"37"
    assert b"ValueError" in dict(letter.headers)["dl_reason"]


async def test_a_transient_failure_is_retried_in_place_and_order_holds(group: ConsumerGroup) -> None:
    attempts = 0
    handled: list[str] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 3:
            raise Transient("away for a moment")
        handled.extend(received.message for received in batch)

    await group.post("1-k", "2-k", "3-k")
    group.start(handle)
    await until(lambda: len(handled) == 3)
    assert handled == ["1-k", "2-k", "3-k"]
    assert attempts > 3


async def test_a_lasting_failure_keeps_the_service_alive_and_not_ready_and_dead_letters_nothing(
    group: ConsumerGroup,
) -> None:
    handled: list[str] = []
    attempts, works = 0, False

    async def handle(batch: Sequence[Received[str]]) -> None:
        nonlocal attempts
        attempts += 1
        if not works:
            raise Transient("the database is read-only")
        handled.extend(received.message for received in batch)

    def condition() -> str:
        return group.readiness.conditions[f"consumer {group.name}"]

    await group.post("1-k", "2-k")
    group.start(handle)
    await until(lambda: attempts > 100)
    assert condition() == "the database is read-only"
    assert handled == []
    works = True
    await until(lambda: handled == ["1-k", "2-k"])
    await until(lambda: condition() == "ok")


async def test_the_current_batch_is_finished_before_its_partitions_move(group: ConsumerGroup) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    by_first: list[str] = []
    by_second: list[str] = []

    async def slowly(batch: Sequence[Received[str]]) -> None:
        started.set()
        await release.wait()
        by_first.extend(received.message for received in batch)

    async def handle(batch: Sequence[Received[str]]) -> None:
        by_second.extend(received.message for received in batch)

    await group.post(*(f"{n}" for n in range(40)))
    group.start(slowly, instance="a", drain_seconds=20)
    await started.wait()
    group.start(handle, instance="b")
    await group.wait_for_state("PreparingRebalance")  # the second member has joined and waits for the first
    assert by_second == []
    release.set()
    await until(lambda: len(by_first) == 40)
    n = 39
    async with asyncio.timeout(60):
        while not by_second:
            n += 1
            await group.post(str(n))
            await asyncio.sleep(0.05)
    await until(lambda: len(by_first) + len(by_second) > n)
    assert sorted(by_first + by_second, key=int) == [str(i) for i in range(n + 1)]


async def test_a_member_that_cannot_finish_in_time_abandons_its_batch_uncommitted(group: ConsumerGroup) -> None:
    started = asyncio.Event()
    by_second: list[str] = []

    async def stuck(batch: Sequence[Received[str]]) -> None:
        started.set()
        raise Transient("stuck")

    async def handle(batch: Sequence[Received[str]]) -> None:
        by_second.extend(received.message for received in batch)

    await group.post(*(f"{n}" for n in range(40)))
    first = group.start(stuck, instance="a", drain_seconds=0.2)
    await started.wait()
    group.start(handle, instance="b")
    await until(lambda: len(by_second) > 0)
    first.set()
    group.start(handle, instance="a")
    await until(lambda: len(set(by_second)) == 40)


async def test_while_a_full_batch_is_handled_exactly_one_more_is_read(group: ConsumerGroup) -> None:
    decoded: list[str] = []
    handling, release = asyncio.Event(), asyncio.Event()

    def noted(record: RawRecord) -> str:
        decoded.append(decode(record))
        return decoded[-1]

    async def handle(batch: Sequence[Received[str]]) -> None:
        handling.set()
        await release.wait()

    await group.post(*(f"{n}" for n in range(40)), key="k")
    group.start(handle, batch_records=10, decode=noted)
    await handling.wait()
    await until(lambda: len(decoded) == 20)
    await asyncio.sleep(0.5)
    assert decoded == [f"{n}" for n in range(20)]
    release.set()
    await until(lambda: len(decoded) == 40)


async def test_a_batch_has_all_waiting_records_and_is_read_in_portions_in_order(group: ConsumerGroup) -> None:
    handled: list[list[str]] = []
    reading: list[bool] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.append([received.message for received in batch])

    def noted(record: RawRecord) -> str:
        if not reading:
            asyncio.get_running_loop().call_soon(reading.append, True)  # runs when the consumer yields
        yielded.append(bool(reading))
        return decode(record)

    yielded: list[bool] = []
    await group.post(*(f"{n}" for n in range(700)), key="k")
    group.start(handle, batch_records=500, decode=noted)
    await until(lambda: sum(map(len, handled)) == 700)
    assert [len(batch) for batch in handled] == [500, 200]
    assert [message for batch in handled for message in batch] == [f"{n}" for n in range(700)]
    assert yielded.index(True) == batch_reader._FIRST_PORTION_RECORDS


async def test_the_loop_does_not_linger_while_more_records_wait(
    group: ConsumerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are so large that a fetch ends in the middle of the backlog."""
    monkeypatch.setattr(batch_reader, "_BATCH_BYTES", 2**30)
    noise = random.Random(4)
    handled: list[int] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.append(len(batch))

    for _ in range(80):
        await group.post(*(noise.randbytes(2_500).hex() for _ in range(50)), key="k")
    group.start(handle, linger_seconds=30, batch_records=2500)
    await until(lambda: sum(handled) >= 3000, seconds=25)
    assert any(size < 2500 for size in handled[:-1]), "a fetch ended early"


async def test_after_a_batch_that_was_not_full_the_loop_lingers(group: ConsumerGroup) -> None:
    handled: list[list[str]] = []

    async def handle(batch: Sequence[Received[str]]) -> None:
        handled.append([received.message for received in batch])

    await group.post("first")
    group.start(handle, linger_seconds=2)
    await until(lambda: len(handled) == 1)
    for n in range(5):
        await group.post(f"{n}")
    await until(lambda: sum(map(len, handled)) == 6)
    assert handled[0] == ["first"]
    assert len(handled[1]) > 1


@pytest.mark.parametrize("drain_seconds", [10.0, 0.01])
async def test_partitions_that_move_during_a_backlog_lose_no_record_and_keep_order(
    group: ConsumerGroup, drain_seconds: float
) -> None:
    handled: dict[str, list[int]] = {}
    by_second = 0
    started, release = asyncio.Event(), asyncio.Event()

    async def handle(batch: Sequence[Received[str]]) -> None:
        started.set()
        await release.wait()
        await asyncio.sleep(0.15)  # the first member notices the second one within 3 s: a part of the backlog is left
        for received in batch:
            key, _, n = received.message.partition(":")
            handled.setdefault(key, []).append(int(n))

    async def handle_second(batch: Sequence[Received[str]]) -> None:
        nonlocal by_second
        await handle(batch)
        by_second += len(batch)

    keys, each = [f"k{n}" for n in range(12)], 60
    for key in keys:
        await group.post(*(f"{key}:{n}" for n in range(each)), key=key)
    first = group.start(handle, instance="a", batch_records=20, drain_seconds=drain_seconds)
    await started.wait()
    second = group.start(handle_second, instance="b", batch_records=20, drain_seconds=drain_seconds)
    await group.wait_for_state("PreparingRebalance")
    release.set()
    await until(lambda: by_second > 0)
    first.set()
    await group.ended(first)
    group.start(handle, instance="a", batch_records=20, drain_seconds=drain_seconds)
    await until(lambda: all(len(set(handled.get(key, []))) == each for key in keys))
    for met in handled.values():
        # a new owner starts at the committed offsets: it may repeat records, and never skips one
        assert all(later <= max(met[: at + 1]) + 1 for at, later in enumerate(met[1:]))
    second.set()


async def test_an_abandoned_batch_is_not_skipped_by_the_batch_that_was_read_ahead(
    group: ConsumerGroup, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[int] = []
    failing, failed = asyncio.Event(), asyncio.Event()
    failing.set()

    async def handle(batch: Sequence[Received[str]]) -> None:
        numbers = [int(received.message) for received in batch]
        if 0 in numbers and failing.is_set():
            failed.set()
            raise Transient("not now")
        handled.extend(numbers)

    await group.post(*(f"{n}" for n in range(60)), key="k")
    group.start(handle, instance="a", batch_records=10, drain_seconds=0.2)
    await failed.wait()
    group.start(handle, instance="b", batch_records=10)
    await until(lambda: "abandoned" in caplog.text)
    failing.clear()
    await until(lambda: 59 in handled)
    assert sorted(set(handled)) == list(range(60))
    assert handled[0] == 0
