"""Stopped partitions: shows them, lets their groups continue, and dead-letters ranges of their records.

A command changes one small entry of the topic of parked keys; the group does the rest (`shared.kafka.stop_store`). So a
command may be interrupted and repeated, and a group that does not run acts at its next start.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.text import Text

from piepowder import console_output
from piepowder.dead_letters import DeadLetterId, RegionDeadLetters
from piepowder.hints import command
from piepowder.positions import is_in_kafka
from piepowder.progress import ProgressReport, counting
from piepowder.topic_reading import PATIENCE, new_consumer, read_to_end
from shared.contracts import topics
from shared.contracts.envelope import GLOBAL, decode
from shared.kafka.closing import close
from shared.kafka.producer import KafkaProducer
from shared.kafka.records import RawRecord
from shared.kafka.stop_store import DeadLetterRange, Stop, StopEntry, stop_entries, stop_record
from shared.kafka.whole_topic import next_records
from shared.runtime.clock import SystemClock, to_text
from shared.runtime.errors import Poison
from shared.runtime.user_errors import UserError, cause

_CLIENT: Final = "piepowder-stopped"
_POLL_SECONDS: Final = 0.5
_REASONS: Final = 5
_LONGEST_REASON: Final = 160
_clock = SystemClock()


class StoppedPartition(NamedTuple):
    """A partition with an entry. `committed` is the offset that the group has committed, `start` and `end` are those of
    the log."""

    region: str
    group: str
    tp: TopicPartition
    entry: StopEntry
    committed: int
    end: int
    start: int = 0

    @property
    def first_unread(self) -> int:
        """An offset from which the group may still read. The position of a group with a database is there, so its
        committed offset may be ahead of it; records before the position are in no range, because it never reads them.
        """
        return self.committed if is_in_kafka(self.group) else self.start

    @property
    def place(self) -> str:
        return f"{self.tp.topic}[{self.tp.partition}] for {self.group}"

    @property
    def is_passed(self) -> bool:
        """True if the group has passed the range of the entry."""
        return isinstance(self.entry, DeadLetterRange) and self.committed > self.entry.last


class StopFilter(NamedTuple):
    """The conditions for partitions; None sets no condition. `group` may be a service's name."""

    topic: str | None = None
    group: str | None = None
    partition: int | None = None

    def matches(self, region: str, group: str, tp: TopicPartition) -> bool:
        if self.group is not None and group not in (self.group, f"piepowder-{self.group}-{region}"):
            return False
        return self.topic in (None, tp.topic) and self.partition in (None, tp.partition)


class RangeRequest(NamedTuple):
    """The records to dead-letter: from `first` (None: the first that is not handled) to `last` (None: the last)."""

    first: int | None
    last: int | None
    only_failing: bool
    reason: str


