"""What the audit keeps of a record, and how it tells a subject's life from it; without any database."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from services.audit import handlers
from services.audit.domain import Head, Place, Shown, Source, Step, dead_letter, entry
from services.audit.handlers import TimelinePosition
from shared.contracts import events, ids
from shared.contracts.envelope import Attributes, Encoded, encode
from shared.http.problems import Problem
from shared.http.queries import decode_cursor, encode_cursor
from shared.runtime.errors import Poison

TIME = "2026-05-01T09:30:00.000Z"
SOURCE = Source("piepowder.submissions.eu", 1, 2)
FIRST = ids.derive("first")


def claimed(event_type: str = events.CASE_CLAIMED, region: str = "eu") -> Encoded:
    data = events.CaseClaimed(
        case_id="c", item_id="i", queue="q", reviewer="r", team="t", lease_token=1, lease_until=TIME
    )
    return encode(Attributes(FIRST, event_type, "piepowder/test", TIME, "shop:product:1", region, FIRST, FIRST), data)


def test_an_event_of_a_type_nobody_knows_yet_is_kept_with_its_bytes_and_all_its_headers() -> None:
    encoded = claimed("piepowder.case.praised.v9")
    value = encoded.value[:-1] + b', "new": {} } '
    extra = [("ce_vendor", b"acme"), ("trace-me", b"\xff")]
    kept = entry(SOURCE, [*encoded.headers, *extra], encoded.key, value, region="eu")
    assert (kept.data, kept.extensions, kept.source) == (value, extra, SOURCE)
    assert kept.attributes.type == "piepowder.case.praised.v9"


def test_an_event_of_ours_has_no_headers_beyond_its_attributes() -> None:
    encoded = claimed()
    assert entry(SOURCE, encoded.headers, encoded.key, encoded.value, region="eu").extensions == []


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"a": "\xff"}', b"[" * 9999])
def test_what_is_no_json_is_poison(value: bytes | None) -> None:
    encoded = claimed()
    with pytest.raises(Poison):
        entry(SOURCE, encoded.headers, encoded.key, value, region="eu")


def test_an_event_of_another_region_is_poison() -> None:
    encoded = claimed(region="us")
    with pytest.raises(Poison, match="belongs to region 'us'"):
        entry(SOURCE, encoded.headers, encoded.key, encoded.value, region="eu")


def test_a_dead_letter_names_the_record_it_stands_for() -> None:
    about = {"topic": "t", "partition": "3", "offset": "41", "group": "g", "reason": "why", "time": TIME}
    headers = [*claimed().headers, *((f"dl_{name}", text.encode()) for name, text in about.items())]
    letter = dead_letter(SOURCE, headers, b"shop:product:1", 0)
    assert letter.source == Source("t", 3, 41)
    assert (letter.group, letter.reason, letter.time) == ("g", "why", TIME)
    assert (letter.event_id, letter.subject, letter.key) == (FIRST, "shop:product:1", "shop:product:1")


def test_a_record_that_says_nothing_stands_for_itself() -> None:
    letter = dead_letter(SOURCE, [], None, 1_777_627_800_000)
    assert letter.source == SOURCE
    assert (letter.group, letter.key, letter.event_id, letter.subject) == ("", None, None, None)
    assert letter.time == TIME


@pytest.mark.parametrize(
    "position",
    [
        1,
        [],
        [[1, 2], 3, [4]],
        [[1, 2], 3, [4, "x"]],
        [[1, 2], 3, [4, -5]],
        [[1, 2], -1, [4, 5]],
        [[1, 2], 3, [4, 10**19]],
    ],
)
def test_a_cursor_of_another_form_or_with_a_number_out_of_range_is_refused(position: object) -> None:
    with pytest.raises(Problem, match="Not a cursor of this list"):
        decode_cursor(encode_cursor(position), TimelinePosition)


class FakeLog:
    """Events and dead letters of one subject."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    async def head(self) -> Head:
        return Head(max(s.place.seq for s in self._steps), max(s.place.letter for s in self._steps))

    async def steps(self, subject: str, *, after: Place, upto: Head, limit: int) -> list[Step]:  # noqa: ARG002 - the port's signature
        within = [s for s in self._steps if s.place > after and s.place.seq <= upto.size]
        return sorted(s for s in within if s.place.letter <= upto.deadletters)[:limit]

    async def weights(self, *, after: int, limit: int) -> list[Step]:
        return [s for s in self._steps if s.place.seq > after][:limit]

    async def shown(self, steps: Sequence[Step]) -> list[Shown]:
        rest: dict[str, Any] = {
            "source": "",
            "subject": "",
            "region": "eu",
            "topic": "",
            "partition": 0,
            "offset": 0,
            "correlation_id": None,
            "type": "",
            "data": msgspec.Raw(b"{}"),
        }
        return [Shown(seq=s.place.seq, id=s.id, time=s.time, causation_id=s.cause, **rest) for s in steps]


async def test_a_long_life_is_told_whole_window_by_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "WINDOW", 4)
    letters = [Step(Place(3, n), None, None, TIME, 0) for n in range(1, 4)]
    log = FakeLog([*(Step(Place(n, 0), f"e{n}", f"e{n - 1}", TIME, 1) for n in range(1, 12)), *letters])
    told: list[Shown] = []
    cursor: TimelinePosition | None = None
    while True:
        part, cursor = await handlers.timeline(log, "s", cursor, 3)
        told += part
        if cursor is None:
            break
        cursor = decode_cursor(encode_cursor(cursor), TimelinePosition)
    assert [t.seq for t in told] == [1, 2, 3, 3, 3, 3, *range(4, 12)]


async def test_what_is_appended_after_the_first_page_is_not_on_the_pages_that_follow() -> None:
    steps = [Step(Place(n, 0), f"e{n}", None, TIME, 1) for n in range(1, 4)]
    log = FakeLog(steps)
    first, cursor = await handlers.timeline(log, "s", None, 2)
    steps.insert(0, Step(Place(4, 0), "e4", None, "2020-01-01T00:00:00.000Z", 1))
    second, end = await handlers.timeline(log, "s", cursor, 2)
    assert [t.id for t in first + second] == ["e1", "e2", "e3"]
    assert end is None


async def test_a_page_of_the_log_ends_where_its_data_grows_too_large() -> None:
    log = FakeLog([Step(Place(n, 0), None, None, "", handlers.PAGE_BYTES // 2) for n in range(1, 6)])
    page, after = await handlers.tail(log, 0, 100)
    assert ([p.seq for p in page], after) == ([1, 2], 2)
    page, after = await handlers.tail(log, 4, 100)
    assert ([p.seq for p in page], after) == ([5], None)
    assert await handlers.tail(log, 5, 100) == ([], None)
