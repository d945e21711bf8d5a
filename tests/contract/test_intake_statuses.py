"""The store of item status: the same results in memory and in PostgreSQL, for any order and repetition of facts."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import pytest

from services.intake.items import store
from services.intake.items.domain.status import (
    CaseFact,
    DeadLetterFact,
    DecisionFact,
    Status,
    StatusFacts,
    SubmissionFact,
    WithdrawalFact,
    merge,
    status,
)
from services.intake.items.store import ItemCursor, ItemFilter, ItemPage, ItemStatusStore, ProjectionProgress
from shared.contracts import ids
from shared.postgres import migrations
from shared.postgres.database import Database
from shared.runtime.clock import from_text, to_text

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TIME = "2026-05-01T12:00:00.000Z"


class Statuses(Protocol):
    async def merge(self, region: str, new_facts: Mapping[str, StatusFacts]) -> None: ...

    async def note_progress(self, region: str, progress: Sequence[ProjectionProgress]) -> None: ...

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]: ...

    async def totals(self) -> dict[str, dict[str, int]]: ...

    async def handled_until(self) -> dict[str, datetime]: ...

    async def of_items(self, item_ids: Sequence[str]) -> dict[str, dict[str, StatusFacts]]: ...

    async def page(self, wanted: ItemFilter, limit: int) -> ItemPage: ...


class InMemory:
    """The same store in dictionaries."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], StatusFacts] = {}
        self._progress: dict[tuple[str, str, int], datetime] = {}

    async def merge(self, region: str, new_facts: Mapping[str, StatusFacts]) -> None:
        for item_id, facts in new_facts.items():
            known = self._known.get((region, item_id))
            self._known[region, item_id] = facts if known is None else merge(known, facts)

    async def note_progress(self, region: str, progress: Sequence[ProjectionProgress]) -> None:
        for topic, partition, moment in progress:
            key = (region, topic, partition)
            self._progress[key] = max(moment, self._progress.get(key, moment))

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]:
        return {region: facts for (region, known), facts in self._known.items() if known == item_id}

    async def totals(self) -> dict[str, dict[str, int]]:
        totals: dict[str, dict[str, int]] = {}
        for (region, _), facts in self._known.items():
            of_region = totals.setdefault(region, {})
            of_region[status(facts)] = of_region.get(status(facts), 0) + 1
        return totals

    async def handled_until(self) -> dict[str, datetime]:
        moments: dict[str, datetime] = {}
        for (region, *_), moment in self._progress.items():
            moments[region] = min(moment, moments.get(region, moment))
        return moments

    async def of_items(self, item_ids: Sequence[str]) -> dict[str, dict[str, StatusFacts]]:
        return {item_id: await self.of_item(item_id) for item_id in item_ids}

    async def page(self, wanted: ItemFilter, limit: int) -> ItemPage:
        places = {
            ItemCursor(from_text(facts.submission.received_at), item_id)
            for (region, item_id), facts in self._known.items()
            if facts.submission is not None and region in wanted.regions and _fits(facts, facts.submission, wanted)
        }
        listed = sorted((one for one in places if wanted.before is None or one < wanted.before), reverse=True)
        last = listed[limit - 1] if len(listed) > limit else None
        return ItemPage([place.item_id for place in listed[:limit]], last)


def _fits(facts: StatusFacts, submission: SubmissionFact, wanted: ItemFilter) -> bool:
    platform, kind, _ = facts.subject.split(":", 2)
    received_at = from_text(submission.received_at)
    return (
        wanted.subject in (None, facts.subject)
        and (wanted.reference is None or (wanted.client, wanted.reference) == (submission.client, submission.reference))
        and wanted.status in (None, status(facts))
        and wanted.platform in (None, platform)
        and wanted.kind in (None, kind)
        and (wanted.received_after is None or received_at >= wanted.received_after)
        and (wanted.received_before is None or received_at < wanted.received_before)
    )


@pytest.fixture(params=["memory", "postgres"])
async def statuses(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Statuses]:
    if request.param == "memory":
        yield InMemory()
        return
    await migrations.upgrade(database_url, "intake")
    database = await Database.connect(database_url)
    yield ItemStatusStore(database)
    await database.close()


def item(n: int) -> str:
    return ids.item_id("shop", "product", str(n), "1")


def submission(position: int) -> StatusFacts:
    first = SubmissionFact(position=position, content_hash="aa", received_at=TIME, client="c", reference="r")
    return StatusFacts(subject="shop:product:1", submission=first, submission_last=position)


def opened(verdict: str = "review") -> StatusFacts:
    case = CaseFact(position=0, case_id="c", queue="q", due_at=TIME, verdict=verdict, at=TIME)
    return StatusFacts(subject="shop:product:1", opened=case, opened_last=0)


