"""Group commit: entries share flushes in order, in limited memory, and each gets its own acknowledgement."""

import asyncio

import pytest

from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import Overloaded
from shared.kafka.producer import Record
from shared.runtime.errors import Poison, Transient
from tests.support.intake_cluster import Cluster


def publisher(cluster: Cluster, *, max_records: int = 100, max_bytes: int = 10_000) -> GroupCommitPublisher:
    return GroupCommitPublisher(cluster, max_records=max_records, max_bytes=max_bytes)


def put(commit: GroupCommitPublisher, *values: bytes) -> "asyncio.Future[None]":
    return commit.put([Record("t", b"k", value, []) for value in values], sum(map(len, values)))


async def test_entries_that_arrive_during_a_flush_share_the_next_flush_in_order() -> None:
    cluster = Cluster()
    commit = publisher(cluster)
    cluster.may_acknowledge.clear()
    first = put(commit, b"1")
    await asyncio.sleep(0)
    later = [put(commit, b"%d" % n) for n in range(2, 10)]
    cluster.may_acknowledge.set()
    await asyncio.gather(first, *later)
    assert cluster.flushes == [[b"1"], [b"%d" % n for n in range(2, 10)]]
    assert (commit.pending_records, commit.pending_bytes) == (0, 0)


async def test_after_a_flush_of_several_entries_the_next_flush_waits_for_more() -> None:
    cluster = Cluster()
    commit = publisher(cluster)
    cluster.may_acknowledge.clear()
    together = [put(commit, b"1")]
    await asyncio.sleep(0)
    together += [put(commit, b"2"), put(commit, b"3")]
    cluster.may_acknowledge.set()
    await asyncio.gather(*together)
    gathering = [put(commit, b"4")]
    await asyncio.sleep(0)
    gathering.append(put(commit, b"5"))
    await asyncio.gather(*gathering)
    assert cluster.flushes == [[b"1"], [b"2", b"3"], [b"4", b"5"]]
    await asyncio.sleep(0.02)  # the wait after that flush has ended without an entry
    await put(commit, b"6")
    assert cluster.flushes[3:] == [[b"6"]]


async def test_a_single_entry_and_a_full_flush_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.publishing.group_commit._GATHER_SECONDS", 3600)
    cluster = Cluster()
    commit = publisher(cluster, max_records=1_000)
    for n in range(3):
        await put(commit, b"%d" % n)
    first, many = [put(commit, b"3"), put(commit, b"4")], []
    cluster.may_acknowledge.clear()
    await asyncio.sleep(0)
    many += [put(commit, b"5") for _ in range(100)]
    cluster.may_acknowledge.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*first, *many)
    assert list(map(len, cluster.flushes)) == [1, 1, 1, 2, 100]


async def test_a_flush_with_as_many_entries_as_recent_flushes_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.publishing.group_commit._GATHER_SECONDS", 3600)
    cluster = Cluster()
    commit = publisher(cluster)
    async with asyncio.timeout(10):
        await asyncio.gather(put(commit, b"1", b"2"), *[put(commit, b"3") for _ in range(6)])
        for values in ([b"4"], [b"5", b"6"], [b"7"]):
            entries = []
            for _ in range(7):  # the same number of entries each time, with fewer or more records
                entries.append(put(commit, *values))
                await asyncio.sleep(0)
            await asyncio.gather(*entries)
    assert list(map(len, cluster.flushes)) == [8, 7, 14, 7]


async def test_the_recent_number_of_entries_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.publishing.group_commit._GATHER_SECONDS", 0)
    commit = publisher(Cluster(), max_records=1_000)
    await asyncio.gather(*[put(commit, b"1") for _ in range(90)])
    for _ in range(100):
        await asyncio.gather(*[put(commit, b"2") for _ in range(3)])
    monkeypatch.setattr("services.intake.publishing.group_commit._GATHER_SECONDS", 3600)
    async with asyncio.timeout(10):
        for _ in range(5):
            await asyncio.gather(*[put(commit, b"3") for _ in range(3)])


