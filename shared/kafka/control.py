"""The control topic's reader: applies the published configuration at start, and each change afterwards.

The topic is compacted and small, so every process reads all of it at start, without a consumer group, and then follows
it. An unusable record leaves the previous configuration in force; it is counted and logged, and stays in the topic. The
same holds for a deletion (a record without a value); but a process that starts later finds nothing, reports that, and
is not ready.

Operating models and policy sets are numbered. Every process brings the same record of each number into force
(`comes_into_force`), because it decides by the order of the topic.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from shared.contracts.envelope import GLOBAL, Event, decode
from shared.contracts.topics import CONTROL
from shared.kafka.closing import close
from shared.kafka.records import RawRecord
from shared.kafka.whole_topic import assign_from_beginning, has_reached, next_records, no_such_topic
from shared.runtime import metrics
from shared.runtime.errors import Poison
from shared.runtime.readiness import Readiness
from shared.runtime.retry import Backoff, wait
from shared.runtime.user_errors import cause

log = logging.getLogger(__name__)

_PORTION_RECORDS: Final = 100
_FETCH_WAIT_MS: Final = 1_000  # of an idle reader: the broker returns a new record at once
_LOGGED_REJECTIONS: Final = 20  # of a portion; the metric counts all
_NAMED_DELETIONS: Final = 5


class Numbered(Protocol):
    """An operating model or a policy set. `id` is derived from the number and the content."""

    @property
    def id(self) -> str: ...

    @property
    def number(self) -> int: ...


def comes_into_force(new: Numbered, current: Numbered | None, *, deleted: bool) -> bool:
    """True if a record comes into force in place of the current one; False if it is the same or an older one.

    `deleted`: the current one was deleted from the topic, so a record with any number comes into force. Raises Poison
    if two routers have published different content under one number: the first record in the topic stays in force.
    """
    if current is None or deleted or new.number > current.number:
        return True
    if new.number == current.number and new.id != current.id:
        raise Poison(f"{current.id} was published first: two routers have published at the same time")
    return False


@dataclass(kw_only=True, eq=False)
class ControlReader:
    """Calls `apply` with every event of the control topic, oldest first; `apply` raises Poison for an unusable one.

    While the topic is read at the start, or again after a failure, `apply` also gets states that were replaced long
    ago. So a service uses what it has read only from the call of `caught_up` on, which follows each reading up to the
    end of the topic. `caught_up` returns the configuration that is missing; None means that the service can be ready.
    `deleted` is called with the name of an entity whose record was deleted.
    """

    bootstrap: str
    client_id: str
    apply: Callable[[Event[Any]], None]
    caught_up: Callable[[], str | None]
    readiness: Readiness
    deleted: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self._deleted: set[str] = set()
        self._rejections = 0
        self.readiness.set("control", "the control topic is not read yet")

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the topic until `stop` is set, and connect again after each failure."""
        attempt, backoff = 0, Backoff()
        while not stop.is_set():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                client_id=f"{self.client_id}-control",
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=_FETCH_WAIT_MS,
                metadata_max_age_ms=30_000,
            )
            try:
                await consumer.start()
                attempt = 0
                await self._follow(consumer, stop)
            except (KafkaError, OSError) as error:
                attempt += 1
                log.warning("the control topic cannot be read, trying again", extra={"error": repr(error)})
                self.readiness.set("control", f"the control topic cannot be read: {cause(error)}")
                await wait(stop, backoff.delay(attempt))
            finally:
                await close(consumer)

    async def _follow(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        while CONTROL not in await consumer.topics():
            self.readiness.set("control", no_such_topic(CONTROL))
            await wait(stop, 0.5)
            if stop.is_set():
                return
        ends = await assign_from_beginning(consumer, CONTROL)
        while not stop.is_set():
            for tp in ends:
                self._rejections = 0
                for record in await next_records(consumer, tp, _PORTION_RECORDS, wait_ms=200):
                    self._read(record)
                await asyncio.sleep(0)  # a storm of records does not stop the other work of the service
            if await has_reached(consumer, ends):
                self.readiness.set("control", self._what_is_missing())

    def _what_is_missing(self) -> str | None:
        what = self.caught_up()
        if what is not None and self._deleted:
            names = sorted(self._deleted)
            more = f" and {len(names) - _NAMED_DELETIONS} more" if len(names) > _NAMED_DELETIONS else ""
            return f"{what}; {', '.join(names[:_NAMED_DELETIONS])}{more}: deleted from {CONTROL}"
        return what

    def _read(self, record: RawRecord) -> None:
        entity = (record.key or b"none").decode(errors="replace")
        if record.value is None:
            self._deleted.add(entity)
            self.deleted(entity)
            self._reject(entity, "it was deleted: its last version stays in force until a restart; publish it again")
            return
        try:
            self.apply(decode(record.headers, record.key, record.value, region=GLOBAL))
        except Poison as poison:
            self._reject(entity, poison.reason)
        except Exception as error:  # the record stays in the topic, so it would stop every service that reads it
            log.exception("a control record caused an unexpected error")
            self._reject(entity, f"unexpected error: {error!r:.300}")
        else:
            self._deleted.discard(entity)

    def _reject(self, entity: str, reason: str) -> None:
        self._rejections += 1
        if self._rejections < _LOGGED_REJECTIONS:
            log.error("a control record was rejected", extra={"entity": entity, "reason": reason})
        elif self._rejections == _LOGGED_REJECTIONS:
            log.error("more control records were rejected; see piepowder_control_refused_total")
        kind = entity.partition(":")[0]
        metrics.CONTROL_REFUSED.labels(kind if kind in ("operating-model", "policy-set", "client") else "other").inc()
