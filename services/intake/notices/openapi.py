"""How the routes of notices and appeals stand in `/openapi.json`; the schemas come from the types themselves."""

from typing import Any, Final, NamedTuple

import msgspec

from services.intake.notices.domain.appeals import AppealPost
from services.intake.notices.domain.notices import MAX_BODY_BYTES, NoticePost
from shared.http.http import documented_answer, documented_problem


class Operation(NamedTuple):
    """A route, described."""

    name: str
    summary: str
    description: str
    status: int
    extra: dict[str, Any]


_NOTICE_ID: Final = "7e4bc627-fa72-5a5e-917f-7b7efa0040ba"
_APPEAL_ID: Final = "149a4e65-0624-56fd-8deb-b5911137fb97"
_DECISION_ID: Final = "4ce3ba22-5975-5b0e-8896-1de27b443c88"
_SUBJECT: Final = "shop:product:B000051ZOA"
_TIME: Final = "2026-05-01T09:30:00.000Z"
_HASH: Final = "0a" * 32
_EVENT: Final = {"eu": {"event_id": "a4703444-568b-5a60-8883-6558f47e9fde"}}
_NOTICE: Final = {
    "platform": "shop",
    "kind": "product",
    "id": "B000051ZOA",
    "markets": ["DE"],
    "reporter": {"kind": "user", "name": "Ada Weber", "email": "ada@example.org"},
    "ground": "counterfeit",
    "explanation": "Das Gerät trägt unser Zeichen, aber wir haben es nicht hergestellt.",
    "locations": ["https://shop.example/dp/B000051ZOA"],
    "good_faith": True,
    "language": "de",
    "reference": "report-4711",
}
_APPEAL: Final = {
    "decision_id": _DECISION_ID,
    "appellant": {"kind": "seller", "name": "Audio GmbH", "email": "recht@audio.example"},
    "explanation": "Die Rechnung des Herstellers liegt bei: das Gerät ist echt.",
    "language": "de",
    "reference": "complaint-12",
}
_WAITS: Final = {
    "status": "in_review",
    "updated_at": "2026-05-01T09:30:00.120Z",
    "queue": "notices",
    "due_at": "2026-05-01T21:30:00.000Z",
    "case_id": "174614d6-7cdd-5787-b3e1-a5d91978d3a6",
}
_DECIDED: Final = {
    "status": "decided",
    "updated_at": "2026-05-02T08:00:00.000Z",
    "queue": "appeals",
    "due_at": "2026-05-03T09:30:00.000Z",
    "case_id": "8b09c641-313f-5083-874a-814b7e5c2350",
    "decision": {
        "decision_id": "1b1d5a0e-7a3c-5d0e-9c47-2f6f5d4d7a10",
        "action": "overturn",
        "reasons": [],
        "automated": False,
        "policy_set": "ps-3-5f4e3d2c1b0a",
        "decided_at": "2026-05-02T08:00:00.000Z",
        "reviewer": "r-2",
        "team": "in_house",
    },
}
_PROJECTION: Final = {"lag_seconds": 0.4}
_EXAMPLES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("POST", "/v1/notices"): {
        "notice_id": _NOTICE_ID,
        "subject": _SUBJECT,
        "content_hash": _HASH,
        "regions": _EVENT,
        "status_url": f"/v1/notices/{_NOTICE_ID}",
    },
    ("GET", "/v1/notices/{notice_id}"): {
        "notice_id": _NOTICE_ID,
        "subject": _SUBJECT,
        "reference": "report-4711",
        "received_at": _TIME,
        "regions": {"eu": _WAITS},
        "projection": _PROJECTION,
    },
    ("POST", "/v1/appeals"): {
        "appeal_id": _APPEAL_ID,
        "subject": _SUBJECT,
        "decision_id": _DECISION_ID,
        "content_hash": _HASH,
        "regions": _EVENT,
        "status_url": f"/v1/appeals/{_APPEAL_ID}",
    },
    ("GET", "/v1/appeals/{appeal_id}"): {
        "appeal_id": _APPEAL_ID,
        "subject": _SUBJECT,
        "reference": "complaint-12",
        "received_at": _TIME,
        "decision_id": _DECISION_ID,
        "regions": {"eu": _DECIDED},
        "projection": _PROJECTION,
        "item_id": "9a034698-7026-5c72-8b10-096759598c7f",
    },
}
_PROBLEMS: Final[dict[int, tuple[str, str, str]]] = {
    400: ("malformed-json", "The input is not JSON", "The input is not JSON: it is cut off."),
    401: ("unauthorized", "The call is not authenticated", "No API key: send it as `Authorization: Bearer pp_...`."),
    403: ("region-not-allowed", "The key may not act in this region", "/markets/0: market 'US' belongs to 'us'."),
    404: ("not-found", "There is none of this name", "None of this name is known to this key."),
    408: ("too-slow", "The body comes too slowly", "The body was not there within 30 seconds."),
    409: (
        "appeal-open",
        "Another appeal about it is open",
        "/decision_id: appeal 149a... about decision 4ce3... is open",
    ),
    413: ("too-large", "The body is too large", f"The body has more than {MAX_BODY_BYTES // 1024} KiB."),
    415: ("unsupported-media-type", "The body is of another kind", "The body's Content-Type is 'text/plain'."),
    429: ("overloaded", "Too much at a time", "Send the same again a moment later."),
    503: ("unavailable", "Temporarily unavailable", "Kafka did not acknowledge. Send the same again later."),
}
_NOT_FIT: Final = {
    "/v1/notices": ("invalid-notice", "The notice does not fit", "/reporter/email: is required, but for ground 'csam'"),
    "/v1/appeals": (
        "appeal-window-closed",
        "It is too late for an appeal",
        "/decision_id: appeals about it were taken until 2026-11-01T09:30:00.000Z",
    ),
}
_RETRIED: Final = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}


