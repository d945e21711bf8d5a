"""Group commit: records that arrive during a flush share the next one, so that load makes flushes larger, not more.

Each cluster has one flush at a time, which takes entries from the front of the queue. Records therefore reach Kafka in
the order of their arrival. An entry that finds no flush in progress is sent at once. After a flush of several entries,
the next flush waits for 5 ms, or until as many entries arrived as in recent flushes. The reason: a flush of two records
costs nearly as much as one of fifty. When hundreds of clients send again at the same time, the first two would
otherwise occupy one flush while all others wait for its end.

The queue is limited in records and bytes, counted until their acknowledgement. Beyond the limit, an entry is rejected
at once (Overloaded). When a flush fails, exactly its entries get the error, and their outcome is unknown.
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
_ENOUGH_RECORDS: Final = 100  # a flush of this size does not wait for more
_ENOUGH_BYTES: Final = 256 * 1024
_DECAY: Final = 0.95  # per flush, of the recent number of entries
_PATIENCE_SECONDS: Final = 30.0


class _Entry:
    __slots__ = ("done", "records", "size")

    def __init__(self, records: Sequence[Record], size: int, done: asyncio.Future[None]) -> None:
        self.records = records
        self.size = size
        self.done = done


class GroupCommitPublisher:
    """The `ClusterPublisher` of one Kafka cluster. Sizes are in bytes."""

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
        self._recent_entries = 0.0  # a decaying maximum of the entries of a flush
        self.failing = False  # True if the last flush failed
        self.pending_records = 0
        self.pending_bytes = 0

    def has_room(self, records: int, size: int) -> bool:
        """True if the queue accepts this many records and bytes now. An empty queue accepts any number."""
        return self.pending_records == 0 or (
            self.pending_records + records <= self._max_records and self.pending_bytes + size <= self._max_bytes
        )

    async def room(self, records: int, size: int) -> None:
        """Wait until the queue has room; raises Overloaded after 30 seconds."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while not self.has_room(records, size):
                    await self._freed.wait()
        except TimeoutError as error:
            raise Overloaded from error

    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]:
        """Append records to the queue; the future is done when Kafka has acknowledged all of them.

        Raises Overloaded when the queue has no room. The future fails with Transient when some records may be missing
        in Kafka, with Poison when Kafka rejects one of them.
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

    async def _gather(self, entries: int) -> None:
        """Wait for more entries after a flush of this many: as many as recently, or for `_GATHER_SECONDS`."""
        self._recent_entries = max(entries, self._recent_entries * _DECAY)
        if self._is_enough():
            return
        self._gathered.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                await self._gathered.wait()

    def _is_enough(self) -> bool:
        full = self.pending_records >= self._enough_records or self.pending_bytes >= self._enough_bytes
        return full or len(self._queue) >= self._recent_entries

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
            log.warning("Kafka did not acknowledge a flush", extra={"entries": len(group), "error": str(error)})
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - each entry must get the error, and the next flush must run
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
