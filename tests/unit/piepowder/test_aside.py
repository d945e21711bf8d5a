"""What is set aside, read off a region's topics, and the portions and marks it comes back with: a pure plan."""

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from piepowder import replay
from piepowder.aside import Aside, Choice, Letter, Place, RawRecord, Unit, copies, hindrance, portion
from piepowder.replay import Found, Outcome
from shared.contracts import topics
from shared.kafka.parking import KeyPartition, Parked, ReplayMark

GROUP = "piepowder-decision-eu"
TOPIC = topics.cases("eu")
LANE = KeyPartition(TOPIC, 2, b"shop:product:1")
STATE = Parked(since=5, last=9, reason="no room for this one", at="2026-05-01T09:30:00.000Z", back=4)


def letter(offset: int, *, reason: str = "follows", size: int = 10, group: str = GROUP, unread: bool = False) -> Letter:
    stands = (TopicPartition(topics.deadletters("eu"), 0), offset)
    return Letter(Place(group, TOPIC, 2, offset), LANE.key, reason, not unread, unread, stands, size)


def chain(*offsets: int) -> Unit:
    return Unit(GROUP, LANE, [letter(offset) for offset in offsets], STATE)


def alone(offset: int, **about: object) -> Unit:
    one = letter(offset, **about)  # type: ignore[arg-type]  # as it is given
    return Unit(one.place.group, LANE, [one], None)


def dead(at: int, /, **headers: str) -> RawRecord:
    about = {"group": GROUP, "topic": TOPIC, "partition": "2", "offset": "7", "reason": "why", **headers}
    told = tuple((f"dl_{name}", text.encode()) for name, text in about.items())
    return ConsumerRecord(topics.deadletters("eu"), 0, at, 0, 0, LANE.key, b"{}", None, 0, 0, told)


def test_a_letter_is_open_until_its_receipt_and_open_again_after_another() -> None:
    aside = Aside()
    place = Place(GROUP, TOPIC, 2, 7)
    aside.note_letter(dead(0))
    aside.note_letter(dead(1, reason="why not"))
    assert [(one.reason, one.stands[1]) for one in aside.open.values()] == [("why not", 1)]
    aside.note_letter(dead(2, returned="40"))
    assert aside.units() == []
    assert aside.again(place) is None
    aside.note_letter(dead(3, offset="40", reason="again"))
    met_again = aside.again(place)
    assert met_again is not None
    assert met_again.reason == "again"
    aside.note_letter(dead(4))
    assert {one.place.offset for one in aside.open.values()} == {7, 40}


@pytest.mark.parametrize("spoiled", [{"offset": "many"}, {"partition": ""}])
def test_what_is_no_letter_is_counted_and_stops_nothing(spoiled: dict[str, str]) -> None:
    aside = Aside()
    aside.note_letter(dead(0, **spoiled))
    aside.note_letter(ConsumerRecord("t", 0, 1, 0, 0, None, None, None, 0, 0, (("dl_group", None),)))
    assert (aside.units(), aside.strange) == ([], 2)


def test_a_copy_on_the_dead_letter_topic_is_no_letter_of_its_own() -> None:
    aside = Aside()
    aside.note_letter(dead(0, replay="{}"))
    assert (aside.units(), aside.strange) == ([], 0)


@pytest.mark.parametrize(
    ("choice", "fits"),
    [
        (Choice(), True),
        (Choice(group=GROUP), True),
        (Choice(group="decision"), True),
        (Choice(group="router"), False),
        (Choice(key="shop:product:1"), True),
        (Choice(key="shop:product:11"), False),
        (Choice(reason="NO ROOM"), True),
        (Choice(reason="follows"), True),
        (Choice(reason="elsewhere"), False),
        (Choice(group="decision", key="shop:product:1", reason="room"), True),
    ],
)
def test_a_parked_key_is_chosen_whole_by_any_of_its_reasons(choice: Choice, fits: bool) -> None:
    assert choice.fits(chain(5, 7), "eu") is fits


def test_each_letter_of_a_chain_names_the_one_before_and_the_last_one_ends_it() -> None:
    assert copies(chain(5, 7, 9), whole=True, leave=False) == [
        ReplayMark(GROUP, 5, 4),
        ReplayMark(GROUP, 7, 5),
        ReplayMark(GROUP, 9, 7, end=True),
    ]
    assert copies(chain(5), whole=False, leave=True) == [ReplayMark(GROUP, 5, 4, leave=True)]
    assert copies(alone(7, unread=True), whole=True, leave=True) == [ReplayMark(GROUP, 7)]


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
    found = portion([chain(5, 7, 9), alone(20)], letters, size)
    assert [([one.place.offset for one in unit.letters], whole) for unit, whole in found] == taken


def test_what_cannot_come_back_says_why() -> None:
    there = {TOPIC: 6}
    assert hindrance(chain(5), there, "control") is None
    assert "client cannot read it" in str(hindrance(alone(5, unread=True), there, "control"))
    assert "come into force again" in str(hindrance(chain(5), there, TOPIC))
    assert "none in this region" in str(hindrance(chain(5), {TOPIC: 2}, "control"))


def test_what_is_set_aside_is_shown_by_group_topic_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    replay.show_aside([Found("eu", [chain(5, 7), alone(20, reason="no\x1bevent")], 3)], chosen=False)
    told = capsys.readouterr().out
    assert "3 records of the dead-letter topics name no record" in told
    [parked] = [line for line in told.splitlines() if "parked" in line]
    assert parked.split()[:3] == ["eu", "decision-eu", TOPIC]
    assert parked.split()[-2:] == ["1", "2"]
    assert "no·event" in told
    replay.show_aside([Found("eu", [chain(5, 7)], 0)], chosen=True)
    assert "2 records would be put back; nothing was changed" in capsys.readouterr().out
    replay.show_aside([Found("eu", [], 0)], chosen=False)
    assert "Nothing is set aside." in capsys.readouterr().out


def test_what_became_of_it_is_told_in_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(handled=4, left=1, again=[letter(5, reason="no\x1b[2J room")], unmet=[letter(7)])
    outcome.hindered.append((alone(8), "it cannot"))
    outcome.growing.append(chain(9))
    assert not outcome.complete
    replay.show(outcome, 60)
    told = capsys.readouterr().out
    assert f"Not put back: {TOPIC}[2]@8 for {GROUP}: it cannot." in told
    assert f"{TOPIC}[2]@5 shop:product:1: no·[2J room" in told
    assert f"not met within 60 s: 1. See whether {GROUP} consumes" in told
    assert "Still parked: shop:product:1" in told
    assert Outcome(handled=3, left=1).complete
