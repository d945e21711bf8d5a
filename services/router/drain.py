"""Reads what waits in a region: unrouted submissions, unread cases, parked keys and open cases.

The stages are read in the order of an item's path. What passes a stage after it was read is therefore seen in the next
one, and everything that was accepted before the first read is covered. An item that is accepted later is not: so a
region must own no market before, and intake must have applied that model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from shared.contracts import topics
from shared.kafka.offsets import OffsetClient
from shared.kafka.parking import parked_keys
from shared.kafka.whole_topic import read_whole
from shared.runtime.errors import Transient

_PATH: Final = "/v1/queues"
_STAGES: Final = (
    ("piepowder-router", topics.submissions, "unrouted"),
    ("piepowder-decision", topics.cases, "not stored by decision"),
)
"""The groups on the path of an item that park keys, without their region: what each reads, and what waits there."""
_SECONDS: Final = httpx.Timeout(5.0, connect=2.0)


class _Queue(msgspec.Struct, frozen=True):
    queue: str
    waiting: int
    claimed: int


class _Queues(msgspec.Struct, frozen=True):
    region: str
    queues: list[_Queue]


_decode: Final = msgspec.json.Decoder(_Queues).decode


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
        """What waits in the region, one clause each; raises Transient if Kafka or decision do not respond."""
        return [
            *[
                reason
                for group, topic, state in _STAGES
                for reason in await self._unread(region, topic(region), f"{group}-{region}", state)
            ],
            *await self._parked(region),
            *await self._open_cases(region),
        ]

    async def _unread(self, region: str, topic: str, group: str, state: str) -> list[str]:
        offsets = OffsetClient(self._bootstrap(region), client_id=self._client_id)
        try:
            n = await offsets.behind(group, topic)
        finally:
            await offsets.stop()
        return [f"{n} records of {topic} are {state}; the lag of group {group} shows it"] if n else []

    async def _parked(self, region: str) -> list[str]:
        records = await read_whole(self._bootstrap(region), topics.parked(region), f"{self._client_id}-drain")
        groups = {group: len(parked_keys(records, group)) for group in (f"{stage[0]}-{region}" for stage in _STAGES)}
        return [
            f"{n} keys of {group} are parked: replay them with `piepowder replay --region {region}`"
            for group, n in groups.items()
            if n
        ]

    async def _open_cases(self, region: str) -> list[str]:
        if region not in self._decisions or self._key_file is None:
            return ["its open cases are not known: set PIEPOWDER_DECISION_BY_REGION and PIEPOWDER_DECISION_KEY_FILE"]
        found = _sound(region, await self._get(self._decisions[region], _key(self._key_file)))
        still_open = [(queue.queue, queue.waiting + queue.claimed) for queue in found.queues]
        if not sum(n for _, n in still_open):
            return []
        by_queue = ", ".join(f"{queue} {n}" for queue, n in still_open if n)
        total = sum(n for _, n in still_open)
        return [f"{total} open cases ({by_queue}): decide them; `GET {_PATH}` of its decision service shows them"]

    async def _get(self, url: str, key: str) -> httpx.Response:
        try:
            return await self._http.get(f"{url}{_PATH}", headers={"Authorization": f"Bearer {key}"})
        except httpx.HTTPError as error:
            raise Transient(f"The decision service at {url} does not respond: {type(error).__name__}.") from error


def _key(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Transient(f"The key for the decision service cannot be read: {error}.") from error


def _sound(region: str, response: httpx.Response) -> _Queues:
    at = f"The decision service at {response.url}"
    if response.status_code != 200:
        raise Transient(f"{at} returned {response.status_code} for the queues of region {region!r}.")
    try:
        found = _decode(response.content)
    except msgspec.DecodeError as error:
        raise Transient(f"{at} returned an unreadable body.") from error
    if found.region != region:
        raise Transient(f"{at} serves region {found.region!r}, not {region!r}: correct PIEPOWDER_DECISION_BY_REGION.")
    return found
