"""How intake's routes stand in `/openapi.json`: written by hand, because the routes themselves are bare for speed.

The schemas come from the types that are decoded and encoded, so they cannot say anything else.
"""

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from services.intake.items import long_poll
from services.intake.items.batch import MAX_BYTES, MAX_LINES, AcceptedLine, RejectedLine
from services.intake.items.domain.posts import MAX_BODY_BYTES, ItemPost
from services.intake.items.domain.status import Status
from services.intake.items.query_reader import LARGEST_PAGE, USUAL_PAGE
from services.intake.items.views import ItemAnswer, ItemsAnswer, Receipt, SubjectAnswer, TotalsAnswer, WithdrawalReceipt
from services.intake.items.withdrawals import MAX_REASON
from shared.auth.clients import PLATFORM
from shared.http import encoded_bodies
from shared.http.http import PROBLEM_JSON, ProblemDetails, add_schemas
from shared.http.openapi_security import limited, security

_ITEM: Final = {
    "platform": "shop",
    "kind": "product",
    "id": "B000051ZOA",
    "version": 1,
    "reference": "import-2026-05-01",
    "markets": ["DE", "FR"],
    "language": "de",
    "title": "Koss EQ50 Stereo-Equalizer",
    "text": "Drei Bänder, mit Clip.",
    "category": "Elektronik/Audio",
    "brand": "Koss",
    "gtin": "4006381333931",
    "attributes": {"color": "black"},
    "media": ["https://img.example/eq50.jpg"],
    "price": {"amount_minor": 1265, "currency": "EUR"},
    "seller": {"id": "s-17", "name": "Audio GmbH", "country": "DE", "age_days": 900, "listings": 120, "rejected": 1},
    "scores": {"counterfeit": 0.02},
}
_ITEM_ID: Final = "9f6f2d1c-6f0b-5c8e-9a37-0f5d2b7c1e44"
_RECEIPT: Final = {
    "item_id": _ITEM_ID,
    "subject": "shop:product:B000051ZOA",
    "version": 1,
    "content_hash": "0a" * 32,
    "regions": {"eu": {"event_id": "1d1a4a52-0b8e-5b0a-8c55-3f1f4e0e9a10"}},
    "status_url": f"/v1/items/{_ITEM_ID}",
}
_CURSOR: Final = "MjAyNi0wNS0wMVQwOTozMDowMCswMDowMCA5ZjZmMmQxYy02ZjBiLTVjOGUtOWEzNy0wZjVkMmI3YzFlNDQ"
_TAKEN_BACK: Final = {
    "item_id": _ITEM_ID,
    "subject": "shop:product:B000051ZOA",
    "regions": {"eu": {"event_id": "6a0f6d0e-2a5d-5a3f-9a59-0b8f5a2f7d21"}},
    "status_url": f"/v1/items/{_ITEM_ID}",
}
_STATUS: Final = {
    "item_id": _ITEM_ID,
    "subject": "shop:product:B000051ZOA",
    "version": 1,
    "reference": "import-2026-05-01",
    "received_at": "2026-05-01T09:30:00.000Z",
    "regions": {
        "eu": {
            "status": "in_review",
            "updated_at": "2026-05-01T09:30:00.120Z",
            "queue": "electronics",
            "due_at": "2026-05-01T13:30:00.000Z",
            "verdict": "review",
            "case_id": "c41a9f7e-1d0d-5d8a-b2d4-77f2a9a0c001",
        }
    },
    "projection": {"lag_seconds": 0.4},
}
_ITEM_PARAMETER: Final = {
    "name": "item_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
    "example": _ITEM_ID,
    "description": "From the answer to the post",
}
_PREFER: Final = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string"},
    "example": "wait=10",
    "description": f"`wait=N` (RFC 7240): answer when the item's way has ended in every region, after N seconds at most"
    f" ({long_poll.LONGEST} at most), with what is known then. An answer that waited has `Preference-Applied`",
}
_PREFERENCE_APPLIED: Final = {
    "Preference-Applied": {
        "description": "Says that the answer waited",
        "schema": {"type": "string"},
        "example": "wait=10",
    }
}


def _in_query(name: str, schema: dict[str, Any], example: object, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "example": example, "description": description}


def _in_path(name: str, example: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example} | {
        "description": description
    }