class RegionStops:
    """The stopped partitions of one region, on its cluster."""

    def __init__(self, bootstrap: str, region: str) -> None:
        self.region = region
        self._bootstrap = bootstrap
        self._parked, self._letters = topics.parked(region), topics.deadletters(region)
        self._producer = KafkaProducer(bootstrap, client_id=_CLIENT)
        self._consumer = new_consumer(bootstrap, _CLIENT, self._parked)
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id=_CLIENT)
        self._records: dict[bytes | None, RawRecord] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            if self._parked not in {tp.topic for tp in self._consumer.assignment()}:
                raise UserError(f"The topic {self._parked} does not exist.", f"Create it: {command('topics')}.")
            await self._admin.start()
        except KafkaError as error:
            await self._stop()
            raise self._unavailable(error) from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def find(self, wanted: StopFilter) -> list[StoppedPartition]:
        """The partitions with an entry that a filter selects, at this moment."""
        try:
            async for record in read_to_end(self._consumer):
                self._records[record.key] = record
            found = stop_entries(list(self._records.values()))
            return [
                each
                for group, entries in sorted(found.items())
                for each in await self._placed(group, entries)
                if wanted.matches(self.region, group, each.tp)
            ]
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def write(self, changed: Mapping[StoppedPartition, StopEntry | None]) -> None:
        """Store the new entries of partitions."""
        records = [stop_record(self._parked, each.group, each.tp, entry) for each, entry in changed.items()]
        await self._producer.send(records)

    async def wait_passed(self, ranges: Mapping[StoppedPartition, DeadLetterRange], wait: float) -> bool:
        """Wait until the groups have passed the ranges; False when none makes progress for `wait` seconds."""
        total = sum(asked.last - asked.first + 1 for asked in ranges.values())
        with counting("Waiting for the groups", "records passed", total=total) as count:
            return await self._wait_counted(ranges, wait, count)

    async def _wait_counted(
        self, ranges: Mapping[StoppedPartition, DeadLetterRange], wait: float, count: ProgressReport
    ) -> bool:
        before, since = -1, _clock.monotonic()
        while True:
            left = {(each.group, each.tp): each for each in await self.find(StopFilter())}
            pending, passed = [], 0
            for each, asked in ranges.items():
                now = left.get((each.group, each.tp))
                if now is not None and now.committed <= asked.last:
                    pending.append(now)
                    passed += max(0, now.committed - asked.first)
                else:
                    passed += asked.last - asked.first + 1
            if not pending:
                return True
            progress = sum(each.committed for each in pending) - len(pending)
            count(passed)
            if progress != before:
                before, since = progress, _clock.monotonic()
            elif _clock.monotonic() - since > wait:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    async def open_letters(self, topic: str) -> list[DeadLetterId]:
        """The open dead letters of a topic."""
        dead, consumer = RegionDeadLetters(), new_consumer(self._bootstrap, _CLIENT, self._letters)
        try:
            await consumer.start()
            async for record in read_to_end(consumer):
                dead.add_letter(record)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error
        finally:
            await close(consumer)
        return [letter for letter in dead.open if letter.topic == topic]

    async def _placed(self, group: str, entries: Mapping[TopicPartition, StopEntry]) -> list[StoppedPartition]:
        partitions = {topic: await self._partitions(topic) for topic in {tp.topic for tp in entries}}
        known = {tp: entry for tp, entry in entries.items() if tp.partition in partitions[tp.topic]}
        if not known:
            return []
        committed = await self._admin.list_consumer_group_offsets(group)
        first, end = await self._consumer.beginning_offsets(known), await self._consumer.end_offsets(known)
        return [
            StoppedPartition(
                self.region,
                group,
                tp,
                entry,
                max(first[tp], committed[tp].offset if tp in committed else 0),
                end[tp],
                first[tp],
            )
            for tp, entry in sorted(known.items())
        ]

    async def _partitions(self, topic: str) -> set[int]:
        if topic not in await self._consumer.topics():
            return set()
        [found] = await self._admin.describe_topics([topic])
        return {each["partition"] for each in found["partitions"]}

    async def _stop(self) -> None:
        await close(self._consumer)
        await close(self._admin)
        await self._producer.stop()

    def _unavailable(self, error: BaseException) -> UserError:
        return UserError(f"Kafka at {self._bootstrap} cannot be read ({cause(error)}).", "Try again; nothing is lost.")


def range_of(found: StoppedPartition, request: RangeRequest) -> DeadLetterRange | None:
    """The range of a request in a partition; None if it has no record. Raises `UserError` if it is not possible."""
    if found.is_passed:
        return None
    if isinstance(found.entry, DeadLetterRange):
        now = found.entry
        if request.last not in (None, now.last) or request.only_failing != now.only_failing:
            raise UserError(
                f"The records {now.first} to {now.last} of {found.place} are being dead-lettered.",
                f"Wait until `{command('stopped list')}` no longer shows them.",
            )
        return now
    first = found.first_unread if request.first is None else max(request.first, found.first_unread)
    last = found.end - 1 if request.last is None else request.last
    if last >= found.end:
        raise UserError(f"{found.place} ends at offset {found.end - 1}.", f"Give --last {found.end - 1} or less.")
    if first > last:
        return None
    return DeadLetterRange(first, last, request.reason, to_text(_clock.now()), request.only_failing)


class RangeContent(NamedTuple):
    """The records of a range: their number, the number of events, and the reasons why the others are none.

    A record that the Kafka client cannot read is not counted.
    """

    records: int
    events: int
    reasons: Counter[str]


