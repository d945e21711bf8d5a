"""Taking an item back: in every region that it went to or in none, and "no such item" only when that is certain."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition

from services.intake import catching_up, codes
from services.intake.catching_up import CatchingUp
from services.intake.domain.posts import Refused
from services.intake.domain.status import Dead, Facts, Submission
from services.intake.group_commit import GroupCommit
from services.intake.handlers import Front, Overloaded
from services.intake.withdrawals import NotKnown, Withdrawal, Withdrawals
from shared.auth.principal import Principal
from shared.contracts import envelope, ids
from shared.contracts.events import ITEM_SUBMITTED, ITEM_WITHDRAWN, ItemWithdrawn
from shared.kafka.offsets import EndOffsets
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Transient

ITEM = ids.item_id("shop", "product", "a:b/1", "3")
NOW = "2026-05-01T09:30:00.000Z"
EVERYWHERE = Principal(name="shop", scopes=frozenset())


class Cluster:
    """A producer that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def send(self, records: Sequence[Record]) -> None:
        self.records += records


class Projection:
    """What is known of an item, and how far the projection has read: each look may bring it further."""

    def __init__(self, *later: dict[str, Facts], read_after: int = 10**9) -> None:
        self.looks = 0
        self._later = later
        self._read_after = read_after

    async def of_item(self, item_id: str) -> dict[str, Facts]:
        self.looks += 1
        return self._later[min(self.looks, len(self._later)) - 1] if item_id == ITEM else {}

    async def ends(self, topics: Sequence[str]) -> EndOffsets:
        return {TopicPartition(topic, 0): 7 for topic in topics}

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        assert {f"piepowder-intake-{place.topic.rpartition('.')[2]}" for place in ends} == {group}
        return self.looks >= self._read_after


def submitted(*regions: str) -> Facts:
    first = Submission(position=4, version=3, content_hash="aa", received_at=NOW, client="shop", regions=list(regions))
    return Facts(subject="shop:product:a:b/1", submission=first, submission_last=4)


def client(*regions: str) -> Principal:
    return Principal(name="shop", scopes=frozenset(), regions=frozenset(regions))


async def withdraw(
    projection: Projection, by: Principal = EVERYWHERE, *, item: str = ITEM, reason: str = "sold"
) -> tuple[Withdrawal, list[Record]]:
    cluster = Cluster()
    lanes = dict.fromkeys(("eu", "us"), GroupCommit(cluster, max_records=10, max_bytes=100_000))
    taking_back = Withdrawals(
        Front(codes=codes.load(), lanes=lanes),
        catching_up=CatchingUp(dict.fromkeys(lanes, projection)),
        clock=ManualClock(datetime(2026, 5, 1, 9, 30, tzinfo=UTC)),
    )
    try:
        return await taking_back.withdraw(item, reason, by, projection), cluster.records
    except BaseException:
        assert cluster.records == []
        raise


async def test_every_region_that_the_item_went_to_is_told_even_if_one_projection_is_behind() -> None:
    withdrawal, records = await withdraw(Projection({"eu": submitted("eu", "us")}))
    assert (withdrawal.subject, withdrawal.regions) == ("shop:product:a:b/1", ("eu", "us"))
    for region, event_id, record in zip(withdrawal.regions, withdrawal.event_ids, records, strict=True):
        assert record.topic == f"piepowder.submissions.{region}"
        event = envelope.decode(record.headers, record.key, record.value, region=region)
        first = ids.event_id(ITEM, ITEM_SUBMITTED, region)
        assert event.attributes.id == event_id == ids.event_id(ITEM, ITEM_WITHDRAWN, region)
        assert (event.attributes.correlation_id, event.attributes.causation_id) == (first, first)
        assert event.data == ItemWithdrawn(
            item_id=ITEM,
            platform="shop",
            kind="product",
            subject_id="a:b/1",
            version=3,
            client="shop",
            reason="sold",
            withdrawn_at=NOW,
            regions=["eu", "us"],
        )


async def test_an_item_posted_just_before_is_waited_for() -> None:
    projection = Projection({}, {}, {"us": submitted("us")})
    withdrawal, _ = await withdraw(projection)
    assert (withdrawal.regions, projection.looks) == (("us",), 3)


async def test_no_such_item_is_said_only_after_all_that_was_posted_has_been_read() -> None:
    projection = Projection({}, read_after=3)
    with pytest.raises(NotKnown, match=ITEM):
        await withdraw(projection)
    assert projection.looks == 4  # the last look is after the projection was seen to have read all


async def test_what_was_read_in_the_very_last_moment_is_found() -> None:
    withdrawal, _ = await withdraw(Projection({}, {}, {"eu": submitted("eu")}, read_after=2))
    assert withdrawal.regions == ("eu",)


async def test_while_the_projection_is_behind_nobody_can_tell_and_the_client_is_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catching_up, "_PATIENCE_SECONDS", 0.25)
    with pytest.raises(Transient, match="it may be there"):
        await withdraw(Projection({}))


async def test_a_dead_letter_alone_does_not_say_where_the_item_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "_PATIENCE_SECONDS", 0.25)
    letter = Facts(dead_submission=Dead(position=1, reason="x", at=NOW))
    with pytest.raises(Transient):
        await withdraw(Projection({"eu": letter}))


async def test_a_key_that_lacks_one_of_the_regions_does_nothing_in_any() -> None:
    with pytest.raises(Refused, match="region 'us' too") as refused:
        await withdraw(Projection({"eu": submitted("eu", "us")}), client("eu"))
    assert (refused.value.status, refused.value.slug) == (403, "region-not-allowed")


async def test_a_key_of_another_region_is_told_no_more_than_of_an_unknown_item() -> None:
    projection = Projection({"eu": submitted("eu")}, read_after=2)
    with pytest.raises(NotKnown) as foreign:
        await withdraw(projection, client("us"))
    with pytest.raises(NotKnown) as unknown:
        await withdraw(Projection({}, read_after=2), client("us"))
    assert str(foreign.value) == str(unknown.value)
    assert projection.looks > 1


async def test_a_region_that_is_not_served_here_is_named() -> None:
    with pytest.raises(Refused, match="'uk'; this intake serves eu, us") as refused:
        await withdraw(Projection({"eu": submitted("eu", "uk")}))
    assert refused.value.status == 422


async def test_calls_that_wait_for_unknown_items_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "_PATIENCE_SECONDS", 0.5)
    projection = Projection({})
    lanes = {"eu": GroupCommit(Cluster(), max_records=10, max_bytes=100_000)}
    taking_back = Withdrawals(
        Front(codes=codes.load(), lanes=lanes),
        catching_up=CatchingUp(dict.fromkeys(lanes, projection)),
        clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)),
    )
    calls = [taking_back.withdraw(ids.derive(str(n)), "", EVERYWHERE, projection) for n in range(120)]
    outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
    assert (outcomes.count(Transient), outcomes.count(Overloaded)) == (100, 20)
