"""Growth of the cost of a lookup with the number of items: two intakes, two databases, the same requests.

SQL fills the databases, because five million items through Kafka would take almost an hour: the rows are those of the
projection, in the order of time, with ids that are spread over the index. The requests alternate between the two
databases; each reads different places, drawn in the same way from all stored items. Both responses have the same number
of items, so only the search differs. The last figure is the cost of the projection itself with stored items.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import msgspec

from services.intake.items.domain.status import (
    CaseFact,
    DeadLetterFact,
    DecisionFact,
    Status,
    StatusFacts,
    SubmissionFact,
    SupersededFact,
    WithdrawalFact,
)
from shared.contracts import topics
from shared.runtime.clock import SystemClock, to_text
from tests.bench import calls, data
from tests.bench.data import REGION, REGIONS
from tests.bench.kafka import fill
from tests.bench.report import WARM, Figure, Mark, Round, cpu_an_item
from tests.bench.services import Service
from tests.bench.stages import Bench, resumed, stopped
from tests.bench.usage import peak_mb

_FEW: Final = 10_000
_CALLS: Final = 400  # per round; some hundred milliseconds of processor time
_LONG_CALLS: Final = 100  # of lookups that read thousands of rows
_PLACES: Final = 20  # in a list
_PROJECTED: Final = 5_000  # items per round
_ROWS: Final = 100_000  # per statement
_STARTED: Final = datetime(2026, 5, 1, tzinfo=UTC)
_APART: Final = timedelta(milliseconds=20)
_MARK: Final = Mark(1.2, below=True)
_NUMBER: Final = 987_654_321  # stands for an offset in the result of `template`

# Of a hundred items about ninety are approved, one waits, one is a seller, and one shares its reference with others.
# The rare items are among the oldest: sixty dead letters, and a platform without newer items.
_MAKE: Final = """
WITH made AS MATERIALIZED (
    SELECT n, md5('item-' || n)::uuid AS item_id, $3::timestamptz + n * $4::interval AS received_at,
        CASE WHEN n < 40 THEN 'fair:product:sku-' WHEN n / 4 % 100 = 7 THEN 'shop:seller:sku-'
            ELSE 'shop:product:sku-' END || n / 4 AS subject,
        CASE WHEN n % 100 = 11 THEN 'spring sale' ELSE 'order-' || n END AS reference,
        CASE WHEN n < 6000 AND n % 100 = 50 THEN 'dead_lettered'
            WHEN at = 0 THEN 'in_review' WHEN at < 5 THEN 'rejected' WHEN at < 7 THEN 'superseded'
            WHEN at < 8 THEN 'withdrawn' WHEN at < 9 THEN 'submitted' ELSE 'approved' END AS status,
        CASE WHEN n % 8 = 0 THEN '{eu,us}'::text[] WHEN n % 8 < 6 THEN '{eu}' ELSE '{us}' END AS regions
    FROM generate_series($1::int, $2::int) AS n, LATERAL (SELECT abs(hashint4(n)::bigint) % 100 AS at) AS drawn
), there AS MATERIALIZED (SELECT made.*, region FROM made, unnest(regions) AS region),
known AS (
    INSERT INTO item_status (item_id, region, status, facts)
    SELECT item_id, region, status, convert_to(format($5::jsonb ->> status, subject, md5('a' || n) || md5('b' || n),
        to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), reference,
        array_to_string(regions, '","'), md5('case-' || n)::uuid, n), 'UTF8') FROM there
), found AS (
    INSERT INTO item_found (region, item_id, received_at, subject, client, reference)
    SELECT region, item_id, received_at, subject, 'bench', reference FROM there
)
INSERT INTO item_by_status (region, status, received_at, item_id, subject)
SELECT region, status, received_at, item_id, subject FROM there WHERE status <> 'approved'"""
_COUNT: Final = "INSERT INTO item_totals SELECT region, status, count(*) FROM item_status GROUP BY region, status"
_SELECT: Final = "SELECT region, facts FROM item_status WHERE item_id = $1"

_clock = SystemClock()


class FilledIntake(NamedTuple):
    """An intake whose database has `size` items."""

    service: Service
    url: str
    size: int
    connection: calls.Connection
    bare: "asyncpg.Connection[Any]"

    async def ask(self, path: str) -> bytes:
        """The response; raises AssertionError if its status is not 200."""
        answer = await self.connection.call(calls.get(path, self.service.key))
        assert answer.status == 200, (path, answer)
        return answer.body


class Lookup(NamedTuple):
    """A kind of request, its paths, and how often it is sent in a round."""

    name: str
    paths: Callable[[FilledIntake, random.Random], Awaitable[list[str]]]
    calls: int = _CALLS


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next: str | None = None


class RequestRound(NamedTuple):
    """A round of calls, and the duration of each call in seconds."""

    round: Round
    took: list[float]


async def lookups(bench: Bench) -> list[Figure]:
    """Each kind of lookup among `bench.stored` items next to the same among ten thousand, and the cost of the
    projection."""
    await bench.launcher.topics(*REGIONS)
    await bench.publish_control()
    async with AsyncExitStack() as open_until_then:
        few, many = [await _shelf(bench, size, open_until_then) for size in (_FEW, bench.stored)]
        figures = [await _bare(bench, few, many)]
        for lookup in _LOOKUPS:
            figures += await _compared(bench, lookup, few, many)
        figures.append(await _projection(bench, few, many))
    return figures


async def _shelf(bench: Bench, size: int, stack: AsyncExitStack) -> FilledIntake:
    url = await bench.launcher.database(f"bench_intake_{size}")
    service = await stack.enter_async_context(
        bench.launcher.service(
            "intake", label=f"intake-{size}", REGIONS=",".join(REGIONS), DATABASE_URL=url, PROJECTION="false"
        )
    )
    bare = await asyncpg.connect(url)
    stack.push_async_callback(bare.close)
    await _store(bench, bare, size)
    connection = await calls.Connection.open(service.url)
    stack.callback(connection.close)
    return FilledIntake(service, url, size, connection, bare)


async def _store(bench: Bench, connection: "asyncpg.Connection[Any]", size: int) -> None:
    """Fill the tables, and leave them as the server's own maintenance would."""
    began = _clock.monotonic()
    await connection.execute("SET synchronous_commit = off")
    templates = msgspec.json.encode({status: template(status) for status in Status}).decode()
    for first in range(0, size, _ROWS):
        last = min(first + _ROWS, size) - 1
        await connection.execute(_MAKE, first, last, _STARTED, _APART, templates, timeout=120)
        if last % 1_000_000 == 999_999:
            bench.say(f"lookups: {last + 1:,} items stored, {_clock.monotonic() - began:.0f} s")
    await connection.execute(_COUNT, timeout=300)
    await connection.execute("VACUUM (ANALYZE)", timeout=300)
    await connection.execute("CHECKPOINT", timeout=300)
    gigabytes = await connection.fetchval("SELECT pg_database_size(current_database())") / 1e9
    bench.say(f"lookups: {size:,} items, {gigabytes:.1f} GB, {_clock.monotonic() - began:.0f} s")


