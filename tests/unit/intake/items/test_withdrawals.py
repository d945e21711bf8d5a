"""Withdrawals: in every region of the item or in none; 404 only if the item certainly does not exist."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

import pytest
from aiokafka import TopicPartition

from services.intake.items import read_your_writes
from services.intake.items.domain.status import DeadLetterFact, StatusFacts, SubmissionFact
from services.intake.items.handlers import ItemIntake
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.withdrawals import PreparedWithdrawal, Withdrawals
from services.intake.publishing.group_commit import GroupCommitPublisher
from services.intake.publishing.regions import Overloaded
from shared.auth.principal import Principal
from shared.contracts import envelope, ids
from shared.contracts.events import ITEM_SUBMITTED, ITEM_WITHDRAWN, ItemWithdrawn
from shared.kafka.offsets import EndOffsets, LogRange
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock
from shared.runtime.errors import Transient
from shared.validation import codes
from shared.validation.faults import InputRejected
from tests.support.intake_cluster import Cluster
from tests.support.intake_items import model, published

ITEM = ids.item_id("shop", "product", "a:b/1", "3")
NOW = "2026-05-01T09:30:00.000Z"
EVERYWHERE = Principal(name="shop", scopes=frozenset())


class Projection:
    """A projection: each lookup of the item finds the next facts of `later`; all is read after `read_after` lookups."""

    def __init__(self, *later: dict[str, StatusFacts], read_after: int = 10**9) -> None:
        self.lookups = 0
        self._later = later
        self._read_after = read_after

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]:
        self.lookups += 1
        return self._later[min(self.lookups, len(self._later)) - 1] if item_id == ITEM else {}

    async def ends(self, topics: Sequence[str]) -> EndOffsets:
        return {TopicPartition(topic, 0): LogRange(0, 7, "id") for topic in topics}

    async def has_passed(self, group: str, ends: EndOffsets) -> bool:
        assert {f"piepowder-intake-{place.topic.rpartition('.')[2]}" for place in ends} == {group}
        return self.lookups >= self._read_after


def submitted(*regions: str, markets: Sequence[str] = ()) -> StatusFacts:
    first = SubmissionFact(
        position=4,
        version=3,
        content_hash="aa",
        received_at=NOW,
        client="shop",
        regions=list(regions),
        markets=list(markets),
    )
    return StatusFacts(subject="shop:product:a:b/1", submission=first, submission_last=4)


def client(*regions: str) -> Principal:
    return Principal(name="shop", scopes=frozenset(), regions=frozenset(regions))


async def withdraw(
    projection: Projection,
    by: Principal = EVERYWHERE,
    *,
    item: str = ITEM,
    reason: str = "sold",
    in_model: Sequence[str] = ("eu", "us", "uk"),
    owned: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[PreparedWithdrawal, list[Record]]:
    cluster = Cluster()
    publishers = dict.fromkeys(("eu", "us"), GroupCommitPublisher(cluster, max_records=10, max_bytes=100_000))
    intake = ItemIntake(codes=codes.load(), publishers=publishers)
    intake.apply(published(model(*((region, list(owned.get(region, ()))) for region in in_model))))
    intake.caught_up()
    withdrawals = Withdrawals(
        intake,
        projection,
        read_your_writes=ReadYourWrites(dict.fromkeys(publishers, projection), projection),
        clock=ManualClock(datetime(2026, 5, 1, 9, 30, tzinfo=UTC)),
    )
    try:
        return await withdrawals.withdraw(item, reason, by), cluster.records
    except BaseException:
        assert cluster.records == []
        raise


async def test_an_item_is_withdrawn_in_every_region_even_if_one_projection_is_behind() -> None:
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


async def test_a_withdrawal_waits_for_an_item_that_was_just_posted() -> None:
    projection = Projection({}, {}, {"us": submitted("us")})
    withdrawal, _ = await withdraw(projection)
    assert (withdrawal.regions, projection.lookups) == (("us",), 3)


MOVED = {"eu": ["DE"], "us": ["US"]}
"""The owners of markets after US moved from eu to us."""


async def test_an_item_that_was_posted_again_after_a_market_moved_is_withdrawn_in_the_further_region_too() -> None:
    first, again = submitted("eu", markets=["DE", "US"]), submitted("eu", "us", markets=["DE", "US"])
    projection = Projection({"eu": first}, {"eu": first}, {"eu": first, "us": again})
    withdrawal, _ = await withdraw(projection, owned=MOVED)
    assert (withdrawal.regions, projection.lookups) == (("eu", "us"), 3)


async def test_an_item_that_was_not_posted_again_is_withdrawn_where_it_is_after_the_projection_has_caught_up() -> None:
    projection = Projection({"eu": submitted("eu", markets=["DE", "US"])}, read_after=3)
    withdrawal, _ = await withdraw(projection, owned=MOVED)
    assert withdrawal.regions == ("eu",)
    assert projection.lookups > 3


async def test_an_item_whose_markets_have_not_moved_does_not_wait() -> None:
    projection = Projection({"eu": submitted("eu", "us", markets=["DE", "US"])})
    withdrawal, _ = await withdraw(projection, owned=MOVED)
    assert (withdrawal.regions, projection.lookups) == (("eu", "us"), 1)


async def test_an_unknown_item_is_reported_only_after_the_projection_has_caught_up() -> None:
    projection = Projection({}, read_after=3)
    with pytest.raises(InputRejected, match=ITEM):
        await withdraw(projection)
    assert projection.lookups == 4  # one lookup after the projection has read everything


async def test_an_item_that_the_projection_reads_last_is_found() -> None:
    withdrawal, _ = await withdraw(Projection({}, {}, {"eu": submitted("eu")}, read_after=2))
    assert withdrawal.regions == ("eu",)


async def test_an_item_of_a_region_whose_projection_is_behind_is_found() -> None:
    class OneBehind(Projection):
        async def has_passed(self, group: str, ends: EndOffsets) -> bool:
            await super().has_passed(group, ends)
            return group == "piepowder-intake-eu" or self.lookups >= 4

    projection = OneBehind({}, {}, {}, {}, {"us": submitted("us")})
    withdrawal, _ = await withdraw(projection)
    assert (withdrawal.regions, projection.lookups) == (("us",), 5)


async def test_an_unknown_item_is_a_transient_error_while_the_projection_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_your_writes, "_PATIENCE_SECONDS", 0.25)
    with pytest.raises(Transient, match="latest submissions"):
        await withdraw(Projection({}))


async def test_an_item_with_only_a_dead_letter_has_unknown_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_your_writes, "_PATIENCE_SECONDS", 0.25)
    letter = StatusFacts(dead_submission=DeadLetterFact(position=1, reason="x", at=NOW))
    with pytest.raises(Transient):
        await withdraw(Projection({"eu": letter}))


async def test_a_key_without_rights_in_one_of_the_regions_changes_nothing_in_any_region() -> None:
    with pytest.raises(InputRejected, match="region 'us' too") as rejection:
        await withdraw(Projection({"eu": submitted("eu", "us")}), client("eu"))
    assert (rejection.value.status, rejection.value.slug) == (403, "region-not-allowed")


async def test_a_key_of_another_region_gets_the_same_error_as_for_an_unknown_item() -> None:
    projection = Projection({"eu": submitted("eu")}, read_after=2)
    with pytest.raises(InputRejected) as foreign:
        await withdraw(projection, client("us"))
    with pytest.raises(InputRejected) as unknown:
        await withdraw(Projection({}, read_after=2), client("us"))
    assert str(foreign.value) == str(unknown.value)
    assert projection.lookups > 1


async def test_a_key_of_another_platform_gets_the_same_error_as_for_an_unknown_item() -> None:
    other = Principal(name="market", scopes=frozenset(), platforms=frozenset({"market"}))
    with pytest.raises(InputRejected) as foreign:
        await withdraw(Projection({"eu": submitted("eu")}, read_after=2), other)
    with pytest.raises(InputRejected) as unknown:
        await withdraw(Projection({}, read_after=2), other)
    assert str(foreign.value) == str(unknown.value)


async def test_the_error_names_a_region_that_is_not_served() -> None:
    with pytest.raises(InputRejected, match="'uk'; this service accepts items for eu, us") as rejection:
        await withdraw(Projection({"eu": submitted("eu", "uk")}))
    assert rejection.value.status == 422


async def test_a_region_that_has_left_the_model_is_left_out_and_needs_no_rights() -> None:
    by = client("eu")
    for left in ("us", "uk"):  # served here, and not
        withdrawal, records = await withdraw(Projection({"eu": submitted("eu", left)}), by, in_model=["eu"])
        assert withdrawal.regions == ("eu",)
        [record] = records
        event = envelope.decode(record.headers, record.key, record.value, region="eu")
        assert (event.attributes.id, event.data.regions) == (ids.event_id(ITEM, ITEM_WITHDRAWN, "eu"), ["eu"])


async def test_an_item_whose_regions_have_all_left_the_model_gets_a_problem_that_says_so() -> None:
    with pytest.raises(InputRejected, match="submitted to uk, us, and no such region is in the operating") as rejection:
        await withdraw(Projection({"us": submitted("uk", "us")}), in_model=["eu"])
    assert (rejection.value.status, rejection.value.slug) == (422, "region-not-served")


async def test_the_number_of_calls_that_wait_for_unknown_items_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_your_writes, "_PATIENCE_SECONDS", 0.5)
    projection = Projection({})
    publishers = {"eu": GroupCommitPublisher(Cluster(), max_records=10, max_bytes=100_000)}
    withdrawals = Withdrawals(
        ItemIntake(codes=codes.load(), publishers=publishers),
        projection,
        read_your_writes=ReadYourWrites(dict.fromkeys(publishers, projection), projection),
        clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)),
    )
    for _ in range(2):  # calls that gave up do not count any longer
        calls = [withdrawals.withdraw(ids.derive(str(n)), "", EVERYWHERE) for n in range(120)]
        outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
        assert (outcomes.count(Transient), outcomes.count(Overloaded)) == (100, 20)