_OF_PAGE: Final = [
    _in_query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": USUAL_PAGE},
        50,
        "How many a page may hold",
    ),
    _in_query("cursor", {"type": "string"}, _CURSOR, "`next` of the page before"),
]
_TIME: Final = {"type": "string", "format": "date-time"}
_VIEW: Final[dict[str, Any]] = {name: value for name, value in _STATUS.items() if name != "projection"}
_LAG: Final = _STATUS["projection"]
_FILTERS: Final = [
    _in_query(
        "reference", {"type": "string", "minLength": 1, "maxLength": 200}, "import-2026-05-01", "The client's own"
    ),
    _in_query("status", {"type": "string", "enum": list(Status)}, "in_review", "In a region of those asked for"),
    _in_query("region", {"type": "string"}, "eu", "One of the key's; left out, all of them"),
    _in_query("platform", {"type": "string", "pattern": f"^{PLATFORM}$"}, "shop", "The marketplace"),
    _in_query("kind", {"type": "string", "enum": ["product", "seller", "content"]}, "product", "Of the subject"),
    _in_query("received_after", _TIME, "2026-05-01T00:00:00Z", "At that moment or later"),
    _in_query("received_before", _TIME, "2026-05-02T00:00:00Z", "Before that moment"),
]
_VERDICTS: Final = (
    f'{{"line":1,"status":202,"item_id":"{_ITEM_ID}","subject":"shop:product:B000051ZOA","regions":["eu"]}}\n'
    '{"line":2,"status":422,"type":"urn:piepowder:problem:invalid-item","title":"The item does not fit",'
    '"detail":"/markets: is required","errors":[{"pointer":"/markets","detail":"is required"}]}\n'
)
_PROBLEMS: Final[dict[int, tuple[str, str]]] = {
    400: ("malformed-json", "The body is empty, cut off, not UTF-8, not JSON, or cannot be decompressed"),
    401: ("unauthorized", "No API key, or not a known one"),
    403: ("region-not-allowed", "The key lacks the scope, the platform, or the region that owns a market"),
    404: ("not-found", "No such item, in the key's regions and for its platforms"),
    413: ("too-large", "More than may be sent; the answer says what to do"),
    408: ("too-slow", "The body comes too slowly"),
    415: ("unsupported-media-type", "The body is of another kind, or compressed in another way; see `Accept-Encoding`"),
    422: ("invalid-item", "The item does not fit; `errors` lists every fault with its JSON pointer"),
    429: ("overloaded", "Too much waits for Kafka; nothing was taken; see `Retry-After`"),
    503: ("unavailable", "Not ready, or something it stands on is away; see `Retry-After`; the same again is right"),
}


