"""The audit's REST: a subject's timeline, events, dead letters, totals. All of it reads."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import msgspec
from fastapi import APIRouter, FastAPI, Path, Query
from starlette.responses import Response

from services.audit import handlers
from services.audit.domain import Shown
from services.audit.handlers import Cursor
from services.audit.store import Letter, Log
from shared.auth.authenticator import Authenticator, keyed
from shared.contracts.envelope import subject_of
from shared.http.http import Problem, documented_answer, documented_problem, json_response, not_ready
from shared.runtime.readiness import Readiness

SCOPE: Final = "audit:read"
_LARGEST: Final = 2**63 - 1
_T = TypeVar("_T")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Limit = Annotated[int, Query(ge=1, le=1000, description="Entries on a page, at most; fewer when their data is large")]
Platform = Annotated[str, Path(description="The subject's platform", examples=["shop"])]
Kind = Annotated[str, Path(description="`product`, `seller` or `content`", examples=["product"])]
SubjectId = Annotated[str, Path(description="The platform's own id; may hold slashes", examples=["B07/XL"])]


class Timeline(msgspec.Struct, frozen=True):
    """A page of a subject's life, oldest first, causes before effects; `next` is the next page's cursor."""

    subject: str
    region: str
    events: list[Shown]
    next: str | None


class Events(msgspec.Struct, frozen=True):
    """Events by sequence number; `next` is where to go on (`after`), null at the end."""

    region: str
    events: list[Shown]
    next: int | None


class DeadLetters(msgspec.Struct, frozen=True):
    """Records that were set aside, newest first; `next` is the cursor of the page that follows."""

    region: str
    deadletters: list[Letter]
    next: str | None


class Totals(msgspec.Struct, frozen=True):
    """How much is kept: `size` events, in all and by type, and dead letters."""

    region: str
    size: int
    by_type: dict[str, int]
    deadletters: int


class Shelf:
    """Where the log stands once the database answers; until then a call is answered 503."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.log: Log | None = None

    def open(self) -> Log:
        """The log; raises a 503 Problem that says what is lacking."""
        if self.log is None:
            raise not_ready(self._readiness)
        return self.log


def add_routes(app: FastAPI, shelf: Shelf, authenticator: Authenticator, region: str) -> None:
    """Add `/v1` to the application."""
    v1 = APIRouter(route_class=keyed(authenticator, SCOPE, region))

    @v1.get(
        "/v1/subjects/{platform}/{kind}/{id:path}/timeline",
        summary="A subject's life, oldest first, causes before effects",
        responses={200: documented_answer(Timeline, _TIMELINE), 404: _NOTHING_KEPT},
    )
    async def timeline(
        *,
        platform: Platform,
        kind: Kind,
        id: SubjectId,  # noqa: A002 - the path's own name
        limit: Limit = 100,
        cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> Response:
        log = shelf.open()
        subject = subject_of(platform, kind, id)
        if _CONTROL.search(subject):
            raise Problem(
                422,
                "invalid-request",
                "The request does not fit",
                f"The subject {subject!r:.300} holds a control character, which no subject does.",
                pointer="/path/id",
            )
        start = None if cursor is None else _parse(Cursor.parse, cursor)
        events, following = await handlers.timeline(log, subject, start, limit)
        if not events and start is None:
            raise Problem(
                404,
                "unknown-subject",
                "Nothing is kept about this subject",
                f"Region {region!r} has kept nothing about {subject!r:.300}. The path is"
                " /v1/subjects/<platform>/<kind>/<id>/timeline, the id percent-encoded.",
            )
        return json_response(Timeline(subject, region, events, None if following is None else str(following)))

    @v1.get(
        "/v1/events/{event_id}",
        summary="One event",
        responses={200: documented_answer(Shown, _EVENT), 404: _NOTHING_KEPT},
    )
    async def event(event_id: UUID) -> Response:
        found = await shelf.open().event(str(event_id))
        if found is None:
            raise Problem(
                404, "unknown-event", "No such event", f"Region {region!r} has kept no event with id {event_id}."
            )
        return json_response(found)

    @v1.get("/v1/events", summary="All events, in the log's order", responses={200: documented_answer(Events, _EVENTS)})
    async def events(
        after: Annotated[int, Query(ge=0, le=_LARGEST, description="The sequence number to begin behind")] = 0,
        limit: Limit = 100,
    ) -> Response:
        found, following = await handlers.tail(shelf.open(), after, limit)
        return json_response(Events(region, found, following))

    @v1.get(
        "/v1/deadletters",
        summary="Records that were set aside, and why; newest first",
        responses={200: documented_answer(DeadLetters, _DEADLETTERS)},
    )
    async def deadletters(
        limit: Limit = 100,
        cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> Response:
        log = shelf.open()
        before = _LARGEST if cursor is None else _parse(_number, cursor)
        found = await log.letters(before=before, limit=limit)
        following = str(found[-1].n) if len(found) == limit and found[-1].n > 1 else None
        return json_response(DeadLetters(region, found, following))

    @v1.get("/v1/totals", summary="How much is kept", responses={200: documented_answer(Totals, _TOTALS)})
    async def totals() -> Response:
        head, by_type = await shelf.open().totals()
        return json_response(Totals(region, head.size, by_type, head.deadletters))

    app.include_router(v1)


def _parse(read: Callable[[str], _T], cursor: str) -> _T:
    try:
        return read(cursor)
    except ValueError as error:
        detail = f"The cursor is not one of this list ({error}): send `next` of the page before, or none to begin."
        raise Problem(422, "invalid-request", "The request does not fit", detail, pointer="/query/cursor") from error


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{text!r:.100} is not a number")
    return int(text)


_NOTHING_KEPT: Final = documented_problem(
    404, "unknown-event", "No such event", "Region 'eu' has kept no event with id 6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11."
)
_EVENT: Final[dict[str, Any]] = {
    "seq": 1,
    "id": "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11",
    "type": "piepowder.item.submitted.v1",
    "time": "2026-05-01T09:30:00.000Z",
    "source": "piepowder/intake",
    "subject": "shop:product:B07/XL",
    "region": "eu",
    "topic": "piepowder.submissions.eu",
    "partition": 3,
    "offset": 41,
    "correlation_id": "6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11",
    "causation_id": None,
    "traceparent": None,
    "extensions": {},
    "data": {"item_id": "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de", "platform": "shop", "kind": "product"},
}
_TIMELINE: Final = {"subject": "shop:product:B07/XL", "region": "eu", "events": [_EVENT], "next": None}
_EVENTS: Final = {"region": "eu", "events": [_EVENT], "next": 1}
_DEADLETTERS: Final = {
    "region": "eu",
    "deadletters": [
        {
            "n": 1,
            "topic": "piepowder.submissions.eu",
            "partition": 3,
            "offset": 42,
            "group": "piepowder-router-eu",
            "reason": "piepowder.item.submitted.v1: Input data was truncated",
            "key": "shop:product:B07/XL",
            "time": "2026-05-01T09:30:01.000Z",
            "event_id": None,
            "subject": "shop:product:B07/XL",
        }
    ],
    "next": None,
}
_TOTALS: Final = {"region": "eu", "size": 1, "by_type": {"piepowder.item.submitted.v1": 1}, "deadletters": 1}
