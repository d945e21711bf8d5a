"""A broker closes a connection: a call in the same moment gets the error of the connection, no other (promise 9)."""

import asyncio

import pytest
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.coordination import FindCoordinatorRequest

import shared.kafka  # noqa: F401 - corrects the client


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_write_to_a_connection_that_was_just_closed_is_an_error_of_the_connection(kafka: str, turns: int) -> None:
    async def write() -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await client.start()
        try:
            await client.list_topics()
            [connection] = client._client._conns.values()
            connection._writer.transport.abort()
            for _ in range(turns):  # of the loop: after one, the transport is closed, and its reader does not know it
                await asyncio.sleep(0)
            with pytest.raises(KafkaConnectionError):
                await connection.send(FindCoordinatorRequest("test", 0))
            assert not connection.connected()
            await client.list_topics()  # over a new connection
        finally:
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())
