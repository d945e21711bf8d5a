"""The dead letters of a region, and the plan of their replay: portions and marks."""

from functools import partial

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from piepowder import replay
from piepowder.dead_letters import (
    DeadLetterCounts,
    DeadLetterId,
    OpenLetter,
    RegionDeadLetters,
    ReplayFilter,
    ReplayUnit,
    copies,
    obstacle,
    portion,
)
from piepowder.replay import DiscardPlan, DiscardRequest, RegionUnits, ReplayResult, plan_discard
from shared.contracts import topics
from shared.kafka.discards import Discard
from shared.kafka.parking import KeyPartition, Parked, ReplayMark
from shared.kafka.records import RawRecord

GROUP = "piepowder-decision-eu"
TOPIC = topics.cases("eu")
LANE = KeyPartition(TOPIC, 2, b"shop:product:1")
STATE = Parked(since=5, last=9, reason="no room for this one", at="2026-05-01T09:30:00.000Z", back=4)


def letter(
    offset: int, *, reason: str = "follows", size: int = 10, group: str = GROUP, unread: bool = False
) -> OpenLetter:
    stored = (TopicPartition(topics.deadletters("eu"), 0), offset)
    return OpenLetter(DeadLetterId(group, TOPIC, 2, offset), LANE.key, reason, not unread, unread, stored, size)


def chain(*offsets: int) -> ReplayUnit:
    return ReplayUnit(GROUP, LANE, [letter(offset) for offset in offsets], STATE)


def single(offset: int, **about: object) -> ReplayUnit:
    one = letter(offset, **about)._replace(in_chain=False)  # type: ignore[arg-type]  # the callers pass valid keywords
    return ReplayUnit(one.id.group, LANE, [one], None)


def dead(at: int, /, **headers: str) -> RawRecord:
    about = {"group": GROUP, "topic": TOPIC, "partition": "2", "offset": "7", "reason": "why", **headers}
    shown = tuple((f"dl_{name}", text.encode()) for name, text in about.items())
    return ConsumerRecord(topics.deadletters("eu"), 0, at, 0, 0, LANE.key, b"{}", None, 0, 0, shown)


def test_a_dead_letter_is_open_until_its_receipt_and_open_again_if_it_is_dead_lettered_again() -> None:
    dead_letters = RegionDeadLetters()
    letter_id = DeadLetterId(GROUP, TOPIC, 2, 7)
    dead_letters.add_letter(dead(0))
    dead_letters.add_letter(dead(1, reason="why not"))
    assert [(one.reason, one.stored[1]) for one in dead_letters.open.values()] == [("why not", 1)]
    dead_letters.add_letter(dead(2, returned="40"))
    assert dead_letters.units() == []
    assert dead_letters.failed_again(letter_id) is None
    dead_letters.add_letter(dead(3, offset="40", reason="again"))
    failed = dead_letters.failed_again(letter_id)
    assert failed is not None
    assert failed.reason == "again"
    dead_letters.add_letter(dead(4))
    assert {one.id.offset for one in dead_letters.open.values()} == {7, 40}


@pytest.mark.parametrize("invalid", [{"offset": "many"}, {"partition": ""}])
def test_an_invalid_record_is_counted_and_skipped(invalid: dict[str, str]) -> None:
    dead_letters = RegionDeadLetters()
    dead_letters.add_letter(dead(0, **invalid))
    dead_letters.add_letter(ConsumerRecord("t", 0, 1, 0, 0, None, None, None, 0, 0, (("dl_group", None),)))
    assert (dead_letters.units(), dead_letters.unknown) == ([], 2)


def test_a_copy_on_the_dead_letter_topic_is_not_a_dead_letter() -> None:
    dead_letters = RegionDeadLetters()
    dead_letters.add_letter(dead(0, replay="{}"))
    assert (dead_letters.units(), dead_letters.unknown) == ([], 0)


@pytest.mark.parametrize(
    ("choice", "fits"),
    [
        (ReplayFilter(), True),
        (ReplayFilter(group=GROUP), True),
        (ReplayFilter(group="decision"), True),
        (ReplayFilter(group="router"), False),
        (ReplayFilter(key="shop:product:1"), True),
        (ReplayFilter(key="shop:product:11"), False),
        (ReplayFilter(reason="NO ROOM"), True),
        (ReplayFilter(reason="follows"), True),
        (ReplayFilter(reason="elsewhere"), False),
        (ReplayFilter(group="decision", key="shop:product:1", reason="room"), True),
    ],
)
def test_a_parked_key_is_selected_whole_by_any_of_its_reasons(choice: ReplayFilter, fits: bool) -> None:
    assert choice.matches(chain(5, 7), "eu") is fits