def withdrawn() -> StatusFacts:
    return StatusFacts(
        subject="shop:product:1", withdrawal=WithdrawalFact(position=1, reason="sold", at=TIME), closed_at=TIME
    )


def decision(action: str, n: int = 1) -> StatusFacts:
    made = DecisionFact(n=n, decision_id=f"d{n}", action=action, automated=True, policy_set="ps-1", decided_at=TIME)
    return StatusFacts(subject="shop:product:1", decision=made)


async def test_facts_of_an_item_are_stored_for_each_region(statuses: Statuses) -> None:
    await statuses.merge("eu", {item(1): submission(0)})
    await statuses.merge("us", {item(1): submission(4)})
    await statuses.merge("eu", {item(1): decision("approve")})
    known = await statuses.of_item(item(1))
    assert known == {"eu": merge(submission(0), decision("approve")), "us": submission(4)}
    assert await statuses.of_item(item(2)) == {}


async def test_totals_count_each_item_once_under_its_current_status(statuses: Statuses) -> None:
    assert await statuses.totals() == {}
    await statuses.merge("eu", {item(n): submission(n) for n in range(5)})
    await statuses.merge("eu", {item(n): opened() for n in range(3)})
    await statuses.merge("eu", {item(0): decision("approve"), item(1): decision("reject")})
    await statuses.merge("eu", {item(n): withdrawn() for n in (0, 3)})
    await statuses.merge("us", {item(0): submission(0)})
    assert await statuses.totals() == {
        "eu": {
            Status.SUBMITTED: 1,
            Status.IN_REVIEW: 1,
            Status.APPROVED: 1,
            Status.REJECTED: 1,
            Status.WITHDRAWN: 1,
        },
        "us": {Status.SUBMITTED: 1},
    }
    await statuses.merge("eu", {item(n): decision("approve", 2) for n in range(5)})
    assert await statuses.totals() == {"eu": {Status.APPROVED: 5}, "us": {Status.SUBMITTED: 1}}


async def test_a_replay_in_any_order_changes_nothing(statuses: Statuses) -> None:
    rng = random.Random(5)
    letter = StatusFacts(dead_case=DeadLetterFact(position=0, reason="a \x00 byte", at=TIME))
    life = [
        (n, facts) for n in range(20) for facts in (submission(n), opened(), decision("reject"), letter)[: n % 4 + 1]
    ]
    for _ in range(3):
        rng.shuffle(life)
        for n, facts in life:
            await statuses.merge("eu", {item(n): facts})
    assert await statuses.totals() == {
        "eu": {Status.SUBMITTED: 5, Status.IN_REVIEW: 5, Status.REJECTED: 10},
    }


async def test_concurrent_writers_of_the_same_items_lose_no_facts(statuses: Statuses) -> None:
    facts = [{item(n): facts for n in range(200)} for facts in (submission(0), opened(), decision("approve"))]
    await asyncio.gather(*(statuses.merge("eu", facts) for facts in facts * 4))
    assert await statuses.totals() == {"eu": {Status.APPROVED: 200}}
    assert (await statuses.of_item(item(7)))["eu"] == merge(merge(submission(0), opened()), decision("approve"))


async def test_progress_is_that_of_the_slowest_partition_and_never_decreases(statuses: Statuses) -> None:
    assert await statuses.handled_until() == {}
    await statuses.note_progress(
        "eu", [ProjectionProgress("t", 0, NOON), ProjectionProgress("t", 1, NOON + timedelta(seconds=9))]
    )
    assert await statuses.handled_until() == {"eu": NOON}
    await statuses.note_progress("eu", [ProjectionProgress("t", 0, NOON - timedelta(seconds=5))])
    await statuses.note_progress("us", [ProjectionProgress("u", 0, NOON - timedelta(hours=1))])
    assert await statuses.handled_until() == {"eu": NOON, "us": NOON - timedelta(hours=1)}


def posted(n: int, rng: random.Random) -> StatusFacts:
    """A submission at a random time, so that items are not in the order of their numbers."""
    first = SubmissionFact(
        position=n,
        content_hash="aa",
        received_at=to_text(NOON + timedelta(seconds=rng.randint(0, 12))),
        client=rng.choice(("shop", "other")),
        reference=rng.choice(("", "import-1", "import-2")),
    )
    subject = f"{rng.choice(('shop', 'fair'))}:{rng.choice(('product', 'seller'))}:{n % 5}"
    return StatusFacts(subject=subject, submission=first, submission_last=n)


async def fill(statuses: Statuses, rng: random.Random) -> None:
    """Store items in two regions, at all stages; the facts of an item arrive in random order."""
    for n in range(60):
        regions = rng.choice((["eu"], ["us"], ["eu", "us"]))
        life = [posted(n, rng), opened(), decision(rng.choice(("approve", "approve", "reject")))]
        life = [one if one.submission else msgspec.structs.replace(one, subject=life[0].subject) for one in life]
        for region in regions:
            some = life[: rng.randint(1, 3)]
            rng.shuffle(some)
            for facts in some:
                await statuses.merge(region, {item(n): facts})


