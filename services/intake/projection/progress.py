"""The progress of the projection: the time up to which each partition is handled, and the oldest waiting items."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from services.intake import metrics
from services.intake.items.domain.status import Status
from services.intake.items.store import ItemStatusStore, ProjectionProgress
from services.intake.items.waiting import WaitingStore
from services.intake.notices.domain.complaint_status import ComplaintUpdate
from services.intake.projection.handlers import ItemUpdate
from shared.kafka.consumer import BatchConsumer
from shared.runtime.clock import Clock
from shared.runtime.errors import Transient
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0
_OLDEST_SECONDS = 10.0


async def note_progress(
    consumers: dict[str, BatchConsumer[ItemUpdate | ComplaintUpdate | None]],
    statuses: ItemStatusStore,
    stop: asyncio.Event,
) -> None:
    """Store the progress of this process's consumers for all replicas, until `stop` is set."""
    while not stop.is_set():
        try:
            for region, consumer in consumers.items():
                progress = [
                    ProjectionProgress(tp.topic, tp.partition, datetime.fromtimestamp(ms / 1000, UTC))
                    for tp, ms in consumer.handled_until().items()
                ]
                if progress:
                    await statuses.note_progress(region, progress)
        except Transient as error:
            log.warning("the progress of the projection is not stored", extra={"error": str(error)})
        await wait(stop, _PROGRESS_SECONDS)


class OldestSubmitted:
    """Measures the age of the oldest item, notice, appeal or withdrawal of each region that has no effect yet."""

    def __init__(self, regions: Sequence[str], statuses: ItemStatusStore, waiting: WaitingStore, clock: Clock) -> None:
        self._statuses = statuses
        self._waiting = waiting
        self._clock = clock
        self._received: dict[str, datetime | None] = dict.fromkeys(regions)
        for region in regions:
            metrics.OLDEST_SUBMITTED.labels(region).set_function(partial(self._seconds, region))

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until `stop` is set. While the database does not respond, the age grows with the clock."""
        while not stop.is_set():
            try:
                for region in self._received:
                    item, other = (
                        await self._statuses.oldest(region, Status.SUBMITTED),
                        await self._waiting.oldest(region),
                    )
                    self._received[region] = min((time for time in (item, other) if time is not None), default=None)
            except Transient as error:
                log.warning("the oldest item that is submitted is not known", extra={"error": str(error)})
            await wait(stop, _OLDEST_SECONDS)

    def _seconds(self, region: str) -> float:
        received = self._received[region]
        return 0.0 if received is None else max(0.0, (self._clock.now() - received).total_seconds())
