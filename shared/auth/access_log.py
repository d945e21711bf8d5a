"""Knowing who calls, as one part of a service: the clients, people's tokens, and the log of who was refused.

Every refusal (401, 403, and 429 above a client's limit) ends in the audit log, and no flood of them floods Kafka or
memory: what is refused for the same reason, on the same route, to the same client is one event every few seconds, with
a count, and there are only so many of them. Likewise the keys that were used, once a minute. Both are told on the
access topic of a region: of those that the service serves, the first that the client may act in. What Kafka does not
take is kept, as it is, and sent again; when a process is killed, at most its last few seconds are not told.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from shared.auth import authenticator
from shared.auth.authenticator import Authenticator, Client
from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, Event, encode, subject_of
from shared.contracts.events import ACCESS_REFUSED, ACCESS_USED, AccessRefused, AccessUsed, KeyUse, Struct
from shared.kafka.control import ControlReader
from shared.kafka.producer import Producer, Record, record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.runtime.lifecycle import Loop
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait
from shared.runtime.settings import CommonSettings

log = logging.getLogger(__name__)

TELL_SECONDS: Final = 3.0
USES_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 3.0
_MOST_TALLIES: Final = 1_000
_MOST_KEYS: Final = 1_000
_OTHERS: Final = "(others)"


class _Tally:
    __slots__ = ("count", "key", "since", "status", "until")

    def __init__(self, status: int, key: str, since: datetime) -> None:
        self.status = status
        self.key = key
        self.count = 0
        self.since = self.until = since


class AccessLog:
    """Tells of refusals and of used keys; `producers` gives the way to each region's Kafka, in the regions' order."""

    def __init__(self, *, service: str, source: str, producers: Mapping[str, Producer], clock: Clock) -> None:
        self._service = service
        self._source = source
        self._producers = producers
        self._clock = clock
        self._run = ids.new_run()
        self._numbers = itertools.count(1)
        self._tallies: dict[tuple[str, str, str, str, str], _Tally] = {}
        self._pending: dict[str, list[Record]] = {}

    def refused(
        self, *, reason: str, client: Client, key: str, method: str, route: str, status: int, count: int
    ) -> None:
        """Count refusals of a kind; the next event tells them."""
        place = self._home(client), reason, client.name, method, route
        if place not in self._tallies and len(self._tallies) >= _MOST_TALLIES:
            place = *place[:2], "", "", _OTHERS
        now = self._clock.now()
        tally = self._tallies.get(place)
        if tally is None:
            tally = self._tallies[place] = _Tally(status, key, now)
        tally.count += count
        tally.until = now

    async def run(self, uses: Callable[[], Sequence[tuple[Client, KeyUse]]], stop: asyncio.Event) -> None:
        """Tell every few seconds until `stop` is set, and then once more."""
        began, asked = self._clock.now(), self._clock.monotonic()
        while not stop.is_set():
            await wait(stop, TELL_SECONDS)
            if stop.is_set() or self._clock.monotonic() - asked >= USES_SECONDS:
                self.used(uses(), began)
                began, asked = self._clock.now(), self._clock.monotonic()
            await self.tell(_LAST_SECONDS if stop.is_set() else None)

    def used(self, uses: Sequence[tuple[Client, KeyUse]], since: datetime) -> None:
        """Note the keys that were used since a moment; the next `tell` tells them."""
        by_region: defaultdict[str, list[KeyUse]] = defaultdict(list)
        for client, use in uses:
            by_region[self._home(client)].append(use)
        now = to_text(self._clock.now())
        for region, keys in by_region.items():
            for start in range(0, len(keys), _MOST_KEYS):
                told = AccessUsed(
                    service=self._service, since=to_text(since), until=now, keys=keys[start : start + _MOST_KEYS]
                )
                event = self._event(region, ACCESS_USED, subject_of("piepowder", "service", self._service), told)
                self._pending.setdefault(region, []).append(event)

    async def tell(self, seconds: float | None = None) -> None:
        """Send what was noted, for `seconds` at most; what does not arrive is kept."""
        for place, tally in list(self._tallies.items()):
            region, reason, client, method, route = place
            if len(self._pending.get(region, ())) >= _MOST_TALLIES:
                continue
            told = AccessRefused(
                service=self._service,
                method=method,
                route=route,
                status=tally.status,
                reason=reason,
                client=client,
                key=tally.key,
                count=tally.count,
                since=to_text(tally.since),
                until=to_text(tally.until),
            )
            subject = subject_of("piepowder", *(("client", client) if client else ("service", self._service)))
            self._pending.setdefault(region, []).append(self._event(region, ACCESS_REFUSED, subject, told))
            del self._tallies[place]
        try:
            async with asyncio.timeout(seconds):
                for region, records in list(self._pending.items()):
                    await self._send(region, records)
        except TimeoutError:
            log.warning("the last refusals were not told: Kafka did not take them in time")

    async def _send(self, region: str, records: list[Record]) -> None:
        try:
            await self._producers[region].send(records)
        except Transient as error:
            log.warning("refusals are told later", extra={"region": region, "error": str(error)})
        else:
            del self._pending[region]

    def _event(self, region: str, kind: str, subject: str, told: Struct) -> Record:
        event_id = ids.event_id(self._run, kind, next(self._numbers))
        now = to_text(self._clock.now())
        attributes = Attributes(event_id, kind, self._source, now, subject, region, event_id)
        return record(topics.access(region), encode(attributes, told))

    def _home(self, client: Client) -> str:
        return next((region for region in self._producers if client.may_act_in(region)), next(iter(self._producers)))


class Access:
    """A service's knowledge of who may do what. `producers` gives the way to each region that the service serves."""

    def __init__(
        self,
        settings: CommonSettings,
        *,
        service: str,
        source: str,
        producers: Mapping[str, Producer],
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._service = service
        self._readiness = readiness
        self._log = AccessLog(service=service, source=source, producers=producers, clock=clock)
        self._loops: list[Loop] = []
        self.authenticator = Authenticator(
            authenticator.read_file(settings.clients_file),
            clock=clock,
            regions=producers,
            refusals=self._log,
            tokens=self._tokens(clock),
            follows=True,
        )

    def control_reader(
        self,
        apply: Callable[[Event[Any]], None] = lambda _: None,
        lacking: Callable[[], str | None] = lambda: None,
        deleted: Callable[[str], None] = lambda _: None,
    ) -> ControlReader:
        """The reader of the control topic, for the clients and for whatever else the service takes from it."""

        def take(event: Event[Any]) -> None:
            self.authenticator.apply(event)
            apply(event)

        def read_to_the_end() -> str | None:
            self.authenticator.caught_up()
            return lacking()

        return ControlReader(
            bootstrap=self._settings.kafka,
            client_id=f"piepowder-{self._service}-{self._settings.instance}",
            apply=take,
            lacking=read_to_the_end,
            readiness=self._readiness,
            deleted=deleted,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Tell of refusals, and follow the issuer's keys, until `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._log.run(self.authenticator.uses, stop))
            for loop in self._loops:
                tasks.create_task(_as_coroutine(loop, stop))

    def _tokens(self, clock: Clock) -> authenticator.Tokens | None:
        settings = self._settings
        if not settings.oidc_issuer:
            return None
        from shared.auth.oidc import AccessTokens  # noqa: PLC0415 - cryptography takes 15 MB, where nobody comes with a token too

        tokens = AccessTokens(
            settings.oidc_issuer, settings.oidc_audience, regions_claim=settings.oidc_regions_claim, clock=clock
        )
        self._loops.append(tokens.run)
        return tokens


async def _as_coroutine(loop: Loop, stop: asyncio.Event) -> None:
    await loop(stop)
