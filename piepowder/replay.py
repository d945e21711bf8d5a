"""Replay of dead letters: shows them, sends their records to their original partitions, and waits for the result.

A replay stores nothing of its own. It reads the open dead letters from the topics. A group recognizes a repeated copy,
and a chain continues only from the offset that the group has stored for its parked key. So a replay may be interrupted
and repeated, and two replays may run at the same time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from rich.text import Text

from piepowder import console_output
from piepowder.dead_letters import (
    DeadLetterId,
    OpenLetter,
    RegionDeadLetters,
    ReplayFilter,
    ReplayUnit,
    copies,
    obstacle,
    portion,
    replay_record,
)
from piepowder.hints import command
from piepowder.progress import counting
from piepowder.topic_reading import PATIENCE, new_consumer, read_to_end
from shared.contracts import topics
from shared.kafka import topic_admin
from shared.kafka.closing import close
from shared.kafka.producer import KafkaProducer, Record
from shared.kafka.records import RawRecord
from shared.runtime.clock import SystemClock
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
    `failed`: the dead letters of copies that were dead-lettered again.
    `blocked`: units that cannot be replayed, with the reason.
    `pending`: dead letters whose copies their group did not process in time.
    `growing`: chains whose key still receives new records.
    """

    handled: int = 0
    kept: int = 0
    failed: list[OpenLetter] = msgspec.field(default_factory=list)
    blocked: list[tuple[ReplayUnit, str]] = msgspec.field(default_factory=list)
    pending: list[OpenLetter] = msgspec.field(default_factory=list)
    growing: list[ReplayUnit] = msgspec.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if every selected record was handled, or was kept as requested."""
        return not (self.failed or self.blocked or self.pending or self.growing)

    def add(self, other: "ReplayResult") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


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
        self._partitions = {
            spec.name: spec.partitions
            for spec in topic_admin.expand(topic_admin.load(), [region])
            if spec.name not in (topics.CONTROL, self._parked)
        }

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
        turns: dict[object, int] = {}
        for unit in selected:
            reason = obstacle(unit, self._partitions, topics.CONTROL)
            if reason is not None:
                result.blocked.append((unit, reason))
            else:
                turns[_name(unit)] = 0
        while units := [unit for unit in self.dead.units() if turns.get(_name(unit), _TURNS) < _TURNS]:
            sent = await self._send(portion(units, _LETTERS, _BYTES), turns, leave=leave)
            if not await self._wait_processed(sent, wait):
                result.pending += [
                    letter for one in sent for letter in one.unit.letters if not self._is_processed(letter)
                ]
                return result
            for one in sent:
                self._note(one, result, turns)
            report(result.handled)
            await self.catch_up()
        result.growing = [unit for unit in self.dead.units() if turns.get(_name(unit)) == _TURNS]
        return result

    async def _send(
        self, units: Sequence[tuple[ReplayUnit, bool]], turns: dict[object, int], *, leave: bool
    ) -> list[_Sent]:
        stored = await self._stored([letter for unit, _ in units for letter in unit.letters])
        records: list[Record] = []
        sent: list[_Sent] = []
        for unit, whole in units:
            leaves = leave and unit.parked is not None and turns[_name(unit)] == 0
            marks = copies(unit, whole=whole, leave=leaves)
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
            if found is None:
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
    """The units of a region, and the number of records on its dead-letter topic that are not valid dead letters."""

    region: str
    units: list[ReplayUnit]
    unknown: int


def show_units(found: Sequence[RegionUnits], *, selected: bool) -> None:
    """Show dead letters, one row for each group, topic, key state and reason. `selected`: the units of a dry run."""
    keys: Counter[tuple[str, ...]] = Counter()
    records: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], str] = {}
    for region, units, _ in found:
        for unit in units:
            state = "parked" if unit.parked is not None else "single"
            reason = console_output.clean(unit.reason, _LONGEST_REASON)
            row = (region, unit.group.removeprefix("piepowder-"), unit.lane.topic, state, reason)
            keys[row] += 1
            records[row] += len(unit.letters)
            first.setdefault(row, _key(unit.lane.key))
    if unknown := sum(one.unknown for one in found):
        console_output.show(f"{unknown:,} records of the dead-letter topics do not name a dead-lettered record.")
    if not keys:
        console_output.show("No dead letter matches." if selected else "There are no dead letters.", "green")
        return
    table = console_output.table("region", "group", "topic", "", "reason", "first key", "keys", "records", right=2)
    for cells, count in keys.most_common(_ROWS):
        table.add_row(*map(Text, cells), Text(first[cells]), f"{count:,}", f"{records[cells]:,}")
    console_output.console.print(table)
    if len(keys) > _ROWS:
        console_output.show(f"{len(keys) - _ROWS:,} more rows; narrow the list with --group, --key or --reason.")
    if selected:
        console_output.show(f"{records.total():,} records would be replayed; nothing was changed.")
    else:
        console_output.show("To replay them, give --key, --reason or --all; --dry-run shows the selection.")


def show_result(result: ReplayResult, wait: float) -> None:
    """Show the result as sentences."""
    if result == ReplayResult():
        console_output.show("No dead letter matches, so nothing was replayed.")
        return
    console_output.show(f"Handled: {result.handled:,}.", "green" if result.complete else "")
    if result.kept:
        console_output.show(f"Kept among the dead letters: {result.kept:,}.")
    for unit, reason in result.blocked[:_ROWS]:
        console_output.show(f"Not replayed: {unit.letters[0].id} for {unit.group}: {reason}.", "yellow")
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


async def find(bootstrap: str, regions: Sequence[str], selection: ReplayFilter) -> list[RegionUnits]:
    """The dead letters that a filter selects, by region."""
    found = []
    for region in regions:
        async with RegionReplay(bootstrap, region) as cell:
            await cell.catch_up()
            found.append(RegionUnits(region, cell.selected(selection), cell.dead.unknown))
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


def _key(key: bytes | None) -> str:
    return console_output.clean((key or b"").decode(errors="replace"), 80)


def _name(unit: ReplayUnit) -> object:
    return (unit.group, unit.lane) if unit.parked is not None else unit.letters[0].id
