"""Puts back what was set aside: shows it, sends it to where it stood, waits until its group says what became of it.

Nothing is kept here. What is open is read off the topics each time, a copy that arrives twice is known by the group
that reads it, and a chain goes on only where the group says it has come to; so a replay may be broken off anywhere and
begun again, also twice at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from rich.text import Text

from deploy.local.errors import StackError
from piepowder import screen
from piepowder.aside import Aside, Choice, Letter, Place, Unit, copies, hindrance, portion, put_back
from shared.contracts import topics
from shared.kafka import topic_admin
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Poison

_PATIENCE: Final = 30.0  # seconds without a record before the cluster counts as away
_LOOK_SECONDS: Final = 0.2
_LETTERS: Final = 1000
_BYTES: Final = 32 * 2**20
_TURNS: Final = 50  # of one chain, while new records keep following it
_ROWS: Final = 50
_LONGEST_REASON: Final = 160
_clock = SystemClock()


class Outcome(msgspec.Struct):
    """What became of it: letters that were handled, left where they are, or set aside again with the reason; units
    that cannot be put back, with why; letters not met in time by their group; chains that more keeps following."""

    handled: int = 0
    left: int = 0
    again: list[Letter] = msgspec.field(default_factory=list)
    hindered: list[tuple[Unit, str]] = msgspec.field(default_factory=list)
    unmet: list[Letter] = msgspec.field(default_factory=list)
    growing: list[Unit] = msgspec.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything that was chosen is set aside no more."""
        return not (self.again or self.hindered or self.unmet or self.growing)


class _Sent(NamedTuple):
    """A unit that was put back, and where its letters stood then."""

    unit: Unit
    left: Place | None


