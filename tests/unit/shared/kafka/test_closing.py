"""The end of a Kafka client neither cancels nor fails its user, and takes a limited time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer

from shared.kafka import closing
from shared.kafka.closing import close
from shared.runtime.errors import Transient


class Client(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types for it
    """A client that stops in a given way."""

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._stop = stop
        self._closed = True  # it never connects
        self.is_disconnected = asyncio.Event()
        self._client.close = self._disconnect

    async def stop(self) -> None:
        await self._stop()

    async def _disconnect(self) -> None:
        self.is_disconnected.set()


async def cancelled_inside() -> None:
    raise asyncio.CancelledError


async def fail() -> None:
    raise OSError("broken")


@pytest.mark.parametrize("stop", [cancelled_inside, fail])
async def test_the_error_of_the_user_is_kept_and_the_client_is_disconnected(
    stop: Callable[[], Awaitable[None]],
) -> None:
    client = Client(stop)

    async def use() -> None:
        try:
            raise Transient("its own error")
        finally:
            assert await close(client)

    with pytest.raises(Transient, match="its own error"):
        await use()
    assert client.is_disconnected.is_set()
    assert not closing._closing


async def test_a_client_that_stops_slowly_stops_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_CLOSE_SECONDS", 0.01)
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        await may_end.wait()
        ended.set()

    assert not await close(Client(slow))
    may_end.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_producer_that_stops_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_CLOSE_SECONDS", 0.01)

    async def slow() -> None:
        await asyncio.Event().wait()

    client = Client(slow)
    assert not await close(client, cancel_late=True)
    await asyncio.wait_for(client.is_disconnected.wait(), 5)


async def test_the_cancellation_of_the_user_is_passed_on() -> None:
    may_end = asyncio.Event()

    async def slow() -> None:
        await may_end.wait()

    user = asyncio.create_task(close(Client(slow)))
    await asyncio.sleep(0)
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    may_end.set()
    await asyncio.gather(*closing._closing)
