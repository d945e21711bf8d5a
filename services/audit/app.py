"""Composition root of the audit service."""

import asyncio
from typing import Final

from services.audit import api, metrics
from services.audit.handlers import Decoder, Keeper, Message
from services.audit.settings import Settings
from services.audit.store import Log
from shared.contracts import topics
from shared.kafka.consumer import BatchConsumer
from shared.service import MAX_DEAD_LETTER_BYTES, Service

DESCRIPTION: Final = "Every event of a region, once and in order."
_LINGER_SECONDS: Final = 0.1  # nobody waits for the log, and a large append costs little more than a small one


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    region = settings.region
    service = Service("audit", DESCRIPTION, settings, [region], max_record_bytes=MAX_DEAD_LETTER_BYTES)
    service.app.include_router(api.router)

    async def append(stop: asyncio.Event) -> None:
        async with service.database(settings.database_url, stop) as database:
            if database is not None:
                log = Log(database, region)
                api.available_log.provide(service.app, log)
                metrics.AUDIT_SIZE.labels(region).set((await log.head()).size)
                await consumer_of(service, log).run(stop)

    return await service.run(append)


def consumer_of(service: Service, log: Log) -> BatchConsumer[Message]:
    """The consumer of every topic of the region."""
    [region] = service.regions
    return service.consumer(
        region,
        reads=topics.audited(region),
        decode=Decoder(region),
        handle=Keeper(log, region).keep,
        linger_seconds=_LINGER_SECONDS,
    )