async def test_the_first_entries_after_a_large_flush_wait_too() -> None:
    cluster = Cluster()
    commit = publisher(cluster, max_records=1_000)
    await asyncio.gather(*[put(commit, b"1") for _ in range(300)])
    entries = []
    for _ in range(5):
        entries.append(put(commit, b"2"))
        await asyncio.sleep(0)
    await asyncio.gather(*entries)
    assert list(map(len, cluster.flushes)) == [300, 5]


async def test_no_entry_is_done_before_the_acknowledgement() -> None:
    cluster = Cluster()
    cluster.may_acknowledge.clear()
    done = put(publisher(cluster), b"1")
    await asyncio.sleep(0.01)
    assert not done.done()
    cluster.may_acknowledge.set()
    await done


async def test_a_full_queue_rejects_at_once_and_accepts_after_the_flush() -> None:
    cluster = Cluster()
    commit = publisher(cluster, max_records=3)
    cluster.may_acknowledge.clear()
    accepted = [put(commit, b"1"), put(commit, b"2", b"3")]
    with pytest.raises(Overloaded):
        put(commit, b"4")
    assert commit.pending_records == 3
    waiting = asyncio.create_task(commit.room(1, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    cluster.may_acknowledge.set()
    await asyncio.gather(*accepted, waiting)
    await put(commit, b"4")


async def test_bytes_are_limited_too_and_an_empty_queue_accepts_any_size() -> None:
    cluster = Cluster()
    commit = publisher(cluster, max_bytes=10)
    cluster.may_acknowledge.clear()
    large = put(commit, b"x" * 50)
    with pytest.raises(Overloaded):
        put(commit, b"y")
    cluster.may_acknowledge.set()
    await large


async def test_a_failed_flush_fails_exactly_its_entries() -> None:
    cluster = Cluster()
    commit = publisher(cluster)
    cluster.failure, cluster.failing_value = Transient("no acknowledgement"), b"1"
    cluster.may_acknowledge.clear()
    failed = put(commit, b"1")
    await asyncio.sleep(0)
    other = put(commit, b"2")
    cluster.may_acknowledge.set()
    with pytest.raises(Transient, match="no acknowledgement"):
        await failed
    await other
    assert cluster.flushes == [[b"1"], [b"2"]]
    assert commit.pending_records == 0


@pytest.mark.parametrize("many", [1, 150])
async def test_a_record_that_kafka_rejects_does_not_fail_the_others(many: int) -> None:
    cluster = Cluster()
    commit = publisher(cluster, max_records=1_000)
    cluster.rejects = b"bad"
    cluster.may_acknowledge.clear()
    first = put(commit, b"0")
    await asyncio.sleep(0)
    good, bad = [put(commit, b"1") for _ in range(many)], put(commit, b"bad")
    more = put(commit, b"2")
    cluster.may_acknowledge.set()
    await asyncio.gather(first, *good, more)
    with pytest.raises(Poison, match="larger than Kafka accepts"):
        await bad


async def test_an_unexpected_error_fails_the_entry_and_the_next_flush_runs() -> None:
    cluster = Cluster()
    commit = publisher(cluster)
    cluster.failure, cluster.failing_value = RuntimeError("a defect"), b"1"
    with pytest.raises(RuntimeError):
        await put(commit, b"1")
    await put(commit, b"2")


async def test_the_entry_of_a_disconnected_client_is_flushed_too() -> None:
    cluster = Cluster()
    commit = publisher(cluster)
    cluster.may_acknowledge.clear()
    cancelled, other = put(commit, b"1"), put(commit, b"2")
    cancelled.cancel()
    cluster.may_acknowledge.set()
    await other
    assert cluster.flushes == [[b"1", b"2"]]