def template(status: Status) -> str:
    """The stored facts of an item, as the projection writes them, with placeholders for its own values: subject, hash,
    time, reference, regions, case, and offset."""
    time, of_case = "%3$s", "%6$s"
    submission = SubmissionFact(
        position=_NUMBER, content_hash="%2$s", received_at=time, client="bench", reference="%4$s", regions=["%5$s"]
    )
    verdict = "review" if status == Status.IN_REVIEW else "approve"
    opened = CaseFact(position=_NUMBER, case_id=of_case, queue="eu-general", due_at=time, verdict=verdict, at=time)
    decision = DecisionFact(
        n=1,
        decision_id=of_case,
        action="reject" if status == Status.REJECTED else "approve",
        reasons=["REASON_1"] if status == Status.REJECTED else [],
        automated=True,
        policy_set="1-0123456789abcdef",
        decided_at=time,
    )
    discarded = status == Status.DISCARDED
    dead = DeadLetterFact(position=_NUMBER, reason="the record has no item", at=time, discarded=discarded)
    decided, withdrawn = status in (Status.APPROVED, Status.REJECTED), status == Status.WITHDRAWN
    has_case = status not in (Status.SUBMITTED, Status.DEAD_LETTERED, Status.DISCARDED)
    facts = StatusFacts(
        subject="%1$s",
        submission=submission,
        submission_last=_NUMBER,
        opened=opened if has_case else None,
        opened_last=_NUMBER if has_case else -1,
        superseded=SupersededFact(by=of_case, at=time) if status == Status.SUPERSEDED else None,
        decision=decision if decided else None,
        withdrawal=WithdrawalFact(position=_NUMBER, at=time) if withdrawn else None,
        closed_at=time if withdrawn else "",
        dead_submission=dead if status == Status.DEAD_LETTERED or discarded else None,
    )
    return msgspec.json.encode(facts).decode().replace(str(_NUMBER), "%7$s")


