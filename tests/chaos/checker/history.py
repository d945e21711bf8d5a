"""The history of a run as plain facts: every call and its response, every record of every topic, every relevant row.

This module judges nothing. It keeps positions and times, so that a violation can be shown with its records.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

Outcome = Literal["accepted", "refused", "unknown"]

GENERATION: Final = 10**12
"""A topic that was deleted and created again has the same offsets again: the history adds this number to the offsets of
its second generation, twice this number to those of the third, and so on."""


class Record(NamedTuple):
    """A record of Kafka; `timestamp` in ms since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    value: bytes | None

    def __str__(self) -> str:
        value = (self.value or b"")[:240].decode(errors="replace")
        about = " ".join(
            f"{name}={(text or b'').decode(errors='replace')}"
            for name, text in self.headers
            if name in ("ce_id", "ce_type", "ce_region", "ce_causationid", "dl_reason", "dl_group")
        )
        return f"{self.topic}/{self.partition}@{self.offset} key={self.key!r:.120} {about} {value}"


@dataclass(frozen=True, slots=True)
class Call:
    """A call and its response, as the client wrote them down; `status` None: no response. Times in epoch seconds."""

    n: int
    kind: str
    sent_at: float
    facts: dict[str, Any]
    answered_at: float | None = None
    status: int | None = None
    answer: Any = None
    retry_after: str | None = None
    error: str = ""

    def __str__(self) -> str:
        ended = f"answered {self.status}" if self.status is not None else f"no response ({self.error or 'never ended'})"
        seconds = "" if self.answered_at is None else f" after {self.answered_at - self.sent_at:.3f} s"
        facts = msgspec.json.encode(self.facts)[:300].decode(errors="replace")
        answer = msgspec.json.encode(self.answer)[:240].decode(errors="replace")
        return f"call {self.n} {self.kind} at {self.sent_at:.3f} {facts}: {ended}{seconds} {answer}"


@dataclass(frozen=True, slots=True)
class Posted:
    """One item of a post or of a batch; `body` is None if it is not a JSON object."""

    call: Call
    line: int
    body: dict[str, Any] | None
    status: int | None
    verdict: dict[str, Any]
    retry_after: bool

    @property
    def outcome(self) -> Outcome:
        if self.status == 202:
            return "accepted"
        return "refused" if self.status is not None and 400 <= self.status < 500 else "unknown"

    @property
    def subject(self) -> str:
        body = self.body or {}
        return f"{body.get('platform')}:{body.get('kind')}:{body.get('id')}"

    def __str__(self) -> str:
        where = f" line {self.line}" if self.line else ""
        answer = f"{self.status} {self.verdict!s:.240}"
        return f"call {self.call.n}{where} at {self.call.sent_at:.3f}: {self.body!s:.300} -> {answer}"


class Planted(NamedTuple):
    """A bad record that the test planted; each of the `groups` must dead-letter it."""

    kind: str
    topic: str
    partition: int
    offset: int
    groups: tuple[str, ...]


class Note(NamedTuple):
    """An operator's action, as the journal has it; `at` in epoch seconds."""

    kind: str
    at: float
    facts: dict[str, Any]


class CaseRow(NamedTuple):
    case_id: str
    subject: str
    state: str
    event_id: str
    superseded_by: str | None
    lease_token: int
    reviewer: str


class DecisionRow(NamedTuple):
    case_id: str
    n: int
    decision_id: str
    action: str
    reasons: tuple[str, ...]
    policy_set: str
    automated: bool
    reviewer: str
    team: str
    lease_token: int
    note: str


class LogRow(NamedTuple):
    """An event in the audit log; `sha256` is the digest of its data in hex."""

    seq: int
    event_id: str
    type: str
    subject: str
    region: str
    topic: str
    partition: int
    offset: int
    sha256: str


class LetterRow(NamedTuple):
    topic: str
    partition: int
    offset: int
    group: str
    reason: str


class StatusRow(NamedTuple):
    item_id: str
    region: str
    status: str


@dataclass(slots=True)
class Cell:
    """A region's tables in decision and audit."""

    cases: list[CaseRow] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    tallies: dict[str, int] = field(default_factory=dict)
    unpublished: int = 0
    log: list[LogRow] = field(default_factory=list)
    log_size: int = 0
    log_counts: dict[str, int] = field(default_factory=dict)
    letters: list[LetterRow] = field(default_factory=list)


class RequestRow(NamedTuple):
    """A business request; `approvals` names the approvers in order."""

    request_id: str
    state: str
    version: int
    sponsor: str
    approvals: tuple[str, ...]


class StepRow(NamedTuple):
    """A step of a business request."""

    request_id: str
    version: int
    kind: str
    by: str
    text: str
    comment_id: str | None


class ClientRow(NamedTuple):
    name: str
    state: str
    revision: int
    regions: tuple[str, ...]
    platforms: tuple[str, ...] = ("*",)


class KeyRow(NamedTuple):
    """A client's key; `made_with` identifies the call that created it."""

    client: str
    key_id: str
    revoked: bool
    made_with: str | None


@dataclass(slots=True)
class IntakeTables:
    """Intake's other tables; `unpublished` counts the events that are not published yet."""

    requests: list[RequestRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    clients: list[ClientRow] = field(default_factory=list)
    keys: list[KeyRow] = field(default_factory=list)
    unpublished: int = 0


@dataclass(slots=True)
class History:
    """The whole history. `markets` maps each market to its region in the first operating model."""

    markets: dict[str, str]
    calls: list[Call] = field(default_factory=list)
    planted: list[Planted] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)
    statuses: list[StatusRow] = field(default_factory=list)
    totals: dict[tuple[str, str], int] = field(default_factory=dict)
    intake: IntakeTables = field(default_factory=IntakeTables)

    def posts(self) -> Iterator[Posted]:
        """Every posted item, from single posts and batches."""
        for call in self.calls:
            if call.kind == "post":
                verdict = call.answer if isinstance(call.answer, dict) else {}
                yield Posted(call, 0, _parsed(call.facts["body"]), call.status, verdict, call.retry_after is not None)
            elif call.kind == "batch":
                verdicts = {v["line"]: v for v in call.answer if "line" in v} if call.status == 200 else {}
                for line, text in enumerate(call.facts["lines"], 1):
                    verdict = verdicts.get(line, {})
                    status = verdict.get("status") if call.status == 200 else call.status
                    retry = "retry_after" in verdict if call.status == 200 else call.retry_after is not None
                    yield Posted(call, line, _parsed(text), status, verdict, retry)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return body if isinstance(body, dict) else None
