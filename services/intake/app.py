"""The composition root: settings in, running intake out; the only file that knows the real adapters."""

import asyncio
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from fastapi import FastAPI

from services.intake import api, codes, metrics
from services.intake.asking import Following
from services.intake.catching_up import CatchingUp
from services.intake.clients import api as clients_api
from services.intake.clients.handlers import Registry, Uses
from services.intake.clients.store import Store as ClientStore
from services.intake.group_commit import GroupCommit
from services.intake.handlers import SOURCE, Front, Learned, Projection
from services.intake.notices import api as notices_api
from services.intake.notices.domain.lives import Told
from services.intake.notices.handlers import Appeals, Notices
from services.intake.notices.store import Complaints
from services.intake.requests import api as requests_api
from services.intake.requests.handlers import Requests
from services.intake.requests.router import RouterCheck
from services.intake.requests.store import Store as RequestStore
from services.intake.settings import Settings
from services.intake.store import ItemStatuses, Progress
from services.intake.withdrawals import Withdrawals
from shared.auth.access_log import Access
from shared.auth.authenticator import Authenticator
from shared.contracts import topics
from shared.http import http, server
from shared.kafka import consumers
from shared.kafka.consumer import BatchConsumer, RawRecord, Received
from shared.kafka.offsets import OffsetClient
from shared.kafka.producer import KafkaProducer, MultiClusterProducer, Producer
from shared.postgres.connect import open_database
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, until_done, wait

DESCRIPTION = """Takes items in: what it answered 202 is in every region's topic, acknowledged by all in-sync replicas.

The same post again is always right: its ids repeat. What became of an item is asked here too; that answer follows the
topics, and says how far it is behind."""

M = TypeVar("M")

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0
_WATCH_SECONDS = 2.0
_SILENT_SECONDS = 5.0  # a cluster that says nothing for so long does not answer
_LINGER_SECONDS = 0.1
_FOR_EVER = Backoff(bound=math.inf)  # posting goes on without the database, so following it waits instead of ending


