"""The composition root: settings in, running intake out; the only file that knows the real adapters."""

import asyncio

from services.intake.clients.handlers import KeyUseProjection
from services.intake.clients.wiring import ClientRoutes
from services.intake.items import api
from services.intake.items.handlers import ItemIntake
from services.intake.items.queries import Following
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.store import ItemStatusStore
from services.intake.items.withdrawals import Withdrawals
from services.intake.kafka import Consumers, topic_on, watch
from services.intake.notices.wiring import NoticeRoutes
from services.intake.projection.handlers import Projection
from services.intake.projection.progress import note_progress
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import SOURCE
from services.intake.requests.wiring import RequestRoutes
from services.intake.settings import Settings
from shared.auth.access_log import Access
from shared.http import http, server
from shared.kafka.offsets import Reach
from shared.kafka.producer import KafkaProducer, Producers
from shared.postgres.connect import opened
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime import metrics
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness
from shared.runtime.retry import until_done
from shared.validation import codes

DESCRIPTION = """Takes items in: what it answered 202 is in every region's topic, acknowledged by all in-sync replicas.

The same post again is always right: its ids repeat. What became of an item is asked here too; that answer follows the
topics, and says how far it is behind."""


_LINGER_SECONDS = 0.1


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
    publishers = {
        bootstrap: GroupCommitPublisher(
            producer, max_records=settings.queue_records, max_bytes=settings.queue_mib * 2**20
        )
        for bootstrap, producer in producers.items()
    }
    metrics.INTAKE_PENDING.set_function(
        lambda: float(sum(publisher.pending_records for publisher in publishers.values()))
    )
    intake = ItemIntake(
        codes=codes.load(), publishers={region: publishers[settings.bootstrap(region)] for region in regions}
    )
    offsets = {
        bootstrap: Reach(bootstrap, client_id=f"piepowder-intake-{settings.instance}") for bootstrap in producers
    }
    read_your_writes = ReadYourWrites({region: offsets[settings.bootstrap(region)] for region in regions})
    following = Following(regions)
    access = Access(
        settings,
        service="intake",
        source=SOURCE,
        producers={region: producers[settings.bootstrap(region)] for region in regions},
        readiness=readiness,
        clock=clock,
    )
    control = access.control_reader(intake.apply, intake.missing)
    consumers = Consumers(settings, producers, readiness, clock)
    app = http.create_app("intake", DESCRIPTION, readiness)
    serving = api.add_routes(
        app,
        intake=intake,
        withdrawals=Withdrawals(intake, read_your_writes=read_your_writes, clock=clock),
        following=following,
        authenticator=access.authenticator,
        readiness=readiness,
        clock=clock,
        batch_calls=settings.batch_calls,
        idle_seconds=settings.idle_seconds,
    )
    clients = ClientRoutes(app, settings, access.authenticator, readiness=readiness, clock=clock)
    business = RequestRoutes(app, settings, intake, access.authenticator, readiness=readiness, clock=clock)
    notices = NoticeRoutes(
        app,
        settings,
        intake,
        access.authenticator,
        following=following,
        read_your_writes=read_your_writes,
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
                watch(bootstrap, reach, topic_on(bootstrap, settings, regions), readiness, stop)
                for bootstrap, reach in offsets.items()
            )
        )

    async def follow(stop: asyncio.Event) -> None:
        async with opened(settings.database_url, "intake", stop=stop, readiness=readiness) as database:
            if database is not None:
                await follow_in(database, stop)

    async def follow_in(database: Database, stop: asyncio.Event) -> None:
        statuses = following.statuses = ItemStatusStore(database)
        relay = Relay(database, Producers(consumers.producer_of), service="intake")
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
                    tasks.create_task(consumers.of(KeyUseProjection(region, kept_clients), region).run(stop))
                tasks.create_task(note_progress(projections, statuses, stop))
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
            *(reach.stop() for reach in offsets.values()),
        )
