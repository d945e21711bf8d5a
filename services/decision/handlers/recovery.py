"""The recovery of the region's state after a restore of the database.

Every start, and every sign of a restore, takes the same steps. Normally the own topic has nothing new, and they end
after the first one.

1. Read the own topic from the relay's position to its end, and apply to the database what it does not contain.
2. If the database lacked an event of the own topic, or is another database than before, or has gone back to an earlier
   content, the service begins a new incarnation. It notes the end offsets of `cases`, publishes the incarnation, and
   stores both. From now on `cases` is read, from the position of the restored database.
3. Open claims, decisions and the relay when `cases` is read to these offsets. A partition that is stopped counts as
   read: it may wait for an operator, and its cases are missing as in any other stop.

The steps can be interrupted anywhere, because their results are in the database. One process at a time takes them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Protocol

from aiokafka import TopicPartition

from services.decision import metrics
from services.decision.domain.case_events import source
from services.decision.domain.recovery import RecoveryState, TopicContent, published_event, recovered_event
from shared.contracts import topics
from shared.contracts.envelope import Event, decode, encode
from shared.contracts.events import DecisionRecovered
from shared.kafka.gaps import DELETED, TRUNCATED, missing_records
from shared.kafka.producer import Appended, LocatingProducer, record
from shared.kafka.records import RawRecord
from shared.kafka.stored_positions import StoredPosition
from shared.kafka.topic_tail import TopicTail, open_tail
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison, TooNew, Transient
from shared.runtime.readiness import Readiness
from shared.runtime.retry import wait

log = logging.getLogger(__name__)

_CONDITION: Final = "recovery"
_WATCH_SECONDS: Final = 1.0  # between two looks at the state
_RETRY_SECONDS: Final = 0.3
_CONFIRM_SECONDS: Final = 3.0  # a new leader may report a lower end for a moment


class RecoveryPort(Protocol):
    """The database of a recovery; see `services.decision.store.recovery`."""

    def exclusively(self) -> AbstractAsyncContextManager[bool]: ...

    async def state(self) -> RecoveryState: ...

    async def positions(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, StoredPosition]: ...

    async def save_positions(self, group: str, positions: Mapping[TopicPartition, StoredPosition]) -> None: ...

    async def replace_positions(self, group: str, positions: Mapping[TopicPartition, StoredPosition]) -> None: ...

    async def outbox_ids(self) -> Mapping[str, tuple[int, int]]: ...

    async def apply(self, group: str, read: Appended, content: TopicContent) -> int: ...

    async def set_incomplete(self) -> None: ...

    async def complete(self, incarnation: int, identity: str) -> None: ...

    async def begin(
        self, incarnation: int, ends: Mapping[int, int], identity: str, group: str, appended: Sequence[Appended]
    ) -> None: ...

    async def ends(self) -> Mapping[int, int]: ...

    async def open(self, identity: str) -> None: ...


class GatePort(Protocol):
    """This process's view of the gate; see `services.decision.store.gate`."""

    @property
    def is_checked(self) -> bool: ...

    @property
    def last(self) -> RecoveryState | None: ...

    def suspend(self) -> None: ...

    def pass_on(self, state: RecoveryState) -> None: ...


class Sources(NamedTuple):
    """The topics of a recovery: their cluster, and the groups that read `cases` and that publish.

    `stopped` returns the partitions of `cases` that are stopped.
    """

    bootstrap: str
    client_id: str
    group: str
    relay_group: str
    stopped: Callable[[], Awaitable[Collection[TopicPartition]]]