def _problems(*statuses: int) -> dict[str, Any]:
    found: dict[str, Any] = {str(status): documented_problem(status, *_PROBLEMS[status]) for status in statuses}
    for retried in found.keys() & {"429", "503"}:
        found[retried]["headers"] = _RETRIED
    return found


def _posted(kind: type[msgspec.Struct], example: object, path: str, *others: int) -> dict[str, Any]:
    body = {
        "required": True,
        "description": f"At most {MAX_BODY_BYTES // 1024} KiB",
        "content": documented_answer(kind, example)["content"],
    }
    problems = _problems(400, 401, 403, 408, 413, 415, 429, 503, *others)
    return {"requestBody": body, "responses": {**problems, "422": documented_problem(422, *_NOT_FIT[path])}}


def _asked(name: str, example: str) -> dict[str, Any]:
    parameter = {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "example": example,
        "description": "From the answer to the post",
    }
    return {"parameters": [parameter], "responses": _problems(401, 403, 404, 429, 503)}


_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/notices"): Operation(
        "postNotice",
        "Report a subject",
        "With the elements of DSA Art. 16(2). Answers when the topic of every region that owns one of the markets has"
        " it, acknowledged by all in-sync replicas. The client's `reference` names it: the same again gets the same"
        " answer. It becomes a case that people decide; authorities and trusted flaggers come first.",
        202,
        _posted(NoticePost, _NOTICE, "/v1/notices"),
    ),
    ("GET", "/v1/notices/{notice_id}"): Operation(
        "getNotice",
        "Where a notice is, by region",
        "For the client that gave it, in the regions of the key. Decided `approve`, the content stays; `reject`, it is"
        " restricted. It follows the topics; `projection` tells how far behind.",
        200,
        _asked("notice_id", _NOTICE_ID),
    ),
    ("POST", "/v1/appeals"): Operation(
        "postAppeal",
        "Complain about a decision",
        "DSA Art. 20: the seller about what restricts their content, the notifier about a notice that was not"
        " followed; a seller's comes from a client of the platform that has `items:write` too, a notifier's from the"
        " client that gave the notice. It is about the decision in force, which its own id names, or its item's or"
        " notice's, and within the window that begins with it. Answers when the region's topic has it. The client's"
        " `reference` names it: the same again gets the same answer. A decision that is not known is waited for, at"
        " most 5 seconds: `404` is certain, `503` means that it may be there. `409`: there is no decision yet, it was"
        " replaced, another appeal about it is open or was answered, or the reference names another appeal.",
        202,
        _posted(AppealPost, _APPEAL, "/v1/appeals", 404, 409),
    ),
    ("GET", "/v1/appeals/{appeal_id}"): Operation(
        "getAppeal",
        "Where an appeal is",
        "For the client that made it. Decided `uphold`, the decision stays; `overturn`, another has taken its place,"
        " which the item or notice shows. `closed` undecided, `reason` says why: `replaced` (the decision is not in"
        " force any more) or `duplicate` (another appeal about it was open).",
        200,
        _asked("appeal_id", _APPEAL_ID),
    ),
}


def described(method: str, path: str, answer: type[msgspec.Struct]) -> Operation:
    """How a route stands in the document, with what it answers."""
    operation = _OPERATIONS[method, path]
    answered = {str(operation.status): documented_answer(answer, _EXAMPLES[method, path])}
    responses = {**answered, **operation.extra["responses"]}
    return operation._replace(extra={**operation.extra, "responses": responses})