async def listed(statuses: Statuses, wanted: ItemFilter, limit: int) -> list[str]:
    found: list[str] = []
    while True:
        page = await statuses.page(wanted, limit)
        assert len(page.item_ids) <= limit
        found += page.item_ids
        if page.last is None:
            return found
        wanted = wanted._replace(before=page.last)


def random_filter(rng: random.Random) -> ItemFilter:
    reference = rng.choice((None, None, "import-1"))
    return ItemFilter(
        regions=rng.choice((["eu"], ["us"], ["eu", "us"], ["mars", "us"])),
        subject=rng.choice((None, None, "shop:product:1", "fair:seller:2")),
        client=None if reference is None else "shop",
        reference=reference,
        status=rng.choice((None, Status.SUBMITTED, Status.IN_REVIEW, Status.APPROVED, Status.REJECTED)),
        platform=rng.choice((None, None, "shop")),
        kind=rng.choice((None, None, "seller")),
        received_after=rng.choice((None, NOON + timedelta(seconds=3))),
        received_before=rng.choice((None, NOON + timedelta(seconds=9))),
    )


@pytest.mark.parametrize("scan", [2_000, 7])
async def test_a_list_contains_the_matching_items_newest_first_and_each_page_continues_the_previous_one(
    statuses: Statuses, monkeypatch: pytest.MonkeyPatch, scan: int
) -> None:
    monkeypatch.setattr(store, "SCAN", scan)
    rng, plain = random.Random(3), InMemory()
    await fill(statuses, random.Random(4))
    await fill(plain, random.Random(4))
    sizes = set()
    for _ in range(60):
        wanted = random_filter(rng)
        expected = (await plain.page(wanted, 1_000)).item_ids
        sizes.add(len(expected))
        # an item has a time of receipt in each region, so a list may have it more than once
        assert list(dict.fromkeys(await listed(statuses, wanted, rng.randint(1, 9)))) == expected, wanted
    assert len(sizes) > 5


async def test_a_list_in_which_most_items_match_scans_only_the_rows_of_its_page(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status of each scanned row is read from another table, so a page must not scan thousands of rows."""
    scanned: list[int] = []
    monkeypatch.setattr(store, "_scan", _counting_rows(scanned))
    await migrations.upgrade(database_url, "intake")
    database = await Database.connect(database_url)
    statuses = ItemStatusStore(database)
    try:
        await statuses.merge("eu", {item(n): merge(submission(n), decision("approve")) for n in range(60)})
        page = await statuses.page(ItemFilter(["eu"], status=Status.APPROVED), 20)
        assert (len(page.item_ids), scanned) == (20, [42])
        scanned.clear()
        assert await statuses.page(ItemFilter(["eu"], status=Status.APPROVED, kind="seller"), 20) == ItemPage([], None)
        assert scanned == [42, store.SCAN]
    finally:
        await database.close()


def _counting_rows(scanned: list[int]) -> Callable[..., Any]:
    scan_rows = store._scan

    def counting(*arguments: Any, most: int, **named: Any) -> Any:
        scanned.append(most)
        return scan_rows(*arguments, most=most, **named)

    return counting


async def test_an_item_with_an_unknown_submission_is_in_no_list(statuses: Statuses) -> None:
    await statuses.merge("eu", {item(1): decision("reject")})
    for wanted in (
        ItemFilter(["eu"]),
        ItemFilter(["eu"], status=Status.REJECTED),
        ItemFilter(["eu"], subject="shop:product:1"),
    ):
        assert await statuses.page(wanted, 10) == ItemPage([], None)
    await statuses.merge("eu", {item(1): submission(0)})
    for wanted in (
        ItemFilter(["eu"]),
        ItemFilter(["eu"], status=Status.REJECTED),
        ItemFilter(["eu"], subject="shop:product:1"),
    ):
        assert await statuses.page(wanted, 10) == ItemPage([item(1)], None)
    assert await statuses.of_items([item(2), item(1)]) == {
        item(2): {},
        item(1): {"eu": merge(submission(0), decision("reject"))},
    }


async def test_a_record_that_intake_would_reject_does_not_stop_the_projection(statuses: Statuses) -> None:
    first = SubmissionFact(position=0, content_hash="a", received_at="soon", client="\x00" * 999, reference="ä" * 9_999)
    await statuses.merge("eu", {item(1): StatusFacts(subject="x" * 1_024, submission=first, submission_last=0)})
    assert (await statuses.of_item(item(1)))["eu"].submission == first
