"""The composition root: settings in, running intake out; the only file that knows the real adapters."""

import asyncio
import math
from datetime import UTC, datetime

from services.intake import api, codes
from services.intake.group_commit import GroupCommit
from services.intake.handlers import Front, Learned, Projection
from services.intake.settings import Settings
from services.intake.store import ItemStatuses, Progress
from services.intake.withdrawals import Withdrawals
from shared import http, lifecycle, metrics
from shared.auth import Authenticator
from shared.clock import SystemClock
from shared.errors import Transient
from shared.kafka.consumer import BatchConsumer
from shared.kafka.control import ControlReader
from shared.kafka.deadletters import DeadLetters
from shared.kafka.producer import KafkaProducer
from shared.kafka.reach import Reach
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.readiness import Readiness
from shared.retry import Backoff, until_done, wait

DESCRIPTION = """Takes items in: what it answered 202 is in every region's topic, acknowledged by all in-sync replicas.

The same post again is always right: its ids repeat. What became of an item is asked here too; that answer follows the
topics, and says how far it is behind."""

_PROGRESS_SECONDS = 1.0
_LINGER_SECONDS = 0.1
_FOR_EVER = Backoff(bound=math.inf)  # posting goes on without the database, so following it waits instead of ending


async def run(settings: Settings) -> bool:
    """Take items in until told to stop; True when it ended as it should."""
    clock = SystemClock()
    readiness = Readiness("intake")
    regions = list(dict.fromkeys(settings.regions))
    producers = {
        bootstrap: KafkaProducer(
            bootstrap, client_id=f"piepowder-intake-{settings.instance}", timeout=settings.acknowledge_seconds
        )
        for bootstrap in {settings.bootstrap(region) for region in regions}
    }
    lanes = {
        bootstrap: GroupCommit(producer, max_records=settings.queue_records, max_bytes=settings.queue_mib * 2**20)
        for bootstrap, producer in producers.items()
    }
    metrics.INTAKE_PENDING.set_function(lambda: float(sum(lane.pending_records for lane in lanes.values())))
    front = Front(codes=codes.load(), lanes={region: lanes[settings.bootstrap(region)] for region in regions})
    reaches = {
        bootstrap: Reach(bootstrap, client_id=f"piepowder-intake-{settings.instance}") for bootstrap in producers
    }
    withdrawals = Withdrawals(
        front, reaches={region: reaches[settings.bootstrap(region)] for region in regions}, clock=clock
    )
    following = api.Following(regions)
    control = ControlReader(
        bootstrap=settings.kafka,
        client_id=f"piepowder-intake-{settings.instance}",
        apply=front.apply,
        lacking=front.lacking,
        readiness=readiness,
    )
    app = http.create_app("intake", DESCRIPTION, readiness)
    serving = api.add_routes(
        app,
        front=front,
        withdrawals=withdrawals,
        following=following,
        authenticator=Authenticator.from_file(settings.clients_file),
        readiness=readiness,
        clock=clock,
        batch_calls=settings.batch_calls,
    )

    async def connect_kafka(stop: asyncio.Event) -> None:
        await asyncio.gather(
            *(
                until_done(f"Kafka {bootstrap}", producer.start, stop=stop, readiness=readiness)
                for bootstrap, producer in producers.items()
            )
        )
        await stop.wait()

    def consumer(region: str, statuses: ItemStatuses) -> BatchConsumer[Learned | None]:
        projection = Projection(region, statuses)
        producer = producers[settings.bootstrap(region)]
        return BatchConsumer(
            bootstrap=settings.bootstrap(region),
            group=projection.group,
            topics=projection.topics,
            decode=projection.decode,
            handle=projection.handle,
            deadletters=DeadLetters(producer, topic=projection.deadletters, group=projection.group, clock=clock),
            readiness=readiness,
            clock=clock,
            instance=settings.instance,
            batch_records=settings.batch_records,
            backoff=_FOR_EVER,
            drain_seconds=settings.drain_seconds,
            linger_seconds=_LINGER_SECONDS,
        )

    async def follow(stop: asyncio.Event) -> None:
        async def connect() -> Database:
            await migrations.upgrade(settings.database_url, "intake")
            return await Database.connect(settings.database_url)

        database = await until_done("database", connect, stop=stop, readiness=readiness)
        if database is None:
            return
        statuses = following.statuses = ItemStatuses(database)
        consumers = {region: consumer(region, statuses) for region in regions if settings.projection}
        try:
            async with asyncio.TaskGroup() as tasks:
                for one in consumers.values():
                    tasks.create_task(one.run(stop))
                tasks.create_task(_note_progress(consumers, statuses, readiness, stop))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            following.statuses = None
            await database.close()

    try:
        return await lifecycle.serve(serving, settings, [control.run, connect_kafka, follow], readiness)
    finally:
        await asyncio.gather(
            *(producer.stop() for producer in producers.values()), *(reach.stop() for reach in reaches.values())
        )


async def _note_progress(
    consumers: dict[str, BatchConsumer[Learned | None]],
    statuses: ItemStatuses,
    readiness: Readiness,
    stop: asyncio.Event,
) -> None:
    """Tell all replicas, through the database, how far this one has read."""
    while not stop.is_set():
        try:
            for region, one in consumers.items():
                progress = [
                    Progress(tp.topic, tp.partition, datetime.fromtimestamp(ms / 1000, UTC))
                    for tp, ms in one.handled_until().items()
                ]
                if progress:
                    await statuses.note_progress(region, progress)
            readiness.set("database", None)
        except Transient as error:
            readiness.set("database", str(error))
        await wait(stop, _PROGRESS_SECONDS)
