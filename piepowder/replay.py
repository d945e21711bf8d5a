"""Replay and discard of dead letters: shows them, sends their records to their original partitions, and waits for the
result.

A replay stores nothing of its own. It reads the open dead letters from the topics. A group recognizes a repeated copy,
and a chain continues only from the offset that the group has stored for its parked key. So a replay may be interrupted
and repeated, and two replays may run at the same time. The same holds for a discard (`shared.kafka.discards`): the
group itself closes the dead letters of a chain, because their order matters; the command closes all others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from rich.text import Text

from piepowder import console_output
from piepowder.dead_letters import (
    DeadLetterCounts,
    DeadLetterId,
    OpenLetter,
    RegionDeadLetters,
    ReplayFilter,
    ReplayUnit,
    copies,
    no_place,
    obstacle,
    portion,
    replay_record,
)
from piepowder.hints import command
from piepowder.progress import counting
from piepowder.topic_reading import PATIENCE, new_consumer, read_to_end
from shared.contracts import topics
from shared.contracts.envelope import RecordId
from shared.kafka import topic_admin
from shared.kafka.client_protocol import partitions_of
from shared.kafka.closing import close
from shared.kafka.dead_letters import discarded_letter, original_headers
from shared.kafka.discards import Discard, discard_entry, discard_event
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.records import RawRecord
from shared.kafka.written_letters import digest
from shared.runtime.clock import SystemClock, to_text
from shared.runtime.errors import Poison
from shared.runtime.user_errors import UserError, cause

_CLIENT: Final = "piepowder-replay"
_POLL_SECONDS: Final = 0.2
_LETTERS: Final = 1000
_BYTES: Final = 32 * 2**20
_TURNS: Final = 50  # limit of portions for one chain, because its key may receive new records all the time
_ROWS: Final = 50
_LONGEST_REASON: Final = 160
_clock = SystemClock()


class ReplayResult(msgspec.Struct):
    """The result of a replay.

    `handled`: the number of dead letters whose copies were handled.
    `kept`: the number of records that stay dead-lettered, as requested.
    `discarded`: the number of dead letters that were closed, as requested.
    `failed`: the dead letters of copies that were dead-lettered again.
    `blocked`: units that cannot be replayed, with the reason.
    `pending`: dead letters whose copies their group did not process in time.
    `growing`: chains whose key still receives new records.
    """

    handled: int = 0
    kept: int = 0
    discarded: int = 0
    failed: list[OpenLetter] = msgspec.field(default_factory=list)
    blocked: list[tuple[ReplayUnit, str]] = msgspec.field(default_factory=list)
    pending: list[OpenLetter] = msgspec.field(default_factory=list)
    growing: list[ReplayUnit] = msgspec.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if every selected record was handled, or was kept or discarded as requested."""
        return not (self.failed or self.blocked or self.pending or self.growing)

    def add(self, other: "ReplayResult") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class DiscardRequest(NamedTuple):
    """The request to discard records: who, and why. `with_waiting`: also those that wait behind a selected one."""

    by: str
    why: str
    with_waiting: bool = False

    def of(self, unit: ReplayUnit, at: str) -> dict[DeadLetterId, Discard]:
        """The discards of a unit."""
        letters = unit.letters if self.with_waiting else unit.letters[:1]
        return {letter.id: Discard(self.by, self.why, at, letter.reason) for letter in letters}


class DiscardPlan(NamedTuple):
    """The steps of a discard.

    `alone`: the letters that the command closes.
    `chains`: the units whose copies are sent, and `discards`: the discards that these copies carry.
    `blocked`: the units that are not changed, with the reason.
    """

    alone: list[OpenLetter]
    chains: list[ReplayUnit]
    discards: dict[DeadLetterId, Discard]
    blocked: list[tuple[ReplayUnit, str]]