def test_each_copy_of_a_chain_names_its_predecessor_and_the_last_one_ends_it() -> None:
    assert copies(chain(5, 7, 9), whole=True, leave=False) == [
        ReplayMark(GROUP, 5, 4),
        ReplayMark(GROUP, 7, 5),
        ReplayMark(GROUP, 9, 7, end=True),
    ]
    assert copies(chain(5), whole=False, leave=True) == [ReplayMark(GROUP, 5, 4, leave=True)]
    assert copies(single(7, unread=True), whole=True, leave=True) == [ReplayMark(GROUP, 7)]


@pytest.mark.parametrize(
    ("letters", "size", "taken"),
    [
        (100, 1000, [([5, 7, 9], True), ([20], True)]),
        (3, 1000, [([5, 7, 9], True)]),
        (2, 1000, [([5, 7], False)]),
        (100, 25, [([5, 7], False)]),
        (100, 30, [([5, 7, 9], True)]),
        (100, 1, [([5], False)]),
    ],
)
def test_a_portion_is_bounded_and_never_empty(letters: int, size: int, taken: list[tuple[list[int], bool]]) -> None:
    found = portion([chain(5, 7, 9), single(20)], letters, size)
    assert [([one.id.offset for one in unit.letters], whole) for unit, whole in found] == taken


def test_a_replay_that_is_not_possible_has_a_reason() -> None:
    partitions = {TOPIC: 6}
    assert obstacle(chain(5), partitions, "control") is None
    assert "client cannot read it" in str(obstacle(single(5, unread=True), partitions, "control"))
    assert "come into force again" in str(obstacle(chain(5), partitions, TOPIC))
    fewer = obstacle(chain(5), {TOPIC: 2}, "control")
    assert fewer == f"{TOPIC} has 2 partitions, so there is no partition 2"
    assert obstacle(chain(5), {}, "control") == (
        f"{TOPIC} is not a topic of this region that accepts copies, or its cluster does not have it"
    )


def test_dead_letters_are_shown_by_group_topic_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    counts = DeadLetterCounts(open=1203, parked=2, keys=1, discarded=4, unknown=3)
    replay.show_units([RegionUnits("eu", [chain(5, 7), single(20, reason="no\x1bevent")], counts)])
    shown = capsys.readouterr().out
    assert "Dead letters in eu: 1,203 open (2 parked, 1 key), 4 discarded, 3 that name no record." in shown
    [parked] = [line for line in shown.splitlines() if line.startswith("eu") and "not parked" not in line]
    assert parked.split()[:3] == ["eu", "decision-eu", TOPIC]
    assert parked.split()[-2:] == ["1", "2"]
    assert "no·event" in shown
    replay.show_units([RegionUnits("eu", [chain(5, 7)], DeadLetterCounts(open=2))], effect="2 would be replayed")
    assert "2 would be replayed; nothing was changed" in capsys.readouterr().out
    replay.show_units([RegionUnits("eu", [], DeadLetterCounts())])
    assert "There are no open dead letters." in capsys.readouterr().out


def test_a_dry_run_states_what_a_replay_or_a_discard_would_do() -> None:
    units = [chain(5, 7, 9), single(20)]
    assert replay.describe_effect(units, None) == "4 records would be replayed"
    effect = replay.describe_effect(units, DiscardRequest("ops", "junk"))
    assert effect == "2 dead letters would be discarded, and 2 records behind them replayed"
    effect = replay.describe_effect(units, DiscardRequest("ops", "junk", with_waiting=True))
    assert effect == "4 dead letters would be discarded, and 0 records behind them replayed"


def test_parked_replayed_discarded_and_repeated_letters_are_counted_once_each() -> None:
    dead_letters = RegionDeadLetters()
    for at, (offset, about) in enumerate(
        [
            ("7", {"parked": "7"}),
            ("8", {"parked": "7"}),
            ("7", {"parked": "7", "met": "40"}),  # the same record, after a failed replay
            ("9", {}),
            ("9", {}),  # repeated
            ("10", {}),
            ("10", {"returned": "41"}),  # replayed
            ("11", {}),
            ("11", {"discarded": "junk", "by": "ops"}),
            ("11", {"discarded": "junk", "by": "ops"}),  # repeated
            ("12", {"parked": "7"}),
            ("12", {"discarded": "junk", "by": "ops", "met": "42"}),  # by its group
            ("9", {"group": "piepowder-audit-eu"}),  # the same record, for another group
            ("x", {}),
        ]
    ):
        dead_letters.add_letter(dead(at, offset=offset, **about))
    assert dead_letters.counts() == DeadLetterCounts(open=4, parked=2, keys=1, discarded=2, unknown=1)
    assert [letter.offset for letter in dead_letters.discarded] == [11, 12]
    assert {each.why for each in dead_letters.discarded.values()} == {"junk"}
    dead_letters.add_letter(dead(20, offset="11"))
    assert dead_letters.counts() == DeadLetterCounts(open=5, parked=2, keys=1, discarded=1, unknown=1)


