"""The audit service put together: settings in, a running service out."""

import asyncio

from services.audit import api
from services.audit.handlers import Decoder, Keeper
from services.audit.settings import Settings
from services.audit.store import Log
from shared.auth.access_log import Access
from shared.contracts import topics
from shared.http import server
from shared.http.app import create_app
from shared.kafka import consumers
from shared.kafka.producer import KafkaProducer
from shared.postgres.connect import opened
from shared.runtime import metrics
from shared.runtime.clock import SystemClock
from shared.runtime.readiness import Readiness

_LARGEST_LETTER = 5 * 1024 * 1024  # the dead-letter topic's `max.message.bytes`
_LINGER_SECONDS = 0.1  # nobody waits for the trail, and an append costs much the same for one event as for hundreds


async def run(settings: Settings) -> bool:
    """Serve until told to stop; True when that was as it should be."""
    region, clock = settings.region, SystemClock()
    readiness = Readiness("audit")
    producer = KafkaProducer(settings.bootstrap(region), client_id=f"piepowder-audit-{region}-{settings.instance}")
    access = Access(
        settings,
        service="audit",
        source=f"piepowder/audit/{region}",
        producers={region: producer},
        readiness=readiness,
        clock=clock,
    )
    app = create_app("audit", "Everything that happened in a region, once and in order.", readiness)
    app.state.authenticator = access.authenticator
    app.include_router(api.router)

    async def audit(stop: asyncio.Event) -> None:
        async with opened(settings.database_url, "audit", stop=stop, readiness=readiness) as database:
            if database is not None:
                log = Log(database, region)
                api.available_log.provide(app, log)
                metrics.AUDIT_SIZE.labels(region).set((await log.head()).size)
                await consume(settings, log, readiness, stop)

    try:
        return await server.serve(app, settings, [access.control_reader().run, access.run, audit], readiness)
    finally:
        await producer.stop()


async def consume(settings: Settings, log: Log, readiness: Readiness, stop: asyncio.Event) -> None:
    """Keep every record of the region's topics until `stop` is set; Fatal when that would break a promise."""
    region, clock = settings.region, SystemClock()
    group = f"piepowder-audit-{region}"
    producer = KafkaProducer(settings.bootstrap(region), client_id=group, max_bytes=_LARGEST_LETTER)
    consumer = consumers.consumer(
        settings,
        region,
        group=group,
        reads=topics.audited(region),
        decode=Decoder(region),
        handle=Keeper(log, region).keep,
        producer=producer,
        readiness=readiness,
        clock=clock,
        linger_seconds=_LINGER_SECONDS,
    )
    try:
        await consumer.run(stop)
    finally:
        await producer.stop()