def plan_discard(
    selected: Sequence[ReplayUnit],
    selection: ReplayFilter,
    request: DiscardRequest,
    *,
    region: str,
    at: str,
    partitions: Mapping[str, int],
) -> DiscardPlan:
    """The steps that discard what a filter selects, and nothing else.

    A record that waits behind one that is not selected is not discarded, because its key stays parked. A record with
    others behind it is not discarded if these can neither be replayed nor were requested. `partitions` is as in
    `obstacle`.
    """
    plan = DiscardPlan([], [], {}, [])
    for unit in selected:
        first = unit.letters[0]
        missing = no_place(first, partitions)
        if not selection.matches_first(unit, region):
            if selection.id is not None:
                plan.blocked.append((unit, f"it waits behind {first.id}: replay or discard that record first"))
        elif first.in_chain and missing is None:
            plan.chains.append(unit)
            plan.discards.update(request.of(unit, at))
        elif len(unit.letters) == len(request.of(unit, at)):
            plan.alone.extend(unit.letters)
        else:
            reason = f"the records behind it cannot be replayed ({missing}): --with-waiting discards them, too"
            plan.blocked.append((unit, reason))
    return plan


class _Sent(NamedTuple):
    """A unit whose copies were sent, and the letter that stays dead-lettered on request."""

    unit: ReplayUnit
    kept: DeadLetterId | None


