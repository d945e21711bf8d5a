"""How the routes of business requests stand in `/openapi.json`; the schemas come from the types that are answered."""

from typing import Any, Final, NamedTuple

import msgspec

from services.intake.requests.domain import drafts, lifecycle
from services.intake.requests.domain.drafts import Comment, Draft, Reason, Remark
from services.intake.requests.views import CommentView, PageView, RequestView, WholeView
from shared.http.http import IDEMPOTENCY_KEY, documented_answer, documented_problem


class Operation(NamedTuple):
    """A route, described."""

    name: str
    summary: str
    description: str
    status: int
    extra: dict[str, Any]


_REQUEST_ID: Final = "0d9f0c6e-52a5-5a51-93a1-2f0f4a3b7c10"
_CURSOR: Final = "MjAyNi0wNS0wMVQwOTozMDowMCswMDowMCAwZDlmMGM2ZS01MmE1LTVhNTEtOTNhMS0yZjBmNGEzYjdjMTA="
_HASH: Final = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
_POLICY: Final = {
    "id": "lamps-too-cheap",
    "title": "Lamps far below their price",
    "when": ['category.startsWith("Home/Lighting")', "price.known && price.minor < 500"],
    "verdict": "review",
    "reasons": ["COUNTERFEIT"],
    "queue": "counterfeit",
    "priority": 3,
    "markets": ["DE", "FR"],
}
_DRAFT: Final[dict[str, Any]] = {
    "title": "Lamps far below their price are looked at",
    "kind": "policy_change",
    "sponsor": "moderation-lead",
    "regions": ["eu"],
    "markets": ["DE", "FR"],
    "expected_items_per_day": 1200,
    "rationale": "Counterfeit lamps are sold at a tenth of the usual price.",
    "change": {"policy_set": {"policies": [_POLICY], "default_verdict": "approve"}},
}
_MARK: Final = {"by": "policy-team", "at": "2026-05-01T09:30:00.000Z"}
_SUMMARY: Final[dict[str, Any]] = {
    "request_id": _REQUEST_ID,
    "subject": f"piepowder:request:{_REQUEST_ID}",
    "state": "draft",
    "version": 1,
    **{name: value for name, value in _DRAFT.items() if name not in ("rationale", "change")},
    "expected_date": "",
    "change_hash": _HASH,
    "check_verdict": "fits",
    "drafted": _MARK,
    "updated_at": _MARK["at"],
    "approvals_needed": 2,
    "approvals": [],
}
_VIEW: Final[dict[str, Any]] = {
    **_SUMMARY,
    "rationale": _DRAFT["rationale"],
    "check": {
        "verdict": "fits",
        "checked_at": _MARK["at"],
        "operating_model": "om-1-0a1b2c3d4e5f",
        "policy_set": "ps-3-5f4e3d2c1b0a",
        "differing": 1,
        "differences": [{"what": "policies/lamps-too-cheap", "how": "added"}],
    },
}
_COMMENT: Final = {
    "comment_id": "5a0f5b8e-6f60-5c69-8a51-9b8c4f3e2d10",
    "version": 2,
    "at": "2026-05-01T10:00:00.000Z",
    "by": "lead-a",
    "text": "How many of them were wrong?",
}
_STEPS: Final = [
    {"version": 1, "kind": "drafted", **_MARK, "reason": ""},
    {"version": 2, "kind": "commented", "at": _COMMENT["at"], "by": "lead-a", "reason": ""},
]
_WHOLE: Final = {**_VIEW, "version": 2, "change": _DRAFT["change"], "history": _STEPS, "comments": [_COMMENT]}

_PATH: Final = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
    "example": _REQUEST_ID,
    "description": "From the answer to the draft",
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY},
    "example": '"lamps-2026"',
    "description": "A quoted string of the client's own; the same call again, with the same key, makes nothing twice",
}
_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "example": '"1"',
    "description": "The ETag of the version that the call is meant for",
}

