"""The audit service put together: settings in, a running service out."""

import asyncio
from functools import partial

from services.audit import api
from services.audit.handlers import Decoder, Keeper, Message
from services.audit.settings import Settings
from services.audit.store import Log
from shared import lifecycle, metrics
from shared.auth import Authenticator
from shared.clock import SystemClock
from shared.http import create_app
from shared.kafka import topics
from shared.kafka.consumer import BatchConsumer
from shared.kafka.deadletters import DeadLetters
from shared.kafka.producer import KafkaProducer
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.readiness import Readiness
from shared.retry import until_done

_LARGEST_LETTER = 5 * 1024 * 1024  # the dead-letter topic's `max.message.bytes`
_LINGER_SECONDS = 0.1  # nobody waits for the trail, and an append costs much the same for one event as for hundreds


async def run(settings: Settings) -> bool:
    """Serve until told to stop; True when that was as it should be."""
    readiness = Readiness("audit")
    app = create_app("audit", "Everything that happened in a region, once and in order.", readiness)
    shelf = api.Shelf(readiness)
    api.add_routes(app, shelf, Authenticator.from_file(settings.clients_file), settings.region)

    async def audit(stop: asyncio.Event) -> None:
        database = await until_done("database", partial(_prepare, settings), stop=stop, readiness=readiness)
        if database is None:
            return
        try:
            shelf.log = Log(database, settings.region)
            await consume(settings, shelf.log, readiness, stop)
        finally:
            await database.close()

    return await lifecycle.serve(app, settings, [audit], readiness)


async def _prepare(settings: Settings) -> Database:
    await migrations.upgrade(settings.database_url, "audit")
    database = await Database.connect(settings.database_url)
    head = await Log(database, settings.region).head()
    metrics.AUDIT_SIZE.labels(settings.region).set(head.size)
    return database


async def consume(settings: Settings, log: Log, readiness: Readiness, stop: asyncio.Event) -> None:
    """Keep every record of the region's topics until `stop` is set; Fatal when that would break a promise."""
    region, clock = settings.region, SystemClock()
    group = f"piepowder-audit-{region}"
    producer = KafkaProducer(settings.bootstrap(region), client_id=group, max_bytes=_LARGEST_LETTER)
    consumer = BatchConsumer[Message](
        bootstrap=settings.bootstrap(region),
        group=group,
        topics=[
            topics.submissions(region),
            topics.cases(region),
            topics.decisions(region),
            topics.CONTROL,
            topics.deadletters(region),
        ],
        decode=Decoder(region),
        handle=Keeper(log, region).keep,
        deadletters=DeadLetters(producer, topic=topics.deadletters(region), group=group, clock=clock),
        readiness=readiness,
        clock=clock,
        instance=settings.instance,
        batch_records=settings.batch_records,
        drain_seconds=settings.drain_seconds,
        linger_seconds=_LINGER_SECONDS,
    )
    try:
        await consumer.run(stop)
    finally:
        await producer.stop()
