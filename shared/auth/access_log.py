"""The access log of a service: refused calls and used keys, published to Kafka.

Every refusal (401, 403, and 429 above a rate limit) is reported, and a flood of refusals overloads neither Kafka nor
memory: refusals with the same reason, route and client are counted into one event every few seconds, and the
number of different counts is bounded. Used keys are reported in the same way, once a minute. The events go to the
access topic of one region: the first region of the service in which the client may act, or the first of all if there
is none. Events that Kafka does not accept are kept in memory and sent again; a killed process loses its unsent events.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import structs

from shared.auth.principal import Principal
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, encode, subject_of
from shared.contracts.events import ACCESS_REFUSED, ACCESS_USED, AccessRefused, AccessUsed, KeyUse, Struct
from shared.kafka.producer import Producer, Record, record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 3.0
USES_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 3.0
_MAX_COUNTS: Final = 1_000
_MAX_KEYS: Final = 1_000
_OTHERS: Final = "(others)"


class AccessLog:
    """Publishes refused calls and used keys; `producers` are the producers of the service's regions, in their order."""

    def __init__(self, *, service: str, source: str, producers: Mapping[str, Producer], clock: Clock) -> None:
        self._service = service
        self._source = source
        self._producers = producers
        self._clock = clock
        self._run = ids.new_run()
        self._numbers = itertools.count(1)
        self._counts: dict[tuple[str, str, str, str, str], AccessRefused] = {}
        self._pending: dict[str, list[Record]] = {}

    def refused(
        self, *, reason: str, principal: Principal, key: str, method: str, route: str, status: int, count: int
    ) -> None:
        """Count refusals of one kind for the next event."""
        kind = self._home(principal), reason, principal.name, method, route
        if kind not in self._counts and len(self._counts) >= _MAX_COUNTS:
            kind = *kind[:2], "", "", _OTHERS
        _, _, client, method, route = kind
        now = to_text(self._clock.now())
        first = AccessRefused(
            service=self._service,
            method=method,
            route=route,
            status=status,
            reason=reason,
            client=client,
            key=key,
            count=0,
            since=now,
            until=now,
        )
        counted = self._counts.get(kind, first)
        self._counts[kind] = structs.replace(counted, count=counted.count + count, until=now)

    async def run(self, uses: Callable[[], Sequence[tuple[Principal, KeyUse]]], stop: asyncio.Event) -> None:
        """Publish every few seconds until `stop` is set, and then once more."""
        since, published = self._clock.now(), self._clock.monotonic()
        while not stop.is_set():
            await wait(stop, REPORT_SECONDS)
            if stop.is_set() or self._clock.monotonic() - published >= USES_SECONDS:
                self.used(uses(), since)
                since, published = self._clock.now(), self._clock.monotonic()
            await self.publish(_LAST_SECONDS if stop.is_set() else None)

    def used(self, uses: Sequence[tuple[Principal, KeyUse]], since: datetime) -> None:
        """Add the keys that were used since the time `since`; the next `publish` sends them."""
        by_region: defaultdict[str, list[KeyUse]] = defaultdict(list)
        for principal, use in uses:
            by_region[self._home(principal)].append(use)
        now = to_text(self._clock.now())
        for region, keys in by_region.items():
            for start in range(0, len(keys), _MAX_KEYS):
                used = AccessUsed(
                    service=self._service, since=to_text(since), until=now, keys=keys[start : start + _MAX_KEYS]
                )
                event = self._event(region, ACCESS_USED, subject_of("piepowder", "service", self._service), used)
                self._pending.setdefault(region, []).append(event)

    async def publish(self, seconds: float | None = None) -> None:
        """Send all counts and pending events, for at most `seconds`; keeps the events that are not acknowledged."""
        for kind, refused in list(self._counts.items()):
            region, client = kind[0], refused.client
            if len(self._pending.get(region, ())) >= _MAX_COUNTS:
                continue
            subject = subject_of("piepowder", *(("client", client) if client else ("service", self._service)))
            self._pending.setdefault(region, []).append(self._event(region, ACCESS_REFUSED, subject, refused))
            del self._counts[kind]
        try:
            async with asyncio.timeout(seconds):
                for region, records in list(self._pending.items()):
                    await self._send(region, records)
        except TimeoutError:
            log.warning("the last access events were not published: Kafka did not acknowledge them in time")

    async def _send(self, region: str, records: list[Record]) -> None:
        try:
            await self._producers[region].send(records)
        except Transient as error:
            log.warning("access events will be published later", extra={"region": region, "error": str(error)})
        else:
            del self._pending[region]

    def _event(self, region: str, kind: str, subject: str, data: Struct) -> Record:
        event_id = ids.event_id(self._run, kind, next(self._numbers))
        now = to_text(self._clock.now())
        attributes = Attributes(event_id, kind, self._source, now, subject, region, event_id)
        return record(topics.access(region), encode(attributes, data))

    def _home(self, principal: Principal) -> str:
        regions = self._producers
        return next((region for region in regions if principal.may_act_in(region)), next(iter(regions)))