def describe(app: FastAPI) -> None:
    """Put the routes of items into the application's OpenAPI document."""
    of_posts = [ItemPost, AcceptedLine, RejectedLine]
    of_answers = [Receipt, WithdrawalReceipt, ItemAnswer, ItemsAnswer, SubjectAnswer, TotalsAnswer, ProblemDetails]
    references, components = msgspec.json.schema_components(
        [*of_posts, *of_answers], ref_template="#/components/schemas/{name}"
    )
    posted, accepted_line, refused_line, received, withdrawn, item, items, subject, counted, problem = references
    paths: dict[str, dict[str, dict[str, Any]]] = {
        "/v1/items": {
            "post": {
                "operationId": "postItem",
                "security": security("items:write"),
                "summary": "Post one version of a subject",
                "description": "Answers when the topic of every region that owns one of the markets has it,"
                " acknowledged by all in-sync replicas. The same version again gets the same answer. So do an older one"
                " and a number that was used for other content: they change nothing where the other came first, and"
                " `status_url` says so. A newer version takes the older one's place in the regions that it goes to;"
                " where it does not go the older one stays, and is to be withdrawn.",
                "parameters": [_PREFER],
                "requestBody": _body(
                    "application/json",
                    posted,
                    _ITEM,
                    f"At most {MAX_BODY_BYTES // 1024} KiB; `Content-Encoding` may be {encoded_bodies.CODINGS}",
                ),
                "responses": {
                    "202": {
                        **_answer("Every region has it", "application/json", received, _RECEIPT),
                        "headers": _PREFERENCE_APPLIED,
                        "links": {name: _linked(name) for name in ("getItem", "withdrawItem")},
                    },
                    **_problems(problem, 400, 401, 403, 408, 413, 415, 422, 429, 503),
                },
            },
            "get": {
                "operationId": "listItems",
                "security": security("items:read"),
                "summary": "Items, newest first",
                "description": "In the regions of the key and for its platforms, those that fit all that is asked for."
                " A page may hold less than `limit`: go on while there is a `next`. An item that reached its regions"
                " at different times may be listed twice. `reference` finds the items of the asking client alone.",
                "parameters": [*_FILTERS, *_OF_PAGE],
                "responses": {
                    "200": _answer(
                        "A page", "application/json", items, {"items": [_VIEW], "next": _CURSOR, "projection": _LAG}
                    ),
                    **_problems(problem, 401, 403, 429, 503),
                    "422": _problem(problem, 422, "invalid-request", "A parameter does not fit; `errors` says which"),
                },
            },
        },
        "/v1/items/batch": {
            "post": {
                "operationId": "postItems",
                "security": security("items:write"),
                "summary": "Post many, a JSON object a line",
                "description": "Each line is an item of its own: a bad one does not hold up the others. One verdict"
                " for each line that is not blank, in their order, while the body is still coming. A status other than"
                " `200` means that no line was accepted. After the first verdicts, what ends the call (too many lines,"
                " a body that breaks off or comes too slowly) is the last line: a problem without `line`; the lines"
                " before have their verdicts, those after were not taken. When Kafka is away for a region, the lines"
                " for it say so themselves, with `retry_after`. Sending the whole again is always right.",
                "requestBody": _body(
                    "application/x-ndjson",
                    {"type": "string", "format": "binary", "description": "A `Post` a line"},
                    '{"platform":"shop","kind":"product","id":"1","markets":["DE"],"title":"Lamp"}\n',
                    f"At most {MAX_LINES} lines and {MAX_BYTES >> 20} MiB; a line at most {MAX_BODY_BYTES // 1024} KiB;"
                    f" `Content-Encoding` may be {encoded_bodies.CODINGS}",
                ),
                "responses": {
                    "200": _answer(
                        "The verdicts",
                        "application/x-ndjson",
                        {"type": "string", "x-line-schema": {"oneOf": [accepted_line, refused_line, problem]}},
                        _VERDICTS,
                    ),
                    **_problems(problem, 400, 401, 403, 408, 413, 415, 429, 503),
                },
            }
        },
        "/v1/items/{item_id}": {
            "get": {
                "operationId": "getItem",
                "security": security("items:read"),
                "summary": "Where an item is, by region",
                "description": "In the regions of the key and for its platforms. It follows the topics; `projection`"
                " tells how far behind.",
                "parameters": [_ITEM_PARAMETER, _PREFER],
                "responses": {
                    "200": {
                        **_answer("Its status", "application/json", item, _STATUS),
                        "headers": _PREFERENCE_APPLIED,
                    },
                    "429": limited(),
                    **_problems(problem, 401, 403, 404, 503),
                },
            },
            "delete": {
                "operationId": "withdrawItem",
                "security": security("items:write"),
                "summary": "Take an item back, in every region that it was submitted to",
                "description": "Answers when the topic of each of these regions has the withdrawal, acknowledged by all"
                " in-sync replicas. Its open cases close; what was decided or superseded by then stays so. The same"
                " again gets the same answer. The key must be one for all of the regions, else nothing is done. An item"
                " that is not known is waited for, at most 5 seconds: `404` is certain, `503` means that it may be"
                " there.",
                "parameters": [
                    _ITEM_PARAMETER,
                    {
                        "name": "reason",
                        "in": "query",
                        "schema": {"type": "string", "maxLength": MAX_REASON},
                        "example": "sold elsewhere",
                        "description": "Kept with the withdrawal; printable characters",
                    },
                ],
                "responses": {
                    "202": _answer("Every region has it", "application/json", withdrawn, _TAKEN_BACK),
                    **_problems(problem, 401, 403, 404, 429, 503),
                    "422": _problem(problem, 422, "invalid-request", "A parameter does not fit; `errors` says which"),
                },
            },
        },
        "/v1/subjects/{platform}/{kind}/{id}": {
            "get": {
                "operationId": "getSubject",
                "security": security("items:read"),
                "summary": "All versions of a subject with their decisions, the last received first",
                "description": "In the regions of the key and for its platforms.",
                "parameters": [
                    _in_path("platform", "shop", "The marketplace"),
                    _in_path("kind", "product", "`product`, `seller` or `content`"),
                    _in_path("id", "B000051ZOA", "The platform's own id"),
                    *_OF_PAGE,
                ],
                "responses": {
                    "200": _answer(
                        "Its versions",
                        "application/json",
                        subject,
                        {"subject": _VIEW["subject"], "versions": [_VIEW], "next": None, "projection": _LAG},
                    ),
                    **_problems(problem, 401, 403, 404, 429, 503),
                    "422": _problem(problem, 422, "invalid-request", "A parameter does not fit; `errors` says which"),
                },
            }
        },
        "/v1/totals": {
            "get": {
                "operationId": "getTotals",
                "security": security("items:read"),
                "summary": "How many items are where",
                "description": "Of every platform, so for the keys that act for all of them.",
                "responses": {
                    "200": _answer(
                        "Counts by region and status",
                        "application/json",
                        counted,
                        {
                            "regions": {"eu": {"approved": 940, "in_review": 31, "rejected": 29}},
                            "projection": {"lag_seconds": 0.4},
                        },
                    ),
                    "429": limited(),
                    **_problems(problem, 401, 403, 503),
                },
            }
        },
    }
    generate = app.openapi

    def with_routes() -> dict[str, Any]:
        document = generate()
        document["paths"].update(paths)
        add_schemas(document, components)
        return document

    app.openapi = with_routes  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _body(media_type: str, schema: dict[str, Any], example: object, description: str) -> dict[str, Any]:
    return {
        "required": True,
        "description": description,
        "content": {media_type: {"schema": schema, "example": example}},
    }


def _linked(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"item_id": "$response.body#/item_id"}}


def _answer(description: str, media_type: str, schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema, "example": example}}}


def _problems(schema: dict[str, Any], *statuses: int) -> dict[str, Any]:
    return {str(status): _problem(schema, status, *_PROBLEMS[status]) for status in statuses}


def _problem(schema: dict[str, Any], status: int, slug: str, description: str) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": f"urn:piepowder:problem:{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": description,
    }
    if status not in (429, 503):
        return _answer(description, PROBLEM_JSON, schema, example)
    answer = _answer(description, PROBLEM_JSON, schema, {**example, "retry_after": 2})
    answer["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return answer