class Cell:
    """What is set aside in one region, on its cluster."""

    def __init__(self, bootstrap: str, region: str) -> None:
        self.aside = Aside()
        self.region = region
        self._bootstrap = bootstrap
        self._letters, self._parked = topics.deadletters(region), topics.parked(region)
        self._producer = KafkaProducer(bootstrap, client_id="piepowder-replay", max_bytes=5 * 2**20)
        self._consumer = _consumer(bootstrap, self._letters, self._parked)
        self._partitions = {
            spec.name: spec.partitions
            for spec in topic_admin.expand(topic_admin.load(), [region])
            if spec.name not in (topics.CONTROL, self._parked)
        }

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            if missing := {self._letters, self._parked} - {place.topic for place in self._consumer.assignment()}:
                raise StackError(
                    f"The topics {', '.join(sorted(missing))} do not exist.", "Create them with `piepowder topics`."
                )
        except KafkaError as error:
            await self._consumer.stop()
            raise self._away(error) from error
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()
        await self._producer.stop()

    async def look(self) -> None:
        """Read on up to where the topics end now; raises `StackError` when Kafka does not answer."""
        try:
            ends = await self._consumer.end_offsets(self._consumer.assignment())
            while behind := [place for place, end in ends.items() if await self._consumer.position(place) < end]:
                async with asyncio.timeout(_PATIENCE):
                    lanes: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
                    while not lanes:
                        lanes = await self._consumer.getmany(*behind, timeout_ms=500, max_records=5000)
                for place, records in lanes.items():
                    note = self.aside.note_parked if place.topic == self._parked else self.aside.note_letter
                    for record in records:
                        note(record)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._away(error) from error

    def chosen(self, choice: Choice) -> list[Unit]:
        """What a choice fits."""
        return [unit for unit in self.aside.units() if choice.fits(unit, self.region)]

    async def put_back(
        self, chosen: Sequence[Unit], *, leave: bool, wait: float, told: Callable[[int], None] = lambda _: None
    ) -> Outcome:
        """Put units back, in portions, each when the one before has been met; chains until nothing follows any more.

        `leave` leaves the record that holds each chain up among the letters, alone. A group that meets nothing for
        `wait` seconds ends it. `told` hears how many were handled so far.
        """
        outcome = Outcome()
        wanted: dict[object, int] = {}
        for unit in chosen:
            why = hindrance(unit, self._partitions, topics.CONTROL)
            if why is not None:
                outcome.hindered.append((unit, why))
            else:
                wanted[_name(unit)] = 0
        while units := [unit for unit in self.aside.units() if wanted.get(_name(unit), _TURNS) < _TURNS]:
            sent = await self._send(portion(units, _LETTERS, _BYTES), wanted, leave=leave)
            if not await self._met(sent, wait):
                outcome.unmet += [letter for one in sent for letter in one.unit.letters if not self._is_met(letter)]
                return outcome
            for one in sent:
                self._note(one, outcome, wanted)
            told(outcome.handled)
            await self.look()
        outcome.growing = [unit for unit in self.aside.units() if wanted.get(_name(unit)) == _TURNS]
        return outcome

    async def _send(self, units: Sequence[tuple[Unit, bool]], wanted: dict[object, int], *, leave: bool) -> list[_Sent]:
        stored = await self._stored([letter for unit, _ in units for letter in unit.letters])
        records: list[Record] = []
        sent: list[_Sent] = []
        for unit, whole in units:
            leaves = leave and unit.parked is not None and wanted[_name(unit)] == 0
            marks = copies(unit, whole=whole, leave=leaves)
            records += [
                put_back(letter, stored[letter.stands], mark) for letter, mark in zip(unit.letters, marks, strict=True)
            ]
            sent.append(_Sent(unit, unit.letters[0].place if leaves else None))
            wanted[_name(unit)] += 1
        try:
            await self._producer.send(records)
        except Poison as poison:
            raise StackError(
                f"A record does not fit on its topic any more ({poison}).", "Leave it out: choose others by --key."
            ) from poison
        return sent

    async def _stored(self, letters: Iterable[Letter]) -> dict[tuple[TopicPartition, int], ConsumerRecord[Any, Any]]:
        """The letters as they stand on their topic, read in one go from the first to the last."""
        wanted = {letter.stands for letter in letters}
        found: dict[tuple[TopicPartition, int], ConsumerRecord[Any, Any]] = {}
        consumer = _consumer(self._bootstrap)
        try:
            await consumer.start()
            places = {place for place, _ in wanted}
            consumer.assign(places)
            for place in places:
                consumer.seek(place, min(offset for other, offset in wanted if other == place))
            async with asyncio.timeout(_PATIENCE):
                while len(found) < len(wanted):
                    for place, records in (await consumer.getmany(timeout_ms=500)).items():
                        found |= {(place, r.offset): r for r in records if (place, r.offset) in wanted}
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._away(error) from error
        finally:
            await consumer.stop()
        return found

    async def _met(self, sent: Sequence[_Sent], wait: float) -> bool:
        """Wait until the groups have met all of it; False when nothing moves for `wait` seconds."""
        left, since = -1, _clock.monotonic()
        while True:
            await self.look()
            behind = sum(not self._is_met(letter) for one in sent for letter in one.unit.letters)
            behind += sum(not self._is_told(one.unit) for one in sent)
            if not behind:
                return True
            if behind != left:
                left, since = behind, _clock.monotonic()
            elif _clock.monotonic() - since > wait:
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_met(self, letter: Letter) -> bool:
        now = self.aside.open.get(letter.place)
        return now is None or now.stands != letter.stands

    def _is_told(self, unit: Unit) -> bool:
        """Whether a chain's state says what its letters say."""
        now, last = self.aside.parked(unit.group).get(unit.lane), unit.letters[-1].place
        if unit.parked is None or now is None or (last in self.aside.open and self.aside.open[last].in_chain):
            return True
        return now.back >= last.offset or now.since > last.offset

    def _note(self, sent: _Sent, outcome: Outcome, wanted: dict[object, int]) -> None:
        again: list[Letter] = []
        for letter in sent.unit.letters:
            found = self.aside.open.get(letter.place) or self.aside.again(letter.place)
            if found is None:
                outcome.handled += 1
            elif letter.place == sent.left and not found.in_chain:
                outcome.left += 1
            else:
                again.append(found)
        outcome.again += again
        if again or sent.unit.parked is None:
            del wanted[_name(sent.unit)]

    def _away(self, error: BaseException) -> StackError:
        return StackError(
            f"Kafka at {self._bootstrap} cannot be read ({error!r}).", "Try again; nothing is lost by it."
        )


class Found(NamedTuple):
    """What is set aside in a region, and how many records of its dead-letter topic are no letters."""

    region: str
    units: list[Unit]
    strange: int


