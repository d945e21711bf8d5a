"""Stores the progress of the projection: the time up to which each partition is handled."""

import asyncio
import logging
from datetime import UTC, datetime

from services.intake.items.store import ItemStatusStore, ProjectionProgress
from services.intake.notices.domain.complaint_status import ComplaintUpdate
from services.intake.projection.handlers import ItemUpdate
from shared.kafka.consumer import BatchConsumer
from shared.runtime.errors import Transient
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0


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
