"""A review API in memory and a scripted person, for the tests of the review at the terminal."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from piepowder.case_display import DecidedCases, Rules
from piepowder.client import ApiError
from piepowder.line_input import LineInput
from piepowder.review import TerminalReviewer
from piepowder.review_session import LeasedCase, ValidReasons
from shared.contracts import events
from shared.runtime.clock import ManualClock
from tests.support.decision.cases import NOON

CODES: Final = ValidReasons({"COUNTERFEIT": ["Ground of notices: counterfeit"], "FAKE": [], "OTHER": [], "WEAPONS": []})


def shown(case: events.CaseOpened, *concerns: dict[str, Any]) -> dict[str, Any]:
    """A case as the review API returns it."""
    return {**msgspec.to_builtins(case), "case_type": case.case_type, "concerns": list(concerns)}


class Made(NamedTuple):
    """A decision that the review API received."""

    case_id: str
    action: str
    reasons: list[str]
    note: str = ""


class MemoryReviews:
    """The review API with some waiting cases. `failing` maps an operation to the problem that it gets, once."""

    def __init__(self, *cases: Mapping[str, Any], failing: Mapping[str, str] | None = None) -> None:
        self.waiting_cases = list(cases)
        self.made: list[Made] = []
        self.released: list[tuple[str, str]] = []
        self.held: list[str] = []
        self._failing = dict(failing or {})
        self._tokens = 0
        self.failed = asyncio.Event()
        self.reviewer = "r-71"

    async def claim(self, *, skipped: Sequence[str] = (), only: Sequence[str] = ()) -> LeasedCase | None:
        del only
        case = next((one for one in self.waiting_cases if one["case_id"] not in skipped), None)
        if case is None:
            return None
        self.waiting_cases.remove(case)
        self.held.append(case["case_id"])
        self._tokens += 1
        return LeasedCase(dict(case), {"token": self._tokens, "until": ""})

    async def heartbeat(self, leased: LeasedCase) -> None:  # noqa: ARG002 - it has no end here
        self._fail("heartbeat")

    async def release(self, leased: LeasedCase, reason: str) -> None:
        self._fail("release")
        self.held.remove(leased.id)
        self.released.append((leased.id, reason))
        self.waiting_cases.insert(0, leased.case)

    async def decide(self, leased: LeasedCase, action: str, reasons: Sequence[str], note: str = "") -> None:
        self._fail("decide")
        self.held.remove(leased.id)
        self.made.append(Made(leased.id, action, list(reasons), note))

    async def decision(self, leased: LeasedCase) -> tuple[str, str] | None:
        made = next((made for made in self.made if made.case_id == leased.id), None)
        return None if made is None else (self.reviewer, made.action)

    async def reason_codes(self) -> ValidReasons:
        self._fail("reason_codes")
        return CODES

    async def earlier(self, case: Mapping[str, Any]) -> DecidedCases:  # noqa: ARG002 - no case has earlier decisions
        return DecidedCases()

    async def waiting(self) -> int | None:
        return len(self.waiting_cases)

    def _fail(self, operation: str) -> None:
        slug = self._failing.pop(operation, None)
        if slug is not None:
            self.failed.set()
            status = 422 if slug == "unknown-reason" else 409
            raise ApiError(status, {"type": f"urn:piepowder:problem:{slug}", "detail": f"Refused: {slug}."})


class ScriptedInput:
    """A person who enters the given lines; records the prompts. `discarded` counts the discards of typed keys."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.asked: list[str] = []
        self.discarded = 0
        self._lines = list(lines)

    async def ask(self, prompt: str) -> str | None:
        self.asked.append(prompt)
        if not self._lines:
            return None
        line = self._lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    def discard_typed(self) -> None:
        self.discarded += 1


def reviewer(reviews: MemoryReviews, lines: LineInput, *, confirm: bool = False) -> TerminalReviewer:
    """A person at the terminal, with this review API."""
    session: Any = reviews
    return TerminalReviewer(session, lines, Rules(), confirm=confirm, clock=ManualClock(NOON))


async def worked(
    cases: Mapping[str, Any] | Sequence[Mapping[str, Any]], *lines: str, confirm: bool = False
) -> tuple[MemoryReviews, list[str], dict[str, int]]:
    """Let a person enter `lines` for some cases; the review API, the prompts, and the counts by outcome."""
    reviews = MemoryReviews(*([cases] if isinstance(cases, Mapping) else cases))
    keyboard = ScriptedInput(*lines)
    person = reviewer(reviews, keyboard, confirm=confirm)
    await person.work()
    return reviews, keyboard.asked, dict(person.done)
