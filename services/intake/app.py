"""The composition root: creates the adapters and use cases, and connects them to the REST API and the consumers."""

import asyncio
from typing import Any, Final

from services.intake import metrics
from services.intake.clients import api as clients_api
from services.intake.clients.handlers import KeyUseProjection, PublishedClients, Registry
from services.intake.clients.store import Store as ClientStore
from services.intake.items import api as items_api
from services.intake.items.handlers import ItemIntake
from services.intake.items.queries import ItemQueries
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.store import ItemStatusStore
from services.intake.items.submission import ItemSubmission, available_queries
from services.intake.items.used_versions import UsedVersions
from services.intake.items.waiting import WaitingStore
from services.intake.items.withdrawals import Withdrawals
from services.intake.kafka import Clusters
from services.intake.notices import api as notices_api
from services.intake.notices.handlers import Appeals, Notices
from services.intake.notices.store import ComplaintStore
from services.intake.problems import add_error_responses
from services.intake.projection.handlers import Projection
from services.intake.projection.progress import OldestSubmitted, note_progress
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.requests import api as requests_api
from services.intake.requests.handlers import Requests
from services.intake.requests.router_client import RouterCheck
from services.intake.requests.store import Store as RequestStore
from services.intake.settings import Settings
from shared.contracts.envelope import Event
from shared.http.app import FastPath
from shared.http.route import Available
from shared.kafka.producer import MultiClusterProducer
from shared.postgres.database import Database
from shared.postgres.outbox import Relay
from shared.postgres.positions import SESSION, PositionTable
from shared.runtime.retry import until_done, wait
from shared.runtime.tasks import run_all
from shared.service import Service
from shared.validation import codes

_STORED_CLIENTS: Final = "stored clients"  # a condition of readiness
_LOOK_SECONDS: Final = 0.1
DESCRIPTION: Final = """Accepts items: after a 202 response, the topic of every region has the item, acknowledged by all
in-sync replicas. The same post can be repeated safely, because its ids repeat. The status of items follows the topics,
and every response with a status has its maximum age."""


async def run(settings: Settings) -> bool:
    """Serve until stopped; True for a normal stop."""
    service = Service(
        "intake", DESCRIPTION, settings, settings.regions, acknowledge_seconds=settings.acknowledge_seconds
    )
    publishers = {
        bootstrap: GroupCommitPublisher(
            producer, max_records=settings.queue_records, max_bytes=settings.queue_mib * 2**20
        )
        for bootstrap, producer in service.producers.items()
    }
    metrics.INTAKE_PENDING.set_function(lambda: float(sum(each.pending_records for each in publishers.values())))
    intake = ItemIntake(
        codes=codes.load(), publishers={region: publishers[settings.bootstrap(region)] for region in service.regions}
    )
    used, notices = UsedVersions(), Notices(intake, codes.load(), service.clock)
    submission = ItemSubmission(
        intake,
        used,
        service.readiness,
        service.clock,
        max_batches=settings.batch_calls,
        idle_seconds=settings.idle_seconds,
    )
    clusters = Clusters(service)
    router = RouterCheck(settings.router, settings.router_key_file)
    published = PublishedClients()

    def apply(event: Event[Any]) -> None:
        published.apply(event)
        intake.apply(event)

    def caught_up() -> str | None:
        published.complete = True
        return intake.caught_up()

    service.follow_control(apply, caught_up, intake.delete)
    app = service.app
    app.state.body_seconds = settings.idle_seconds
    items_api.available_submission.provide(app, submission)
    notices_api.available_notices.provide(app, notices)
    add_error_responses(app)
    for api in (items_api, notices_api, requests_api, clients_api):
        app.include_router(api.router)

    async def use_database(stop: asyncio.Event) -> None:
        async with service.database(settings.database_url, stop, SESSION) as database:
            if database is not None:
                used.hashes = ItemStatusStore(database)
                notices.complaints = ComplaintStore(database, ItemStatusStore(database))
                try:
                    await _use(database, service, settings, intake, clusters, router, published, stop)
                finally:
                    used.hashes = notices.complaints = None

    try:
        served = FastPath(app, {("POST", "/v1/items"): submission.post_item})
        return await service.run(clusters.connect, use_database, served=served)
    finally:
        await asyncio.gather(router.stop(), clusters.stop())


async def _use(  # noqa: PLR0917 - a part of the composition root
    database: Database,
    service: Service,
    settings: Settings,
    intake: ItemIntake,
    clusters: Clusters,
    router: RouterCheck,
    published: PublishedClients,
    stop: asyncio.Event,
) -> None:
    """Provide the use cases that need the database, publish the outbox, and run the projections, until stopped."""
    app, clock, regions = service.app, service.clock, service.regions
    relay = Relay(database, MultiClusterProducer(clusters.producer_of), service=service.name)
    positions, known_codes = PositionTable(database), codes.load()
    read_your_writes = ReadYourWrites(clusters.offsets, positions)
    statuses, waiting, clients = ItemStatusStore(database), WaitingStore(database), ClientStore(database)
    complaints = ComplaintStore(database, statuses)
    appeals = Appeals(
        intake, complaints, known_codes, read_your_writes=read_your_writes, clock=clock, days=settings.appeal_days
    )
    requests = Requests(
        RequestStore(database),
        checker=router,
        owners=lambda: intake.ownership,
        countries=known_codes.countries,
        regions=regions,
        clock=clock,
        approvals_needed=settings.request_approvals,
        wake=relay.wake,
    )
    registry = Registry(
        clients,
        published=published,
        in_force=service.authenticator,
        environment=settings.environment,
        wake=relay.wake,
        clock=clock,
    )
    provided: list[tuple[Available[Any], object]] = [
        (available_queries, ItemQueries(statuses, waiting, regions, clock)),
        (
            items_api.available_withdrawals,
            Withdrawals(intake, statuses, read_your_writes=read_your_writes, clock=clock),
        ),
        (notices_api.available_complaints, complaints),
        (notices_api.available_appeals, appeals),
        (requests_api.available_requests, requests),
    ]

    service.readiness.set(_STORED_CLIENTS, "not compared with the control topic yet")

    async def run_registry() -> None:
        """Compare the clients with the control topic, before they are served and the outbox is published."""
        while not published.complete and not stop.is_set():
            await wait(stop, _LOOK_SECONDS)
        await until_done(_STORED_CLIENTS, registry.catch_up, stop=stop, readiness=service.readiness)
        clients_api.available_registry.provide(app, registry)
        await run_all((relay.run(stop), registry.keep_up(stop)))

    for available, value in provided:
        available.provide(app, value)
    followed = regions if settings.projection else []
    projections = {region: clusters.consumer(Projection(region, complaints), region, positions) for region in followed}
    key_uses = [clusters.consumer(KeyUseProjection(region, clients), region, positions) for region in followed]
    try:
        await run_all(
            (
                run_registry(),
                *(each.run(stop) for each in projections.values()),
                *(each.run(stop) for each in key_uses),
                note_progress(projections, statuses, stop),
                OldestSubmitted(followed, statuses, waiting, clock).run(stop),
            )
        )
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        for available, _ in provided:
            available.withdraw(app)
        clients_api.available_registry.withdraw(app)