_PROBLEMS: Final[dict[int, tuple[str, str, str]]] = {
    400: ("malformed-json", "The input is not JSON", "The body is not JSON: it is cut off."),
    404: ("not-found", "No such business request", "No business request '0d9f...' is known in a region of this key."),
    408: ("too-slow", "The body comes too slowly", "The body was not there within 30 seconds."),
    409: (
        "wrong-state",
        "The request's state does not allow it",
        "The request is draft, not submitted; what can be done is submit, withdraw.",
    ),
    412: ("precondition-failed", "The request has changed", 'The request is at version "3": read it again.'),
    413: ("too-large", "The request is too large", "More than 1280 KiB; an attached change may have 1024 KiB."),
    415: ("unsupported-media-type", "The body is of another kind", "The body's Content-Type is 'text/plain'."),
    428: ("precondition-required", "The version is missing", "Say in `If-Match` which version you change."),
    429: ("overloaded", "Too much at a time", "Send the same again a moment later."),
}
_RETRIED: Final = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}


def _problems(*statuses: int) -> dict[str, Any]:
    found: dict[str, Any] = {str(status): documented_problem(status, *_PROBLEMS[status]) for status in statuses}
    if "429" in found:
        found["429"]["headers"] = _RETRIED
    return found


def _tagged(kind: type[msgspec.Struct], example: object) -> dict[str, Any]:
    etag = {"description": "The version, quoted", "schema": {"type": "string"}, "example": '"1"'}
    return {**documented_answer(kind, example), "headers": {"ETag": etag}}


def _body(kind: type[msgspec.Struct], example: object, *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": documented_answer(kind, example)["content"]}


def _patch() -> dict[str, Any]:
    """A draft's schema with every member left out or null."""
    definitions: dict[str, Any] = documented_answer(Draft, _DRAFT)["content"]["application/json"]["schema"]["$defs"]
    own = definitions.pop(Draft.__name__)["properties"]
    members = {name: {"anyOf": [member, {"type": "null"}]} for name, member in own.items()}
    return {"type": "object", "properties": members, "additionalProperties": False, "$defs": definitions}


def _query(name: str, schema: dict[str, Any], description: str, example: object) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description, "example": example}


_DRAFTING: Final = Operation(
    "draftRequest",
    "Begin a business request",
    "It is a draft until it is submitted, and its key names it: the same call again gets the same answer, another body"
    " under the same key `422`, and a call while the first is under way `409`. An attached change is checked by the"
    " router at once: one that does not fit is `422` with pointers below `/change`; while the router is away it is kept"
    " `unchecked`.",
    201,
    {
        "parameters": [_KEY],
        "requestBody": _body(Draft, _DRAFT),
        "responses": {"201": _tagged(RequestView, _VIEW), **_problems(400, 408, 409, 413, 415, 429)},
    },
)
_LISTING: Final = Operation(
    "listRequests",
    "Business requests, the newest first",
    "Those that concern a region of the key.",
    200,
    {
        "parameters": [
            _query("state", {"type": "string", "enum": list(lifecycle.STATES)}, "Only in this state", "submitted"),
            _query("kind", {"type": "string", "enum": list(drafts.KINDS)}, "Only of this kind", "policy_change"),
            _query("region", {"type": "string"}, "Only those that concern it", "eu"),
            _query("sponsor", {"type": "string"}, "Only this sponsor's", "moderation-lead"),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "On a page, at most", 50),
            _query("cursor", {"type": "string"}, "`next` of the page before", _CURSOR),
        ],
        "responses": {
            "200": documented_answer(PageView, {"requests": [_SUMMARY], "next": None}),
            **_problems(429),
        },
    },
)
_SHOWING: Final = Operation(
    "getRequest",
    "A business request with its change, history and comments",
    "Its life is also in the audit log of each of its regions, under its `subject`.",
    200,
    {"parameters": [_PATH], "responses": {"200": _tagged(WholeView, _WHOLE), **_problems(404, 429)}},
)
_CHANGING: Final = Operation(
    "changeRequest",
    "Change a draft",
    "Members that are sent take the place of the draft's, each whole; null takes one away. A change that is attached"
    " anew is checked at once, as in a new draft; one that is kept unchecked is checked again.",
    200,
    {
        "parameters": [_PATH, {**_IF_MATCH, "required": True}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _patch(), "example": {"expected_items_per_day": 1500}}},
        },
        "responses": {
            "200": _tagged(RequestView, {**_VIEW, "version": 2, "expected_items_per_day": 1500}),
            **_problems(400, 404, 408, 409, 412, 413, 415, 428, 429),
        },
    },
)
_COMMENTING: Final = Operation(
    "commentOnRequest",
    "Say something about a business request",
    "In any state. The key names the comment: the same call again gets the same answer.",
    201,
    {
        "parameters": [_PATH, _KEY],
        "requestBody": _body(Comment, {"text": _COMMENT["text"]}),
        "responses": {"201": _tagged(CommentView, _COMMENT), **_problems(400, 404, 408, 409, 413, 415, 429)},
    },
)


