"""Whether somebody else works on a Kafka that we did not start. Two systems with a region in common would be one to
Kafka: members of the same consumer groups, so that each takes a part of the events into databases of its own, and the
account of neither comes out even. A member that has gone, also one of ours a moment ago, is a member until its session
ends; that is waited for."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.local.errors import StackError

_SESSION_SECONDS: Final = 20.0  # a consumer's session is 15: see shared.kafka.consumer
_POLL_SECONDS: Final = 1.0


def refuse_company(bootstrap: str, regions: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Return when no consumer group of these regions has a member; raises `StackError` when one has for too long."""
    deadline, told = time.monotonic() + _SESSION_SECONDS, False
    while (members := asyncio.run(_members(bootstrap, regions))) and time.monotonic() < deadline:
        if not told:
            say(f"Kafka at {bootstrap} has members of our consumer groups: waiting whether they are of an ended system")
            told = True
        time.sleep(_POLL_SECONDS)
    if members:
        known = f"{len(members)} member(s) of our groups, such as {members[0]}"
        raise StackError(
            f"Another system works on Kafka at {bootstrap}: {known}.",
            "Stop that one first, or let PIEPOWDER_KAFKA name another cluster.",
        )


async def _members(bootstrap: str, regions: Sequence[str]) -> list[str]:
    ends = tuple(f"-{region}" for region in regions)
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        await client.start()
        known = sorted(group for group, *_ in await client.list_consumer_groups())
        there = [group for group in known if group.startswith("piepowder-") and group.endswith(ends)]
        answers = [await client.describe_consumer_groups([group]) for group in there]  # it misreads several at once
    except (KafkaError, OSError) as error:
        raise StackError(f"Kafka at {bootstrap} does not answer ({error!r}).", "Look at its log.") from error
    finally:
        await client.close()
    return [
        f"{client_id} of group {group}, from {host.lstrip('/')}"
        for [answer] in answers
        for _, group, _, _, _, members, *_ in answer.groups
        for _, client_id, host, *_ in members
    ]
