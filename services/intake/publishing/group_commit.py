"""Group commit: posts that arrive while a flush is under way share the next, so load makes flushes larger, not more.

One flush of a cluster is under way at a time and takes from the front of the queue: records are in Kafka in the order
they were taken in. A post that finds nothing under way is flushed at once; after posts that had company the next ones
gather for a moment, or until as many are there as came together lately, because a flush costs much the same for two
records as for fifty, and the first two of hundreds of clients who come back together would have one for themselves
while all the others wait for its end. The queue is bounded in records and bytes, counted until their acknowledgement;
past that a post is told at once to come back. When a flush fails, exactly those in it are told that their outcome is
unknown.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from services.intake.publishing.regions import Overloaded
from shared.kafka.producer import Producer, Record
from shared.runtime.errors import Poison, Transient

log = logging.getLogger(__name__)

_FLUSH_RECORDS: Final = 5_000
_FLUSH_BYTES: Final = 8 * 2**20
_GATHER_SECONDS: Final = 0.005
_ENOUGH_RECORDS: Final = 100  # gather no more
_ENOUGH_BYTES: Final = 256 * 1024  # nor then
_FORGETS: Final = 0.95  # what is left after a flush of how many came together before
_PATIENCE_SECONDS: Final = 30.0


class _Entry:
    __slots__ = ("done", "records", "size")

    def __init__(self, records: Sequence[Record], size: int, done: asyncio.Future[None]) -> None:
        self.records = records
        self.size = size
        self.done = done


class GroupCommitPublisher:
    """The way to one Kafka cluster, shared by all posts. Sizes are in bytes."""

    def __init__(self, producer: Producer, *, max_records: int, max_bytes: int) -> None:
        self._producer = producer
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._enough_records = min(_ENOUGH_RECORDS, max_records // 2)
        self._enough_bytes = min(_ENOUGH_BYTES, max_bytes // 2)
        self._queue: deque[_Entry] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._freed = asyncio.Event()
        self._gathered = asyncio.Event()
        self._lately = 0.0  # posts that came together
        self.failing = False  # the last flush was not acknowledged
        self.pending_records = 0
        self.pending_bytes = 0

    def has_room(self, records: int, size: int) -> bool:
        """Whether so many records of so many bytes would be taken now. An empty queue takes any."""
        return self.pending_records == 0 or (
            self.pending_records + records <= self._max_records and self.pending_bytes + size <= self._max_bytes
        )

    async def room(self, records: int, size: int) -> None:
        """Wait until there is room for so much; raises Overloaded after half a minute without."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while not self.has_room(records, size):
                    await self._freed.wait()
        except TimeoutError as error:
            raise Overloaded from error

    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]:
        """Take these in, at once and in order; the future is done when all are acknowledged.

        Raises Overloaded when there is no room. The future fails with Transient when some may not have arrived, with
        Poison when Kafka does not take one of them.
        """
        if not self.has_room(len(records), size):
            raise Overloaded
        entry = _Entry(records, size, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self.pending_records += len(records)
        self.pending_bytes += size
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_all())
        elif self._is_enough():
            self._gathered.set()
        return entry.done

    async def _flush_all(self) -> None:
        try:
            await self._flush_until_empty()
        finally:
            self._flusher = None

    async def _flush_until_empty(self) -> None:
        while self._queue:
            group = self._next_group()
            try:
                await self._flush(group)
            finally:
                self.pending_records -= sum(len(entry.records) for entry in group)
                self.pending_bytes -= sum(entry.size for entry in group)
                self._freed.set()
                self._freed.clear()
            if len(group) > 1:
                await self._gather(len(group))

    async def _gather(self, came: int) -> None:
        """Let those who come back together come together: until as many are there as lately, or for a moment."""
        self._lately = max(came, self._lately * _FORGETS)
        if self._is_enough():
            return
        self._gathered.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                await self._gathered.wait()

    def _is_enough(self) -> bool:
        full = self.pending_records >= self._enough_records or self.pending_bytes >= self._enough_bytes
        return full or len(self._queue) >= self._lately

    def _next_group(self) -> list[_Entry]:
        group: list[_Entry] = []
        records = size = 0
        while self._queue and (not group or (records < _FLUSH_RECORDS and size < _FLUSH_BYTES)):
            entry = self._queue.popleft()
            group.append(entry)
            records += len(entry.records)
            size += entry.size
        return group

    async def _flush(self, group: list[_Entry]) -> None:
        try:
            await self._producer.send([record for entry in group for record in entry.records])
        except Poison as poison:
            if len(group) > 1:
                for entry in group:
                    await self._flush([entry])
            else:
                _fail(group, poison)
        except Transient as error:
            self.failing = True
            log.warning("not acknowledged", extra={"posts": len(group), "error": str(error)})
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, each post is answered, and the next flush is tried
            _fail(group, error)
        else:
            self.failing = False
            for entry in group:
                if not entry.done.done():
                    entry.done.set_result(None)


def _fail(group: list[_Entry], error: Exception) -> None:
    for entry in group:
        if not entry.done.done():
            entry.done.set_exception(error)