def show_aside(found: Sequence[Found], *, chosen: bool) -> None:
    """What is set aside, a row for each group, topic and reason; `chosen` if it is what would be put back."""
    keys: Counter[tuple[str, ...]] = Counter()
    records: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], str] = {}
    for region, units, _ in found:
        for unit in units:
            state = "parked" if unit.parked is not None else "alone"
            reason = screen.clean(unit.reason, _LONGEST_REASON)
            row = (region, unit.group.removeprefix("piepowder-"), unit.lane.topic, state, reason)
            keys[row] += 1
            records[row] += len(unit.letters)
            first.setdefault(row, screen.clean(unit.lane.key.decode(errors="replace"), 80))
    if strange := sum(one.strange for one in found):
        screen.say(f"{strange:,} records of the dead-letter topics name no record that was set aside.")
    if not keys:
        screen.say("Nothing fits." if chosen else "Nothing is set aside.", "green")
        return
    table = screen.table("region", "group", "topic", "", "reason", "first key", "keys", "records", right=2)
    for shown, count in keys.most_common(_ROWS):
        table.add_row(*map(Text, shown), Text(first[shown]), f"{count:,}", f"{records[shown]:,}")
    screen.console.print(table)
    if len(keys) > _ROWS:
        screen.say(f"{len(keys) - _ROWS:,} more rows; narrow it by --group, --key or --reason.")
    if chosen:
        screen.say(f"{records.total():,} records would be put back; nothing was changed.")
    else:
        screen.say("To put back: name --key, --reason or --all; --dry-run shows what that would be.")


def show(outcome: Outcome, wait: float) -> None:
    """What became of it, in sentences."""
    screen.say(f"Handled: {outcome.handled:,}.", "green" if outcome.complete else "")
    if outcome.left:
        screen.say(f"Left alone among the dead letters: {outcome.left:,}.")
    for unit, why in outcome.hindered[:_ROWS]:
        screen.say(f"Not put back: {unit.letters[0].place} for {unit.group}: {why}.", "yellow")
    if outcome.again:
        screen.say(f"Set aside again: {len(outcome.again):,}.", "yellow")
    for letter in outcome.again[:_ROWS]:
        key = screen.clean((letter.key or b"").decode(errors="replace"), 80)
        screen.say(f"  {letter.place} {key}: {screen.clean(letter.reason, 300)}", "yellow")
    if outcome.unmet:
        groups = ", ".join(sorted({letter.place.group for letter in outcome.unmet}))
        screen.say(
            f"Put back and not met within {wait:g} s: {len(outcome.unmet):,}. See whether {groups} consumes; it meets"
            " them when it comes to them, and to put them back once more is harmless.",
            "yellow",
        )
    for unit in outcome.growing[:_ROWS]:
        key = screen.clean(unit.lane.key.decode(errors="replace"), 80)
        screen.say(
            f"Still parked: {key} for {unit.group}; records keep following it. Go on with the same again.", "yellow"
        )


async def look(bootstrap: str, regions: Sequence[str], choice: Choice) -> list[Found]:
    """What is set aside and fits a choice, by region."""
    found = []
    for region in regions:
        async with Cell(bootstrap, region) as cell:
            await cell.look()
            found.append(Found(region, cell.chosen(choice), cell.aside.strange))
    return found


async def replay(bootstrap: str, regions: Sequence[str], choice: Choice, *, leave: bool, wait: float) -> Outcome:
    """Put back what fits a choice in these regions."""
    total = Outcome()
    for region in regions:
        async with Cell(bootstrap, region) as cell:
            await cell.look()
            outcome = await cell.put_back(cell.chosen(choice), leave=leave, wait=wait)
        total.handled += outcome.handled
        total.left += outcome.left
        total.again += outcome.again
        total.hindered += outcome.hindered
        total.unmet += outcome.unmet
        total.growing += outcome.growing
    return total


def _name(unit: Unit) -> object:
    return (unit.group, unit.lane) if unit.parked is not None else unit.letters[0].place


def _consumer(bootstrap: str, *names: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        *names,
        bootstrap_servers=bootstrap,
        client_id="piepowder-replay",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=8 * 2**20,
    )
