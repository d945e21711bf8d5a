"""The REST API of business requests."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from fastapi import APIRouter, Depends, Header, Path, Query, Security
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from services.intake.errors import require_served_region
from services.intake.publishing.regions import Overloaded
from services.intake.requests import views
from services.intake.requests.domain import drafts, lifecycle
from services.intake.requests.domain.drafts import MAX_BODY_BYTES, Draft, DraftKind
from services.intake.requests.domain.queries import RequestFilter
from services.intake.requests.handlers import (
    ANY_VERSION,
    NOT_FOUND,
    STALE,
    Requests,
    Versions,
)
from services.intake.requests.models import ChangeRequestBody, CommentBody, DraftBody, ReasonBody, RemarkBody
from services.intake.requests.router_client import INVALID_CHANGE
from services.intake.requests.store import cursor_of
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.clients import ANY
from shared.auth.principal import REGION_NOT_ALLOWED, Principal
from shared.contracts.ids import uuid_of
from shared.http.documents import Document
from shared.http.encoded_bodies import ENCODED_BODY
from shared.http.input_errors import KEY_MISSING
from shared.http.models import Printable
from shared.http.problems import OVERLOADED, UNAVAILABLE, ProblemType, problems
from shared.http.queries import Cursor, PageLimit, RequiredIdempotencyKey, decode_time_cursor, encode_cursor
from shared.http.route import AroundCall, Available, StrictRoute
from shared.validation.documents import ParsedDocument
from shared.validation.faults import (
    CHANGED_MEANWHILE,
    IN_FLIGHT,
    INVALID_REQUEST,
    KEY_REUSED,
    Fault,
    InputRejected,
    RejectionType,
)
from shared.validation.strict_json import ObjectWithDuplicates

READ: Final = "requests:read"
WRITE: Final = "requests:write"
DECIDE: Final = "requests:decide"
DEPLOY: Final = "requests:deploy"
MAX_SMALL_BODY: Final = 64 * 1024
_MAX_CALLS: Final = 16
_are_tags = re.compile(r'(W/)?"[^"]*"(\s*,\s*(W/)?"[^"]*")*').fullmatch
_version_tags = re.compile(r'(?<!/)"([0-9]{1,9})"').findall

_BODY: Final = (*ENCODED_BODY, OVERLOADED)
_FORBIDDEN: Final = (REGION_NOT_ALLOWED, lifecycle.OWN_REQUEST, lifecycle.NOT_OWN_REQUEST)
_CONFLICTS: Final = (lifecycle.WRONG_STATE, CHANGED_MEANWHILE, lifecycle.TOO_MANY_STEPS)
_VERSION_MISSING: Final = ProblemType(
    "precondition-required",
    428,
    "The version is missing",
    'Send the version that you change in `If-Match`, for example "3": the ETag of the response that you read.',
)
_ETAG: Final = {"ETag": {"description": "The quoted version", "schema": {"type": "string"}, "example": '"1"'}}


class _CallLimit(AroundCall):
    """Accepts 16 calls with a body at the same time, because a body is kept in memory while it is handled."""

    calls = 0

    @contextmanager
    def around(self, _: Request) -> Iterator[None]:
        """Raise a 429 Problem above the limit."""
        if self.calls >= _MAX_CALLS:
            raise OVERLOADED(str(Overloaded()), retry_after=1)
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


router: Final = APIRouter(prefix="/v1/requests", route_class=StrictRoute, responses=PROTECTED | problems(UNAVAILABLE))
available_requests: Final = Available[Requests]("requests")
_limited: Final = [Depends(_CallLimit())]


async def _request_id(
    request_id: Annotated[str, Path(examples=[views.REQUEST_ID], json_schema_extra={"format": "uuid"})],
) -> str:
    """The id of a request; raises InputRejected (404) for text that is not a UUID."""
    if (found := uuid_of(request_id)) is None:
        raise NOT_FOUND.with_message(f"No business request {request_id!r:.60} exists: expected a UUID.")
    return found


async def _versions(
    if_match: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="If-Match", description="The ETag of the expected version", examples=['"1"']),
    ] = None,
) -> Versions:
    """The versions in `If-Match`, None without it (RFC 9110, section 13.1.1)."""
    if if_match is None:
        return None
    if if_match.strip() == "*":
        return [ANY_VERSION]
    if _are_tags(if_match.strip()) is None:
        detail = f'If-Match is {if_match!r:.100}; expected an ETag such as "3", or *.'
        raise INVALID_REQUEST.with_message(detail, "/header/if-match")
    return [int(tag) for tag in _version_tags(if_match)]


TheRequests = Annotated[Requests, Depends(available_requests)]
RequestAuthor = Annotated[Principal, Security(api_key, scopes=[WRITE])]
Reader = Annotated[Principal, Security(api_key, scopes=[READ])]
RequestId = Annotated[str, Depends(_request_id)]
ExpectedVersions = Annotated[Versions, Depends(_versions)]
State: TypeAlias = Literal[
    "draft", "submitted", "approved", "rejected", "withdrawn", "deployed", "rolled_back", "reviewed"
]


@router.post(
    "",
    status_code=201,
    operation_id="draftRequest",
    summary="Create a business request",
    description="It is a draft until it is submitted. The `Idempotency-Key` identifies it: a repetition gets the same"
    " response, another body with this key `422`, and a call during the first one `409`. The router checks an"
    " attached change at once: an invalid one is `422` with pointers below `/change`; while the router does not"
    " answer, the change is stored as `unchecked`.",
    response_model_exclude_defaults=True,
    responses=problems(*_BODY, KEY_MISSING, REGION_NOT_ALLOWED, IN_FLIGHT, KEY_REUSED, INVALID_CHANGE)
    | {201: {"headers": _ETAG}},
    dependencies=_limited,
    max_body_size=MAX_BODY_BYTES,
)
async def draft(
    client: RequestAuthor,
    requests: TheRequests,
    idempotency_key: RequiredIdempotencyKey,
    body: Document[DraftBody],
    response: Response,
) -> views.RequestView:
    drafted = await requests.draft(drafts.require_valid(body.parsed(Draft)), client, idempotency_key)
    response.headers["Location"] = f"/v1/requests/{drafted.request_id}"
    return views.request_view(_tagged(response, drafted))


@router.get(
    "",
    operation_id="listRequests",
    summary="Business requests, newest first",
    description="Requests that concern a region of the key.",
    response_model_exclude_defaults=True,
    responses=problems(REGION_NOT_ALLOWED),
)
async def list_requests(
    client: Reader,
    requests: TheRequests,
    *,
    state: Annotated[State | None, Query(description="Only in this state")] = None,
    kind: Annotated[DraftKind | None, Query(description="Only of this kind")] = None,
    region: Annotated[str | None, Query(description="Only with this region")] = None,
    sponsor: Annotated[Printable | None, Query(description="Only of this sponsor")] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> views.RequestsView:
    if region is not None:
        require_served_region(client, region, requests.regions)
    regions = None if ANY in client.regions else sorted(client.regions)
    wanted = RequestFilter(regions, state, kind, sponsor, region)
    found = await requests.page(wanted, decode_time_cursor(cursor), limit + 1)
    following = encode_cursor(cursor_of(found[limit - 1])) if len(found) > limit else None
    return views.RequestsView(requests=[views.summary_view(request) for request in found[:limit]], next=following)


@router.get(
    "/{request_id}",
    operation_id="getRequest",
    summary="A business request with its change, history and comments",
    description="The audit logs of its regions have its events under its `subject`.",
    response_model_exclude_defaults=True,
    responses=problems(NOT_FOUND) | {200: {"headers": _ETAG}},
)
async def get_request(
    client: Reader, requests: TheRequests, request_id: RequestId, response: Response
) -> views.RequestDetailsView:
    details = await requests.show(request_id, client)
    _tagged(response, details.request)
    return views.details_view(details)


@router.patch(
    "/{request_id}",
    operation_id="changeRequest",
    summary="Change a draft",
    description="Each sent field replaces the field of the draft as a whole; null removes it. A new change is checked"
    " at once, as in a new draft; an unchecked one is checked again. `If-Match` is required.",
    response_model_exclude_defaults=True,
    responses=problems(*_BODY, REGION_NOT_ALLOWED, NOT_FOUND, *_CONFLICTS, STALE, INVALID_CHANGE, _VERSION_MISSING)
    | {200: {"headers": _ETAG}},
    dependencies=_limited,
    max_body_size=MAX_BODY_BYTES,
)
async def change_request(  # noqa: PLR0917 - FastAPI calls it by name
    client: RequestAuthor,
    requests: TheRequests,
    request_id: RequestId,
    versions: ExpectedVersions,
    body: Document[ChangeRequestBody],
    response: Response,
) -> views.RequestView:
    if versions is None:
        raise _VERSION_MISSING(_VERSION_MISSING.example, pointer="/header/if-match")
    changed = await requests.change(request_id, lambda draft: _patched(draft, body.value), client, versions)
    return views.request_view(_tagged(response, changed))


@router.post(
    "/{request_id}/comments",
    status_code=201,
    operation_id="commentOnRequest",
    summary="Comment on a business request",
    description="In any state. The `Idempotency-Key` identifies the comment: a repetition gets the same response.",
    responses=problems(
        *_BODY, KEY_MISSING, REGION_NOT_ALLOWED, NOT_FOUND, IN_FLIGHT, lifecycle.TOO_MANY_STEPS, KEY_REUSED
    )
    | {201: {"headers": _ETAG}},
    dependencies=_limited,
    max_body_size=MAX_SMALL_BODY,
)
async def comment_on_request(  # noqa: PLR0917 - FastAPI calls it by name
    client: RequestAuthor,
    requests: TheRequests,
    request_id: RequestId,
    idempotency_key: RequiredIdempotencyKey,
    body: Document[CommentBody],
    response: Response,
) -> views.CommentView:
    text = drafts.require_comment(_valid(body).text)
    step = await requests.comment(request_id, text, client, idempotency_key)
    response.headers["ETag"] = f'"{step.version}"'
    return views.CommentView.model_validate(step)


def _add_command(command: str, scope: str, summary: str, description: str, *more: RejectionType) -> None:
    rule = lifecycle.RULES[command]
    transition = "" if more else f"From {' or '.join(rule.start)} to {rule.end}. "
    body_type: Any = Document[ReasonBody] if rule.needs_reason else Document[RemarkBody]

    async def execute(  # noqa: PLR0917 - FastAPI calls it by name
        client: Annotated[Principal, Security(api_key, scopes=[scope])],
        requests: TheRequests,
        request_id: RequestId,
        versions: ExpectedVersions,
        response: Response,
        body: body_type = None,
    ) -> views.RequestView:
        reason = "" if body is None else _valid(body).reason.strip()
        if command == lifecycle.SUBMIT:
            found = await requests.submit(request_id, reason, client, versions)
        else:
            found = await requests.act(request_id, command, reason, client, versions)
        return views.request_view(_tagged(response, found))

    router.add_api_route(
        f"/{{request_id}}/{command}",
        execute,
        methods=["POST"],
        operation_id=f"{command}Request",
        summary=summary,
        description=f"{transition}{description} A repetition by the same person gets the same response.",
        response_model_exclude_defaults=True,
        responses=problems(*_BODY, *_FORBIDDEN, NOT_FOUND, *_CONFLICTS, *more, STALE, INVALID_CHANGE)
        | {200: {"headers": _ETAG}},
        openapi_extra={"requestBody": {"required": rule.needs_reason}},
        dependencies=_limited,
        max_body_size=MAX_SMALL_BODY,
    )


_add_command(
    lifecycle.SUBMIT,
    WRITE,
    "Submit a draft for decision",
    "It must have all fields that its kind requires, and its change is checked again: `422` for an invalid change,"
    " `503` while the router does not respond.",
)
_add_command(lifecycle.WITHDRAW, WRITE, "Withdraw a request", "Only its authors and its sponsor may withdraw it.")
_add_command(
    lifecycle.APPROVE,
    DECIDE,
    "Approve a request",
    "It is approved after `approvals_needed` approvals; its authors and its sponsor may not approve it (`403`).",
)
_add_command(
    lifecycle.REJECT,
    DECIDE,
    "Reject a request",
    "A reason is required; its authors and its sponsor may not reject it (`403`).",
)
_add_command(
    lifecycle.REVIEW,
    DECIDE,
    "Record the result of a request",
    "Only a request that a person recorded as deployed with an earlier version has this state.",
)
_add_command(
    lifecycle.DEPLOY,
    DEPLOY,
    "Deploy a request's change",
    "Not available yet: an approved request stays approved, and the response is `409` (`change-by-hand`) with the steps"
    " that a person makes instead.",
    lifecycle.BY_HAND,
)
_add_command(
    lifecycle.ROLLBACK,
    DEPLOY,
    "Take a request's change back",
    "Not available yet: the request keeps its state, and the response is `409` (`change-by-hand`) with the steps that a"
    " person makes instead. A reason is required.",
    lifecycle.BY_HAND,
)


def _tagged(response: Response, request: lifecycle.Request) -> lifecycle.Request:
    response.headers["ETag"] = f'"{request.version}"'
    return request


def _valid(document: Document[Any]) -> Any:
    """The body of a document; raises InputRejected for an invalid one."""
    if document.faults or document.body is None:
        raise InputRejected(INVALID_REQUEST, document.faults)
    return document.body


def _patched(draft: Draft, patch: Any) -> ParsedDocument[Draft]:
    """The draft with the fields of a JSON merge patch in place of its own."""
    if not isinstance(patch, dict):
        return ParsedDocument(None, [Fault("", "expected an object")], frozenset())
    before: dict[str, Any] = msgspec.to_builtins(draft)
    merged = {name: value for name, value in (before | patch).items() if value is not None or name not in patch}
    value = ObjectWithDuplicates(merged, patch.duplicates) if isinstance(patch, ObjectWithDuplicates) else merged
    return Document.parse(DraftBody, value).parsed(Draft)
