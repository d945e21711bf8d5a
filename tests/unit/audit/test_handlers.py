"""Cursors and pages of timelines and of the log, on a fake store."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from services.audit import handlers
from services.audit.domain import LogHead, LogPosition, TimelineEntry
from services.audit.handlers import TimelinePosition
from services.audit.views import EntryView
from shared.http.queries import decode_cursor, encode_cursor
from shared.validation.faults import InputRejected

TIME = "2026-05-01T09:30:00.000Z"


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
def test_a_cursor_of_another_form_or_with_a_number_out_of_range_is_rejected(position: object) -> None:
    with pytest.raises(InputRejected, match="Not a cursor of this list"):
        decode_cursor(encode_cursor(position), TimelinePosition)


class FakeStore:
    """Events and dead letters of one subject."""

    def __init__(self, entries: list[TimelineEntry]) -> None:
        self._entries = entries

    async def head(self) -> LogHead:
        return LogHead(max(s.position.seq for s in self._entries), max(s.position.letter for s in self._entries))

    async def timeline_entries(
        self,
        subject: str,  # noqa: ARG002 - the protocol's signature
        *,
        after: LogPosition,
        upto: LogHead,
        limit: int,
    ) -> list[TimelineEntry]:
        within = [s for s in self._entries if s.position > after and s.position.seq <= upto.size]
        return sorted(s for s in within if s.position.letter <= upto.deadletters)[:limit]

    async def event_sizes(self, *, after: int, limit: int) -> list[TimelineEntry]:
        return [s for s in self._entries if s.position.seq > after][:limit]

    async def views(self, entries: Sequence[TimelineEntry]) -> list[EntryView]:
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
        return [EntryView(seq=s.position.seq, id=s.id, time=s.time, causation_id=s.cause, **rest) for s in entries]


async def test_a_long_timeline_is_complete_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "WINDOW", 4)
    letters = [TimelineEntry(LogPosition(3, n), None, None, TIME, 0) for n in range(1, 4)]
    store = FakeStore(
        [*(TimelineEntry(LogPosition(n, 0), f"e{n}", f"e{n - 1}", TIME, 1) for n in range(1, 12)), *letters]
    )
    shown: list[EntryView] = []
    cursor: TimelinePosition | None = None
    while True:
        part, cursor = await handlers.timeline(store, "s", cursor, 3)
        shown += part
        if cursor is None:
            break
        cursor = decode_cursor(encode_cursor(cursor), TimelinePosition)
    assert [t.seq for t in shown] == [1, 2, 3, 3, 3, 3, *range(4, 12)]


async def test_entries_appended_after_the_first_page_are_not_on_later_pages() -> None:
    entries = [TimelineEntry(LogPosition(n, 0), f"e{n}", None, TIME, 1) for n in range(1, 4)]
    store = FakeStore(entries)
    first, cursor = await handlers.timeline(store, "s", None, 2)
    entries.insert(0, TimelineEntry(LogPosition(4, 0), "e4", None, "2020-01-01T00:00:00.000Z", 1))
    second, end = await handlers.timeline(store, "s", cursor, 2)
    assert [t.id for t in first + second] == ["e1", "e2", "e3"]
    assert end is None


async def test_a_page_ends_early_when_its_data_is_too_large() -> None:
    store = FakeStore([TimelineEntry(LogPosition(n, 0), None, None, "", handlers.PAGE_BYTES // 2) for n in range(1, 6)])
    page, after = await handlers.tail(store, 0, 100)
    assert ([p.seq for p in page], after) == ([1, 2], 2)
    page, after = await handlers.tail(store, 4, 100)
    assert ([p.seq for p in page], after) == ([5], None)
    assert await handlers.tail(store, 5, 100) == ([], None)
