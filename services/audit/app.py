"""The composition root of the audit."""

import asyncio

from services.audit import api
from services.audit.handlers import AppendRecords
from services.audit.settings import Settings
from services.audit.store import Store
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
_LINGER_SECONDS = 0.1  # larger batches: an append costs nearly the same for one event as for hundreds


async def run(settings: Settings) -> bool:
    """Serve until a signal stops the service; True if it stopped without an error."""
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
                store = Store(database, region)
                api.available_store.provide(app, store)
                metrics.AUDIT_SIZE.labels(region).set((await store.head()).size)
                await consume(settings, store, readiness, stop)

    try:
        return await server.serve(app, settings, [access.control_reader().run, access.run, audit], readiness)
    finally:
        await producer.stop()


async def consume(settings: Settings, store: Store, readiness: Readiness, stop: asyncio.Event) -> None:
    """Append every record of the region's topics until `stop` is set; raises Fatal if that would break a promise."""
    region, clock = settings.region, SystemClock()
    group = f"piepowder-audit-{region}"
    producer = KafkaProducer(settings.bootstrap(region), client_id=group, max_bytes=_LARGEST_LETTER)
    records = AppendRecords(store, region)
    consumer = consumers.consumer(
        settings,
        region,
        group=group,
        reads=[
            topics.submissions(region),
            topics.cases(region),
            topics.decisions(region),
            topics.requests(region),
            topics.access(region),
            topics.CONTROL,
            topics.deadletters(region),
        ],
        decode=records.decode,
        handle=records.handle,
        producer=producer,
        readiness=readiness,
        clock=clock,
        linger_seconds=_LINGER_SECONDS,
    )
    try:
        await consumer.run(stop)
    finally:
        await producer.stop()