class RegionReplay:
    """The dead letters of one region, on its cluster, and their replay."""

    def __init__(self, bootstrap: str, region: str) -> None:
        self.dead = RegionDeadLetters()
        self.region = region
        self._bootstrap = bootstrap
        self._letters, self._parked = topics.deadletters(region), topics.parked(region)
        self._producer = KafkaProducer(bootstrap, client_id=_CLIENT, max_bytes=5 * 2**20)
        self._consumer = new_consumer(bootstrap, _CLIENT, self._letters, self._parked)
        names = {spec.name for spec in topic_admin.expand(topic_admin.load(), [region])}
        self._topics = names - {topics.CONTROL, self._parked}

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            if missing := {self._letters, self._parked} - {tp.topic for tp in self._consumer.assignment()}:
                names = ", ".join(sorted(missing))
                raise UserError(f"The topics {names} do not exist.", f"Create them: {command('topics')}.")
        except KafkaError as error:
            await close(self._consumer)
            raise self._unavailable(error) from error
        except BaseException:
            await close(self._consumer)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self._consumer)
        await self._producer.stop()

    async def catch_up(self) -> None:
        """Read to the current end of the topics; raises `UserError` when Kafka does not respond."""
        try:
            async for record in read_to_end(self._consumer):
                add = self.dead.add_parked if record.topic == self._parked else self.dead.add_letter
                add(record)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def selected(self, selection: ReplayFilter) -> list[ReplayUnit]:
        """The units that a filter selects."""
        return [unit for unit in self.dead.units() if selection.matches(unit, self.region)]

    async def replay(
        self,
        selected: Sequence[ReplayUnit],
        *,
        leave: bool,
        wait: float,
        report: Callable[[int], None] = lambda _: None,
    ) -> ReplayResult:
        """Replay units in portions; wait for each portion before the next. Repeat a chain until it is empty.

        `leave` keeps the first record of each chain dead-lettered. The replay ends when a group processes nothing for
        `wait` seconds. `report` is called with the number of handled letters.
        """
        result = ReplayResult()
        units = []
        partitions = await self._partitions(selected)
        for unit in selected:
            reason = obstacle(unit, partitions, topics.CONTROL)
            if reason is not None:
                result.blocked.append((unit, reason))
            else:
                units.append(unit)
        await self._replay(units, result, leave=leave, wait=wait, report=report)
        return result

    async def discard(self, selection: ReplayFilter, request: DiscardRequest, *, wait: float) -> ReplayResult:
        """Discard the records that a filter selects, and replay those that wait behind them.

        See `plan_discard` for the records that are not discarded.
        """
        at = to_text(_clock.now())
        selected = self.selected(selection)
        partitions = await self._partitions(selected)
        plan = plan_discard(selected, selection, request, region=self.region, at=at, partitions=partitions)
        result = ReplayResult(blocked=plan.blocked)
        await self._discard_alone(plan.alone, request, at, result)
        await self._replay(plan.chains, result, wait=wait, discards=plan.discards)
        return result

    async def _discard_alone(
        self, letters: Sequence[OpenLetter], request: DiscardRequest, at: str, result: ReplayResult
    ) -> None:
        """Close dead letters outside of chains, in portions: first the events, then the entries, then the closing dead
        letters."""
        units = [ReplayUnit(letter.id.group, letter.lane, [letter], None) for letter in letters]
        while taken := portion(units, _LETTERS, _BYTES):
            units = units[len(taken) :]
            stored = await self._stored([unit.letters[0] for unit, _ in taken])
            events, entries, closing = list[Record](), list[Record](), list[Record]()
            for (letter,) in (unit.letters for unit, _ in taken):
                record, place = stored[letter.stored], RecordId(*letter.id[1:])
                discard, headers = Discard(request.by, request.why, at, letter.reason), original_headers(record.headers)
                content = b"" if letter.unread else digest(record.key, record.value, headers)
                events.append(
                    discard_event(
                        discard, place, region=self.region, group=letter.id.group, headers=headers, content=content
                    )
                )
                if content:
                    entries.append(discard_entry(self._parked, letter.id.group, place, content, at))
                closing.append(discarded_letter(record, discard))
            for records in (events, entries, closing):
                await self._producer.send(records)
            result.discarded += len(taken)

    async def _replay(
        self,
        selected: Sequence[ReplayUnit],
        result: ReplayResult,
        *,
        wait: float,
        leave: bool = False,
        report: Callable[[int], None] = lambda _: None,
        discards: Mapping[DeadLetterId, Discard] = MappingProxyType({}),
    ) -> None:
        """Replay units, and add the outcome to `result`."""
        turns: dict[object, int] = {_name(unit): 0 for unit in selected}
        while units := [unit for unit in self.dead.units() if turns.get(_name(unit), _TURNS) < _TURNS]:
            sent = await self._send(portion(units, _LETTERS, _BYTES), turns, leave=leave, discards=discards)
            if not await self._wait_processed(sent, wait):
                result.pending += [
                    letter for one in sent for letter in one.unit.letters if not self._is_processed(letter)
                ]
                return
            for one in sent:
                self._note(one, result, turns)
            report(result.handled)
            await self.catch_up()
        result.growing = [unit for unit in self.dead.units() if turns.get(_name(unit)) == _TURNS]

    async def _send(
        self,
        units: Sequence[tuple[ReplayUnit, bool]],
        turns: dict[object, int],
        *,
        leave: bool,
        discards: Mapping[DeadLetterId, Discard],
    ) -> list[_Sent]:
        stored = await self._stored([letter for unit, _ in units for letter in unit.letters])
        records: list[Record] = []
        sent: list[_Sent] = []
        for unit, whole in units:
            leaves = leave and unit.parked is not None and turns[_name(unit)] == 0
            marks = copies(unit, whole=whole, leave=leaves, discards=discards)
            records += [
                replay_record(letter, stored[letter.stored], mark)
                for letter, mark in zip(unit.letters, marks, strict=True)
            ]
            sent.append(_Sent(unit, unit.letters[0].id if leaves else None))
            turns[_name(unit)] += 1
        try:
            await self._producer.send(records)
        except Poison as poison:
            raise UserError(
                f"A record is too large for its topic now ({poison}).",
                "Leave this record out: select others with --key.",
            ) from poison
        return sent

    async def _partitions(self, units: Iterable[ReplayUnit]) -> dict[str, int]:
        """The number of partitions of these units' topics on the cluster, of the topics that accept copies."""
        found: dict[str, int] = {}
        for topic in sorted(self._topics & {unit.lane.topic for unit in units}):
            try:
                found[topic] = len(await partitions_of(self._consumer, topic))
            except UnknownTopicOrPartitionError:
                continue
            except (KafkaError, OSError) as error:
                raise self._unavailable(error) from error
        return found

    async def _stored(self, letters: Iterable[OpenLetter]) -> dict[tuple[TopicPartition, int], RawRecord]:
        """The stored records of dead letters, read in one pass from the first to the last."""
        wanted = {letter.stored for letter in letters}
        found: dict[tuple[TopicPartition, int], RawRecord] = {}
        consumer = new_consumer(self._bootstrap, _CLIENT)
        try:
            await consumer.start()
            partitions = {tp for tp, _ in wanted}
            consumer.assign(partitions)
            for tp in partitions:
                consumer.seek(tp, min(offset for other, offset in wanted if other == tp))
            async with asyncio.timeout(PATIENCE):
                while len(found) < len(wanted):
                    for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                        found |= {(tp, r.offset): r for r in records if (tp, r.offset) in wanted}
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error
        finally:
            await close(consumer)
        return found

    async def _wait_processed(self, sent: Sequence[_Sent], wait: float) -> bool:
        """Wait until the groups have processed all sent copies; False when nothing changes for `wait` seconds."""
        left, since = -1, _clock.monotonic()
        while True:
            await self.catch_up()
            behind = sum(not self._is_processed(letter) for one in sent for letter in one.unit.letters)
            behind += sum(not self._is_reported(one.unit) for one in sent)
            if not behind:
                return True
            if behind != left:
                left, since = behind, _clock.monotonic()
            elif _clock.monotonic() - since > wait:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    def _is_processed(self, letter: OpenLetter) -> bool:
        now = self.dead.open.get(letter.id)
        return now is None or now.stored != letter.stored

    def _is_reported(self, unit: ReplayUnit) -> bool:
        """True if the group has stored a parked state that includes the last copy; True outside of a chain."""
        now, last = self.dead.parked(unit.group).get(unit.lane), unit.letters[-1].id
        if unit.parked is None or now is None or (last in self.dead.open and self.dead.open[last].in_chain):
            return True
        return now.back >= last.offset or now.since > last.offset

    def _note(self, sent: _Sent, result: ReplayResult, turns: dict[object, int]) -> None:
        failed: list[OpenLetter] = []
        for letter in sent.unit.letters:
            found = self.dead.open.get(letter.id) or self.dead.failed_again(letter.id)
            if letter.id in self.dead.discarded:
                result.discarded += 1
            elif found is None:
                result.handled += 1
            elif letter.id == sent.kept and not found.in_chain:
                result.kept += 1
            else:
                failed.append(found)
        result.failed += failed
        if failed or sent.unit.parked is None:
            del turns[_name(sent.unit)]

    def _unavailable(self, error: BaseException) -> UserError:
        return UserError(f"Kafka at {self._bootstrap} cannot be read ({cause(error)}).", "Try again; nothing is lost.")