async def run(settings: Settings) -> bool:
    """Take items in until told to stop; True when it ended as it should."""
    clock = SystemClock()
    readiness = Readiness("intake")
    regions = list(dict.fromkeys(settings.regions))
    producers = {
        bootstrap: KafkaProducer(
            bootstrap, client_id=f"piepowder-intake-{settings.instance}", timeout=settings.acknowledge_seconds
        )
        for bootstrap in {settings.kafka, *map(settings.bootstrap, regions)}
    }
    lanes = {
        bootstrap: GroupCommit(producer, max_records=settings.queue_records, max_bytes=settings.queue_mib * 2**20)
        for bootstrap, producer in producers.items()
    }
    metrics.INTAKE_PENDING.set_function(lambda: float(sum(lane.pending_records for lane in lanes.values())))
    front = Front(codes=codes.load(), lanes={region: lanes[settings.bootstrap(region)] for region in regions})
    reaches = {
        bootstrap: OffsetClient(bootstrap, client_id=f"piepowder-intake-{settings.instance}") for bootstrap in producers
    }
    catching_up = CatchingUp({region: reaches[settings.bootstrap(region)] for region in regions})
    following = Following(regions)
    access = Access(
        settings,
        service="intake",
        source=SOURCE,
        producers={region: producers[settings.bootstrap(region)] for region in regions},
        readiness=readiness,
        clock=clock,
    )
    control = access.control_reader(front.apply, front.lacking)
    consumers = _Consumers(settings, producers, readiness, clock)
    app = http.create_app("intake", DESCRIPTION, readiness)
    serving = api.add_routes(
        app,
        front=front,
        withdrawals=Withdrawals(front, catching_up=catching_up, clock=clock),
        following=following,
        authenticator=access.authenticator,
        readiness=readiness,
        clock=clock,
        batch_calls=settings.batch_calls,
        idle_seconds=settings.idle_seconds,
    )
    clients = _Clients(app, settings, access.authenticator, readiness=readiness, clock=clock)
    business = _BusinessRequests(app, settings, front, access.authenticator, readiness=readiness, clock=clock)
    notices = _NoticesAndAppeals(
        app,
        settings,
        front,
        access.authenticator,
        following=following,
        catching_up=catching_up,
        clock=clock,
        readiness=readiness,
    )

    async def connect_kafka(stop: asyncio.Event) -> None:
        await asyncio.gather(
            *(
                until_done(f"Kafka {bootstrap}", producer.start, stop=stop, readiness=readiness)
                for bootstrap, producer in producers.items()
            )
        )
        await asyncio.gather(
            *(
                _watch(bootstrap, reach, _topic_on(bootstrap, settings, regions), readiness, stop)
                for bootstrap, reach in reaches.items()
            )
        )

    async def follow(stop: asyncio.Event) -> None:
        async with open_database(settings.database_url, "intake", stop=stop, readiness=readiness) as database:
            if database is not None:
                await follow_in(database, stop)

    async def follow_in(database: Database, stop: asyncio.Event) -> None:
        statuses = following.statuses = ItemStatuses(database)
        relay = Relay(database, MultiClusterProducer(consumers.producer_of), service="intake")
        kept_clients = clients.open(database, relay)
        business.open(database, relay)
        complaints = notices.open(database, statuses)
        followed = regions if settings.projection else []
        projections = {
            region: consumers.of(Projection(region, statuses, complaints), region, linger_seconds=_LINGER_SECONDS)
            for region in followed
        }
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(relay.run(stop))
                for one in projections.values():
                    tasks.create_task(one.run(stop))
                for region in followed:
                    tasks.create_task(consumers.of(Uses(region, kept_clients), region).run(stop))
                tasks.create_task(_note_progress(projections, statuses, stop))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            following.statuses = None
            for part in (clients, business, notices):
                part.close()

    try:
        return await server.serve(serving, settings, [control.run, access.run, connect_kafka, follow], readiness)
    finally:
        await asyncio.gather(
            business.stop(),
            *(producer.stop() for producer in producers.values()),
            *(reach.stop() for reach in reaches.values()),
        )