async def inspect(bootstrap: str, region: str, tp: TopicPartition, wanted: DeadLetterRange) -> RangeContent:
    """Read a range, and check which of its records are events that this version knows."""
    consumer = new_consumer(bootstrap, _CLIENT)
    records, events, reasons = 0, 0, Counter[str]()
    try:
        await consumer.start()
        consumer.assign([tp])
        consumer.seek(tp, wanted.first)
        async with asyncio.timeout(PATIENCE) as patience:
            while await consumer.position(tp) <= wanted.last:
                for record in await next_records(consumer, tp, 1000):
                    if record.offset > wanted.last:
                        break
                    records += 1
                    try:
                        decode(record.headers, record.key, record.value, region=_region_of(tp, region))
                    except Poison as poison:
                        reasons[poison.reason[:_LONGEST_REASON]] += 1
                    else:
                        events += 1
                patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
    except (KafkaError, OSError, TimeoutError) as error:
        raise UserError(f"{tp.topic} cannot be read ({cause(error)}).", "Try again; nothing was changed.") from error
    finally:
        await close(consumer)
    return RangeContent(records, events, reasons)


async def find(bootstrap: str, regions: Sequence[str], wanted: StopFilter) -> list[StoppedPartition]:
    """The stopped partitions that a filter selects, by region."""
    found = []
    for region in regions:
        async with RegionStops(bootstrap, region) as cell:
            found += [each for each in await cell.find(wanted) if not each.is_passed]
    return found


async def resume(bootstrap: str, regions: Sequence[str], wanted: StopFilter) -> list[StoppedPartition]:
    """Let the groups of stopped partitions continue; returns these partitions."""
    resumed = []
    for region in regions:
        async with RegionStops(bootstrap, region) as cell:
            found = [each for each in await cell.find(wanted) if isinstance(each.entry, Stop)]
            await cell.write(dict.fromkeys(found))
            resumed += found
    return resumed


class RangeResult(NamedTuple):
    """The result for a partition: `letters` is the number of open dead letters in the range, also of earlier ones."""

    group: str
    tp: TopicPartition
    wanted: DeadLetterRange
    letters: int
    passed: bool


async def dead_letter(
    bootstrap: str, regions: Sequence[str], wanted: StopFilter, request: RangeRequest, *, wait: float
) -> list[RangeResult]:
    """Dead-letter ranges of stopped partitions, and wait until their groups have passed them.

    A range that was passed before is only reported.
    """
    results = []
    for region in regions:
        async with RegionStops(bootstrap, region) as cell:
            found = await cell.find(wanted)
            ranges = {each: asked for each in found if (asked := range_of(each, request)) is not None}
            empty = [each for each in found if each.committed >= each.end and isinstance(each.entry, Stop)]
            changed: dict[StoppedPartition, StopEntry | None] = dict.fromkeys(empty)  # nothing to read: they continue
            changed |= {each: asked for each, asked in ranges.items() if each.entry != asked}
            await cell.write(changed)
            passed = await cell.wait_passed(ranges, wait)
            letters = await cell.open_letters(wanted.topic or "")
            results += [
                RangeResult(each.group, each.tp, asked, _count(letters, each.group, each.tp, asked), passed)
                for each, asked in ranges.items()
            ]
            results += _passed_before(letters, region, wanted, request, {(each.group, each.tp) for each in ranges})
    return results


def _passed_before(
    letters: Sequence[DeadLetterId],
    region: str,
    wanted: StopFilter,
    request: RangeRequest,
    others: Collection[tuple[str, TopicPartition]],
) -> list[RangeResult]:
    """The results of ranges that the same request dead-lettered before."""
    if request.first is None or request.last is None:
        return []
    asked = DeadLetterRange(request.first, request.last, request.reason, "", request.only_failing)
    places = {(letter.group, TopicPartition(letter.topic, letter.partition)) for letter in letters}
    return [
        RangeResult(group, tp, asked, count, passed=True)
        for group, tp in sorted(places - set(others))
        if wanted.matches(region, group, tp) and (count := _count(letters, group, tp, asked))
    ]


