"""Reads what waits in a region: unrouted submissions, unread cases, parked keys and open cases.

The stages are read in the order of an item's path. What passes a stage after it was read is therefore seen in the next
one, and everything that was accepted before the first read is covered. An item that is accepted later is not: so a
region must own no market before, and every intake must have applied that model: the operator compares the numbers of
its processes (docs/architecture/router.md), because the router does not know them.

The decision service reports its own positions, because its committed offsets are only information: after a restore of
its database, or a change by a tool, they are ahead of what it has stored. Its positions are read before the ends of the
topic and before its open cases; so at the end of the topic, the open cases include all that was routed.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec

from shared.contracts import topics
from shared.kafka.offsets import OffsetClient, ReadUntil
from shared.kafka.parking import parked_keys
from shared.kafka.whole_topic import read_whole
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause

_QUEUES: Final = "/v1/queues"
_POSITIONS: Final = "/v1/positions"
_GROUPS: Final = ("piepowder-router", "piepowder-decision")
"""The groups on the path of an item that park keys, without their region."""
_SECONDS: Final = httpx.Timeout(5.0, connect=2.0)


class _Queue(msgspec.Struct, frozen=True):
    queue: str
    waiting: int
    claimed: int


class _Queues(msgspec.Struct, frozen=True):
    region: str
    queues: list[_Queue]


class _Position(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    position: int
    topic_id: str
    missing: str | None


class _Positions(msgspec.Struct, frozen=True):
    region: str
    positions: list[_Position]


R = TypeVar("R", _Queues, _Positions)


class RegionDrain:
    """Implements `handlers.leaving.RegionProgress`.

    `bootstrap` returns the Kafka cluster of a region; `decisions` has the URLs of the decision services by region, and
    `key_file` a key for them, of scope `reviews:read`.
    """

    def __init__(
        self,
        bootstrap: Callable[[str], str],
        decisions: Mapping[str, str],
        key_file: Path | None,
        *,
        client_id: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._decisions = decisions
        self._key_file = key_file
        self._client_id = client_id
        self._http = httpx.AsyncClient(timeout=_SECONDS, trust_env=False, transport=transport)

    async def stop(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def unfinished(self, region: str) -> list[str]:
        """The reasons why the region is not drained, one clause each.

        Raises Transient if Kafka or decision do not respond.
        """
        return [
            *await self._unrouted(region),
            *await self._unstored(region),
            *await self._parked(region),
            *await self._open_cases(region),
        ]

    async def _unrouted(self, region: str) -> list[str]:
        topic, group = topics.submissions(region), f"piepowder-router-{region}"
        async with self._offsets(region) as offsets:
            n = await offsets.behind(group, topic)
        return [f"{n} records of {topic} are unrouted; the lag of group {group} shows it"] if n else []

    async def _unstored(self, region: str) -> list[str]:
        """The cases that the decision service has not stored, by its own positions."""
        if (access := self._access(region)) is None:
            return []
        topic, found = topics.cases(region), _sound(region, await self._get(*access, _POSITIONS), _Positions)
        stored = [each for each in found.positions if each.topic == topic]
        async with self._offsets(region) as offsets:
            n = await offsets.unread(
                topic, {each.partition: ReadUntil(each.position, each.topic_id) for each in stored}
            )
        missing = "; ".join(each.missing for each in stored if each.missing)
        return [
            *([f"{n} records of {topic} are not stored by decision; its positions show it"] if n else []),
            *([f"{missing}: see docs/runbooks/missing-records.md"] if missing else []),
        ]

    async def _open_cases(self, region: str) -> list[str]:
        if (access := self._access(region)) is None:
            return ["its open cases are not known: set PIEPOWDER_DECISION_BY_REGION and PIEPOWDER_DECISION_KEY_FILE"]
        found = _sound(region, await self._get(*access, _QUEUES), _Queues)
        still_open = [(queue.queue, queue.waiting + queue.claimed) for queue in found.queues]
        if not sum(n for _, n in still_open):
            return []
        by_queue = ", ".join(f"{queue} {n}" for queue, n in still_open if n)
        total = sum(n for _, n in still_open)
        return [f"{total} open cases ({by_queue}): decide them; `GET {_QUEUES}` of its decision service shows them"]

    def _access(self, region: str) -> tuple[str, str] | None:
        """The URL of the region's decision service and a key for it; None if they are not configured."""
        if region not in self._decisions or self._key_file is None:
            return None
        return self._decisions[region], _key(self._key_file)

    @asynccontextmanager
    async def _offsets(self, region: str) -> AsyncIterator[OffsetClient]:
        offsets = OffsetClient(self._bootstrap(region), client_id=self._client_id)
        try:
            yield offsets
        finally:
            await offsets.stop()

    async def _parked(self, region: str) -> list[str]:
        records = await read_whole(self._bootstrap(region), topics.parked(region), f"{self._client_id}-drain")
        groups = {group: len(parked_keys(records, group)) for group in (f"{name}-{region}" for name in _GROUPS)}
        return [
            f"{n} keys of {group} are parked: replay them with `piepowder replay --region {region}`"
            for group, n in groups.items()
            if n
        ]

    async def _get(self, url: str, key: str, path: str) -> httpx.Response:
        try:
            return await self._http.get(f"{url}{path}", headers={"Authorization": f"Bearer {key}"})
        except httpx.HTTPError as error:
            raise Transient(f"The decision service at {url} does not respond: {cause(error)}.") from error


def _key(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Transient(f"The key for the decision service cannot be read: {error}.") from error


def _sound(region: str, response: httpx.Response, form: type[R]) -> R:
    at = f"The decision service at {response.url}"
    if response.status_code != 200:
        raise Transient(f"{at} returned {response.status_code} for region {region!r}.")
    try:
        found = msgspec.json.decode(response.content, type=form)
    except msgspec.DecodeError as error:
        raise Transient(f"{at} returned an unreadable body.") from error
    if found.region != region:
        raise Transient(f"{at} serves region {found.region!r}, not {region!r}: correct PIEPOWDER_DECISION_BY_REGION.")
    return found