async def _compared(bench: Bench, lookup: Lookup, few: FilledIntake, many: FilledIntake) -> list[Figure]:
    """The processor time of intake and PostgreSQL per call, and the median latency."""
    bench.say(f"lookups: {lookup.name}")
    rng = random.Random(lookup.name)
    asked: dict[int, list[RequestRound]] = {few.size: [], many.size: []}
    for _ in range(bench.rounds + WARM):
        for filled in (few, many):
            paths = await lookup.paths(filled, rng)
            took: list[float] = []
            asking = _ask_all(filled, paths, lookup.calls, took)
            done = await bench.round(lookup.calls, {"intake": filled.service.pid}, asking)
            asked[filled.size].append(RequestRound(done, took))
    late, early = ([one.round for one in asked[filled.size][WARM:]] for filled in (many, few))
    name = f"lookup: {lookup.name}, among {many.size:,}; floor: among {few.size:,}"
    return [
        _cost(name, late, early, {"intake": peak_mb(many.service.pid)}),
        Figure(
            name=f"{name}, p50",
            unit="ms",
            values=[median(one.took) * 1e3 for one in asked[many.size][WARM:]],
            floors=[median(one.took) * 1e3 for one in asked[few.size][WARM:]],
        ),
    ]


async def _ask_all(filled: FilledIntake, paths: Sequence[str], count: int, took: list[float]) -> None:
    for number in range(count):
        begun = _clock.monotonic()
        await filled.ask(paths[number % len(paths)])
        took.append(_clock.monotonic() - begun)


async def _bare(bench: Bench, few: FilledIntake, many: FilledIntake) -> Figure:
    """The lowest cost of a lookup: a prepared select by primary key, over one connection."""
    bench.say("lookups: the bare select")
    rng = random.Random("bare")
    rounds: dict[int, list[Round]] = {few.size: [], many.size: []}

    async def select(statement: Any, item_ids: Sequence[UUID]) -> None:
        for item_id in item_ids:
            assert await statement.fetch(item_id)

    for _ in range(bench.rounds + WARM):
        for filled in (few, many):
            item_ids = await filled.bare.fetch(
                "SELECT md5('item-' || n)::uuid FROM unnest($1::int[]) AS n",
                [rng.randrange(filled.size) for _ in range(10 * _CALLS)],
            )
            statement = await filled.bare.prepare(_SELECT)
            working = select(statement, [row[0] for row in item_ids])
            rounds[filled.size].append(await bench.round(len(item_ids), {}, working))
    name = f"bare select by primary key, among {many.size:,}; floor: among {few.size:,}"
    figure = _cost(name, rounds[many.size][WARM:], rounds[few.size][WARM:], {})
    figure.mark = None  # it depends on the machine, not on our code
    return figure


async def _projection(bench: Bench, few: FilledIntake, many: FilledIntake) -> Figure:
    """The cost of the three events of an item in the projection: submitted, case opened, decided."""
    names = [topics.submissions(REGION), topics.cases(REGION), topics.decisions(REGION)]
    group = f"piepowder-intake-{REGION}"
    rounds: dict[int, list[Round]] = {}
    peak: dict[str, float] = {}
    for filled in (few, many):
        bench.say(f"lookups: the projection, among {filled.size:,}")
        label = f"projection-{filled.size}"
        async with bench.launcher.service("intake", label=label, REGIONS=REGION, DATABASE_URL=filled.url) as service:
            await bench.watch.until_committed(group, names)
            done = rounds.setdefault(filled.size, [])
            for number in range(bench.rounds + WARM):
                numbers = range(number * _PROJECTED, (number + 1) * _PROJECTED)
                lives = data.more_lives(numbers, tag=f"late{filled.size}")
                async with stopped(service):
                    await fill(bench.producer, names[0], [life.submitted for life in lives])
                    await fill(bench.producer, names[1], [life.opened for life in lives])
                    await fill(bench.producer, names[2], [life.decided for life in lives])
                working = resumed(service, bench.watch.until_committed(group, names))
                done.append(await bench.round(_PROJECTED, {"projection": service.pid}, working))
            peak["projection"] = peak_mb(service.pid)
    name = f"projection: an item's three events, beside {many.size:,} items; floor: beside {few.size:,}"
    return _cost(name, rounds[many.size][WARM:], rounds[few.size][WARM:], peak)


