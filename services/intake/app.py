"""The composition root: creates the adapters and use cases, and connects them to the REST API and the consumers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI

from services.intake.clients import api as clients_api
from services.intake.clients.domain import ClientChangeRejected
from services.intake.clients.handlers import KeyUseProjection, Registry
from services.intake.clients.store import Store as ClientStore
from services.intake.items import api as items_api
from services.intake.items.handlers import ItemIntake
from services.intake.items.queries import ItemQueries
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.store import ItemStatusStore
from services.intake.items.submission import ItemSubmission, available_queries
from services.intake.items.withdrawals import Withdrawals
from services.intake.kafka import Consumers, topic_on, watch
from services.intake.notices import api as notices_api
from services.intake.notices.handlers import Appeals, Notices
from services.intake.notices.store import ComplaintStore
from services.intake.problems import add_error_responses
from services.intake.projection.handlers import Projection
from services.intake.projection.progress import note_progress
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import SOURCE
from services.intake.requests import api as requests_api
from services.intake.requests.handlers import Requests
from services.intake.requests.router import RouterCheck
from services.intake.requests.store import Store as RequestStore
from services.intake.settings import Settings
from shared.auth.access_log import Access
from shared.http import server
from shared.http.app import FastPath, create_app
from shared.http.route import Available
from shared.kafka.offsets import Reach
from shared.kafka.producer import KafkaProducer, Producers
from shared.postgres.connect import opened
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.runtime import metrics
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.readiness import Readiness
from shared.runtime.retry import until_done
from shared.validation import codes

DESCRIPTION: Final = """Accepts items: after a 202 response, the topic of every region has the item, acknowledged by all
in-sync replicas. The same post can be repeated safely, because its ids repeat. The status of items follows the topics,
and every status has its maximum age."""

_LINGER_SECONDS: Final = 0.1
_NEED_THE_DATABASE: Final[tuple[Available[Any], ...]] = (
    available_queries,
    items_api.available_withdrawals,
    notices_api.available_appeals,
    notices_api.available_complaints,
    requests_api.available_requests,
    clients_api.available_registry,
)


async def run(settings: Settings) -> bool:
    """Serve until a stop signal; True for a regular end."""
    clock = SystemClock()
    readiness = Readiness("intake")
    regions = list(dict.fromkeys(settings.regions))
    client_id = f"piepowder-intake-{settings.instance}"
    producers = {
        bootstrap: KafkaProducer(bootstrap, client_id=client_id, timeout=settings.acknowledge_seconds)
        for bootstrap in {settings.kafka, *map(settings.bootstrap, regions)}
    }
    publishers = {
        bootstrap: GroupCommitPublisher(
            producer, max_records=settings.queue_records, max_bytes=settings.queue_mib * 2**20
        )
        for bootstrap, producer in producers.items()
    }
    metrics.INTAKE_PENDING.set_function(lambda: float(sum(each.pending_records for each in publishers.values())))
    intake = ItemIntake(
        codes=codes.load(), publishers={region: publishers[settings.bootstrap(region)] for region in regions}
    )
    offsets = {bootstrap: Reach(bootstrap, client_id=client_id) for bootstrap in producers}
    router = RouterCheck(settings.router, settings.router_key_file)
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
    submission = ItemSubmission(
        intake, readiness, clock, max_batches=settings.batch_calls, idle_seconds=settings.idle_seconds
    )
    app = create_app("intake", DESCRIPTION, readiness)
    app.state.authenticator = access.authenticator
    app.state.body_seconds = settings.idle_seconds
    items_api.available_submission.provide(app, submission)
    notices_api.available_notices.provide(app, Notices(intake, codes.load(), clock))
    add_error_responses(app)
    app.add_exception_handler(ClientChangeRejected, clients_api.on_rejected)
    for api in (items_api, notices_api, requests_api, clients_api):
        app.include_router(api.router)

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

    async def use_database(stop: asyncio.Event) -> None:
        async with opened(settings.database_url, "intake", stop=stop, readiness=readiness) as database:
            if database is not None:
                relay = Relay(database, Producers(consumers.producer_of), service="intake")
                stores = _Stores(database)
                read_your_writes = ReadYourWrites({region: offsets[settings.bootstrap(region)] for region in regions})
                async with _provided(app, settings, stores, intake, read_your_writes, router, relay, clock):
                    await _consume(settings, consumers, stores, relay, stop)

    try:
        return await server.serve(
            FastPath(app, {("POST", "/v1/items"): submission.post_item}),
            settings,
            [control.run, access.run, connect_kafka, use_database],
            readiness,
        )
    finally:
        await asyncio.gather(
            router.stop(),
            *(producer.stop() for producer in producers.values()),
            *(reach.stop() for reach in offsets.values()),
        )


class _Stores:
    def __init__(self, database: Database) -> None:
        self.statuses = ItemStatusStore(database)
        self.complaints = ComplaintStore(database, self.statuses)
        self.requests = RequestStore(database)
        self.clients = ClientStore(database)


@asynccontextmanager
async def _provided(  # noqa: PLR0917 - a part of the composition root
    app: FastAPI,
    settings: Settings,
    stores: _Stores,
    intake: ItemIntake,
    read_your_writes: ReadYourWrites,
    router: RouterCheck,
    relay: Relay,
    clock: Clock,
) -> AsyncIterator[None]:
    """Provide the use cases that need the database to the REST API; without it, their calls get 503."""
    known, regions = codes.load(), list(dict.fromkeys(settings.regions))
    available_queries.provide(app, ItemQueries(stores.statuses, regions, clock))
    items_api.available_withdrawals.provide(
        app, Withdrawals(intake, stores.statuses, read_your_writes=read_your_writes, clock=clock)
    )
    notices_api.available_complaints.provide(app, stores.complaints)
    notices_api.available_appeals.provide(
        app,
        Appeals(
            intake,
            stores.complaints,
            known,
            read_your_writes=read_your_writes,
            clock=clock,
            days=settings.appeal_days,
        ),
    )
    requests_api.available_requests.provide(
        app,
        Requests(
            stores.requests,
            checker=router,
            owners=lambda: intake.ownership,
            countries=known.countries,
            regions=regions,
            clock=clock,
            approvals_needed=settings.request_approvals,
            wake=relay.wake,
        ),
    )
    clients_api.available_registry.provide(
        app,
        Registry(
            stores.clients,
            in_force=app.state.authenticator,
            environment=settings.environment,
            wake=relay.wake,
            clock=clock,
        ),
    )
    try:
        yield
    finally:
        for available in _NEED_THE_DATABASE:
            available.withdraw(app)


async def _consume(
    settings: Settings, consumers: Consumers, stores: _Stores, relay: Relay, stop: asyncio.Event
) -> None:
    """Publish the outbox, and run the projections of the served regions, until `stop` is set."""
    regions = list(dict.fromkeys(settings.regions)) if settings.projection else []
    projections = {
        region: consumers.of(
            Projection(region, stores.statuses, stores.complaints), region, linger_seconds=_LINGER_SECONDS
        )
        for region in regions
    }
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay.run(stop))
            for projection in projections.values():
                tasks.create_task(projection.run(stop))
            for region in regions:
                tasks.create_task(consumers.of(KeyUseProjection(region, stores.clients), region).run(stop))
            tasks.create_task(note_progress(projections, stores.statuses, stop))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