def _count(letters: Sequence[DeadLetterId], group: str, tp: TopicPartition, wanted: DeadLetterRange) -> int:
    return sum(letter[:3] == (group, *tp) and wanted.has(letter.offset) for letter in letters)


async def preview(
    bootstrap: str, regions: Sequence[str], wanted: StopFilter, request: RangeRequest
) -> list[tuple[StoppedPartition, DeadLetterRange, RangeContent]]:
    """The ranges that `dead_letter` would write, and their contents; changes nothing."""
    found: list[tuple[StoppedPartition, DeadLetterRange, RangeContent]] = []
    contents: dict[tuple[TopicPartition, int, int], RangeContent] = {}
    for region in regions:
        async with RegionStops(bootstrap, region) as cell:
            for each in await cell.find(wanted):
                asked = range_of(each, request)
                if asked is not None:
                    if asked.first < each.committed <= asked.last:  # the group reads from here
                        asked = msgspec.structs.replace(asked, first=each.committed)
                    place = each.tp, asked.first, asked.last
                    if place not in contents:
                        contents[place] = await inspect(bootstrap, region, each.tp, asked)
                    found.append((each, asked, contents[place]))
    return found


def show_stopped(found: Sequence[StoppedPartition]) -> None:
    """Show stopped partitions, one row each."""
    if not found:
        console_output.show("No topic is stopped.", "green")
        return
    table = console_output.table("group", "topic", "partition", "since", "state", "next offset", "end", right=2)
    for each in found:
        entry = each.entry
        state = entry.reason
        if isinstance(entry, DeadLetterRange):
            which = "failing records" if entry.only_failing else "records"
            state = f"dead-letters the {which} {entry.first} to {entry.last}: {entry.reason}"
        cells = [each.group, each.tp.topic, str(each.tp.partition), entry.at[:19], console_output.clean(state, 300)]
        table.add_row(*map(Text, cells), str(each.committed), str(each.end))
    console_output.console.print(table)
    console_output.show("The records before the next offset are handled or dead-lettered. To continue:")
    console_output.show(f"  {command('replay')}   shows the reasons of the dead letters")
    console_output.show(f"  {command('stopped resume --topic TOPIC')}   after the cause is corrected")
    dead_letter_records = command("stopped dead-letter --topic TOPIC --only-failing --dry-run")
    console_output.show(f"  {dead_letter_records}   if the records are wrong")


def show_preview(found: Sequence[tuple[StoppedPartition, DeadLetterRange, RangeContent]]) -> None:
    """Show what would be dead-lettered."""
    table = console_output.table("group", "topic", "partition", "first", "last", "records", "events", right=5)
    reasons: Counter[str] = Counter()
    for each, asked, content in found:
        numbers = [each.tp.partition, asked.first, asked.last, f"{content.records:,}", f"{content.events:,}"]
        table.add_row(Text(each.group), Text(each.tp.topic), *map(str, numbers))
        reasons |= content.reasons
    console_output.console.print(table)
    for reason, count in reasons.most_common(_REASONS):
        console_output.show(f"  no event: {console_output.clean(reason)} ({count:,} in one partition)")
    if all(asked.only_failing for _, asked, _ in found):
        effect = "The groups handle the records of these ranges, and dead-letter only those that they cannot handle"
    else:
        effect = "All records of these ranges, also the events, would be dead-lettered"
    console_output.show(f"{effect}; nothing was changed.")


def show_results(results: Sequence[RangeResult], wait: float) -> None:
    """Show the result as sentences."""
    for each in results:
        place = f"{each.tp.topic}[{each.tp.partition}] {each.wanted.first} to {each.wanted.last}, {each.group}"
        console_output.show(f"{place}: {each.letters:,} open dead letters.", "green" if each.passed else "")
    if results:
        console_output.show("Counted are all open dead letters of a range, also those from before this command.")
    if not all(each.passed for each in results):
        console_output.show(
            f"Some groups did not pass their range, and made no progress for {wait:g} s. The ranges are stored: the"
            " groups dead-letter them when they consume. Check their services, and repeat the command.",
            "yellow",
        )


def _region_of(tp: TopicPartition, region: str) -> str:
    return GLOBAL if tp.topic == topics.CONTROL else region