class RegionUnits(NamedTuple):
    """Selected units of a region, and the numbers of all of its dead letters."""

    region: str
    units: list[ReplayUnit]
    counts: DeadLetterCounts


def show_units(found: Sequence[RegionUnits], *, effect: str = "") -> None:
    """Show dead letters, one row for each group, topic, key state and reason. `effect` describes a dry run."""
    keys: Counter[tuple[str, ...]] = Counter()
    records: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], str] = {}
    for region, units, _ in found:
        for unit in units:
            state = "parked" if unit.letters[0].in_chain else "not parked"
            reason = console_output.clean(unit.reason, _LONGEST_REASON)
            row = (region, unit.group.removeprefix("piepowder-"), unit.lane.topic, state, reason)
            keys[row] += 1
            records[row] += len(unit.letters)
            first.setdefault(row, _key(unit.lane.key))
    for region, _, counts in found:
        console_output.show(f"Dead letters in {region}: {counts}.")
    if not keys:
        console_output.show("No dead letter matches." if effect else "There are no open dead letters.", "green")
        return
    table = console_output.table("region", "group", "topic", "key", "reason", "first key", "keys", "records", right=2)
    for cells, count in keys.most_common(_ROWS):
        table.add_row(*map(Text, cells), Text(first[cells]), f"{count:,}", f"{records[cells]:,}")
    console_output.console.print(table)
    if len(keys) > _ROWS:
        console_output.show(
            f"{len(keys) - _ROWS:,} more rows; narrow the list with --group, --topic, --key or --reason."
        )
    if effect:
        console_output.show(f"{effect}; nothing was changed.")
    else:
        console_output.show("To replay them, give --id, --key, --reason or --all; --dry-run shows the selection.")
        console_output.show('To close junk for good, add --discard --why "the reason".')


