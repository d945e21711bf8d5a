"""Composition root of the decision service."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiokafka import TopicPartition

from services.decision import api, metrics
from services.decision.api.dependencies import ReviewService, available_reviews
from services.decision.domain.leases import LeaseLimits
from services.decision.handlers.control import ReasonsInForce
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.ingest import IngestCases
from services.decision.handlers.leases import LeaseCases
from services.decision.handlers.messages import decode_message
from services.decision.handlers.recovery import RecoverCases, Sources
from services.decision.settings import Settings
from services.decision.store import SESSION, Store
from services.decision.store.gate import Gate
from services.decision.store.recovery import RecoveryStore
from shared.contracts import topics
from shared.kafka.consumer import TransactionalHandler
from shared.kafka.stop_store import Stop, StopStore
from shared.postgres.database import Database
from shared.postgres.outbox import Relay, RelayLog
from shared.runtime.errors import Transient
from shared.runtime.retry import wait
from shared.runtime.tasks import run_all
from shared.service import MAX_DEAD_LETTER_BYTES, Service
from shared.validation.faults import InputRejected

log = logging.getLogger(__name__)

DESCRIPTION: Final = """The cases of a region: their queues, leases and decisions.

Every change is an event on `piepowder.decisions.<region>`."""

_EXPIRE_SECONDS: Final = 1.0
_MEASURE_SECONDS: Final = 10.0
_FOLD_SECONDS: Final = 30.0


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    service = Service(
        "decision", DESCRIPTION, settings, [settings.region], per_region=True, max_record_bytes=MAX_DEAD_LETTER_BYTES
    )
    api.include_routes(service.app)
    reasons = ReasonsInForce()
    service.follow_control(reasons.apply, reasons.caught_up, reasons.delete)

    async def decide(stop: asyncio.Event) -> None:
        async with service.database(settings.database_url, stop, SESSION) as database:
            if database is not None:
                limits = LeaseLimits(settings.leases_per_reviewer, settings.leases_per_client)
                await _work(service, database, limits, reasons, stop)

    return await service.run(decide)


async def _work(
    service: Service, database: Database, limits: LeaseLimits, reasons: ReasonsInForce, stop: asyncio.Event
) -> None:
    [region] = service.regions
    gate, producer, bootstrap = Gate(), service.producer(region), service.settings.bootstrap(region)
    cases = Store(database, gate)
    group = f"piepowder-{service.name}-{region}"
    relay_group = f"{group}-relay"
    relay = Relay(
        database,
        producer,
        service=service.name,
        log=RelayLog(relay_group, producer, gate.may_publish),
    )
    leases = LeaseCases(cases.leases, region=region, wake=relay.wake, limits=limits)
    decisions = DecideCases(cases.decisions, region=region, wake=relay.wake, codes=lambda: reasons.codes)
    available_reviews.provide(service.app, ReviewService(region, cases, leases, decisions, reasons))
    consumer = service.consumer(
        region,
        reads=[topics.cases(region)],
        decode=partial(decode_message, region=region),
        handle=TransactionalHandler(IngestCases(cases.ingest, region=region, wake=relay.wake).handle, cases.positions),
    )
    stops = StopStore(producer, bootstrap=bootstrap, topic=topics.parked(region), group=group)

    async def stopped() -> set[TopicPartition]:
        stored = {tp for tp, entry in (await stops.read()).items() if isinstance(entry, Stop)}
        return stored | consumer.stopped()

    recovery = RecoverCases(
        RecoveryStore(database),
        gate,
        Sources(bootstrap, f"{service.client_id}-recovery", group, relay_group, stopped),
        region=region,
        producer=producer,
        settled=relay.settled,
        wake=relay.wake,
        readiness=service.readiness,
        clock=service.clock,
    )
    await run_all(
        (
            recovery.run(stop),
            relay.run(stop),
            _every(_EXPIRE_SECONDS, partial(_expire_all, leases), stop),
            _every(_MEASURE_SECONDS, partial(_measure, cases, region), stop),
            _every(_FOLD_SECONDS, cases.fold_tallies, stop),
            consumer.run(stop),
        )
    )


async def _expire_all(leases: LeaseCases) -> None:
    try:
        while await leases.expire():
            pass
    except InputRejected as closed:
        log.debug("leases do not expire yet: %s", closed)


async def _measure(cases: Store, region: str) -> None:
    """Set the gauges of the open cases; every replica reports the whole region."""
    for queue in await cases.queues():
        metrics.CASES_OPEN.labels(region, queue.queue, "waiting").set(queue.waiting)
        metrics.CASES_OPEN.labels(region, queue.queue, "claimed").set(queue.claimed)
        metrics.CASES_OVERDUE.labels(region, queue.queue).set(queue.overdue)


async def _every(seconds: float, task: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await task()
        except Transient as error:
            log.warning("the task is repeated in %g s", seconds, extra={"error": str(error)})
        await wait(stop, seconds)