def _command(command: str, summary: str, description: str, state: str) -> Operation:
    reason = {"reason": "Shown to work on last week's items."}
    rule = lifecycle.RULES[command]
    starts = " or ".join(rule.start)
    return Operation(
        f"{command}Request",
        summary,
        f"From {starts} to {rule.end}. {description} The same by the same person again is answered the same.",
        200,
        {
            "parameters": [_PATH, _IF_MATCH],
            "requestBody": _body(Reason, reason) if rule.needs_reason else _body(Remark, reason, required=False),
            "responses": {
                "200": _tagged(RequestView, {**_VIEW, "version": 3, "state": state}),
                **_problems(400, 404, 408, 409, 412, 413, 415, 429),
            },
        },
    )


_COMMANDS: Final = {
    lifecycle.SUBMIT: _command(
        lifecycle.SUBMIT,
        "Put a draft up for decision",
        "It must say all that its kind needs, and its change is checked again: `422` when it does not fit, `503` while"
        " the router is away.",
        lifecycle.SUBMITTED,
    ),
    lifecycle.WITHDRAW: _command(
        lifecycle.WITHDRAW, "Take a request back", "Only those who wrote or sponsor it may.", lifecycle.WITHDRAWN
    ),
    lifecycle.APPROVE: _command(
        lifecycle.APPROVE,
        "Approve a request",
        "It is approved when as many have done so as `approvals_needed` says; those who wrote or sponsor it may not"
        " (`403`).",
        lifecycle.SUBMITTED,
    ),
    lifecycle.REJECT: _command(
        lifecycle.REJECT,
        "Refuse a request",
        "With a reason; those who wrote or sponsor it may not (`403`).",
        lifecycle.REJECTED,
    ),
    lifecycle.DEPLOY: _command(lifecycle.DEPLOY, "Say that a request's change is in force", "", lifecycle.DEPLOYED),
    lifecycle.ROLLBACK: _command(
        lifecycle.ROLLBACK, "Say that a request's change is no longer in force", "With a reason.", lifecycle.ROLLED_BACK
    ),
    lifecycle.REVIEW: _command(lifecycle.REVIEW, "Say what came of a request", "", lifecycle.REVIEWED),
}

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/requests"): _DRAFTING,
    ("GET", "/v1/requests"): _LISTING,
    ("GET", "/v1/requests/{request_id}"): _SHOWING,
    ("PATCH", "/v1/requests/{request_id}"): _CHANGING,
    ("POST", "/v1/requests/{request_id}/comments"): _COMMENTING,
    **{("POST", f"/v1/requests/{{request_id}}/{command}"): told for command, told in _COMMANDS.items()},
}
