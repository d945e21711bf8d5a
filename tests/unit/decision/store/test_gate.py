"""The gate of the database: open only for the database that was recovered, and never after it went back (promise 3)."""

import asyncio

import pytest

from services.decision.domain.recovery import RecoveryState
from services.decision.store.gate import Gate
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected
from tests.support.decision.connections import connection

HERE = "1/00000001/16384"


def state(
    *, incarnation: int = 0, read_for: str | None = HERE, opened_for: str | None = HERE, written: int = 10
) -> RecoveryState:
    return RecoveryState(incarnation, False, HERE, read_for, opened_for, written, False)


def gate(known: RecoveryState) -> Gate:
    opened = Gate()
    opened.pass_on(known)
    return opened


async def test_the_gate_is_closed_until_the_process_has_checked_the_database() -> None:
    with pytest.raises(InputRejected) as rejected:
        await Gate().require_open(connection(state()))
    assert (rejected.value.status, rejected.value.slug, rejected.value.retry_after) == (503, "recovering", 5)
    with pytest.raises(Transient):
        await Gate().require_read(connection(state()))
    assert not await Gate().may_publish(connection(state()))


async def test_an_open_gate_tells_the_first_token_of_its_incarnation() -> None:
    assert await gate(state(incarnation=3)).require_open(connection(state(incarnation=3))) == 3_000_000
    assert await gate(state()).may_publish(connection(state()))


@pytest.mark.parametrize("opened_for", [None, "1/00000001/99", "1/00000002/16384", "2/00000001/16384"])
async def test_the_gate_of_another_database_is_closed_for_commands_and_the_relay(opened_for: str | None) -> None:
    closed, found = gate(state()), connection(state(opened_for=opened_for))
    with pytest.raises(InputRejected):
        await closed.require_open(found)
    assert not await closed.may_publish(found)
    assert (await closed.require_read(found)).is_read


async def test_cases_are_not_read_before_the_own_topic() -> None:
    with pytest.raises(Transient):
        await gate(state()).require_read(connection(state(read_for=None, opened_for=None)))


async def test_a_database_that_went_back_closes_the_gate_for_good() -> None:
    went_back = gate(state(written=10))
    with pytest.raises(InputRejected):
        await went_back.require_open(connection(state(written=9)))
    assert not went_back.is_checked
    assert went_back.last == state(written=10), "the recovery compares with it"
    with pytest.raises(InputRejected):
        await went_back.require_open(connection(state(written=11)))


async def test_a_database_that_another_process_has_recovered_is_checked_before_it_is_used() -> None:
    known, recovered = gate(state()), state(incarnation=1, written=11)
    with pytest.raises(InputRejected):
        await known.require_open(connection(recovered))
    known.pass_on(recovered)
    assert await known.require_open(connection(recovered)) == 1_000_000


async def test_an_answer_that_arrives_late_is_no_sign_of_a_restore() -> None:
    opened, late = gate(state(written=10)), asyncio.Event()
    waiting = asyncio.create_task(opened.require_open(connection(state(written=11), late)))
    await asyncio.sleep(0)
    assert await opened.require_open(connection(state(written=12))) == 0
    late.set()
    assert await waiting == 0
    with pytest.raises(InputRejected):
        await opened.require_open(connection(state(written=11)))


async def test_an_answer_that_arrives_after_a_sign_of_a_restore_does_not_hide_it() -> None:
    opened, late = gate(state(written=10)), asyncio.Event()
    waiting = asyncio.create_task(opened.require_open(connection(state(written=12), late)))
    await asyncio.sleep(0)
    opened.suspend()
    late.set()
    await waiting
    assert opened.last == state(written=10), "the recovery compares with it"
