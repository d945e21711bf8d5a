"""The recovery begins an incarnation only after a restore (promise 3)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import cast

import pytest
from aiokafka import TopicPartition

from services.decision.domain.recovery import RecoveryState
from services.decision.handlers.recovery import RecoverCases, RecoveryPort, Sources, is_behind
from services.decision.store.gate import Gate
from shared.kafka.gaps import DELETED, Gap
from shared.kafka.producer import LocatingProducer
from shared.kafka.stored_positions import StoredPosition
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness
from tests.support.decision.connections import connection

HERE = "1/00000001/16384"


def state(*, written: int, opened_for: str | None = HERE) -> RecoveryState:
    return RecoveryState(0, False, HERE, HERE, opened_for, written, False)


class _Store:
    """The database of a recovery. Each statement finds the next of these states, and `meanwhile` is called with the id
    after it, while the answer is on its way back."""

    def __init__(self, *found: RecoveryState, meanwhile: Callable[[int], Awaitable[object]]) -> None:
        self._found = list(found)
        self._meanwhile = meanwhile
        self.is_incomplete = False
        self.sessions = 0

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[bool]:
        self.sessions += 1
        yield True

    async def state(self) -> RecoveryState:
        found = self._found.pop(0)
        await self._meanwhile(found.written + 1)
        return found

    async def positions(self, _: str, __: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        return {}

    async def ends(self) -> Mapping[int, int]:
        return {0: 7}

    async def set_incomplete(self) -> None:
        self.is_incomplete = True
        raise AssertionError("a restore was declared")


def recovery(store: _Store, gate: Gate, readiness: Readiness, stopped: Collection[int] = ()) -> RecoverCases:
    async def stopped_partitions() -> Collection[TopicPartition]:
        return [TopicPartition("piepowder.cases.eu", partition) for partition in stopped]

    return RecoverCases(
        cast("RecoveryPort", store),
        gate,
        Sources("", "", "decision", "relay", stopped_partitions),
        region="eu",
        producer=cast("LocatingProducer", None),
        settled=lambda: pytest.fail("the own topic is read"),
        wake=lambda: None,
        readiness=readiness,
        clock=SystemClock(),
    )


def opened(last: RecoveryState) -> Gate:
    gate = Gate()
    gate.pass_on(last)
    return gate


async def test_a_late_answer_while_claims_go_on_starts_no_recovery() -> None:
    gate, readiness = opened(state(written=10)), Readiness("decision")

    async def claim(written: int) -> None:
        await gate.require_open(connection(state(written=written)))

    store = _Store(state(written=11), meanwhile=claim)
    assert await recovery(store, gate, readiness).step()
    assert (store.sessions, gate.last, gate.is_checked) == (0, state(written=12), True)


async def test_a_late_answer_while_cases_are_read_again_is_no_restore() -> None:
    gate, readiness = opened(state(written=10, opened_for=None)), Readiness("decision")

    async def ingest(written: int) -> None:
        await gate.require_read(connection(state(written=written, opened_for=None)))

    found = [state(written=written, opened_for=None) for written in (11, 13)]
    store = _Store(*found, meanwhile=ingest)
    assert not await recovery(store, gate, readiness).step()
    assert (store.is_incomplete, gate.is_checked) == (False, True)
    assert gate.last == state(written=14, opened_for=None)
    assert readiness.conditions["recovery"] == (
        "7 records of piepowder.cases.eu are read again before claims and decisions open"
    )


async def test_a_database_that_went_back_is_a_restore() -> None:
    gate = opened(state(written=10))

    async def nothing(_: int) -> None:
        return None

    store = _Store(state(written=9), state(written=9), meanwhile=nothing)
    with pytest.raises(AssertionError, match="a restore was declared"):
        await recovery(store, gate, Readiness("decision")).step()
    assert store.is_incomplete


@pytest.mark.parametrize(
    ("position", "stopped", "left"),
    [
        (StoredPosition(6, "id"), [], 1),
        (StoredPosition(6, "id"), [1], 1),
        (StoredPosition(7, "id"), [], 0),
        (StoredPosition(4, "id"), [0], 0),
        (StoredPosition(4, "id", Gap(DELETED, 4, 7)), [], 0),
    ],
)
async def test_the_gate_waits_for_the_last_record_of_each_partition_that_is_not_stopped(
    position: StoredPosition, stopped: list[int], left: int
) -> None:
    class Read(_Store):
        async def positions(self, _: str, __: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
            return {TopicPartition("piepowder.cases.eu", 0): position}

    async def nothing(_: int) -> None:
        return None

    known, readiness = state(written=10, opened_for=None), Readiness("decision")
    recovered = recovery(Read(known, known, meanwhile=nothing), opened(known), readiness, stopped)
    if left:
        assert not await recovered.step()
        assert str(readiness.conditions["recovery"]).startswith(f"{left} records of piepowder.cases.eu are read again")
    else:
        with pytest.raises(pytest.fail.Exception, match="the own topic is read"):
            await recovered.step()


@pytest.mark.parametrize(
    ("position", "end", "expected"),
    [
        (StoredPosition(9, "id"), None, False),  # as always
        (StoredPosition(8, "id"), None, True),
        (None, None, True),
        (StoredPosition(8, "id", behind_until=-9), None, False),  # an operator has reset the group
        (StoredPosition(8, "id", behind_until=-8), None, True),
        (StoredPosition(4, "id", Gap(DELETED, 4, 7)), 9, False),  # stopped when the incarnation began
        (StoredPosition(4, "id"), 12, False),  # not stopped any more, and not read to the end yet
        (StoredPosition(4, "id", Gap(DELETED, 4, 7)), 8, True),  # another restore since
    ],
)
def test_records_that_the_incarnation_does_not_wait_for_are_no_sign_of_a_restore(
    position: StoredPosition | None, end: int | None, *, expected: bool
) -> None:
    cases, other = TopicPartition("cases", 3), TopicPartition("cases", 4)
    stored = {other: StoredPosition(5, "id")} | ({} if position is None else {cases: position})
    ends = {4: 5} | ({} if end is None else {3: end})
    assert is_behind({cases: 9, other: 5}, stored, ends) is expected
