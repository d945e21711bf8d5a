"""The audit's REST API: the timeline of a subject, events, dead letters and totals. Read-only."""

import re
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Security
from starlette.requests import Request
from starlette.responses import Response

from services.audit import handlers
from services.audit.domain import Natural
from services.audit.handlers import TimelinePosition
from services.audit.store import Store
from services.audit.views import ConflictPageView, DeadLetterPageView, EntryView, EventPageView, TimelineView
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.principal import Principal
from shared.contracts.envelope import subject_of
from shared.http.models import View, example
from shared.http.problems import ProblemType, problems
from shared.http.queries import Cursor, decode_cursor, encode_cursor
from shared.http.responses import json_response, struct
from shared.http.route import Available, StrictRoute
from shared.validation.faults import INVALID_REQUEST

_LARGEST: Final = 2**63 - 1
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNKNOWN_SUBJECT: Final = ProblemType(
    "unknown-subject", 404, "Unknown subject", "Region 'eu' has no event about 'shop:product:B07/XL'."
)
_UNKNOWN_EVENT: Final = ProblemType(
    "unknown-event", 404, "Unknown event", "Region 'eu' has no event with the id 6f1c4c3e-7d0a-5b38-9f10-0c1f4a2f6b11."
)

_EVENT_EXAMPLE: Final[dict[str, Any]] = {
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
    "conflict": False,
    "data": {"item_id": "0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de", "platform": "shop", "kind": "product"},
}

router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED)
available_store: Final = Available[Store]("store")

Auditor = Annotated[Principal, Security(api_key, scopes=["audit:read"])]
TheStore = Annotated[Store, Depends(available_store)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum entries of a page; large entries reduce it")]
Platform = Annotated[str, Path(description="The subject's platform", examples=["shop"])]
Kind = Annotated[str, Path(description="`product`, `seller` or `content`", examples=["product"])]
SubjectId = Annotated[str, Path(description="The platform's own id; slashes are allowed", examples=["B07/XL"])]


class LogTotalsView(View):
    """The size of the log: `size` events in total and by type, and the number of dead letters.

    `conflicts` are those of the events, by type, that have the id of an earlier event and other values.
    """

    region: str
    size: int
    by_type: dict[str, int]
    deadletters: int
    conflicts: dict[str, int]

    model_config = example(
        {
            "region": "eu",
            "size": 2,
            "by_type": {"piepowder.item.submitted.v1": 2},
            "deadletters": 1,
            "conflicts": {"piepowder.item.submitted.v1": 1},
        }
    )


@router.get(
    "/subjects/{platform}/{kind}/{id:path}/timeline",
    summary="Timeline of a subject, oldest first, causes before effects",
    responses=problems(_UNKNOWN_SUBJECT)
    | {
        200: struct(
            TimelineView, {"subject": "shop:product:B07/XL", "region": "eu", "events": [_EVENT_EXAMPLE], "next": None}
        )
    },
)
async def timeline(
    request: Request,
    *,
    _: Auditor,
    store: TheStore,
    platform: Platform,
    kind: Kind,
    id: SubjectId,  # noqa: A002 - the path parameter's published name
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    if unquote_to_bytes(request.scope["raw_path"].rpartition(b"/")[2]) != b"timeline":
        # an encoded slash belongs to the id, so this is the path of a subject, which has no resource of its own here
        raise _UNKNOWN_SUBJECT(
            f"{request.url.path!r:.300} does not end with /timeline: an encoded slash (%2F) is a part of the id."
        )
    subject = subject_of(platform, kind, id)
    if _CONTROL_CHARACTER.search(subject):
        raise INVALID_REQUEST.with_message(f"The subject {subject!r:.300} contains a control character.", "/path/id")
    start = decode_cursor(cursor, TimelinePosition)
    events, following = await handlers.timeline(store, subject, start, limit)
    if not events and start is None:
        raise _UNKNOWN_SUBJECT(
            f"Region {store.region!r} has no event about {subject!r:.300}. The path is"
            " /v1/subjects/<platform>/<kind>/<id>/timeline with a percent-encoded id."
        )
    return json_response(TimelineView(subject, store.region, events, encode_cursor(following)))


@router.get(
    "/events/{event_id}",
    summary="One event",
    responses=problems(_UNKNOWN_EVENT) | {200: struct(EntryView, _EVENT_EXAMPLE)},
)
async def event(_: Auditor, store: TheStore, event_id: UUID) -> Response:
    found = await store.event(str(event_id))
    if found is None:
        raise _UNKNOWN_EVENT(f"Region {store.region!r} has no event with the id {event_id}.")
    return json_response(found)


@router.get(
    "/events",
    summary="All events in the order of the log",
    responses={200: struct(EventPageView, {"region": "eu", "events": [_EVENT_EXAMPLE], "next": 1})},
)
async def events(
    _: Auditor,
    store: TheStore,
    after: Annotated[int, Query(ge=0, le=_LARGEST, description="Sequence number before the first event")] = 0,
    limit: Limit = 100,
) -> Response:
    found, following = await handlers.tail(store, after, limit)
    return json_response(EventPageView(store.region, found, following))


@router.get(
    "/deadletters",
    summary="Dead-lettered records with their reasons, newest first",
    responses={
        200: struct(
            DeadLetterPageView,
            {
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
                        "discarded": {"by": "ops", "why": "a test client", "time": "2026-05-02T08:00:00.000Z"},
                    }
                ],
                "next": None,
            },
        )
    },
)
async def deadletters(_: Auditor, store: TheStore, limit: Limit = 100, cursor: Cursor = None) -> Response:
    before = decode_cursor(cursor, Natural)
    found = await store.dead_letters(before=_LARGEST if before is None else before, limit=limit)
    following = encode_cursor(found[-1].n) if len(found) == limit and found[-1].n > 1 else None
    return json_response(DeadLetterPageView(store.region, found, following))


@router.get(
    "/conflicts",
    summary="Events with the id of an earlier event and other values, newest first",
    description="The first event of an id is at `/v1/events/{event_id}`; the timeline of the subject has all of them.",
    responses={
        200: struct(
            ConflictPageView, {"region": "eu", "conflicts": [_EVENT_EXAMPLE | {"conflict": True}], "next": None}
        )
    },
)
async def conflicts(_: Auditor, store: TheStore, limit: Limit = 100, cursor: Cursor = None) -> Response:
    before = decode_cursor(cursor, Natural)
    found, following = await handlers.conflicts(store, _LARGEST if before is None else before, limit)
    return json_response(ConflictPageView(store.region, found, encode_cursor(following)))


@router.get("/totals", summary="Size of the log")
async def totals(_: Auditor, store: TheStore) -> LogTotalsView:
    (size, deadletters), by_type, conflicts = await store.totals()
    return LogTotalsView(region=store.region, size=size, by_type=by_type, deadletters=deadletters, conflicts=conflicts)