class _Clients:
    """The clients' part: its routes, open while there is a database."""

    def __init__(
        self, app: FastAPI, settings: Settings, authenticator: Authenticator, *, readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._clock = clock
        self._reception = clients_api.Reception(readiness)
        clients_api.add_routes(app, self._reception, authenticator, clock)

    def open(self, database: Database, relay: Relay) -> ClientStore:
        """From now on, answer; returns where they are kept."""
        store = ClientStore(database)
        self._reception.registry = Registry(
            store,
            in_force=self._authenticator,
            environment=self._settings.environment,
            wake=relay.wake,
            clock=self._clock,
        )
        return store

    def close(self) -> None:
        """From now on, answer 503."""
        self._reception.registry = None


class _NoticesAndAppeals:
    """The notices' and appeals' part: notices are taken in without a database, the rest while there is one."""

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        front: Front,
        authenticator: Authenticator,
        *,
        following: Following,
        catching_up: CatchingUp,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._shelf = notices_api.Shelf(readiness)
        known = codes.load()
        desk = notices_api.Desk(
            notices=Notices(front, known, clock),
            appeals=Appeals(front, known, catching_up=catching_up, clock=clock, days=settings.appeal_days),
            shelf=self._shelf,
            following=following,
            taking_in=lambda: front.ownership is not None,
            authenticator=authenticator,
            clock=clock,
            idle_seconds=settings.idle_seconds,
        )
        desk.add_to(app)

    def open(self, database: Database, statuses: ItemStatuses) -> Complaints:
        """From now on, answer; returns where they are kept."""
        self._shelf.complaints = Complaints(database, statuses)
        return self._shelf.complaints

    def close(self) -> None:
        """From now on, answer 503 to all but notices."""
        self._shelf.complaints = None


class _BusinessRequests:
    """The business requests' part: its routes, open while there is a database."""

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        front: Front,
        authenticator: Authenticator,
        *,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._front = front
        self._clock = clock
        self._office = requests_api.Office(readiness)
        self._router = RouterCheck(settings.router, settings.router_key_file)
        requests_api.add_routes(
            app,
            office=self._office,
            authenticator=authenticator,
            regions=list(dict.fromkeys(settings.regions)),
            idle_seconds=settings.idle_seconds,
        )

    def open(self, database: Database, relay: Relay) -> None:
        """From now on, answer."""
        self._office.requests = Requests(
            RequestStore(database),
            checking=self._router,
            owners=lambda: self._front.ownership,
            countries=codes.load().countries,
            clock=self._clock,
            approvals_needed=self._settings.request_approvals,
            wake=relay.wake,
        )

    def close(self) -> None:
        """From now on, answer 503."""
        self._office.requests = None

    async def stop(self) -> None:
        """Close the connections."""
        await self._router.stop()


class _Following(Protocol[M]):
    """What follows topics: a group, and what it makes of records."""

    @property
    def group(self) -> str: ...

    @property
    def topics(self) -> list[str]: ...

    def decode(self, record: RawRecord) -> M: ...

    async def handle(self, batch: Sequence[Received[M]]) -> None: ...


class _Consumers:
    """The ways between intake and its regions' Kafka clusters."""

    def __init__(
        self, settings: Settings, producers: dict[str, KafkaProducer], readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._producers = producers
        self._readiness = readiness
        self._clock = clock

    def producer_of(self, topic: str) -> Producer:
        """The way to the cluster that a topic is on: its region's, or the one of what is global."""
        region = topic.rpartition(".")[2]
        is_regional = topic != topics.CONTROL and region in self._settings.regions
        return self._producers[self._settings.bootstrap(region) if is_regional else self._settings.kafka]

    def of(self, following: _Following[M], region: str, *, linger_seconds: float = 0.0) -> BatchConsumer[M]:
        """The consumer of what follows a region's topics; its facts add up in any order, so it parks no key."""
        return consumers.consumer(
            self._settings,
            region,
            group=following.group,
            reads=following.topics,
            decode=following.decode,
            handle=following.handle,
            producer=self._producers[self._settings.bootstrap(region)],
            readiness=self._readiness,
            clock=self._clock,
            parks=False,
            backoff=_FOR_EVER,
            linger_seconds=linger_seconds,
        )


def _topic_on(bootstrap: str, settings: Settings, regions: Sequence[str]) -> str:
    """A topic that the cluster has."""
    return next((topics.submissions(one) for one in regions if settings.bootstrap(one) == bootstrap), topics.CONTROL)


async def _watch(bootstrap: str, reach: OffsetClient, topic: str, readiness: Readiness, stop: asyncio.Event) -> None:
    """Have readiness say whether a cluster answers, until `stop` is set."""
    while not stop.is_set():
        lacking = None
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                await reach.ends([topic])
        except (Transient, TimeoutError) as error:
            lacking = str(error) or f"Kafka at {bootstrap} does not answer"
        readiness.set(f"Kafka {bootstrap}", lacking)
        await wait(stop, _WATCH_SECONDS)


async def _note_progress(
    consumers: dict[str, BatchConsumer[Learned | Told | None]],
    statuses: ItemStatuses,
    stop: asyncio.Event,
) -> None:
    """Tell all replicas, through the database, how far this one has read."""
    while not stop.is_set():
        try:
            for region, one in consumers.items():
                progress = [
                    Progress(tp.topic, tp.partition, datetime.fromtimestamp(ms / 1000, UTC))
                    for tp, ms in one.handled_until().items()
                ]
                if progress:
                    await statuses.note_progress(region, progress)
        except Transient as error:
            log.warning("how far items are followed is not noted", extra={"error": str(error)})
        await wait(stop, _PROGRESS_SECONDS)
