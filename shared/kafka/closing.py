"""The end of a Kafka client, within a limited time and without an error.

aiokafka's clients cancel their own tasks when they stop. If Kafka does not answer, they can pass this cancellation on:
the caller ends as if it had been cancelled, without an error that anybody sees, and the client's connections stay open.
"""

import asyncio
import logging
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

log = logging.getLogger(__name__)

KafkaClient: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient

_CLOSE_SECONDS: Final = 5.0  # during a rebalance it can take much longer

_closing: set[asyncio.Task[None]] = set()


async def close(client: KafkaClient, *, cancel_late: bool = False) -> bool:
    """Stop a client. Raises nothing except the cancellation of the caller.

    Continues after five seconds, and returns False then. The client stops in the background, or at once without its
    pending work: with `cancel_late`, for a producer, which must not send records after its successor.
    """
    task = asyncio.create_task(_stop(client))
    _closing.add(task)
    task.add_done_callback(_stopped)
    done, _ = await asyncio.wait([task], timeout=_CLOSE_SECONDS)
    if not done and cancel_late:
        task.cancel()
    return bool(done)


async def _stop(client: KafkaClient) -> None:
    try:
        await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    except BaseException:  # the rest of what the client would have done
        for task in _own_tasks(client):
            task.cancel()
        await (client.client if isinstance(client, AIOKafkaProducer) else client._client).close()
        raise


def _own_tasks(client: KafkaClient) -> list["asyncio.Task[None]"]:
    if isinstance(client, AIOKafkaProducer):
        return [] if client._sender is None or client._sender.sender_task is None else [client._sender.sender_task]
    if isinstance(client, AIOKafkaConsumer) and client._fetcher is not None:
        return list(client._fetcher._pending_tasks)
    return []


def _stopped(task: asyncio.Task[None]) -> None:
    _closing.discard(task)
    if task.cancelled():
        log.debug("a Kafka client was stopped while it waited for Kafka")
    elif (error := task.exception()) is not None:
        log.warning("a Kafka client did not stop cleanly", extra={"error": repr(error)})
