"""The common parts of every service: producers, access control, REST application, consumers, database, supervision.

A service's `app.py` creates one `Service`, adds its routers, consumers and loops, and calls `run`. As an example, a
service that adds labels to cases: it reads one topic of its region and writes to another. Its `decode` raises Poison
for a record that is not an event of the region. Its `handle` raises Transient if Kafka did not accept all events; then
the consumer repeats the batch. `handlers.py`:

    class AddLabels:
        def __init__(self, region: str, source: str, producer: Producer, clock: Clock) -> None:
            self._region, self._source, self._producer, self._clock = region, source, producer, clock

        def decode(self, record: RawRecord) -> Event[Any]:
            return envelope.decode(record.headers, record.key, record.value, region=self._region)

        async def handle(self, batch: Sequence[Received[Event[Any]]]) -> None:
            time = to_text(self._clock.now())
            await self._producer.send([self._label(e, time) for _, e in batch if isinstance(e.data, CaseOpened)])

        def _label(self, case: Event[CaseOpened], time: str) -> Record:
            cause = case.attributes  # the id derives from the cause: a repeated batch writes the same event again
            about = Attributes(
                id=ids.event_id(cause.id, LABEL_ADDED),
                type=LABEL_ADDED,
                source=self._source,
                time=time,
                subject=cause.subject,
                region=self._region,
                correlation_id=cause.correlation_id,
                causation_id=cause.id,
            )
            added = LabelAdded(case_id=case.data.case_id, label=case.data.item.category)
            return record(topics.labels(self._region), envelope.encode(about, added))

`app.py`:

    async def run(settings: Settings) -> bool:
        service = Service("labels", DESCRIPTION, settings, [settings.region], per_region=True)
        service.app.include_router(api.router)
        region = settings.region
        labels = AddLabels(region, service.source, service.producer(region), service.clock)
        reads = [topics.cases(region)]
        consumer = service.consumer(region, reads=reads, decode=labels.decode, handle=labels.handle)
        return await service.run(consumer.run)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.types import ASGIApp

from shared.auth.access_log import AccessLog
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import read_clients_file
from shared.contracts import topics
from shared.contracts.envelope import Event
from shared.http import server
from shared.http.app import create_app
from shared.kafka.cluster_watch import ClusterWatch
from shared.kafka.consumer import BatchConsumer, FetchLimits, Handler, RawRecord, TransactionalHandler
from shared.kafka.control import ControlReader
from shared.kafka.dead_letters import DeadLetterWriter
from shared.kafka.parking import ParkedKeyStore
from shared.kafka.producer import ACKNOWLEDGE_SECONDS, MAX_RECORD_BYTES, KafkaProducer
from shared.kafka.stop_store import StopStore
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.postgres.poolers import refuse_pooler
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.lifecycle import Loop
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, until_done
from shared.runtime.settings import CommonSettings
from shared.runtime.tasks import run_all

if TYPE_CHECKING:
    from shared.auth.oidc import AccessTokens

M = TypeVar("M")

MAX_DEAD_LETTER_BYTES: Final = 5 * 1024 * 1024
"""`max.message.bytes` of the dead-letter topics: a dead letter is the original record with more headers."""


class Service:
    """A service that serves `regions`. `name` is the name of its package; `description` describes its REST API.

    `per_region`: each region has its own processes, and events name the region in `ce_source`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        settings: CommonSettings,
        regions: Sequence[str],
        *,
        per_region: bool = False,
        max_record_bytes: int = MAX_RECORD_BYTES,
        acknowledge_seconds: float = ACKNOWLEDGE_SECONDS,
    ) -> None:
        self.name = name
        self.settings = settings
        self.regions = list(dict.fromkeys(regions))
        self.clock = SystemClock()
        self.readiness = Readiness(name)
        parts = ["piepowder", name, *(self.regions if per_region else [])]
        self.source = "/".join(parts)
        """The `ce_source` of its events."""
        self.client_id = "-".join([*parts, settings.instance])
        self.producers = {
            bootstrap: KafkaProducer(
                bootstrap, client_id=self.client_id, max_bytes=max_record_bytes, timeout=acknowledge_seconds
            )
            for bootstrap in {settings.kafka, *map(settings.bootstrap, self.regions)}
        }
        """By bootstrap servers: one producer for each cluster of the regions and of the control topic."""
        producers = {region: self.producer(region) for region in self.regions}
        self._access_log = AccessLog(service=name, source=self.source, producers=producers, clock=self.clock)
        self._tokens = _access_tokens(settings, self.clock) if settings.oidc_issuer else None
        self.authenticator = Authenticator(
            read_clients_file(settings.clients_file),
            clock=self.clock,
            regions=self.regions,
            refusals=self._access_log,
            tokens=self._tokens,
            follows=True,
        )
        self.app = create_app(name, description, self.readiness)
        self.app.state.authenticator = self.authenticator
        self.follow_control()

    def producer(self, region: str) -> KafkaProducer:
        """The producer for a region's cluster."""
        return self.producers[self.settings.bootstrap(region)]

    def follow_control(
        self,
        apply: Callable[[Event[Any]], None] = lambda _: None,
        caught_up: Callable[[], str | None] = lambda: None,
        deleted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Follow the control topic: apply every event to the clients, then with `apply`.

        `caught_up` is called after each reading up to the end of the topic: only then does what was read come into
        force. It returns the entities that the service needs and that are not published yet, None if there are none.
        `deleted` is called with the name of a deleted entity.
        """

        def apply_all(event: Event[Any]) -> None:
            self.authenticator.apply(event)
            apply(event)

        def all_caught_up() -> str | None:
            self.authenticator.caught_up()
            return caught_up()

        self._control = ControlReader(
            bootstrap=self.settings.kafka,
            client_id=f"piepowder-{self.name}-{self.settings.instance}",
            apply=apply_all,
            caught_up=all_caught_up,
            readiness=self.readiness,
            deleted=deleted,
        )

    def consumer(
        self,
        region: str,
        *,
        reads: Sequence[str],
        decode: Callable[[RawRecord], M],
        handle: Handler[M] | TransactionalHandler[M],
        group: str = "",
        parks: bool = True,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        linger_seconds: float = 0.0,
        fetch: FetchLimits = FetchLimits(),  # noqa: B008 - immutable
    ) -> BatchConsumer[M]:
        """A consumer of the topics `reads` on a region's cluster, in the group `piepowder-<name>-<region>` by default.

        A service with a database passes a `TransactionalHandler` with a `PositionTable` of the database.
        `parks` is False if order does not matter: then the later records of a dead-lettered record's key are handled.
        """
        group = group or f"piepowder-{self.name}-{region}"
        bootstrap, producer, settings = self.settings.bootstrap(region), self.producer(region), self.settings
        letters, states = topics.deadletters(region), topics.parked(region)
        parked = ParkedKeyStore(producer, bootstrap=bootstrap, topic=states, group=group, limit=settings.parked_keys)
        return BatchConsumer(
            bootstrap=bootstrap,
            group=group,
            topics=reads,
            decode=decode,
            handle=handle,
            dead_letters=DeadLetterWriter(producer, topic=letters, group=group, clock=self.clock, bootstrap=bootstrap),
            parked=parked if parks else None,
            stops=StopStore(producer, bootstrap=bootstrap, topic=states, group=group),
            readiness=self.readiness,
            clock=self.clock,
            instance=settings.instance,
            batch_records=settings.batch_records,
            backoff=backoff,
            drain_seconds=settings.drain_seconds,
            linger_seconds=linger_seconds,
            fetch=fetch,
        )

    @asynccontextmanager
    async def database(
        self, url: str, stop: asyncio.Event, session: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[Database | None]:
        """The service's database with its schema up to date; None when `stop` is set before the server responds.

        Reports the state of the server as readiness. `session` has settings of the asyncpg connections. Raises Fatal
        for a connection pooler that does not keep sessions.
        """

        async def connect() -> Database:
            await refuse_pooler(url, session)
            await migrations.upgrade(url, self.name)
            return await Database.connect(url, settings=session)

        database = await until_done("database", connect, stop=stop, readiness=self.readiness)
        if database is None:
            yield None
            return
        watching = asyncio.create_task(database.watch(self.readiness, stop))
        try:
            yield database
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await database.close()

    async def run(self, *loops: Loop, served: ASGIApp | None = None) -> bool:
        """Serve REST and run `loops` until stopped; True for a normal stop. `served` is a wrapper of `app`, if any."""
        common = [self._control.run, self._run_access, *(watch.run for watch in self._cluster_watches())]
        try:
            return await server.serve(served or self.app, self.settings, [*common, *loops], self.readiness)
        finally:
            await self.stop()

    def _cluster_watches(self) -> list[ClusterWatch]:
        needed: dict[str, list[str]] = {bootstrap: [] for bootstrap in self.producers}
        needed[self.settings.kafka].append(topics.CONTROL)
        for region in self.regions:
            needed[self.settings.bootstrap(region)] += topics.of_region(region)
        return [
            ClusterWatch(bootstrap, names, client_id=self.client_id, readiness=self.readiness, clock=self.clock)
            for bootstrap, names in needed.items()
        ]

    async def _run_access(self, stop: asyncio.Event) -> None:
        """Publish the access log, and refresh the issuer's keys, until `stop` is set."""
        runs = [self._access_log.run(self.authenticator.uses, stop)]
        if self._tokens is not None:
            runs.append(self._tokens.run(stop))
        await run_all(runs)

    async def stop(self) -> None:
        """Disconnect the producers."""
        await asyncio.gather(*(producer.stop() for producer in self.producers.values()))


def _access_tokens(settings: CommonSettings, clock: Clock) -> "AccessTokens":
    from shared.auth.oidc import AccessTokens  # noqa: PLC0415 - cryptography needs 15 MB: load it only with an issuer

    audience, claim = settings.oidc_audience, settings.oidc_regions_claim
    return AccessTokens(settings.oidc_issuer, audience, regions_claim=claim, clock=clock)
