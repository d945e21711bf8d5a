"""A guard against a second system on an external Kafka. Two systems with a common region would join the same consumer
groups: each would store a part of the events in its own databases, and the account of both would fail. A member that
ended stays in its group until its session expires, so the guard waits that long."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.kafka.closing import close
from shared.runtime.user_errors import UserError, cause

_SESSION_SECONDS: Final = 20.0  # a consumer's session is 15
_POLL_SECONDS: Final = 1.0


def refuse_second_system(bootstrap: str, regions: Sequence[str], *, report: Callable[[str], None]) -> None:
    """Return when no consumer group of these regions has a member; raises `UserError` if one remains."""
    deadline, reported = time.monotonic() + _SESSION_SECONDS, False
    while (members := asyncio.run(_members(bootstrap, regions))) and time.monotonic() < deadline:
        if not reported:
            report(
                f"Kafka at {bootstrap} has members of Piepowder's consumer groups; waiting for their sessions to expire"
            )
            reported = True
        time.sleep(_POLL_SECONDS)
    if members:
        known = f"{len(members)} member(s) of its groups, such as {members[0]}"
        raise UserError(
            f"Another system uses Kafka at {bootstrap}: {known}.",
            "Stop it first, or set PIEPOWDER_KAFKA to another cluster.",
        )


async def _members(bootstrap: str, regions: Sequence[str]) -> list[str]:
    ends = tuple(f"-{region}" for region in regions)
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        await client.start()
        known = sorted(group for group, *_ in await client.list_consumer_groups())
        there = [group for group in known if group.startswith("piepowder-") and group.endswith(ends)]
        # One call for each group: the client misreads a response about several.
        responses = [await client.describe_consumer_groups([group]) for group in there]
    except (KafkaError, OSError) as error:
        raise UserError(f"Kafka at {bootstrap} does not respond ({cause(error)}).", "Look at its log.") from error
    finally:
        await close(client)
    return [
        f"{client_id} of group {group}, from {host.lstrip('/')}"
        for [response] in responses
        for _, group, _, _, _, members, *_ in response.groups
        for _, client_id, host, *_ in members
    ]