@pytest.mark.parametrize(
    ("choice", "fits"),
    [
        (ReplayFilter(), True),
        (ReplayFilter(id=f"{TOPIC}[2]@5"), True),
        (ReplayFilter(id=f"{TOPIC}[2]@7"), False),  # it waits behind the first letter
        (ReplayFilter(topic=TOPIC), True),
        (ReplayFilter(topic="another"), False),
        (ReplayFilter(reason="no room"), True),
        (ReplayFilter(reason="is parked"), False),
    ],
)
def test_a_discard_selects_only_the_record_that_failed(choice: ReplayFilter, fits: bool) -> None:
    unit = chain(5, 7)
    letters = [unit.letters[0]._replace(reason="no room for this one"), unit.letters[1]._replace(reason="is parked")]
    assert choice.matches_first(unit._replace(letters=letters), "eu") is fits
    assert choice.matches(unit._replace(letters=letters), "eu") is (choice.topic != "another")


@pytest.mark.parametrize("partitions", [{}, {TOPIC: 2}])
def test_a_discard_closes_no_valid_record_behind_another_that_cannot_be_replayed(partitions: dict[str, int]) -> None:
    unit, plain, whole = chain(5, 7), DiscardRequest("ops", "junk"), DiscardRequest("ops", "junk", with_waiting=True)
    planned = partial(plan_discard, selection=ReplayFilter(), region="eu", at="now", partitions=partitions)
    plan = planned([unit, chain(20), single(30)], request=plain)
    assert [letter.id.offset for letter in plan.alone] == [20, 30]
    assert (plan.chains, plan.discards) == ([], {})
    [(blocked, reason)] = plan.blocked
    assert blocked == unit
    assert reason.startswith(f"the records behind it cannot be replayed ({TOPIC} ")
    assert reason.endswith("): --with-waiting discards them, too")
    assert planned([unit], request=whole) == DiscardPlan(unit.letters, [], {}, [])


def test_a_discard_of_a_chain_is_sent_to_its_group() -> None:
    unit, junk = chain(5, 7), Discard("ops", "junk", "now", "follows")
    planned = partial(plan_discard, [unit, single(30)], region="eu", at="now", partitions={TOPIC: 3})
    plan = planned(ReplayFilter(), DiscardRequest("ops", "junk"))
    assert plan == DiscardPlan(single(30).letters, [unit], {unit.letters[0].id: junk}, [])
    whole = planned(ReplayFilter(), DiscardRequest("ops", "junk", with_waiting=True))
    assert whole.discards == {letter.id: junk for letter in unit.letters}
    behind = planned(ReplayFilter(id=f"{TOPIC}[2]@7"), DiscardRequest("ops", "junk"))
    assert (behind.alone, behind.chains) == ([], [])
    assert (unit, f"it waits behind {TOPIC}[2]@5: replay or discard that record first") in behind.blocked


def test_the_copies_of_a_discard_keep_the_order_of_the_chain() -> None:
    junk = Discard("ops", "junk", "2026-05-01T09:30:00.000Z", "why")
    unit = chain(5, 7, 9)
    marks = copies(unit, whole=True, leave=False, discards={unit.letters[0].id: junk})
    assert [(mark.offset, mark.after, mark.discard) for mark in marks] == [(5, 4, junk), (7, 5, None), (9, 7, None)]
    assert marks[-1].end


def test_the_result_of_a_replay_is_shown_as_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    result = ReplayResult(
        handled=4, kept=1, discarded=6, failed=[letter(5, reason="no\x1b[2J room")], pending=[letter(7)]
    )
    result.blocked.append((single(8), "it cannot"))
    result.growing.append(chain(9))
    assert not result.complete
    replay.show_result(result, 60)
    shown = capsys.readouterr().out
    assert "Discarded: 6." in shown
    assert f"Not changed: {TOPIC}[2]@8 for {GROUP}: it cannot." in shown
    assert f"{TOPIC}[2]@5 shop:product:1: no·[2J room" in shown
    assert f"not processed within 60 s: 1. Check that {GROUP} consumes" in shown
    assert "Still parked: shop:product:1" in shown
    assert ReplayResult(handled=3, kept=1, discarded=2).complete
    for name, one in (
        ("failed", letter(1)),
        ("blocked", (chain(1), "")),
        ("pending", letter(1)),
        ("growing", chain(1)),
    ):
        assert not ReplayResult(handled=3, **{name: [one]}).complete, name  # type: ignore[arg-type]  # valid keywords
