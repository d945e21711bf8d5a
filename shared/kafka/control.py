"""The control topic's reader: what is in force now, and each change as it comes.

The topic is compacted and small, so every process reads it whole at start, without a group, and then follows it. A
record that cannot be used leaves what was in force in force: it is counted and logged, and stays in the topic whole.
So does a deletion (a record without a value); but a process that starts later finds nothing, says so, and is not ready.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.envelope import GLOBAL, Event, decode
from shared.contracts.topics import CONTROL
from shared.runtime import metrics
from shared.runtime.advice import command
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait

log = logging.getLogger(__name__)


class ControlReader:
    """Calls `apply` with every event of the control topic, oldest first; `apply` raises Poison for one it cannot use.

    `lacking` says what is not in force yet, None when the service has all it needs; it decides readiness. `deleted` is
    called with an entity's name when the topic holds it no more.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        client_id: str,
        apply: Callable[[Event[Any]], None],
        lacking: Callable[[], str | None],
        readiness: Readiness,
        deleted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._apply = apply
        self._lacking = lacking
        self._readiness = readiness
        self._tell_deleted = deleted
        self._deleted: set[str] = set()
        self._readiness.set("control", "the control topic is not read yet")

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the topic until `stop` is set, connecting again as often as it takes."""
        attempt, backoff = 0, Backoff()
        while not stop.is_set():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                client_id=f"{self._client_id}-control",
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=100,
                metadata_max_age_ms=30_000,
            )
            try:
                await consumer.start()
                attempt = 0
                await self._follow(consumer, stop)
            except (KafkaError, OSError) as error:
                attempt += 1
                log.warning("the control topic cannot be read, trying again", extra={"error": repr(error)})
                self._readiness.set("control", f"the control topic cannot be read: {error!r}")
                await wait(stop, backoff.delay(attempt))
            finally:
                await consumer.stop()

    async def _follow(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        if not await self._topic_exists(consumer, stop):
            return
        consumer.assign([TopicPartition(CONTROL, 0)])  # the client learns of a topic's partitions when it has one
        await consumer.end_offsets([TopicPartition(CONTROL, 0)])
        assigned = [TopicPartition(CONTROL, partition) for partition in consumer.partitions_for_topic(CONTROL)]
        consumer.assign(assigned)
        await consumer.seek_to_beginning(*assigned)
        ends = await consumer.end_offsets(assigned)
        while not stop.is_set():
            for lane in (await consumer.getmany(timeout_ms=200)).values():
                for record in lane:
                    self._take(record.headers, record.key, record.value)
            if all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                self._readiness.set("control", self._what_is_lacking())

    async def _topic_exists(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> bool:
        while not stop.is_set():
            if CONTROL in await consumer.topics():
                return True
            self._readiness.set("control", f"the topic {CONTROL} does not exist: create it with `{command('topics')}`")
            await wait(stop, 0.5)
        return False

    def _what_is_lacking(self) -> str | None:
        lacking = self._lacking()
        if lacking is not None and self._deleted:
            return f"{lacking}; {', '.join(sorted(self._deleted))}: deleted from {CONTROL}"
        return lacking

    def _take(self, headers: tuple[tuple[str, bytes], ...], key: bytes | None, value: bytes | None) -> None:
        entity = (key or b"none").decode(errors="replace")
        if value is None:
            self._deleted.add(entity)
            self._tell_deleted(entity)
            self._refuse(entity, "it was deleted: what is in force stays so until a restart; publish it again")
            return
        try:
            self._apply(decode(headers, key, value, region=GLOBAL))
        except Poison as poison:
            self._refuse(entity, poison.reason)
        except Exception as error:  # a record that stays on the topic must not end every service that reads it
            log.exception("a control record met a defect")
            self._refuse(entity, f"it met a defect here: {error!r:.300}")
        else:
            self._deleted.discard(entity)

    @staticmethod
    def _refuse(entity: str, reason: str) -> None:
        log.error("a control record was refused", extra={"entity": entity, "reason": reason})
        kind = entity.partition(":")[0]
        metrics.CONTROL_REFUSED.labels(kind if kind in ("operating-model", "policy-set", "client") else "other").inc()
