"""The clock. Services read the wall-clock time only from it, so tests control the time.

Times in events and responses are UTC, RFC 3339, with milliseconds: `2026-05-01T09:30:00.000Z`.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time (`now`), and monotonic seconds for measuring durations (`monotonic`)."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The system's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(eq=False)
class ManualClock:
    """A clock for tests: its time changes only with `advance`."""

    _now: datetime
    _monotonic: float = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._monotonic += by.total_seconds()


def to_text(moment: datetime) -> str:
    """An aware time as RFC 3339 text, in UTC, with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def from_text(text: str) -> datetime:
    """The time of an ISO 8601 text, in UTC; raises ValueError for any other text, and without a UTC offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def from_text_or_none(text: str) -> datetime | None:
    """As `from_text`; None for a text that is not a time."""
    try:
        return from_text(text)
    except ValueError:
        return None