def _cost(name: str, late: Sequence[Round], early: Sequence[Round], peak: dict[str, float]) -> Figure:
    """Microseconds of processor time per call, of all processes except Kafka, for each round."""

    def costs(rounds: Sequence[Round]) -> list[float]:
        return [sum(cpu for who, cpu in one.cpu.items() if who != "Kafka") * 1e6 / one.items for one in rounds]

    return Figure(
        name=name,
        unit="µs",
        values=costs(late),
        floors=costs(early),
        mark=_MARK,
        cpu=cpu_an_item(late),
        floor_cpu=cpu_an_item(early),
        peak=peak,
    )


async def _by_id(filled: FilledIntake, rng: random.Random) -> list[str]:
    numbers = [rng.randrange(filled.size) for _ in range(_CALLS)]
    rows = await filled.bare.fetch("SELECT md5('item-' || n)::uuid FROM unnest($1::int[]) AS n", numbers)
    return [f"/v1/items/{row[0]}" for row in rows]


async def _by_subject(filled: FilledIntake, rng: random.Random) -> list[str]:
    """Of 400 consecutive items, all from the 40th are of one kind, and four have the same subject."""
    numbers = (rng.randrange(filled.size // 400) * 100 + rng.randrange(10, 100) for _ in range(_CALLS))
    return [f"/v1/subjects/shop/product/sku-{number}" for number in numbers]


async def _by_reference(filled: FilledIntake, rng: random.Random) -> list[str]:
    numbers = (rng.randrange(filled.size // 100) * 100 + rng.randrange(12, 100) for _ in range(_CALLS))
    return [f"/v1/items?reference=order-{number}" for number in numbers]


async def _totals(_: FilledIntake, __: random.Random) -> list[str]:
    return ["/v1/totals"]


async def _window(filled: FilledIntake, rng: random.Random) -> list[str]:
    """Forty items by their time of arrival."""
    places = [rng.randrange(filled.size - 40) for _ in range(_PLACES)]
    return [_list(received_after=_time(at), received_before=_time(at + 40)) for at in places]


def _newest(**filters: str) -> Callable[[FilledIntake, random.Random], Awaitable[list[str]]]:
    """The first page of a list."""

    async def paths(_: FilledIntake, __: random.Random) -> list[str]:
        return [_list(**filters)]

    return paths


def _deep(**filters: str) -> Callable[[FilledIntake, random.Random], Awaitable[list[str]]]:
    """Random pages in the first third of a list, each by its cursor."""

    async def paths(filled: FilledIntake, rng: random.Random) -> list[str]:
        found = []
        for _ in range(_PLACES):
            at = filled.size * (2 + rng.random()) / 3
            answer = await filled.ask(_list(**filters, received_before=_time(round(at)), limit="1"))
            cursor = msgspec.json.decode(answer, type=_Page).next
            assert cursor is not None, "there is more"
            found.append(_list(**filters, cursor=cursor))
        return found

    return paths


def _list(**parameters: str) -> str:
    return f"/v1/items?{urlencode(parameters)}"


def _time(number: int) -> str:
    return to_text(_STARTED + number * _APART)


_LOOKUPS: Final = (
    Lookup("an item by its id", _by_id),
    Lookup("a subject's four versions", _by_subject),
    Lookup("one item by its reference", _by_reference),
    Lookup("a page of a reference that one item in a hundred has", _deep(reference="spring sale")),
    Lookup("the newest page", _newest()),
    Lookup("a page anywhere", _deep()),
    Lookup("a page anywhere, region=eu", _deep(region="eu")),
    Lookup("a page anywhere, status=approved", _deep(status="approved")),
    Lookup("a page anywhere, status=in_review", _deep(status="in_review")),
    Lookup("a page anywhere, status=rejected", _deep(status="rejected")),
    Lookup("the sixty dead letters among the oldest", _newest(status="dead_lettered")),
    Lookup("a page anywhere, kind=seller, one in a hundred", _deep(kind="seller"), _LONG_CALLS),
    Lookup("a page of a platform without recent items", _newest(platform="fair"), _LONG_CALLS),
    Lookup("forty items by their time of arrival", _window),
    Lookup("totals", _totals),
)