class RecoverCases:
    """Recovers a region's database, and watches it. `settled` waits until the relay has nothing on its way to Kafka."""

    def __init__(
        self,
        store: RecoveryPort,
        gate: GatePort,
        sources: Sources,
        *,
        region: str,
        producer: LocatingProducer,
        settled: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._store = store
        self._gate = gate
        self._sources = sources
        self._region = region
        self._producer = producer
        self._settled = settled
        self._wake = wake
        self._readiness = readiness
        self._clock = clock
        self._truncated_since: float | None = None
        self._report("the events that the service has published are not compared with the database yet")

    async def run(self, stop: asyncio.Event) -> None:
        """Recover the database at the start and after each sign of a restore, until `stop` is set."""
        while not stop.is_set():
            try:
                is_open = await self.step()
            except Transient as error:
                log.warning("the recovery is repeated: %s", error)
                self._report(str(error))
                is_open = False
            await wait(stop, _WATCH_SECONDS if is_open else _RETRY_SECONDS)

    async def step(self) -> bool:
        """Look at the database, and recover it if necessary; True if claims, decisions and the relay are open."""
        last = self._gate.last  # before the statement: another connection may get a later state first
        state = await self._store.state()
        is_current = last is not None and not state.has_changed_since(last)
        if not (self._gate.is_checked and state.is_open and is_current):
            async with self._store.exclusively() as is_alone:
                if not is_alone:
                    self._report("another process of the region recovers the database")
                    return False
                if not await self._recover():
                    return False
        metrics.INCARNATION.labels(self._region).set(state.incarnation)
        self._report(None)
        return True

    async def _recover(self) -> bool:
        last = self._gate.last  # before the statement, as in `step`
        state = await self._store.state()
        has_gone_back = last is not None and state.has_gone_back_since(last)
        is_another = not (state.is_open or state.is_read) and (state.opened_for or state.read_for) is not None
        is_older = not self._gate.is_checked and state.is_open and await self._is_behind()
        if is_another or is_older or has_gone_back:
            log.warning("PostgreSQL was started again, or the database was restored: claims and the relay are closed")
            self._report(
                "PostgreSQL was started again, or the database was restored: it is compared with the published events"
            )
            await self._store.set_incomplete()
            self._gate.suspend()
        if not (self._gate.is_checked and state.is_read):
            self._gate.suspend()
        elif not state.is_open and (left := await self._left_to_read()) is not None:
            self._report(left)
            return False
        await self._settled()
        await self._read_own_topic()
        state = await self._store.state()
        begins = state.is_incomplete
        if begins:
            await self._begin(state.incarnation + 1, state.identity)
        elif not state.is_read:  # the first start with this database
            await self._store.complete(state.incarnation, state.identity)
        state = await self._store.state()
        self._gate.pass_on(state)
        if state.is_open:
            return True
        if begins or await self._left_to_read() is not None:
            return False  # the own topic is read once more before the gate opens
        await self._store.open(state.identity)
        self._wake()
        log.warning("claims, decisions and the relay are open", extra={"incarnation": state.incarnation})
        return True

    async def _begin(self, incarnation: int, identity: str) -> None:
        async with open_tail(
            self._sources.bootstrap, topics.cases(self._region), client_id=self._sources.client_id
        ) as cases:
            ends = {tp.partition: end for tp, end in cases.ends.items()}
        event = recovered_event(self._region, incarnation, to_text(self._clock.now()))
        encoded = encode(event.attributes, event.data)
        appended = await self._producer.append([record(topics.decisions(self._region), encoded)])
        await self._store.begin(incarnation, ends, identity, self._sources.relay_group, appended)
        log.warning("a new incarnation begins", extra={"incarnation": incarnation})

    async def _read_own_topic(self) -> None:
        """Apply the own topic from the relay's position on."""
        unknown = 0
        outbox: Mapping[str, tuple[int, int]] | None = None
        group = self._sources.relay_group
        async with open_tail(
            self._sources.bootstrap, topics.decisions(self._region), client_id=self._sources.client_id
        ) as tail:
            positions = await self._own_positions(tail)
            async for tp, records, end in tail.read(positions):
                if outbox is None:
                    outbox = await self._store.outbox_ids()
                read = Appended(tp.topic, tp.partition, positions[tp], end)
                unknown += await self._store.apply(group, read, self._content(records, outbox))
                positions[tp] = end
                self._report(f"{unknown} published events were not in the database; reading {tp.topic}")
        if unknown:
            log.warning("the database was older than its own topic", extra={"events": unknown})
            metrics.RECOVERED_EVENTS.labels(self._region).inc(unknown)

    def _content(self, records: Sequence[RawRecord], outbox: Mapping[str, tuple[int, int]]) -> TopicContent:
        found = [event for event in map(self._decoded, records) if event is not None]
        stated = [event.data.incarnation for event in found if isinstance(event.data, DecisionRecovered)]
        return TopicContent(
            events=[published for published in map(published_event, found) if published is not None],
            sent=[outbox[event.attributes.id] for event in found if event.attributes.id in outbox],
            incarnation=max(stated, default=0),
        )

    async def _own_positions(self, tail: TopicTail) -> dict[TopicPartition, int]:
        """The relay's positions in its own topic; raises Transient if Kafka deleted records that follow a position."""
        group = self._sources.relay_group
        stored = await self._store.positions(group, tail.ends)
        if not stored:
            first = dict(tail.ends)
            if await self._is_behind():
                first = dict.fromkeys(tail.ends, 0)
                await self._store.set_incomplete()
            stored = {tp: StoredPosition(at, tail.topic_id) for tp, at in first.items()}
            await self._store.save_positions(group, stored)
        found = {tp: stored.get(tp) or StoredPosition(0, tail.topic_id) for tp in tail.ends}
        new = {tp: each for tp, each in found.items() if each.topic_id not in ("", tail.topic_id)}
        if new:
            log.error("the topic was deleted and created again; its events are read from the start")
            found |= {tp: StoredPosition(tail.starts[tp], tail.topic_id) for tp in new}
            await self._store.replace_positions(group, {tp: found[tp] for tp in new})
        await self._require_complete(tail, found)
        return {tp: each.position for tp, each in found.items()}

    async def _require_complete(self, tail: TopicTail, found: dict[TopicPartition, StoredPosition]) -> None:
        gaps = {tp: missing_records(found[tp].position, tail.starts[tp], end) for tp, end in tail.ends.items()}
        deleted = {tp: gap for tp, gap in gaps.items() if gap is not None and gap.reason == DELETED}
        if deleted:
            changed = {tp: found[tp]._replace(topic_id=tail.topic_id, gap=gap) for tp, gap in deleted.items()}
            await self._store.save_positions(self._sources.relay_group, changed)
            text = "; ".join(gap.describe(tp) for tp, gap in sorted(deleted.items()))
            raise Transient(f"{text}: see docs/runbooks/restore-of-decision.md.")
        truncated = {tp for tp, gap in gaps.items() if gap is not None and gap.reason == TRUNCATED}
        if not truncated:
            self._truncated_since = None
            return
        now = self._clock.monotonic()
        self._truncated_since = now if self._truncated_since is None else self._truncated_since
        if now - self._truncated_since < _CONFIRM_SECONDS:
            raise Transient(
                f"the end of {topics.decisions(self._region)} is before published events; reading it again."
            )
        log.error("Kafka has lost published events", extra={"partitions": sorted(tp.partition for tp in truncated)})
        found |= {tp: StoredPosition(tail.ends[tp], tail.topic_id) for tp in truncated}
        await self._store.replace_positions(self._sources.relay_group, {tp: found[tp] for tp in truncated})

    async def _is_behind(self) -> bool:
        """True if the group's committed offset in a partition of `cases` is larger than the stored position.

        This is a sign of a restore. It is not one if an operator reset the group (`rereads`), or if the incarnation in
        force began after the group had handled these records (`ends`): claims are open without them if the partition
        is stopped, or was stopped then. An offset without the id of the topic is ignored: a version that had no stored
        positions has committed it.
        """
        group = self._sources.group
        async with open_tail(
            self._sources.bootstrap, topics.cases(self._region), client_id=self._sources.client_id
        ) as cases:
            committed = await cases.handled(group)
            stored = await self._store.positions(group, committed)
        return is_behind(committed, stored, await self._store.ends())

    async def _left_to_read(self) -> str | None:
        """The number of records of `cases` to read before the gate opens, as a sentence; None if there are none."""
        topic = topics.cases(self._region)
        ends = {TopicPartition(topic, partition): end for partition, end in (await self._store.ends()).items() if end}
        if not ends:
            return None
        stored = await self._store.positions(self._sources.group, ends)
        left = {
            tp: end - (stored[tp].position if tp in stored else 0)
            for tp, end in ends.items()
            if tp not in stored or (stored[tp].position < end and stored[tp].gap is None)
        }
        if left:
            stopped = await self._sources.stopped()
            left = {tp: n for tp, n in left.items() if tp not in stopped}
        if not left:
            return None
        return f"{sum(left.values())} records of {topic} are read again before claims and decisions open"

    def _decoded(self, read: RawRecord) -> Event[Any] | None:
        """The event in a record of the own topic; None for a record that is none of this service's events.

        Raises Transient for an event of a newer version: the gate must not open without its effect.
        """
        try:
            return decode(read.headers, read.key, read.value, region=self._region)
        except Poison as error:
            headers = dict(read.headers)
            if isinstance(error, TooNew) and headers["ce_source"].decode() == source(self._region):
                raise Transient(
                    f"a newer version of the service has published {headers['ce_type'].decode()} to"
                    f" {read.topic}[{read.partition}] at offset {read.offset}: start that version."
                ) from error
            place = {"partition": read.partition, "offset": read.offset}
            log.error("a record of the own topic is not an event of this service: %s", error.reason, extra=place)
            return None

    def _report(self, missing: str | None) -> None:
        self._readiness.set(_CONDITION, missing)


def is_behind(
    handled: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, StoredPosition], ends: Mapping[int, int]
) -> bool:
    """True if a group has handled records of `cases` that its database does not have and does not wait for.

    `handled` and `stored` are the group's offsets and its positions in the database; `ends` are the offsets, by
    partition, at the beginning of the incarnation in force.
    """
    found = {tp: stored.get(tp) or StoredPosition(0, "") for tp in handled}
    return any(
        offset > max(found[tp].position, ends.get(tp.partition, 0)) and not found[tp].rereads(offset)
        for tp, offset in handled.items()
    )