def describe_effect(units: Sequence[ReplayUnit], request: DiscardRequest | None) -> str:
    """The effect of a replay or a discard of units, as text."""
    records = sum(len(unit.letters) for unit in units)
    if request is None:
        return f"{records:,} records would be replayed"
    discarded = records if request.with_waiting else len(units)
    return f"{discarded:,} dead letters would be discarded, and {records - discarded:,} records behind them replayed"


def show_result(result: ReplayResult, wait: float) -> None:
    """Show the result as sentences."""
    if result == ReplayResult():
        console_output.show("No dead letter matches, so nothing was changed.")
        return
    if result.discarded:
        console_output.show(f"Discarded: {result.discarded:,}.", "green" if result.complete else "")
    if result.handled or not result.discarded:
        console_output.show(f"Handled: {result.handled:,}.", "green" if result.complete else "")
    if result.kept:
        console_output.show(f"Kept among the dead letters: {result.kept:,}.")
    for unit, reason in result.blocked[:_ROWS]:
        console_output.show(f"Not changed: {unit.letters[0].id} for {unit.group}: {reason}.", "yellow")
    if result.failed:
        console_output.show(f"Dead-lettered again: {len(result.failed):,}.", "yellow")
    for letter in result.failed[:_ROWS]:
        reason = console_output.clean(letter.reason, 300)
        console_output.show(f"  {letter.id} {_key(letter.key)}: {reason}", "yellow")
    if result.pending:
        groups = ", ".join(sorted({letter.id.group for letter in result.pending}))
        console_output.show(
            f"Sent and not processed within {wait:g} s: {len(result.pending):,}. Check that {groups} consumes; it"
            " processes them when it reaches them, and a second replay is harmless.",
            "yellow",
        )
    for unit in result.growing[:_ROWS]:
        console_output.show(
            f"Still parked: {_key(unit.lane.key)} for {unit.group}; new records keep arriving. Repeat the command.",
            "yellow",
        )


async def find(
    bootstrap: str, regions: Sequence[str], selection: ReplayFilter, *, only_first: bool = False
) -> list[RegionUnits]:
    """The dead letters that a filter selects, by region; with `only_first`, by the first letter of each unit."""
    found = []
    for region in regions:
        async with RegionReplay(bootstrap, region) as cell:
            await cell.catch_up()
            units = cell.selected(selection)
            if only_first:
                units = [unit for unit in units if selection.matches_first(unit, region)]
            found.append(RegionUnits(region, units, cell.dead.counts()))
    return found


async def replay(
    bootstrap: str, regions: Sequence[str], selection: ReplayFilter, *, leave: bool, wait: float
) -> ReplayResult:
    """Replay the dead letters that a filter selects, region by region."""
    total = ReplayResult()
    for region in regions:
        async with RegionReplay(bootstrap, region) as cell:
            await cell.catch_up()
            selected = cell.selected(selection)
            letters = sum(len(unit.letters) for unit in selected)
            with counting(f"Replaying in {region}", "handled", total=letters) as count:
                total.add(await cell.replay(selected, leave=leave, wait=wait, report=count))
    return total


async def discard(
    bootstrap: str, regions: Sequence[str], selection: ReplayFilter, request: DiscardRequest, *, wait: float
) -> ReplayResult:
    """Discard the dead letters that a filter selects, region by region."""
    total = ReplayResult()
    for region in regions:
        async with RegionReplay(bootstrap, region) as cell:
            await cell.catch_up()
            total.add(await cell.discard(selection, request, wait=wait))
    return total


def _key(key: bytes | None) -> str:
    return console_output.clean((key or b"").decode(errors="replace"), 80)


def _name(unit: ReplayUnit) -> object:
    return (unit.group, unit.lane) if unit.parked is not None else unit.letters[0].id
