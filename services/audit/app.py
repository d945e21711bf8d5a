"""Composition root of the audit service."""

import asyncio
from typing import Final

from services.audit import api, metrics
from services.audit.domain import logged_topics
from services.audit.handlers import AppendRecords, ParsedRecord
from services.audit.settings import Settings
from services.audit.store import Store
from shared.kafka.consumer import BatchConsumer, FetchLimits, TransactionalHandler
from shared.postgres.positions import SESSION
from shared.runtime.retry import until_done
from shared.service import MAX_DEAD_LETTER_BYTES, Service

DESCRIPTION: Final = "Every event of a region, once and in order."
# Larger batches: an append costs nearly the same for one event as for hundreds, and nobody waits for it.
_LINGER_SECONDS: Final = 0.5
_FETCH: Final = FetchLimits(wait_ms=1_000, min_bytes=64 * 2**10)


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    region = settings.region
    service = Service("audit", DESCRIPTION, settings, [region], per_region=True, max_record_bytes=MAX_DEAD_LETTER_BYTES)
    service.app.include_router(api.router)

    async def append(stop: asyncio.Event) -> None:
        async with service.database(settings.database_url, stop, SESSION) as database:
            if database is not None:
                store = Store(database, region)
                consumer = consumer_of(service, store)
                api.available_store.provide(service.app, store)
                head = await until_done("log", store.head, stop=stop, readiness=service.readiness)
                if head is not None:
                    metrics.AUDIT_SIZE.labels(region).set(head.size)
                await consumer.run(stop)

    return await service.run(append)


def consumer_of(service: Service, store: Store) -> BatchConsumer[ParsedRecord]:
    """The consumer of every topic of the region."""
    [region] = service.regions
    records = AppendRecords(store, region)
    return service.consumer(
        region,
        reads=logged_topics(region),
        decode=records.decode,
        handle=TransactionalHandler(records.handle, store.positions),
        linger_seconds=_LINGER_SECONDS,
        fetch=_FETCH,
    )
