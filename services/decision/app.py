"""The composition root of the decision service: the only module that creates the real adapters."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from fastapi import FastAPI

from services.decision import api, store
from services.decision.api.dependencies import ReviewService, available_reviews
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.ingest import IngestCases
from services.decision.handlers.leases import LeaseCases
from services.decision.handlers.messages import decode_message
from services.decision.settings import Settings
from services.decision.store import Store
from shared.auth.access_log import Access
from shared.contracts import topics
from shared.http import server
from shared.http.app import create_app
from shared.kafka import consumers
from shared.kafka.producer import KafkaProducer
from shared.postgres.connect import opened
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime import metrics
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

DESCRIPTION = """The cases of a region: their queues, leases and decisions.

Every change is an event on `piepowder.decisions.<region>`."""

_LARGEST_LETTER: Final = 5 * 1024 * 1024  # the dead-letter topic's `max.message.bytes`
_EXPIRE_SECONDS: Final = 1.0
_MEASURE_SECONDS: Final = 10.0
_FOLD_SECONDS: Final = 30.0


async def run(settings: Settings) -> bool:
    """Serve until the process is asked to stop; True after an orderly end."""
    region, clock = settings.region, SystemClock()
    readiness = Readiness("decision")
    producer = KafkaProducer(
        settings.bootstrap(region),
        client_id=f"piepowder-decision-{region}-{settings.instance}",
        max_bytes=_LARGEST_LETTER,
    )
    access = Access(
        settings,
        service="decision",
        source=f"piepowder/decision/{region}",
        producers={region: producer},
        readiness=readiness,
        clock=clock,
    )
    app = create_app("decision", DESCRIPTION, readiness)
    app.state.authenticator = access.authenticator
    api.include_routes(app)

    async def decision(stop: asyncio.Event) -> None:
        async with opened(
            settings.database_url, "decision", stop=stop, readiness=readiness, settings=store.SESSION
        ) as database:
            if database is not None:
                await _work(settings, app, database, producer=producer, readiness=readiness, stop=stop)

    try:
        return await server.serve(app, settings, [access.control_reader().run, access.run, decision], readiness)
    finally:
        await producer.stop()


async def _work(
    settings: Settings,
    app: FastAPI,
    database: Database,
    *,
    producer: KafkaProducer,
    readiness: Readiness,
    stop: asyncio.Event,
) -> None:
    region, clock, cases = settings.region, SystemClock(), Store(database)
    relay = Relay(database, producer, service="decision")
    leases = LeaseCases(cases.leases, region=region, wake=relay.wake)
    decisions = DecideCases(cases.decisions, region=region, wake=relay.wake)
    available_reviews.provide(app, ReviewService(region, cases, leases, decisions))
    consumer = consumers.consumer(
        settings,
        region,
        group=f"piepowder-decision-{region}",
        reads=[topics.cases(region)],
        decode=partial(decode_message, region=region),
        handle=IngestCases(cases.ingest, region=region, wake=relay.wake).handle,
        producer=producer,
        readiness=readiness,
        clock=clock,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(relay.run(stop))
        tasks.create_task(_every(_EXPIRE_SECONDS, partial(_expire_all, leases), stop))
        tasks.create_task(_every(_MEASURE_SECONDS, partial(_measure, cases, region), stop))
        tasks.create_task(_every(_FOLD_SECONDS, cases.fold_tallies, stop))
        tasks.create_task(consumer.run(stop))


async def _expire_all(leases: LeaseCases) -> None:
    while await leases.expire():
        pass


async def _measure(cases: Store, region: str) -> None:
    """Set the gauges of the open cases; every replica reports the whole region."""
    for queue in await cases.queues():
        metrics.CASES_OPEN.labels(region, queue.queue, "waiting").set(queue.waiting)
        metrics.CASES_OPEN.labels(region, queue.queue, "claimed").set(queue.claimed)
        metrics.CASES_OVERDUE.labels(region, queue.queue).set(queue.overdue)


async def _every(seconds: float, act: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await act()
        except Transient as error:
            log.warning("the task is repeated in %g s", seconds, extra={"error": str(error)})
        await wait(stop, seconds)
